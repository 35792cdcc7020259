"""Quantisation-aware training for INT8, with a straight-through estimator."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def train_for_int8(network: nn.Module) -> None:
    """Train a network with the rounding that `fakd export --precision int8` applies.

    In training mode inputs and weights of convolutions and linear layers are rounded to 8 bits and
    back; the gradient of rounding is taken to be 1 (Jacob et al., 2018, arXiv 1712.05877). The
    trained and saved weights are those before rounding. In evaluation mode nothing is rounded.
    Ranges are those of the batch, so that there is no state between steps.
    """
    for module in network.modules():
        if isinstance(module, _LAYERS):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


def round_weight(weight: Float[Tensor, "..."], channel_axis: int = 0) -> Float[Tensor, "..."]:
    """Round to -127 to 127 steps of the largest magnitude of each output channel.

    A norm that follows scales whole channels: folding it into the weight, as exporters do, changes
    the steps but not the rounding.
    """
    others = [axis for axis in range(weight.dim()) if axis != channel_axis]
    scale = _step(weight.detach().abs().amax(others).float() / 127)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(
        weight.float(), scale, zero, channel_axis, -127, 127
    )


def round_input(features: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round to 256 steps from the smallest to the largest value; 0 is one of them."""
    low, high = (each.float() for each in features.detach().aminmax())
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _step((high - low) / 255)
    zero = (-low / scale).round().clamp(0, 255).int()
    return torch.fake_quantize_per_tensor_affine(features.float(), scale, zero, 0, 255)


def _step(scale: Tensor) -> Tensor:
    return scale.clamp(min=torch.finfo(torch.float32).eps)


def _enter(layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not layer.training:
        return None
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    # Shadows the parameter of that name until the layer's forward pass is done.
    layer.__dict__["weight"] = round_weight(layer.weight, axis)
    return (*map(round_input, arguments[:1]), *arguments[1:])


def _leave(layer: Any, arguments: tuple[Any, ...], answer: Any) -> None:
    layer.__dict__.pop("weight", None)
