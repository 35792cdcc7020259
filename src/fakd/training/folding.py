"""Batch norms that no longer learn, as part of the convolutions before them."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from fakd.types import Segmenter

_NEAR = 1e-4
"""Largest difference of an answer, as a share of its largest magnitude, that is rounding."""


@torch.no_grad()
def folded(network: Segmenter, images: Float[Tensor, "batch 3 height width"]) -> Segmenter:
    r"""Copy a frozen network with its batch norms folded into convolutions; the rest is shared.

    A norm of an output :math:`w x + b` is :math:`s w x + s (b - \mu) + \beta` with
    :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}` (Jacob et al., 2018, arXiv 1712.05877). Which
    norm takes which convolution's output is seen from one run on the ``images``, and that the
    answers are the same is tried on them. Where they are not, or the network cannot be copied,
    the network itself is returned.
    """
    try:
        with torch.autocast(images.device.type, enabled=False):
            return _folded(network, images)
    except Exception:
        # Whatever a foreign network does not bear: it answers as it is.
        return network


def _folded(network: Segmenter, images: Tensor) -> Segmenter:
    pairs = _pairs(network, images)
    shared = [*network.parameters(), *network.buffers()]
    copied = copy.deepcopy(network, {id(each): each for each in shared})
    modules = dict(copied.named_modules())
    for conv, norm in pairs:
        _replace(modules, conv, fuse_conv_bn_eval(modules[conv], modules[norm]))
        _replace(modules, norm, _after(modules[norm]))
    return copied if pairs and _same(network(images), copied(images)) else network


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    """Name each convolution and the norm that takes its output, where both are run once."""
    made: dict[int, str] = {}
    taken: list[tuple[str, int]] = []
    runs: dict[str, int] = {}
    kept, handles = [], []

    def leave(name: str) -> Any:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            kept.append(output)  # as what is freed would lend its id to another
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
    # timm's norms have their activation in them.
    joined = type(module).__name__ == "BatchNormAct2d"
    if not (plain or joined) or module.training or module.running_mean is None:
        return False
    return not (module._forward_hooks or module._forward_pre_hooks)


def _after(norm: Any) -> nn.Module:
    """Tell what is left of a norm."""
    return nn.Identity() if type(norm) is nn.BatchNorm2d else nn.Sequential(norm.drop, norm.act)


def _replace(modules: dict[str, nn.Module], name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(modules[parent], own, module)


def _same(one: tuple, other: tuple) -> bool:
    """Tell whether two predictions differ by rounding alone."""
    for left, right in zip(one, other, strict=True):
        if (left is None) != (right is None):
            return False
        if left is not None and not (left - right).abs().max() <= _NEAR * left.abs().max():
            return False
    return True
