"""What a shell completes: commands, the flags of each, and the values there are few of."""

import shutil
import subprocess

import pytest

from fakd.cli import COMMANDS, command_parser, main
from fakd.completion import script

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def parsers():
    return {name: command_parser(name) for name in COMMANDS}


def completed(written, *words):
    line = f"""{written}
COMP_WORDS=({" ".join(f"'{each}'" for each in words)})
COMP_CWORD={len(words) - 1}
_fakd
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    ended = subprocess.run([BASH, "-u", "-c", line], capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return set(ended.stdout.split())


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("",), {name.partition(" ")[0] for name in COMMANDS}),
        (("dis",), {"distill", "disagree"}),
        (("data", ""), {"check"}),
        (("train", "--schedule.st"), {"--schedule.steps"}),
        (("data", "check", "--sav"), {"--save"}),
        (("compare", "confirm", "--ru"), {"--run"}),
        (("train", "--existing", ""), {"refuse", "reuse", "overwrite", "extend"}),
        (("distill", "--int8", "t"), {"true"}),
        (("distill", "--distillation", "ifvd-"), {"ifvd-cirkd", "ifvd-official"}),
        (("train", "--data", ""), set()),  # files, which the shell completes by itself
        (("train", "--fit"), set()),  # that of another command
    ],
)
def test_bash(words, found, parsers):
    assert completed(script("bash", parsers), "fakd", *words) == found


def test_every_flag_of_every_command_is_known(parsers):
    written = script("fish", parsers)
    for name, parser in parsers.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {each}" for each in name.split())
        for key in sorted(set(parser.get_defaults().keys())):
            assert f"complete -c fakd -n '{seen}' -l {key} " in written


def test_zsh_borrows_what_bash_has(parsers, capsys):
    assert main(["completion", "zsh"]) == 0
    first, _, rest = capsys.readouterr().out.partition("\n")
    assert "bashcompinit" in first
    assert rest == script("bash", parsers)


def test_other_shells_are_refused(capsys):
    assert main(["completion", "csh"]) == 2
    assert "there is no csh" in capsys.readouterr().err
