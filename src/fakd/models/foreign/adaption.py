"""Adapt anything that classifies pixels to a `Segmenter`: probing, preprocessing, recording."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fakd.errors import InputError
from fakd.models.foreign.adapted import Adapted
from fakd.models.foreign.exported import (
    ExportedNetwork,
    FunctionNetwork,
    InputFormat,
    OnnxNetwork,
    as_module,
)
from fakd.models.foreign.libraries import (
    NetworkMetadata,
    Order,
    architecture_of,
    metadata_of,
    set_class_count,
)
from fakd.models.foreign.probe import Layer, ProbedOutput, probe_output
from fakd.specs import architecture, make_spec, spec_of, with_class_count
from fakd.types import Segmenter

_GREY = (0.449,), (0.226,)
"""ImageNet's mean and standard deviation, averaged over the colours."""


def adapt(
    network: object,
    classes: int | None = None,
    *,
    classifier: str | None = None,
    backbone: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    order: Order | None = None,
    side: int | tuple[int, int] | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    new_head: bool = False,
) -> Segmenter:
    """Adapt a network to a `Segmenter`; what is not given is found by probing with forward passes.

    Args:
        network: a `Segmenter` (returned unchanged), a module, a function from images to logits, an
            exported program, or an ONNX session.
        classes: number of classes that it must have.
        classifier: name of the layer that outputs its logits; it is checked.
        backbone: name of the submodule that is excluded from a higher learning rate for heads; by
            default all but the classifier.
        mean: subtracted from images in [0, 1], for red, green, blue.
        std: divides images after that.
        order: channels that it takes, rgb, bgr or gray; mean and std are for red, green, blue.
        side: height and width of the images that it takes, if it takes one size only.
        output: path of the logits in its output, such as logits, out or 0.
        inputs: further inputs besides images, by name.
        new_head: replace its classifier if it has another number of classes.

    Raises:
        InputError: it does not run, does not return logits, or an argument contradicts the probing.
    """
    if isinstance(network, Segmenter):
        if classes is not None and network.classes != classes:
            raise InputError(f"network must have {classes} classes, got {network.classes}")
        return network
    module = as_module(network)
    if module is None:
        raise InputError(f"expected a network, got a {type(network).__name__}")
    carried = metadata_of(module)
    remarks = [*carried.remarks]
    if any(each.dtype in (torch.bfloat16, torch.float16) for each in module.parameters()):
        module.float()
        remarks.append("its 16-bit weights are converted to 32 bits")
    if backbone is not None and backbone not in dict(module.named_modules()):
        parts = ", ".join(name for name, _ in module.named_children())
        raise InputError(f"the network has no part {backbone!r}; it has {parts}")
    channels = _channels(module, order)
    claims: dict[str, Any] = {"classifier": classifier, "place": output}
    takes = _input_format(module)
    fixed = takes.side if takes else None
    side = (side, side) if isinstance(side, int) else side
    if side is not None and fixed is not None and tuple(side) != fixed:
        raise InputError(f"the network takes {fixed[0]}x{fixed[1]} pixels, got side {list(side)}")
    claims["side"] = side or fixed
    given = inputs if inputs is not None else carried.inputs
    extra = {name: torch.tensor(value) for name, value in given.items()}

    def run(images: Tensor) -> Any:
        return module(images, **{name: each.to(images.device) for name, each in extra.items()})

    answer = probe_output(module, run, channels=channels, likely=carried.sizes, **claims)
    found = 2 if answer.channels == 1 else answer.channels
    replaced = classes is not None and found != classes
    if replaced and new_head and classes is not None:
        _replace_head(module, answer, classes)
        remarks.append(
            f"its classifier of {found} classes was replaced by a new one of {classes}, which "
            "is initialised randomly"
        )
        answer = probe_output(module, run, channels=channels, likely=carried.sizes, **claims)
        carried = replace(carried, class_names=None)
    elif replaced:
        raise InputError(
            f"network must have {classes} classes, got {found}"
            + (f" from its classifier '{answer.head.name}'" if answer.head else "")
            + "; change the class count"
        )
    fed = _choose_preprocessing(carried, channels, mean, std, order, given, remarks)
    if answer.activation != "none":
        where = "are taken before it" if answer.head else "are recovered by inverting it"
        remarks.append(f"it ends in a {answer.activation}: the logits {where}")
    if answer.channels == 1:
        remarks.append("its single class becomes two: absent and present")
    adapted = Adapted(module, answer, fed, backbone)
    adapted.describe(fed, remarks)
    _record(adapted, fed, new_head and replaced, claims)
    return adapted


def _input_format(module: nn.Module) -> InputFormat | None:
    return module.takes if isinstance(module, OnnxNetwork | ExportedNetwork) else None


def _channels(module: nn.Module, order: Order | None) -> int:
    """Infer the number of image channels from the first convolution."""
    if order is not None:
        return 1 if order == "gray" else 3
    if (takes := _input_format(module)) is not None:
        count = takes.channels
    else:
        first = next((m for _, m in module.named_modules() if isinstance(m, nn.Conv2d)), None)
        count = first.in_channels * (first.groups == 1) if first is not None else 3
    if count in (1, 3):
        return count
    if count in (2, 4):
        raise InputError(
            f"the network takes images of {count} channels, but images have red, green and blue; "
            "wrap it in a network that computes its channels from these"
        )
    return 3


def _choose_preprocessing(
    carried: NetworkMetadata,
    channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    order: Order | None,
    inputs: Mapping[str, Any],
    remarks: list[str],
) -> NetworkMetadata:
    """Choose the preprocessing: as given, else from the network's metadata, else the default."""
    usual = _GREY if channels == 1 else (carried.mean, carried.std)
    told = carried.told_by
    if mean is not None or std is not None:
        told = "as given"
    elif channels == 1 or not told:
        told = ""
        remarks.append(
            "its normalisation of images is unknown: ImageNet's mean "
            f"{list(usual[0])} and standard deviation {list(usual[1])} are used; "
            "set mean and std to change that"
        )
    chosen = [tuple(usual[0] if mean is None else mean), tuple(usual[1] if std is None else std)]
    for name, value in zip(("mean", "std"), chosen, strict=True):
        if len(value) != channels:
            raise InputError(f"expected {name} with {channels} numbers, got {list(value)}")
    if not all(0 < each < math.inf for each in chosen[1]):
        raise InputError(f"expected a std of finite numbers above 0, got {list(chosen[1])}")
    settled = order or ("gray" if channels == 1 else carried.order)
    mean, std = chosen
    return replace(carried, mean=mean, std=std, order=settled, told_by=told, inputs=inputs)


def _replace_head(module: nn.Module, answer: ProbedOutput, classes: int) -> None:
    """Replace the classifier, and those of auxiliary heads, for another number of classes."""
    if answer.head is None:
        raise InputError(
            f"the network has {answer.channels} classes, the data {classes}, and no single layer "
            "that outputs its logits was found, which could be replaced; build it with "
            f"{classes} classes"
        )
    if not answer.head.name:
        raise InputError(
            f"the network is a single layer of {answer.channels} classes; build it with {classes}"
        )
    parts = () if answer.extra else answer.auxiliary
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, Layer):
            continue
        beside = any(name == part or name.startswith(f"{part}.") for part in parts)
        outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if name == answer.head.name or (beside and outputs == answer.channels):
            module.set_submodule(name, _resized_layer(layer, classes))
    set_class_count(module, classes)


def _resized_layer(layer: nn.Module, outputs: int) -> nn.Module:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs, bias)
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        raise TypeError(f"expected a layer, got {type(layer).__name__}")
    options: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "bias": bias}
    options |= {"dilation": layer.dilation}
    options |= {"kernel_size": layer.kernel_size}
    return type(layer)(layer.in_channels, outputs, **options)


def _record(
    adapted: Adapted, fed: NetworkMetadata, new_head: bool, claims: Mapping[str, Any]
) -> None:
    """Record the specification that rebuilds the network, if there is one."""
    module, answer = adapted.network, adapted.answer
    if isinstance(module, FunctionNetwork):
        return
    inner = spec_of(module)
    built = architecture_of(module)
    if built is None and inner is not None:
        built = with_class_count(architecture(inner), answer.channels)
    told: dict[str, Any] = {
        "classifier": answer.head.name if answer.head else None,
        "backbone": adapted.slow,
        "mean": list(fed.mean),
        "std": list(fed.std),
    }
    told |= {"order": fed.order} if fed.order != "rgb" else {}
    told |= {"output": claims["place"]} if claims["place"] else {}
    told |= {"side": list(answer.sizes.fixed)} if answer.sizes.fixed else {}
    told |= {"inputs": dict(fed.inputs)} if fed.inputs else {}
    if built is not None and not isinstance(module, OnnxNetwork | ExportedNetwork):
        head = {"classes": adapted.classes, "new_head": True} if new_head else {}
        adapted.config = make_spec("fakd.models.adapt", network=built, **told, **head)
    if inner is not None:
        adapted.origin = make_spec("fakd.models.adapt", network=inner, **told)
