"""Resampling of maps of different sizes: everything is resampled to the student's grid."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor


def on_grid_of(
    reference: Float[Tensor, "batch _channels rows cols"],
    maps: Float[Tensor, "batch channels _rows _cols"],
) -> Float[Tensor, "batch channels rows cols"]:
    """Resample logits or features to the grid of ``reference``, bilinearly, in at least float32.

    Pixel centres are aligned (``align_corners=False``). Maps of the right size are returned
    unchanged. Used for all teacher outputs on another grid than the student's, in training and in
    every public function of two maps.
    """
    if maps.shape[-2:] == reference.shape[-2:]:
        return maps
    return F.interpolate(
        to_float32(maps), reference.shape[-2:], mode="bilinear", align_corners=False
    )


def labels_on_grid_of(
    reference: Float[Tensor, "batch _channels rows cols"],
    labels: Integer[Tensor, "batch _rows _cols"],
) -> Int[Tensor, "batch rows cols"]:
    """Resample labels to the grid of ``reference``: row i takes row floor(i * height / rows)."""
    size = reference.shape[-2:]
    if labels.shape[-2:] == size:
        return labels.long()
    return F.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0].long()


def to_float32(maps: Tensor) -> Tensor:
    """Convert to float32 unless it is float64."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
