"""Open a network from a name, a spec or an object."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fakd import specs
from fakd.errors import InputError, list_some
from fakd.models.foreign.adaption import adapt
from fakd.sources import resolve
from fakd.types import Segmenter


def open_network(given: Any, classes: int | None = None, trained: bool = False) -> Segmenter:
    """Open a network, and adapt it to a `Segmenter` if it is external.

    Args:
        given: a name (see `fakd.sources.resolve`), a spec, a `Segmenter`, or anything that `adapt`
            takes.
        classes: number of classes, used if the network takes one and it is not given otherwise.
        trained: whether it is to be trained: then an external network with another number of
            classes gets a new classifier.

    Raises:
        InputError: it cannot be built, or is to be trained and cannot be.
    """
    spec = None
    if isinstance(given, str | Path):
        spec = specs.check_spec(resolve(str(given)), str(given), counted=classes is not None)
    elif isinstance(given, Mapping):
        spec = dict(given)
    made = given if spec is None else _build(spec, classes, trained)
    if not callable(made) and not hasattr(made, "get_inputs"):
        what = spec["class_path"] if spec else "the caller"
        raise InputError(f"expected a network from {what}, got a {type(made).__name__}")
    if isinstance(made, Segmenter):
        network = made
    else:
        # A function's class count is unknown, and a new classifier needs one.
        wanted = classes if trained or not isinstance(made, nn.Module) else None
        network = adapt(made, wanted, new_head=trained)
    if trained and not any(each.requires_grad for each in network.parameters()):
        raise InputError(
            "this network cannot be trained, as it has no trainable weights; an exported network "
            "or a function can only be a teacher"
        )
    if trained and spec is not None and (names := _unweighted(spec)):
        named = " or ".join(names)
        remark = f"all its weights are initialised randomly; see {named}"
        network.remarks = (*network.remarks, remark)
    if spec is not None and not spec["class_path"].startswith("fakd.models.load"):
        # Recorded without the class count, which readers of the recipe also take from the data.
        network.origin = specs.to_plain(spec)
    return network


def _unweighted(spec: specs.Spec) -> list[str]:
    """List the arguments for pretrained weights if none of them is set."""
    inner = spec["init_args"].get("network", spec) if spec["init_args"] else spec
    given = inner.get("init_args", {}) if specs.is_spec(inner) else {}
    known = {name: value for name, value in given.items() if name in specs.STARTING_WEIGHTS}
    off = all(value == specs.STARTING_WEIGHTS[name] for name, value in known.items())
    return list(known) if off else []


def _build(spec: specs.Spec, classes: int | None, trained: bool) -> Any:
    if trained and classes is not None and spec["class_path"] == specs.ADAPT:
        wanted = {"classes": classes} | spec["init_args"] | {"new_head": True}
        spec = specs.make_spec(specs.ADAPT, **wanted)
    try:
        return specs.build(spec, classes=classes)
    except InputError:
        raise
    except Exception as error:
        # An error raised by external code is most likely due to its arguments.
        if spec["class_path"].startswith("fakd."):
            raise
        reason = f"{type(error).__name__}: {error}"
        given = {**({} if classes is None else {"classes": classes}), **spec["init_args"]}
        told = list_some([f"{name}={value!r}" for name, value in given.items()], 6)
        raise InputError(
            f"{spec['class_path']} cannot be built with {told or 'no arguments'}: {reason}"
        ) from error
