"""`--help` teaches: purpose, examples and the flags that matter first, everything on demand."""

import shlex

import pytest

from fakd import losses
from fakd.cli import COMMANDS, command_of, command_parser, gather_flags, main, parse
from fakd.errors import InputError
from fakd.help_pages import PAGES
from fakd.shorthand import PACKAGES, first_unknown, gather


def shown(capsys, command):
    assert main(shlex.split(command)) == 0
    return capsys.readouterr().out


def test_every_command_has_a_page():
    assert set(PAGES) == set(COMMANDS)


EXAMPLES = [each for page in PAGES.values() for each in page.examples]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_name_flags_that_there_are(example):
    name, rest = command_of(shlex.split(example)[1:])
    flags = [*command_parser(name).get_defaults().keys()]
    if "--recipe" in rest:
        where = rest.index("--recipe")
        del rest[where : where + 2]
    arguments, _ = gather_flags(name, rest)
    assert first_unknown(arguments, [], flags) is None


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.flags])
def test_what_matters_fits_a_screen_and_all_is_there_on_demand(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    short, everything = shown(capsys, f"{name} --help"), shown(capsys, f"{name} --help all")
    assert len(short.splitlines()) < 70
    assert "--schedule.warmup" not in short
    dests = [*command_parser(name).get_defaults().keys()]
    assert all(f"--{dest}" in everything for dest in dests)
    assert "usage:" not in short + everything
    schedule = shown(capsys, f"{name} --help schedule")
    assert "--schedule.warmup" in schedule
    assert "--optimizer" not in schedule


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_lines_fit_the_terminal(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = shown(capsys, "distill --help all").splitlines()
    assert max(map(len, lines)) <= max(50, min(100, columns))


def test_presets_are_listed(capsys):
    words = shown(capsys, "distill --help").replace(";", ",").replace("\n", " ").split()
    assert {f"{name}," for name in losses.PRESETS} <= set(words)


@pytest.mark.parametrize("key", ["student", "distillation", "data", "teacher"])
def test_a_bare_help_of_a_part_lists_what_it_takes(key, capsys):
    text = shown(capsys, f"distill --{key}.help")
    assert text.startswith(f"--{key} takes:")
    assert f"--{key}.help" in text


@pytest.mark.parametrize(
    ("command", "key", "exported"),
    [("distill", "student", False), ("distill", "teacher", True), ("evaluate", "network", True)],
)
def test_exported_files_are_listed_where_nothing_is_trained(command, key, exported, capsys):
    assert ("FILE.onnx" in shown(capsys, f"{command} --{key}.help")) == exported


def test_a_topic_that_there_is_none_of_is_refused(capsys):
    assert main(["distill", "--help", "schedul"]) == 2
    assert "did you mean schedule?" in capsys.readouterr().err


def test_a_switch_needs_no_value():
    assert parse("models", ["--published"])["published"] is True
    assert parse("models", ["--published", "false"])["published"] is False
    assert parse("models", ["--published", "--classes", "19"])["classes"] == 19


@pytest.mark.parametrize("value", ["48,64", "[48,64]", "[48, 64]"])
def test_numbers_in_a_row_are_a_list(value):
    given = ["--data=scenes", "--data.size", value, f"--augmentation.crop={value}"]
    arguments, _ = gather(given, [*PACKAGES])
    assert '--data={"class_path": "fakd.data.scenes", "init_args": {"size": [48, 64]}}' in arguments
    assert arguments[0] == f"--augmentation.crop={'[48,64]' if ' ' not in value else value}"


@pytest.mark.parametrize(
    ("command", "wrong", "answer"),
    [
        ("evaluate", "hardware.threads", "that is for fakd train, distill, check, compare"),
        ("evaluate", "hardware.workers", "did you mean workers"),
        ("train", "schedule.optimizer", "did you mean optimizer"),
        ("train", "teacher", "that is for fakd distill"),
        ("train", "schedle.steps", "did you mean schedule.steps"),
        ("train", "quux", "--help all lists all flags"),
    ],
)
def test_a_flag_of_another_place_is_known(command, wrong, answer):
    with pytest.raises(InputError, match=answer):
        parse(command, [f"--{wrong}=1"])
