"""Specs: build objects from class paths, and check which code may be imported.

A spec is ``{"class_path": ..., "init_args": {...}}``, plain values in a recipe or in the metadata
of a weights file; arguments may be specs themselves. Code that the user names is always built. Code
that only a file names is built if it constructs networks and is fakd's or a known library's, or if
the user has allowed it (`fakd.imports`).
"""

import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from fakd.errors import InputError
from fakd.imports import (
    ARCHITECTURES,
    IN_FILE,
    LIBRARIES,
    is_allowed,
    is_network,
    require_allowed,
)
from fakd.imports import OPENERS as OPENERS
from fakd.imports import allow as allow
from fakd.imports import import_object as import_object
from fakd.imports import nearest as nearest
from fakd.sources import Spec as Spec
from fakd.sources import is_source, resolve
from fakd.sources import make_spec as make_spec

ADAPT = "fakd.models.adapt"
STARTING_WEIGHTS: Mapping[str, Any] = {
    "weights": None,
    "weights_backbone": None,
    "encoder_weights": None,
    "pretrained": False,
    "pretrained_backbone": False,
    "use_pretrained_backbone": False,
    "checkpoint_path": "",
}
"""Arguments for a network's initial weights -> the value that means random weights."""
_CLASS_COUNTS = ("classes", "num_classes")
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")

_built: WeakKeyDictionary[Any, Spec] = WeakKeyDictionary()


def full_path(name: str, package: str) -> str:
    """Complete a bare name with its package; a dotted path is complete.

    >>> full_path("pspnet", "fakd.models"), full_path("my.net", "fakd.models")
    ('fakd.models.pspnet', 'my.net')
    """
    return name if "." in name or not package else f"{package}.{name}"


def is_spec(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a plain value is a spec."""
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def arguments_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec's arguments; refuse anything but a mapping with names as keys."""
    given = spec.get("init_args") or {}
    if not isinstance(given, Mapping) or any(type(name) is not str for name in given):
        raise InputError(
            f"{spec.get('class_path')}: init_args must map names to arguments, got {given!r}"
        )
    return dict(given)


def parameters(path: str) -> tuple[dict[str, inspect.Parameter], bool]:
    """List the named parameters of a class path, and whether it accepts other names as well."""
    function = import_object(path)
    # A class's __new__ may not have the parameters of its __init__.
    made = inspect.isclass(function) and function.__init__ is not object.__init__
    try:
        found = dict(inspect.signature(function.__init__ if made else function).parameters)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected {path} to be a class or a function, got {function!r}"
        ) from error
    if made:
        del found[next(iter(found))]
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {name: each for name, each in found.items() if each.kind not in kinds}
    if path.startswith("torchvision.models.segmentation."):
        return named, False  # its builders ignore unknown arguments
    # Configurations of transformers accept num_labels and others that their signature lacks.
    silent = path.startswith("transformers.") and path.endswith("Config")
    return named, silent or any(each.kind is kinds[0] for each in found.values())


def with_claims(spec: Any) -> Any:
    """Pass arguments of an external network that its builder does not take to `adapt`.

    ``{class_path: net.py:net, init_args: {width: 8, mean: [0, 0, 0]}}`` becomes an ``adapt`` with
    ``mean``, whose network is a ``net`` of that width. Arguments of a plain weights file are passed
    to the network that is given with it.
    """
    path = spec.get("class_path") if isinstance(spec, Mapping) else None
    given = arguments_of(spec) if isinstance(spec, Mapping) else {}
    if path == "fakd.models.load" and given.get("network") is not None:
        beside, (known, _) = given.pop("network"), parameters(path)
        beside = _as_spec(beside) if isinstance(beside, str) else beside
        if is_spec(beside):
            said = {name: given.pop(name) for name in [*given] if name not in known}
            inner = {**beside, "init_args": {**(beside.get("init_args") or {}), **said}}
            beside = with_claims(inner)
        return make_spec(path, **given, network=beside)
    opener = str(path).startswith("fakd.models.open_")
    if not isinstance(path, str) or "." not in path or (path.startswith("fakd.") and not opener):
        return spec
    known, _ = parameters(path)
    claims = set(parameters(ADAPT)[0]) - {"network", "classes", "new_head", *known}
    told = {name: given.pop(name) for name in claims & set(given)}
    inner = {"class_path": path, "init_args": given}
    return make_spec(ADAPT, network=inner, **told) if told else spec


def check_spec(
    spec: Any,
    where: str,
    *,
    package: str = "",
    counted: bool = False,
    asked_by: object = None,
    ours: Collection[str] = ARCHITECTURES,
) -> Spec:
    """Check a spec recursively against the signatures it names, and write out all defaults.

    Args:
        spec: spec from the user or a file.
        where: its name in error messages, such as ``network``.
        package: the package whose names need no prefix.
        counted: whether the number of classes will be filled in.
        asked_by: the file that holds the spec; None for a spec from the user.
        ours: class paths of this package that such a file may use.

    Raises:
        InputError: there is no such class path or argument, one is missing or of another type, or
            the spec is from a file and not permitted.
    """
    if not is_spec(spec):
        raise InputError(f"{where}: expected {{class_path: ..., init_args: ...}}, got {spec!r}")
    if strange := set(spec) - {"class_path", "init_args"}:
        raise InputError(
            f"{where}: expected class_path and init_args, got {', '.join(sorted(strange))}; "
            "put arguments into init_args"
        )
    path, given = full_path(spec["class_path"], package), arguments_of(spec)
    if asked_by is None:
        require_allowed(path, given)
    else:
        _require_permitted(path, given, asked_by, ours)
    known, open_ended = parameters(path)
    hints = _hints(import_object(path))
    inner = partial(check_spec, package=package, counted=counted, asked_by=asked_by, ours=ours)

    def converted(value: Any, hint: Any, place: str) -> Any:
        if isinstance(value, str) and not _accepts_text(hint):
            value = _as_spec(value)
        if is_spec(value):
            return inner(value, place)
        if isinstance(value, Mapping) and any(map(is_spec, value.values())):
            return {key: converted(each, Any, f"{place}.{key}") for key, each in value.items()}
        if isinstance(value, list) and any(map(is_spec, value)):
            return [converted(each, Any, f"{place}[{i}]") for i, each in enumerate(value)]
        return _convert(value, hint, place) if asked_by is None else _with_tuple(value, hint)

    for name, value in [*given.items()]:
        hint, usual = hints.get(name, Any), getattr(known.get(name), "default", None)
        welcome = hint is Any or usual is None or type(None) in get_args(hint)
        if value is None and not welcome:
            del given[name]  # null means the default
            continue
        # smp ignores arguments that an encoder does not know; a typing error is refused here.
        slip = path.startswith("segmentation_models_pytorch.") and nearest(name, known, cutoff=0.8)
        if name not in known and (slip or not open_ended):
            place = f"{where}.{name}"
            listed = f"; {path} takes {', '.join(known) or 'nothing'}"
            near = nearest(place, [f"{where}.{each}" for each in known], listed)
            raise InputError(f"there is no {place}{near}")
        given[name] = converted(value, hint, f"{where}.{name}")
    for name, each in known.items():
        filled = name in given or (counted and name in _CLASS_COUNTS)
        if each.default is each.empty and not filled:
            raise InputError(f"{where}: {path} needs {name}; give --{where}.{name}")
    defaults = {name: each.default for name, each in known.items() if name not in _CLASS_COUNTS}
    if asked_by is None:
        given = {name: each for name, each in defaults.items() if _is_plain(each)} | given
    return {"class_path": path, "init_args": given}


def _as_spec(text: str) -> Any:
    """Convert text where an object is expected to a spec; other text is returned unchanged."""
    if is_source(text):
        return resolve(text)
    return make_spec(text) if CLASS_PATH.match(text) else text


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def to_plain(value: Any) -> Any:
    """Convert paths and enumerations to text and tuples to lists, for JSON and YAML."""
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(each) for each in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a value to the signature's type, by the parser's rules."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=hint)
    except ValueError:
        return value  # a type that the parser does not know
    # A value parsed from YAML may have been meant as text, such as a folder called 2024.
    for each in (value, *([] if isinstance(value, str | list | dict | None) else [str(value)])):
        try:
            return parser.parse_object({"value": each})["value"]
        except ArgumentError:
            continue
    raise InputError(f"{where}: expected {_wording(hint)}, got {value!r}")


def _wording(hint: Any) -> str:
    """Describe a type of a signature in plain words."""
    parts = [each for each in get_args(hint) if each is not type(None)]
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_wording, parts))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, parts))
    if get_origin(hint) in (Sequence, list, tuple) and parts[0] in (int, float):
        return "numbers such as [1, 2]" if parts[0] is int else "numbers such as [0.5, 0.5]"
    return hint.__name__ if isinstance(hint, type) and not parts else str(hint)


def _with_tuple(value: Any, hint: Any) -> Any:
    """Restore tuples that YAML and JSON turned into lists; the only conversion of a file's values.

    For a callable parameter the parser would import what a text names.
    """
    wanted = "tuple" in str(hint) and "list" not in str(hint)
    return tuple(value) if wanted and isinstance(value, list) else value


def _accepts_text(hint: Any) -> bool:
    if get_args(hint) and get_origin(hint) is not Callable:
        return any(map(_accepts_text, get_args(hint)))
    return hint is Any or isinstance(hint, str) or hint in (str, Path)


def _hints(function: Any) -> dict[str, Any]:
    called = vars(function).get("__init__") if inspect.isclass(function) else function
    try:
        return get_type_hints(called)
    except (NameError, TypeError, AttributeError):
        return {}


def build(
    spec: Any,
    *,
    classes: int | None = None,
    asked_by: object = None,
    ours: Collection[str] = ARCHITECTURES,
) -> Any:
    """Build the object of a spec, inner specs first; other plain values are returned unchanged.

    Args:
        spec: a spec, or a mapping or list that contains specs.
        classes: number of classes, for everything that takes one and was not given one.
        asked_by: the file that holds the spec; None for one from the user, who may name any code.
        ours: class paths of this package that such a file may use.

    Raises:
        InputError: the class path cannot be built, or is named by a file and not permitted.
    """
    inner = partial(build, asked_by=asked_by, ours=ours)
    if isinstance(spec, list | tuple):
        return type(spec)(map(inner, spec))
    if not is_spec(spec):
        return {k: inner(v) for k, v in spec.items()} if isinstance(spec, Mapping) else spec
    path = spec["class_path"]
    if asked_by is None:
        spec = {"class_path": path, "init_args": arguments_of(spec)}
        require_allowed(path, spec["init_args"])
    else:
        spec = check_spec(spec, path, counted=classes is not None, asked_by=asked_by, ours=ours)
    spec = spec if classes is None else with_class_count(spec, classes)
    arguments = {name: inner(value) for name, value in spec["init_args"].items()}
    try:
        made = import_object(path)(**arguments)
    except InputError:
        raise
    # A file may hold any value, and layers raise various errors for invalid ones.
    except (TypeError, ValueError, OSError, ArithmeticError, LookupError, RuntimeError) as error:
        if asked_by is None:
            raise
        raise InputError(f"{path} does not take {spec['init_args']} ({error})") from error
    _remember(made, spec)
    return made


def with_class_count(spec: Mapping[str, Any], classes: int) -> Spec:
    """Fill in the number of classes where it is not given.

    Except for pretrained weights of torchvision, which fix it, and `adapt`, whose caller decides.
    """
    known, open_ended = parameters(spec["class_path"])
    path, arguments = spec["class_path"], spec["init_args"]
    config = open_ended and path.endswith("Config")
    own = path == ADAPT or (path.startswith("torchvision.") and arguments.get("weights"))
    names = [] if own else ["num_labels"] if config else [n for n in _CLASS_COUNTS if n in known]
    given = {k: with_class_count(v, classes) if is_spec(v) else v for k, v in arguments.items()}
    return {"class_path": path, "init_args": dict.fromkeys(names, classes) | given}


def _remember(made: Any, spec: Spec) -> None:
    spec = to_plain(spec)
    try:
        json.dumps(spec)
        _built[made] = spec
    except TypeError:
        return  # not weakly referable, such as a number, or not JSON
    # Networks built by this package's functions set these themselves, in more detail.
    own = spec["class_path"].startswith("fakd.")
    if not own and hasattr(made, "config") and hasattr(made, "origin"):
        made.config, made.origin = architecture(spec), spec


def spec_of(made: Any) -> Spec | None:
    """Return the spec that an object was built from in this process; None if there is none."""
    try:
        return _built.get(made)
    except TypeError:
        return None


def architecture(spec: Mapping[str, Any]) -> Spec:
    """Remove initial weights from a network's spec, for a file that has weights itself."""
    known, _ = parameters(spec["class_path"])
    arguments = {
        name: architecture(value) if is_spec(value) else value
        for name, value in spec["init_args"].items()
    }
    off = {
        name: value
        for name, value in STARTING_WEIGHTS.items()
        if name in known and known[name].default is not inspect.Parameter.empty
    }
    return {"class_path": spec["class_path"], "init_args": arguments | off}


def _require_permitted(
    path: str, given: Mapping[str, Any], asked_by: object, ours: Collection[str]
) -> None:
    if is_allowed(path):
        return
    if path not in ours and not is_network(path):
        code = inside["file"] if (inside := IN_FILE.fullmatch(path)) else path
        raise InputError(
            f"{asked_by} uses {path}, which is not a network of fakd, {', '.join(LIBRARIES)}; "
            "pass the network: fakd.load(path, network=...), or allow code that you trust: "
            f"fakd.load(path, allow={code!r}), --code {code}"
        )
    if path in OPENERS - ARCHITECTURES:
        if given.get("allow"):
            raise InputError(
                f"{asked_by} allows the code {given['allow']}, which a file cannot; if you trust "
                "that code, allow it yourself with --code"
            )
        return
    for name, value in given.items():
        starting = value not in (None, STARTING_WEIGHTS.get(name, value))
        # Libraries accept names such as hf-hub:... as an architecture, and download it.
        if starting or (isinstance(value, str) and ":" in value):
            raise InputError(
                f"{asked_by} uses {path} with other files ({name}: {value}), which is not allowed"
            )
