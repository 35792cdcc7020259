"""A recipe: YAML-serialisable values from which a run can be repeated."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from fakd.answers.sources import Source
from fakd.data import SegmentationData
from fakd.imports import class_path_of
from fakd.types import DistillationLoss, Segmenter


def recipe_of(command: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a command's arguments, taken from ``values`` by the names of its parameters.

    ``existing`` and ``profile`` are left out: repeating a recipe must not overwrite a run.
    """
    left_out = ("existing", "profile")
    names = [name for name in inspect.signature(command).parameters if name not in left_out]
    return {name: describe(values[name]) for name in names}


def describe(value: Any) -> Any:
    """Convert a command's argument to the YAML value that reproduces it.

    Settings become mappings; networks, data, losses and sources become ``class_path`` and
    ``init_args``. An object built by the caller's own code, which no file can reproduce, becomes
    its type's name.
    """
    if isinstance(value, Segmenter):
        return value.origin or value.config or _name(value)
    if isinstance(value, SegmentationData):
        return value.config or _name(value)
    if isinstance(value, DistillationLoss | Source):
        return {"class_path": _name(value), "init_args": describe(value.arguments)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: describe(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    plain = value is None or isinstance(value, str | bool | int | float)
    return value if plain else _name(value)


def _name(value: object) -> str:
    """Name a public class by the package that exports it, not its module."""
    kind = type(value)
    if not kind.__module__.startswith("fakd."):
        return class_path_of(kind)
    return ".".join([*kind.__module__.split(".")[:2], kind.__qualname__])
