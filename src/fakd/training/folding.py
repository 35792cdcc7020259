"""Folding of frozen batch norms into the convolutions before them."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from fakd.types import Segmenter

_NEAR = 1e-4
"""Largest difference of an output, relative to its largest magnitude, accepted as rounding."""


@torch.no_grad()
def fold_batch_norms(
    network: Segmenter, images: Float[Tensor, "batch 3 height width"]
) -> Segmenter:
    r"""Copy a frozen network with its batch norms folded into convolutions; the rest is shared.

    A norm of an output :math:`w x + b` is :math:`s w x + s (b - \mu) + \beta` with
    :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}` (Jacob et al., 2018, arXiv 1712.05877). One
    forward pass on ``images`` shows which norm follows which convolution, and a second one checks
    that the outputs are the same. If they are not, or the network cannot be copied, the network
    itself is returned.
    """
    try:
        with torch.autocast(images.device.type, enabled=False):
            return _fold(network, images)
    except Exception:
        # A foreign network may fail in any way: use it unchanged.
        return network


def _fold(network: Segmenter, images: Tensor) -> Segmenter:
    pairs = _pairs(network, images)
    shared = [*network.parameters(), *network.buffers()]
    copied = copy.deepcopy(network, {id(each): each for each in shared})
    modules = dict(copied.named_modules())
    for conv, norm in pairs:
        _replace(modules, conv, fuse_conv_bn_eval(modules[conv], modules[norm]))
        _replace(modules, norm, _remainder(modules[norm]))
    return copied if pairs and _agree(network(images), copied(images)) else network


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """List pairs of a convolution and the norm that follows it, if both run exactly once."""
    made: dict[int, str] = {}
    taken: list[tuple[str, int]] = []
    runs: dict[str, int] = {}
    kept, handles = [], []

    def leave(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            kept.append(output)  # a freed tensor's id could be reused
            made[id(output)] = name
            runs[name] = runs.get(name, 0) + 1

        return hook

    def enter(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            taken.append((name, id(given[0])))
            runs[name] = runs.get(name, 0) + 1

        return hook

    for name, module in network.named_modules():
        if type(module) is nn.Conv2d and not (module._forward_hooks or module._forward_pre_hooks):
            handles.append(module.register_forward_hook(leave(name)))
        elif _foldable(module):
            handles.append(module.register_forward_pre_hook(enter(name)))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    found = [(made[output], norm) for norm, output in taken if output in made]
    return [(conv, norm) for conv, norm in found if runs[conv] == runs[norm] == 1]


def _foldable(module: nn.Module) -> bool:
    """Tell whether a module is a batch norm with fixed statistics, alone or with an activation."""
    plain = type(module) is nn.BatchNorm2d
    # timm's norms include their activation.
    joined = type(module).__name__ == "BatchNormAct2d"
    if not (plain or joined) or module.training or module.running_mean is None:
        return False
    return not (module._forward_hooks or module._forward_pre_hooks)


def _remainder(norm: Any) -> nn.Module:
    """Return the remainder of a folded norm: its dropout and activation, if any."""
    return nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)


def _replace(modules: dict[str, nn.Module], name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(modules[parent], own, module)


def _agree(one: tuple, other: tuple) -> bool:
    """Tell whether two predictions differ by rounding alone."""
    for left, right in zip(one, other, strict=True):
        if (left is None) != (right is None):
            return False
        if left is not None and not (left - right).abs().max() <= _NEAR * left.abs().max():
            return False
    return True
