"""Names of a run's method and student, derived from its recipe, and their titles in tables."""

import re
from collections.abc import Mapping
from operator import itemgetter
from pathlib import PurePath
from typing import Any

from fakd import losses, specs
from fakd.errors import InputError
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
    "hard": "hard labels",
    "features": "features",
}


def title_of(method: str) -> str:
    """Return a method's title as papers write it.

    >>> title_of("cwd-fa"), title_of("skds-cirkd"), title_of("my own")
    ('CWD+FA', 'SKDS (cirkd)', 'my own')
    """
    if method in _TITLES:
        return _TITLES[method]
    family, _, variant = method.partition("-")
    return f"{_TITLES[family]} ({variant})" if method in PRESETS and family in _TITLES else method


def method_of(recipe: Mapping[str, Any]) -> str:
    """Name the method of a recipe: alone, the preset it equals, or its losses with settings.

    Recipes are compared by their settings, not their notation: a single loss equals a sum of one,
    and an omitted default equals the same value written out.

    Raises:
        InputError: the recipe has loss weights where version 0.1 stored them.

    >>> method_of({"distillation": {"class_path": "fakd.losses.ChannelKL",
    ...                             "init_args": {"strength": 1.0}}})
    'cwd-fa'
    """
    spec = recipe.get("distillation")
    if spec is None:
        return ALONE
    if not isinstance(spec, Mapping):
        return str(spec)
    refuse_former_weights({key: value for key, value in recipe.items() if value is not None})
    given, by_kind = weighted_losses(spec), itemgetter(1, 0)
    for name, preset in PRESETS.items():
        if sorted(weighted_losses(preset), key=by_kind) == sorted(given, key=by_kind):
            return name
    return " + ".join(_describe_loss(*part) for part in given)


def refuse_former_weights(recipe: Mapping[str, Any]) -> None:
    """Refuse loss weights as in version 0.1, which are not arguments of the losses.

    Raises:
        InputError: says what to write instead.
    """
    spec = recipe.get("distillation")
    spec = spec if isinstance(spec, Mapping) else {}
    arguments = spec.get("init_args") or {}
    is_sum = str(spec.get("class_path")).rpartition(".")[2] == "WeightedSum"
    if is_sum and "weights" in arguments:
        factors = (arguments["weights"] or {}).items()
        own = [f"losses.{name}.init_args.weight: {factor}" for name, factor in factors]
        raise InputError(
            "distillation: WeightedSum no longer has weights, each of its losses has one; leave "
            f"weights out{own and ' and write ' + ', '.join(own)}"
        )
    if "weight" in recipe:
        factor = recipe["weight"]
        instead = f"write distillation.init_args.weight: {factor}"
        if is_sum:
            instead = f"multiply the weight of each loss of the WeightedSum by {factor}"
        raise InputError(
            "weight is no longer a setting of its own but an argument of the loss; "
            f"leave it out{'' if factor is None else ' and ' + instead}"
        )


def weighted_losses(spec: Mapping[str, Any]) -> list[tuple[float, str, dict[str, Any]]]:
    """List the losses that ``distillation`` sums: weight, class path and all other settings."""
    path, given = spec["class_path"], spec.get("init_args") or {}
    if path == "fakd.losses.WeightedSum":
        return [part for loss in given["losses"].values() for part in weighted_losses(loss)]
    every = {**defaults_of(path), **specs.to_plain(given)}
    settings = {key: value for key, value in every.items() if value is not None}
    if isinstance(settings.get("weight"), Mapping):  # a fading weight is not a plain factor
        return [(float(defaults_of(path).get("weight", 1.0)), path, settings)]
    return [(float(settings.pop("weight", 1.0)), path, settings)]


def defaults_of(path: str) -> dict[str, Any]:
    """Return the default arguments of a loss of fakd; nothing for any other loss."""
    package, _, name = path.rpartition(".")
    if package != losses.__name__ or name not in losses.__all__:
        return {}
    known = specs.parameters(path)[0].values()
    return {
        each.name: specs.to_plain(each.default) for each in known if each.default is not each.empty
    }


def with_default_arguments(recipe: Any) -> Any:
    """Add the losses' default arguments to a recipe; older versions may lack newer settings.

    >>> written = {"class_path": "fakd.losses.HardLabels", "init_args": {"threshold": 0.5}}
    >>> with_default_arguments(written)
    {'class_path': 'fakd.losses.HardLabels', 'init_args': {'threshold': 0.5, 'weight': 1.0}}
    """
    if isinstance(recipe, list):
        return [with_default_arguments(each) for each in recipe]
    if not isinstance(recipe, Mapping):
        return recipe
    found: dict[str, Any] = {name: with_default_arguments(each) for name, each in recipe.items()}
    usual = defaults_of(found["class_path"]) if specs.is_spec(recipe) else {}
    if usual:
        found["init_args"] = {**usual, **specs.arguments_of(found)}
    return found


def _describe_loss(weight: float, path: str, settings: dict[str, Any]) -> str:
    usual = defaults_of(path)
    own = [
        f"{key}={f'{value:g}' if isinstance(value, float) else value}"
        for key, value in settings.items()
        if value != usual.get(key)
    ]
    name = path.rpartition(".")[2] + (f"({', '.join(own)})" if own else "")
    return name if weight == usual.get("weight", 1.0) else f"{weight:g} x {name}"


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
    if specs.is_spec(given.get("network")):
        return student_of({"student": given["network"]})
    keys = ("backbone", "encoder_name", "weights", "path", "source")
    parts = [PurePath(str(given[key])).name for key in keys if given.get(key) is not None]
    name = re.split("[.:]", spec["class_path"])[-1]
    return "-".join([*([] if name.startswith("open_") else [name]), *parts])
