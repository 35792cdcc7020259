"""What people type instead of class paths, and what they meant when they mistyped it."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from fakd import data, losses, models
from fakd.errors import InputError
from fakd.settings import Optimizer
from fakd.specs import CLASS_PATH, full_path, is_spec, nearest, written

# Parameter -> the package whose public names may be given bare.
PACKAGES = {
    "data": "fakd.data",
    "distillation": "fakd.losses",
    "teacher": "fakd.models",
    "network": "fakd.models",
    "student": "fakd.models",
}
# What opens a path, its parameter, and what may lie there.
OPENERS = {
    "fakd.data.folder": ("root", "a folder of data or the .yaml file that describes it"),
    "fakd.models.load": ("path", "a finished run, a .safetensors file, or mmsegmentation's .pth"),
}
_EXAMPLES = {
    "data": "FOLDER",
    "teacher": "runs/teacher",
    "student": "pspnet",
    "network": "pspnet",
    "distillation": "ChannelKL",
}
_FILES = (".yaml", ".yml", ".safetensors", ".pth")
# Groups of settings whose name alone stands for one of them.
_LEADING = {"optimizer": "kind", "freeze": "names"}
_OPTIMIZER = {each.name for each in fields(Optimizer)}
# Flags without a value.
_BARE = ("help", "print_config")


def expand(arguments: Sequence[str], flags: Iterable[str]) -> list[str]:
    """Write out bare names and paths: ``--data PATH`` is a folder, ``--student pspnet`` a builder.

    ``--teacher.weights FILE`` without a ``--teacher`` is that file. A YAML file that comes first is
    the recipe, and may hold the same short forms.

    >>> expand(["--teacher", "runs/teacher"], ["teacher"])
    ['--teacher=fakd.models.load', '--teacher.path=runs/teacher']
    """
    flags = set(flags) & set(PACKAGES)
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
        from fakd.runs.naming import refuse_former_weights

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
    package = data if flag == "data" else models
    if value in package.__all__ and not Path(value).exists():
        return full_path(value, PACKAGES[flag])
    is_path = Path(value).exists() or value.endswith(_FILES)
    if value.lstrip().startswith("{") or (CLASS_PATH.match(value) and not is_path):
        return value
    hint = nearest(value, package.__all__, cutoff=0.7)
    if hint and not Path(value).exists():
        raise InputError(f"--{flag}: there is no {value}{hint}")
    opener = "fakd.data.folder" if flag == "data" else "fakd.models.load"
    return written(opener, **{OPENERS[opener][0]: value})


def _distillation(value: str) -> str | dict[str, Any]:
    """Write a preset out, so that the recipe of a run shows every number."""
    if value in losses.PRESETS:
        return losses.PRESETS[value]
    if value.replace("-", "").isalnum() and value not in losses.__all__:
        known = [*losses.PRESETS, *losses.__all__]
        hint = nearest(value, known, f"; presets: {', '.join(losses.PRESETS)}", 0.6)
        raise InputError(f"--distillation: there is no {value}{hint}")
    return value


def gather(
    arguments: Sequence[str], flags: Iterable[str]
) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Collect every spec from its flags and the recipes: ``--student.backbone X`` and the like.

    Returns:
        One ``--name=value`` for each other flag and each spec, and what the recipes hold besides.

    >>> gather(["--student=fakd.models.pspnet", "--student.backbone", "resnet18"], ["student"])[0]
    ['--student={"class_path": "fakd.models.pspnet", "init_args": {"backbone": "resnet18"}}']
    """
    built = set(flags) & set(PACKAGES)
    found: dict[str, Any] = {}
    rest: list[str] = []
    recipes: list[Mapping[str, Any]] = []
    options: dict[str, Any] = {}
    for name, value in _split(arguments):
        key, _, inner = name.partition(".")
        if name in _LEADING and value is not None and not value.lstrip().startswith("{"):
            name = f"{name}.{_LEADING[name]}"
            if key == "freeze" and value[:1] != "[":
                value = json.dumps([each.strip() for each in value.split(",")])
        if key == "optimizer" in flags and inner and inner.partition(".")[0] not in _OPTIMIZER:
            options[inner] = _plain(value or "")
        elif name == "recipe" and isinstance(content := _content(value or ""), dict):
            found |= {each: content.pop(each) for each in built & set(content)}
            for group, first in _LEADING.items():
                if isinstance(given := content.get(group), str | list):
                    several = group == "freeze" and isinstance(given, str)
                    content[group] = {first: [given] if several else given}
            recipes.append(content)
            rest.append(f"--recipe={yaml.safe_dump(content, sort_keys=False)}")
        elif key in built and value is not None:
            found[key] = _changed(found.get(key), inner.split(".") if inner else [], _plain(value))
        else:
            if name == "augmentation.extra":
                # The parser cannot replace one class path, such as a recipe's, by another.
                rest.append(f"--{name}=null")
            rest.append(f"--{name}" if value is None else f"--{name}={value}")
    for key, spec in found.items():
        if isinstance(spec, str):
            found[key] = spec = written(spec)
        if spec is not None and not is_spec(spec):
            example = f"--{key} {_EXAMPLES[key]}"
            raise InputError(f"{key}: name it before its options, such as {example}")
    if options:
        rest.append(f"--optimizer.arguments={json.dumps(options)}")
    rest += [f"--{key}={json.dumps(spec, default=str)}" for key, spec in found.items()]
    return rest, recipes


def require_there(key: str, spec: Mapping[str, Any]) -> None:
    """Refuse a path that does not exist, before whatever would read it is imported."""
    parameter, kinds = OPENERS.get(spec["class_path"], ("", ""))
    path = (spec.get("init_args") or {}).get(parameter)
    if path is not None and not Path(str(path)).expanduser().exists():
        raise InputError(f"{key}: {path} does not exist; name {kinds}")


def _split(arguments: Sequence[str]) -> Iterable[tuple[str, str | None]]:
    """Tell flags from their values.

    Raises:
        InputError: something stands where a flag should.
    """
    words = iter(arguments)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "-h":
            yield "help", None
        elif not word.startswith("--"):
            raise InputError(f"there is no {word} here; give values as --NAME VALUE")
        elif equals or name in _BARE:
            yield name, value if equals else None
        else:
            given = next(words, None)
            if given is None or given.startswith("--"):
                raise InputError(f"{name}: expected a value after --{name}")
            yield name, given


def _changed(spec: Any, inner: Sequence[str], value: Any) -> Any:
    """Set one value in a spec: its class path, or one of its arguments however deep."""
    if not inner or list(inner) == ["class_path"]:
        if isinstance(value, dict) or value is None:
            return value
        same = isinstance(spec, dict) and spec.get("class_path") in (None, value)
        return {**(spec if same else {}), "class_path": value}
    if inner[0] == "init_args":
        return _changed(spec, inner[1:], value)
    spec = {"class_path": spec} if isinstance(spec, str) else dict(spec or {})
    arguments = dict(spec.get("init_args") or {})
    first, *others = inner
    arguments[first] = _changed(arguments.get(first), others, value) if others else value
    return {**spec, "init_args": arguments}


def _plain(text: str) -> Any:
    """Read a value as YAML; what is none is text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _content(recipe: str) -> Any:
    """Read a recipe, or what `expand` made of one; None for what the parser will refuse."""
    is_file = "\n" not in recipe and Path(recipe).is_file()
    try:
        return yaml.safe_load(Path(recipe).read_text(encoding="utf-8") if is_file else recipe)
    except (OSError, ValueError, yaml.YAMLError) as error:
        if is_file:
            raise InputError(f"cannot read the recipe {recipe}: {error}") from error
        return None


def first_unknown(
    arguments: Sequence[str], recipes: Sequence[Mapping[str, Any]], known: Collection[str]
) -> str | None:
    """Find the first name that is no flag, in flags of the form ``--name=value`` and recipes.

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


def one_line(message: str) -> str:
    """Reduce the parser's words on a value to a line that names it."""
    key = re.search(r'Parser key "([^"]+)"', message)
    text = " ".join(message.split())
    text = re.sub(r"Does not validate .* Errors: - (.*?) - .*", r"\1", text)
    text = re.sub(r'^Parser key "[^"]+": ', "", text)
    text = re.sub(r"Expected a (?:<class '([\w.]+)'>|typing\.)", r"expected \1", text)
    return f"{key[1]}: {text}" if key else text
