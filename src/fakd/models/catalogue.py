"""Size, cost and stride of the paper's networks, computed from the networks themselves."""

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
"""Four teachers, then their students; the two `pspnet` students differ in their stem."""

SIDE = 512
"""Side of the square image that costs of the paper's networks refer to."""


class Row(NamedTuple):
    """Size and cost of one network."""

    name: str
    """The call that builds it, without the class count."""
    parameters: int
    """Including the auxiliary head, which is part of every checkpoint."""
    flops: int
    """Floating-point operations per image, two per multiply-accumulate, without auxiliary head."""
    channels: int | None
    """Channels of the feature before the classifier; None if the network has only logits."""
    stride: int
    """Image pixels per position of logits and feature, along each side."""


def list_networks(classes: int = 150) -> list[Row]:
    """Compute size and cost of the paper's networks.

    Args:
        classes: number of classes; 150 for ADE20K.
    """
    return [describe(builder, backbone, classes) for builder, backbone in NETWORKS]


def describe(builder: Callable[[str, int], EncoderDecoder], backbone: str, classes: int) -> Row:
    """Build a network on the meta device and compute its size and cost."""
    with torch.device("meta"):
        network = builder(backbone, classes)
    return count(f"{builder.__name__}({backbone})", network, (SIDE, SIDE))


def count(name: str, network: Segmenter, size: tuple[int, int]) -> Row:
    """Count parameters, and operations for one image of ``size``, height and width.

    This destroys the network: its weights and all layers that are not counted are removed.
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
    """Count the bytes of activations that a forward pass keeps for the gradient, without weights.

    Storage shared by several layers counts once. Works on the meta device too.

    Args:
        network: in training mode, on the device of the images.
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
    del prediction  # It kept all storages alive, so that no address was reused.
    return sum(kept.values())


def drop_pointwise(network: nn.Module) -> None:
    """Remove batch norms and activations: they are not counted, and are slow on the meta device."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, _POINTWISE):
                setattr(module, name, nn.Identity())


_POINTWISE = (_BatchNorm, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU)
