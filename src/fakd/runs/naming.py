"""What a run's recipe says it did: its method, its student, and how tables call them."""

import inspect
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from fakd import losses
from fakd.losses import PRESETS

ALONE = "alone"
_TITLES = {
    ALONE: "student alone",
    "pd": "PD",
    "pd-fa": "PD+FA",
    "cwd": "CWD",
    "cwd-fa": "CWD+FA",
    "cwd-fa-logits": "CWD+FA (logits)",
    "skds": "SKDS",
    "ifvd": "IFVD",
    "cirkd": "CIRKD",
    "dist": "DIST",
}


def title_of(method: str) -> str:
    """Call a method as papers do.

    >>> title_of("cwd-fa"), title_of("skds-cirkd"), title_of("my own")
    ('CWD+FA', 'SKDS (cirkd)', 'my own')
    """
    if method in _TITLES:
        return _TITLES[method]
    family, _, variant = method.partition("-")
    return f"{_TITLES[family]} ({variant})" if method in PRESETS and family in _TITLES else method


def method_of(recipe: Mapping[str, Any]) -> str:
    """Name the method of a recipe: alone, the preset it equals, or its losses with settings.

    Settings count, not how they are written: a lone loss equals a sum of one, and a default equals
    the same value given.

    >>> method_of({"distillation": {"class_path": "fakd.losses.ChannelKL",
    ...                             "init_args": {"strength": 1.0}}})
    'cwd-fa'
    """
    spec = recipe.get("distillation")
    if spec is None:
        return ALONE
    if not isinstance(spec, Mapping):
        return str(spec)
    given = weighted_losses(spec, recipe.get("weight"))
    for name, preset in PRESETS.items():
        if _canonical(weighted_losses(preset)) == _canonical(given):
            return name
    return " + ".join(_described(*part) for part in given)


def weighted_losses(
    spec: Mapping[str, Any], weight: float | int | None = None
) -> list[tuple[float, str, dict[str, Any]]]:
    """List the losses of a recipe's ``distillation``: weight, class path and all settings."""
    path, given = spec["class_path"], spec.get("init_args") or {}
    kind = _class(path)
    factor = float(getattr(kind, "default_weight", 1.0) if weight is None else weight)
    if kind is losses.WeightedSum:
        weights = given.get("weights") or {}
        parts = [
            part
            for name, loss in given["losses"].items()
            for part in weighted_losses(loss, weights.get(name))
        ]
        return [(factor * own, path, settings) for own, path, settings in parts]
    settings = {**_defaults(kind), **given}
    return [(factor, path, {key: value for key, value in settings.items() if value is not None})]


def student_of(recipe: Mapping[str, Any]) -> str:
    """Name the trained network by builder, backbone and starting weights.

    >>> student_of({"student": {"class_path": "fakd.models.pspnet",
    ...                         "init_args": {"backbone": "resnet18", "weights": "imagenet"}}})
    'pspnet-resnet18-imagenet'
    """
    spec = recipe.get("student", recipe.get("network"))
    if not isinstance(spec, Mapping):
        return str(spec)
    given = spec.get("init_args") or {}
    parts = [spec["class_path"].rpartition(".")[2]]
    for key in ("backbone", "weights", "path"):
        if given.get(key) is not None:
            parts.append(PurePath(str(given[key])).name)
    return "-".join(parts)


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(losses, name, None) if module == losses.__name__ else None


def _defaults(kind: Any) -> dict[str, Any]:
    if kind is None:
        return {}
    parameters = inspect.signature(kind).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _canonical(parts: list[tuple[float, str, dict[str, Any]]]) -> list[str]:
    return sorted(json.dumps(_plain(part), sort_keys=True) for part in parts)


def _plain(value: Any) -> Any:
    """Write 1 as 1.0 and tuples as lists, for a file does not keep them apart."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _described(weight: float, path: str, settings: dict[str, Any]) -> str:
    kind = _class(path)
    usual = _plain(_defaults(kind))
    own = [
        f"{key}={f'{value:g}' if isinstance(value, float) else value}"
        for key, value in settings.items()
        if _plain(value) != usual.get(key)
    ]
    name = path.rpartition(".")[2] + (f"({', '.join(own)})" if own else "")
    return name if weight == getattr(kind, "default_weight", 1.0) else f"{weight:g} x {name}"
