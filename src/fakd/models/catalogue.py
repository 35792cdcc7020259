"""The paper's networks side by side: size, cost and grid, computed from the networks."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fakd.models.paper import EncoderDecoder, deeplabv3plus, fcn_hrnet, isanet, pspnet

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
"""Of the square image the cost is stated for."""


class Row(NamedTuple):
    """One network in numbers."""

    name: str
    """The call that builds it, without the class count."""
    parameters: int
    """With the auxiliary head, which is part of every checkpoint."""
    flops: int
    """Floating-point operations of one 512x512 image, two per multiply-accumulate, no auxiliary."""
    channels: int
    """Width of the feature before the classifier."""
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
        network = builder(backbone, classes).eval()
        images = torch.empty(1, 3, SIDE, SIDE)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    network.auxiliary_head = None
    drop_norms(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = network(images).features
    return Row(
        name=f"{builder.__name__}({backbone})",
        parameters=parameters,
        flops=counter.get_total_flops(),
        channels=features.shape[1],
        stride=SIDE // features.shape[2],
    )


def drop_norms(network: nn.Module) -> None:
    """Take out batch norms: the counter leaves them out, and without memory they are slow."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, nn.Identity())
