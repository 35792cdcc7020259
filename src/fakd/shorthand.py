"""What people type instead of class paths, and what they meant when they mistyped it."""

import difflib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fakd import data, losses, models
from fakd.errors import InputError
from fakd.runs.naming import refuse_former_weights

# Flag -> (package whose public names may be given bare, what opens a path, its parameter).
_OPENERS = {
    "data": (data, "fakd.data.folder", "root"),
    "teacher": (models, "fakd.models.load", "path"),
    "student": (models, "fakd.models.load", "path"),
    "network": (models, "fakd.models.load", "path"),
}
_EXAMPLES = {
    "data": "FOLDER",
    "teacher": "runs/teacher",
    "student": "pspnet",
    "network": "pspnet",
    "distillation": "ChannelKL",
}
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
_FILES = (".yaml", ".yml", ".safetensors", ".pth")


def expand(arguments: Sequence[str], flags: Iterable[str]) -> list[str]:
    """Write out bare names and paths: ``--data PATH`` is a folder, ``--student pspnet`` a builder.

    ``--teacher.weights FILE`` without a ``--teacher`` is that file. A YAML file that comes first is
    the recipe, and may hold the same short forms.

    >>> expand(["--teacher", "runs/teacher"], ["teacher"])
    ['--teacher=fakd.models.load', '--teacher.path=runs/teacher']
    """
    flags = set(flags) & {*_OPENERS, "distillation"}
    if arguments and arguments[0].endswith((".yaml", ".yml")) and arguments[0][0] != "-":
        arguments = [f"--recipe={arguments[0]}", *arguments[1:]]
    arguments = _recipes_written_out(arguments, flags)
    names = {argument.partition("=")[0] for argument in arguments}
    if "--teacher" not in names:
        whole = re.compile(r"^--teacher\.weights(?==|$)")
        arguments = [whole.sub("--teacher", argument) for argument in arguments]
    result: list[str] = []
    pending: str | None = None
    for argument in arguments:
        if pending is not None:
            result += _written_out(pending, argument)
            pending = None
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in flags:
            result.append(argument)
        elif equals:
            result += _written_out(name, value)
        else:
            pending = name
    return result if pending is None else [*result, f"--{pending}"]


def _recipes_written_out(arguments: Sequence[str], flags: Iterable[str]) -> list[str]:
    """Replace each recipe that has short forms in it by its content without them."""
    result = list(arguments)
    for place, argument in enumerate(result):
        if argument.startswith("--recipe="):
            result[place] = f"--recipe={_recipe(argument.partition('=')[2], flags)}"
        elif argument == "--recipe" and place + 1 < len(result):
            result[place + 1] = _recipe(result[place + 1], flags)
    return result


def _recipe(file: str, flags: Iterable[str]) -> str:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        # The parser says better what is wrong with it.
        return file
    if not isinstance(content, dict):
        return file
    if "distillation" in flags:
        refuse_former_weights(content)
    meant = {key: _meant_in_file(key, content[key]) for key in flags if content.get(key)}
    if all(content[key] == meant[key] for key in meant):
        return file
    # Not JSON, which has no dates and only text for keys.
    return yaml.safe_dump(content | meant, sort_keys=False)


def _meant_in_file(flag: str, value: Any) -> Any:
    if isinstance(value, str):
        return _meant(flag, value)
    bare = isinstance(value, dict) and "." not in str(value.get("class_path", "."))
    if flag == "distillation" or not bare:
        return value
    meant = _meant(flag, value["class_path"])
    return value | {"class_path": meant} if isinstance(meant, str) else value


def _written_out(flag: str, value: str) -> list[str]:
    meant = _meant(flag, value)
    if isinstance(meant, str):
        return [f"--{flag}={meant}"]
    if flag == "distillation":
        return [f"--{flag}={json.dumps(meant)}"]
    options = [f"--{flag}.{name}={given}" for name, given in meant["init_args"].items()]
    return [f"--{flag}={meant['class_path']}", *options]


def _meant(flag: str, value: str) -> str | dict[str, Any]:
    """Say what a short form stands for: a class path, or one with its arguments."""
    if flag == "distillation":
        return _distillation(value)
    package, opener, parameter = _OPENERS[flag]
    if value in package.__all__ and not Path(value).exists():
        return f"{package.__name__}.{value}"
    is_path = Path(value).exists() or value.endswith(_FILES)
    if value.lstrip().startswith("{") or (_CLASS_PATH.match(value) and not is_path):
        return value
    nearest = difflib.get_close_matches(value, package.__all__, 1, 0.7)
    if nearest and not Path(value).exists():
        raise InputError(f"--{flag}: there is no {value}; did you mean {nearest[0]}?")
    return {"class_path": opener, "init_args": {parameter: value}}


def _distillation(value: str) -> str | dict[str, Any]:
    """Write a preset out, so that the recipe of a run shows every number."""
    if value in losses.PRESETS:
        return losses.PRESETS[value]
    known = [*losses.PRESETS, *losses.__all__]
    if value.replace("-", "").isalnum() and value not in losses.__all__:
        nearest = difflib.get_close_matches(value, known, 1, 0.6)
        hint = f"did you mean {nearest[0]}?" if nearest else f"presets: {', '.join(losses.PRESETS)}"
        raise InputError(f"--distillation: there is no {value}; {hint}")
    return value


def one_line(message: str, known: Iterable[str], elsewhere: Mapping[str, str] = {}) -> str:
    """Reduce a parser's error to a line that names the value at fault and the nearest right one.

    Args:
        message: the parser's own words, of any length.
        known: every key that would have been right.
        elsewhere: keys that only another command takes, and its name.
    """
    key = re.search(r'Parser key "([^"]+)"', message)
    unknown = re.search(
        r"(?:[Uu]nrecognized arguments:|does not accept option|Option) '?(?:--)?([\w.]+)", message
    )
    if unknown:
        wrong = unknown[1]
        options = list(known)
        class_path = re.search(r"given class_path '([\w.]+)'", message)
        if key and class_path:
            options += [f"{key[1]}.{name}" for name in _parameters(class_path[1])]
            wrong = f"{key[1]}.{wrong}"
        if wrong == "weight" and "distillation" in options:
            return f"there is no {wrong} here; a loss has it: --distillation.weight"
        if (root := wrong.partition(".")[0]) in elsewhere:
            return f"there is no {root} here; that is for fakd {elsewhere[root]}"
        nearest = difflib.get_close_matches(wrong, options, 1, 0.5)
        hint = f"; did you mean {nearest[0]}?" if nearest else "; --help lists them"
        return f"there is no {wrong}{hint}"
    if key and "is abstract" in message:
        return f"{key[1]}: name it before its options, such as --{key[1]} {_EXAMPLES[key[1]]}"
    text = " ".join(message.split())
    text = re.sub(r"Does not validate .* Errors: - (.*?) - .*", r"\1", text)
    text = re.sub(r'^Parser key "[^"]+": ', "", text)
    text = re.sub(r"Expected a (?:<class '([\w.]+)'>|typing\.)", r"expected \1", text)
    return f"{key[1]}: {text}" if key else text


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    for package in (data, models):
        if package.__name__ == module and hasattr(package, name):
            return list(inspect.signature(getattr(package, name)).parameters)
    kind = getattr(losses, name, None)
    return list(inspect.signature(kind).parameters) if kind else []
