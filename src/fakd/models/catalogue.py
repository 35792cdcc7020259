"""The paper's networks side by side: size, cost and grid, computed from the networks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from fakd.models.paper import EncoderDecoder, deeplabv3plus, fcn_hrnet, isanet, pspnet
from fakd.types import Segmenter

NETWORKS: tuple[tuple[Callable[[str, int], EncoderDecoder], str], ...] = (
    (pspnet, "resnet101"),
    (fcn_hrnet, "hrnet_w48"),
    (deeplabv3plus, "resnet101"),
    (isanet, "resnet101"),
    (pspnet, "resnet18"),
    (pspnet, "resnet18b"),
    (fcn_hrnet, "hrnet_w18s"),
    (deeplabv3plus, "mobilenetv2"),
    (isanet, "resnet18"),
)
"""Four teachers, then their students; the two of `pspnet` differ in their stem."""

SIDE = 512
"""Of the square image that the cost of the paper's networks is stated for."""


class Row(NamedTuple):
    """One network in numbers."""

    name: str
    """The call that builds it, without the class count."""
    parameters: int
    """With the auxiliary head, which is part of every checkpoint."""
    flops: int
    """Floating-point operations of one image, two per multiply-accumulate, no auxiliary head."""
    channels: int | None
    """Width of the feature before the classifier; None if it is not seen."""
    stride: int
    """Image pixels per position of logits and feature."""


def list_networks(classes: int = 150) -> list[Row]:
    """Describe the paper's networks.

    Args:
        classes: number of classes; 150 is ADE20K's.
    """
    return [describe(builder, backbone, classes) for builder, backbone in NETWORKS]


def describe(builder: Callable[[str, int], EncoderDecoder], backbone: str, classes: int) -> Row:
    """Build a network without memory for its weights and count."""
    with torch.device("meta"):
        network = builder(backbone, classes)
    return count(f"{builder.__name__}({backbone})", network, (SIDE, SIDE))


def count(name: str, network: Segmenter, size: tuple[int, int]) -> Row:
    """Count parameters, and the operations for one image of that height and width.

    The network is of no use afterwards: its weights are gone, and so is all that is not counted.
    """
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if isinstance(network, EncoderDecoder):
        network.auxiliary_head = None
    network.eval().to("meta")
    drop_pointwise(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        seen = network(torch.empty(1, 3, *size, device="meta"))
    return Row(
        name=name,
        parameters=parameters,
        flops=counter.get_total_flops(),
        channels=None if seen.features is None else seen.features.shape[1],
        stride=max(1, round(size[0] / seen.logits.shape[-2])),
    )


def activation_bytes(network: nn.Module, images: Tensor) -> int:
    """Count the bytes that a forward pass keeps for the gradient: activations, no weights.

    What two layers keep of the same memory counts once. Works on the meta device too.

    Args:
        network: in the mode in which it is trained, on the device of the images.
        images: ``[batch, 3, height, width]``.
    """
    entries = (*network.parameters(), *network.buffers())
    own = {each.untyped_storage()._cdata for each in entries}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction = network(images)
    del prediction  # Until now nothing that was kept could be freed, and its place be taken.
    return sum(kept.values())


def drop_pointwise(network: nn.Module) -> None:
    """Take out batch norms and activations: they are not counted, and without memory slow."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, _POINTWISE):
                setattr(module, name, nn.Identity())


_POINTWISE = (_BatchNorm, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU)
