"""Expand short forms on the command line and in recipes to specs; suggest names for typos."""

import json
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from fakd import data, losses, models
from fakd.answers.sources import parse_source
from fakd.errors import InputError
from fakd.files import expand_user, parse_yaml, read_yaml, yaml_text
from fakd.imports import IN_FILE
from fakd.settings import Optimizer
from fakd.sources import IN_MODULE, is_source, resolve
from fakd.specs import CLASS_PATH, allow, arguments_of, full_path, is_spec, make_spec, nearest

# Parameter -> the package whose public names need no prefix.
PACKAGES = {
    "data": "fakd.data",
    "distillation": "fakd.losses",
    "teacher": "fakd.models",
    "network": "fakd.models",
    "student": "fakd.models",
}
# Class path that opens a path -> its parameter, and what the path may be.
OPENERS = {
    "fakd.data.folder": ("root", "a folder of data or the .yaml file that describes it"),
    "fakd.models.load": ("path", "a finished run, a .safetensors file, or mmsegmentation's .pth"),
    "fakd.answers.Stored": ("path", "a folder of answers"),
}
_EXAMPLES = {
    "data": "FOLDER",
    "teacher": "runs/teacher",
    "student": "pspnet",
    "network": "pspnet",
    "distillation": "ChannelKL",
}
_FILES = (".yaml", ".yml")
# Group of settings -> the setting that the group's name alone sets.
_LEADING = {"optimizer": "kind", "freeze": "names"}
_OPTIMIZER = {each.name for each in fields(Optimizer)}
# Several numbers without brackets.
_NUMBERS = re.compile(r"[-+.\deE]*\d[-+.\deE]*(,[-+.\deE]*\d[-+.\deE]*)+")
# Flags without a value.
_BARE = ("help", "print_config")
# Other names under which users may look for a setting: those of version 0.1, data arguments.
MOVED = {
    "weight": "distillation.weight, an argument of the loss",
    "auxiliary_weight": "task.auxiliary_weight",
    "average": "task.average",
    "schedule.momentum": "optimizer.arguments.momentum",
    "schedule.weight_decay": "optimizer.weight_decay",
    "schedule.head_multiplier": "optimizer.head_multiplier",
    **{name: f"data.{name}" for name in ("unlabelled", "labelled", "exclude", "root")},
    "unlabeled": "data.unlabelled",
    "labeled": "data.labelled",
}


def is_recipe(word: str) -> bool:
    """Tell whether a word before all flags is the recipe."""
    return word.endswith(_FILES) and word[0] != "-"


def _expand_in_file(flag: str, value: Any) -> Any:
    if flag == "teacher" and (source := parse_source(value, partial(_expand, flag))) is not None:
        return source
    if isinstance(value, str):
        return _expand(flag, value)
    bare = isinstance(value, dict) and "." not in str(value.get("class_path", "."))
    if flag == "distillation" or not bare:
        return value
    if not isinstance(value["class_path"], str):
        raise InputError(f"{flag}: expected a class_path, got {value['class_path']!r}")
    meant = _expand(flag, value["class_path"])
    return value | {"class_path": meant} if isinstance(meant, str) else value


def _expand(flag: str, value: str) -> str | dict[str, Any]:
    """Expand a short form to a class path, or to a spec."""
    if flag == "distillation":
        return _distillation(value)
    if flag == "teacher" and (source := parse_source(value, partial(_expand, flag))) is not None:
        return source
    package = data if flag == "data" else models
    there = expand_user(value).exists()
    if value in package.__all__ and not there:
        return full_path(value, PACKAGES[flag])
    is_path = there or value.endswith(_FILES) or (flag != "data" and is_source(value))
    if value.lstrip().startswith("{") or (CLASS_PATH.match(value) and not is_path):
        return value
    hint = nearest(value, package.__all__, cutoff=0.7)
    # Capitals are placeholders for a path, as in examples.
    if hint and not is_path and "/" not in value and not value.isupper():
        raise InputError(f"--{flag}: there is no {value}{hint}")
    if flag == "data":
        own = IN_FILE.fullmatch(value) and not there
        return value if own else make_spec("fakd.data.folder", root=value)
    try:
        return resolve(value)
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error


def _distillation(value: str) -> str | dict[str, Any]:
    """Expand a preset, so that a run's recipe contains all numbers."""
    if value in losses.PRESETS:
        return losses.PRESETS[value]
    name = value.removeprefix(f"{PACKAGES['distillation']}.")
    kinds = [each for each in losses.__all__ if each[0].isupper()]
    if re.fullmatch(r"[\w+-]+", name) and name not in kinds:
        known = [*losses.PRESETS, *kinds]
        hint = nearest(name, known, f"; presets: {', '.join(losses.PRESETS)}", 0.6)
        raise InputError(f"--distillation: there is no {value}{hint}")
    return value


def gather(
    arguments: Sequence[str],
    flags: Iterable[str],
    switches: Collection[str] = (),
    lists: Collection[str] = (),
) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Collect every spec from its flags and the recipes, and expand short forms.

    ``--student pspnet`` is a builder, ``--data PATH`` a folder, ``--student.backbone X`` an
    argument; ``--teacher.weights FILE`` without a ``--teacher`` is that file. ``switches`` need no
    value to be on; ``--data.size 48,64`` is a list, and so are values of the flags in ``lists``. A
    YAML file as the first argument is the recipe, and may hold the same short forms. Code that a
    flag names is thereby allowed.

    Returns:
        One ``--name=value`` for each other flag and each spec, and the remaining recipe contents.

    >>> gather(["--student=pspnet", "--student.backbone", "resnet18"], ["student"])[0]
    ['--student={"class_path": "fakd.models.pspnet", "init_args": {"backbone": "resnet18"}}']
    """
    built = set(flags) & set(PACKAGES)
    found: dict[str, Any] = {}
    rest: list[str] = []
    recipes: list[Mapping[str, Any]] = []
    options: dict[str, Any] = {}
    if arguments and is_recipe(arguments[0]):
        arguments = [f"--recipe={arguments[0]}", *arguments[1:]]
    given = [*_split(arguments, switches, lists)]
    whole = all(name != "teacher" for name, _ in given)
    for name, value in given:
        if whole and name == "teacher.weights":
            name = "teacher"
        key, _, inner = name.partition(".")
        if name != "recipe":
            typed = _plain(name, value or "")
            allow(*_code_in(typed if key in built or not isinstance(typed, str) else None))
        if name in _LEADING and value is not None and not value.lstrip().startswith("{"):
            name = f"{name}.{_LEADING[name]}"
            if key == "freeze" and value[:1] != "[":
                value = json.dumps([each.strip() for each in value.split(",")])
        if key == "optimizer" in flags and inner and inner.partition(".")[0] not in _OPTIMIZER:
            options[inner] = _plain(name, value or "")
        elif name == "recipe":
            content = _recipe(value or "", built)
            found |= {each: content.pop(each) for each in built & set(content)}
            recipes.append(content)
            # A null value is the same as none.
            said = {each: inside for each, inside in content.items() if inside is not None}
            rest.append(f"--recipe={yaml_text(said)}")
        elif key in built and value is not None:
            meant = _plain(name, value) if inner else _expand(key, value)
            if key != "distillation" and is_spec(meant):
                found[key] = _set_value(found.get(key), [], meant["class_path"])
                before = found[key].get("init_args", {})
                found[key]["init_args"] = {**before, **arguments_of(meant)}
                continue
            meant = _plain(name, meant) if isinstance(meant, str) and not inner else meant
            found[key] = _set_value(found.get(key), inner.split(".") if inner else [], meant)
        else:
            if name == "augmentation.extra":
                # The parser cannot replace a class path, such as a recipe's, by another.
                rest.append(f"--{name}=null")
            if value is not None:
                _plain(name, value)  # refuses malformed mappings
            rest.append(f"--{name}" if value is None else f"--{name}={value}")
    for key, spec in found.items():
        if isinstance(spec, str):
            found[key] = spec = make_spec(spec)
        if spec is not None and not is_spec(spec):
            example = f"--{key} {_EXAMPLES[key]}"
            raise InputError(f"{key}: give it before its options, such as {example}")
    if options:
        rest.append(f"--optimizer.arguments={json.dumps(options)}")
    rest += [f"--{key}={json.dumps(spec, default=str)}" for key, spec in found.items()]
    return rest, recipes


def _code_in(typed: Any) -> Iterator[str]:
    """Find names on the command line that may be the user's own code."""
    if isinstance(typed, Mapping | list):
        for each in typed.values() if isinstance(typed, Mapping) else typed:
            yield from _code_in(each)
    elif isinstance(typed, str) and (IN_FILE.fullmatch(typed) or CLASS_PATH.match(typed)):
        yield typed
    elif isinstance(typed, str) and IN_MODULE.fullmatch(typed):
        yield typed.replace(":", ".")


def _recipe(file: str, built: set[str]) -> dict[str, Any]:
    """Read a recipe and expand its short forms."""
    path = expand_user(file)
    content = read_yaml(path)
    try:
        if "distillation" in built:
            from fakd.runs.naming import refuse_former_weights

            refuse_former_weights(content)
        for key in built & set(content):
            content[key] = _expand_in_file(key, content[key])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for group, first in _LEADING.items():
        if isinstance(given := content.get(group), str | list):
            several = group == "freeze" and isinstance(given, str)
            content[group] = {first: [given] if several else given}
    return content


def require_existing_path(key: str, spec: Mapping[str, Any]) -> None:
    """Check that a spec's path exists, before the code that reads it is imported."""
    arguments = arguments_of(spec)
    for each in (arguments.get("teacher"), *(arguments.get("teachers") or [])):
        if is_spec(each):
            require_existing_path(key, each)
    parameter, kinds = OPENERS.get(spec["class_path"], ("", ""))
    path = arguments.get(parameter)
    if path is not None and not expand_user(str(path)).exists():
        # A path with the separators of Windows, on another system.
        slashed = str(path).replace("\\", "/")
        if slashed != str(path) and expand_user(slashed).exists():
            raise InputError(f"{key}: {path} does not exist; did you mean {slashed}?")
        where = "" if expand_user(str(path)).is_absolute() else f" in {Path.cwd()}"
        raise InputError(f"{key}: {path} does not exist{where}; give {kinds}")


def _split(
    arguments: Sequence[str], switches: Collection[str], lists: Collection[str]
) -> Iterable[tuple[str, str | None]]:
    """Split arguments into flags and values.

    Raises:
        InputError: a value is found instead of a flag, or a value is missing.
    """
    words = deque(arguments)
    while words:
        word = words.popleft()
        name, equals, value = word.removeprefix("--").partition("=")
        flag, dot, inner = name.partition(".")
        name = f"{flag.replace('-', '_')}{dot}{inner}"
        several = "." in name or name in lists
        if several and _NUMBERS.fullmatch(value if equals else (words or [""])[0]):
            value = f"[{value if equals else words.popleft()}]"
            equals = "="
        if word == "-h":
            yield "help", None
        elif not word.startswith("--"):
            raise InputError(
                f"unexpected argument {word}; give it as --NAME VALUE, or before all flags"
            )
        elif equals or name in _BARE:
            yield name, value if equals else None
        elif words and not words[0].startswith("--"):
            yield name, words.popleft()
        elif name in switches:
            yield name, "true"
        else:
            raise InputError(f"{name}: expected a value after --{name}")


def _set_value(spec: Any, inner: Sequence[str], value: Any) -> Any:
    """Set one value in a spec: its class path, or an argument at any depth."""
    if not inner or list(inner) == ["class_path"]:
        if isinstance(value, dict) or value is None:
            return value
        same = isinstance(spec, dict) and spec.get("class_path") in (None, value)
        return {**(spec if same else {}), "class_path": value}
    if inner[0] == "init_args":
        return _set_value(spec, inner[1:], value)
    spec = {"class_path": spec} if isinstance(spec, str) else dict(spec or {})
    arguments = dict(spec.get("init_args") or {})
    first, *others = inner
    arguments[first] = _set_value(arguments.get(first), others, value) if others else value
    return {**spec, "init_args": arguments}


def _plain(name: str, text: str) -> Any:
    """Parse a value as YAML; a value that is not YAML is text.

    Raises:
        InputError: it begins like a mapping or list, but is none.
    """
    try:
        return parse_yaml(text)
    except InputError as error:
        if text.lstrip()[:1] in ("{", "["):
            raise InputError(f"--{name}: {error}") from error
        return text


def first_unknown(
    arguments: Sequence[str], recipes: Sequence[Mapping[str, Any]], known: Collection[str]
) -> str | None:
    """Find the first unknown name in flags of the form ``--name=value`` and in recipes.

    >>> first_unknown(["--schedle.steps=5"], [], ["schedule.steps"])
    'schedle.steps'
    """
    groups = {name.partition(".")[0] for name in known if "." in name}
    names = [argument.removeprefix("--").partition("=")[0] for argument in arguments]
    for recipe in recipes:
        for key, value in recipe.items():
            nested = key in groups and isinstance(value, Mapping)
            names += [f"{key}.{inner}" for inner in value] if nested else [str(key)]
    right = {*known, *groups, *_BARE}
    return next((name for name in names if name not in right), None)


_WANTED = re.compile(
    r"Expected (?:an? )?"
    r"(?:<class '([\w.]+)'>|typing\.Literal\[(.+?)\](?=\.|\n|$)|tuple with (\d+) elements)"
)
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list",
    "dict": "a mapping",
}


def one_line(message: str) -> str:
    r"""Shorten the parser's message to one line with the setting's name and all accepted types.

    >>> one_line("Parser key \"seed\":\n  Expected a <class 'int'>. Got value: many")
    'seed: expected a whole number, got many'
    """
    key = re.search(r'Parser key "([^"]+)"', message)
    wanted = _WANTED.findall(message)
    given = re.search(r"G(?:ot|iven) value: (.*)$", message)
    if key and (unread := re.search(r"Unable to load config '(.*?)'", message)):
        return f"{key[1]}: expected settings one by one, --{key[1]}.NAME VALUE, got {unread[1]}"
    if not key or not wanted or not given:
        text = " ".join(message.split())
        return f"{key[1]}: {re.sub(r'^Parser key [^:]+: ', '', text)}" if key else text
    kinds = [
        f"{number} values" if number else choices or _WORDS.get(kind, kind)
        for kind, choices, number in wanted
    ]
    expected = " or ".join(kind for kind in kinds if kind != "NoneType")
    numbers = re.findall(r"\d+(?:\.\d+)?", given[1])
    if expected == "a list" and numbers:
        expected = f"several numbers, such as {','.join(numbers * (2 if len(numbers) == 1 else 1))}"
    return f"{key[1]}: expected {expected}, got {given[1]}"
