"""Shell completion: scripts that complete commands, flags and values of enumerations."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ArgumentParser

from fakd import losses
from fakd.errors import InputError
from fakd.imports import nearest

SHELLS = ("bash", "zsh", "fish")
HELP = """\
Print a script with which a shell completes commands, flags and values.

Examples:
  fakd completion bash > ~/.local/share/bash-completion/completions/fakd
  fakd completion zsh > ~/.fakd-completion   then, in ~/.zshrc: source ~/.fakd-completion
  fakd completion fish > ~/.config/fish/completions/fakd.fish
"""
_BASH = """\
_fakd() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
  local name="${{COMP_WORDS[1]}} ${{COMP_WORDS[2]:-}}" flags="" values=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {commands} -- "$word"))
    return
  fi
  case "$name" in
{two}
    *) case "${{COMP_WORDS[1]}}" in
{one}
    esac ;;
  esac
  case "$before" in
{values}
  esac
  if [ "${{word:0:1}}" = - ]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  elif [ -n "$values" ]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  fi
}}
complete -o default -F _fakd fakd
"""


def page(arguments: Sequence[str], parsers: Callable[[], Mapping[str, ArgumentParser]]) -> str:
    """Return the output of the command: the script of the named shell, or help."""
    asked = arguments[0] if arguments else "--help"
    return HELP if asked in ("-h", "--help") else script(asked, parsers())


def script(shell: str, parsers: Mapping[str, ArgumentParser]) -> str:
    """Write the completion script of a shell.

    Args:
        shell: one of `SHELLS`.
        parsers: the parser of each command, of one or two words.

    Raises:
        InputError: the shell is unknown.
    """
    if shell not in SHELLS:
        choices = f"; choose one of {', '.join(SHELLS)}"
        raise InputError(f"completion: there is no {shell}{nearest(shell, SHELLS, choices)}")
    flags = {name: _flags(parser) for name, parser in parsers.items()}
    if shell == "fish":
        return _fish(flags)
    begin = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"
    return (begin if shell == "zsh" else "") + _bash(flags)


def _bash(flags: Mapping[str, Mapping[str, Iterable[str]]]) -> str:
    cases: dict[bool, list[str]] = {True: [], False: []}
    known: dict[str, set[str]] = {}
    for name, each in flags.items():
        first, _, second = name.partition(" ")
        listed = " ".join(each)
        pattern = f'"{name}"' if second else first
        cases[bool(second)].append(f'    {pattern}) flags="{listed}" ;;')
        if second:
            known.setdefault(first, set()).add(second)
        for flag, values in each.items():
            known.setdefault(flag, set()).update(values)
    values = [
        f'    {word}) values="{" ".join(sorted(found))}" ;;'
        for word, found in sorted(known.items())
        if found
    ]
    commands = " ".join(dict.fromkeys(name.partition(" ")[0] for name in flags))
    two, one = ("\n".join(cases[each]) for each in (True, False))
    return _BASH.format(commands=shlex.quote(commands), two=two, one=one, values="\n".join(values))


def _fish(flags: Mapping[str, Mapping[str, Iterable[str]]]) -> str:
    lines = []
    for name, each in flags.items():
        first, _, second = name.partition(" ")
        lines.append(f"complete -c fakd -n __fish_use_subcommand -f -a {first}")
        seen = f"__fish_seen_subcommand_from {first}"
        if second:
            lines.append(f"complete -c fakd -n '{seen}' -a {second}")
            seen += f"; and __fish_seen_subcommand_from {second}"
        for flag, values in each.items():
            taken = f" -x -a '{' '.join(values)}'" if values else " -r"
            lines.append(f"complete -c fakd -n '{seen}' -l {flag.removeprefix('--')}{taken}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _flags(parser: ArgumentParser) -> dict[str, list[str]]:
    """List a command's flags, each with its values if these can be enumerated."""
    return {
        flag: list(losses.PRESETS)
        if flag == "--distillation"
        else _choices(getattr(action, "_typehint", None))
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--") and not flag.endswith("+")
    }


def _choices(kind: Any) -> list[str]:
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(each) for each in get_args(kind)]
    return list(dict.fromkeys(each for part in get_args(kind) for each in _choices(part)))
