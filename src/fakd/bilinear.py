"""Bilinear resizing as products of small matrices, so that large maps are computed in tiles."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TILE_WIDTH = 128
TILE_NUMBERS = {"cpu": 2**20}
"""Upsampled logits per tile: on a CPU about the size of its cache, on other devices 2^26."""


class Span(NamedTuple):
    """A range of fine positions, the coarse positions they depend on, and the weights."""

    fine: slice
    coarse: slice
    mixing: Float[Tensor, "coarse fine"]
    copies: bool = False
    """Whether each fine position equals one coarse position, so that ``mixing`` is the identity."""


def mixing(
    coarse: int, fine: int, align_corners: bool, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "coarse fine"]:
    """Compute the interpolation matrix along one axis, from coarse to fine positions.

    It is `F.interpolate` of unit vectors, so its rules are not implemented twice.
    """
    unit = torch.eye(coarse, dtype=dtype)
    if coarse == fine:
        return unit
    return F.interpolate(unit[None], fine, mode="linear", align_corners=align_corners)[0]


def cut(
    matrix: Float[Tensor, "coarse fine"], length: int, device: torch.device | None = None
) -> list[Span | None]:
    """Split the fine positions into spans of a length; None where all weights are 0."""
    spans: list[Span | None] = []
    for start in range(0, matrix.shape[1], length):
        part = matrix[:, start : start + length]
        # With NumPy, as reading a tensor's values would count as a device synchronisation.
        used = np.flatnonzero(part.numpy().any(1)).tolist()
        if not used:
            spans.append(None)
            continue
        coarse = slice(used[0], used[-1] + 1)
        fine = slice(start, start + part.shape[1])
        # A copy, so that the whole matrix can be freed.
        part = part[coarse].clone()
        copies = len(part) == part.shape[1] and torch.equal(part, torch.eye(len(part)).to(part))
        spans.append(Span(fine, coarse, part.to(device), copies))
    return spans


def tile_size(device: torch.device, per_position: int, width: int) -> tuple[int, int]:
    """Choose rows and columns of a tile, given the numbers stored per position."""
    wide = min(width, TILE_WIDTH)
    numbers = TILE_NUMBERS.get(device.type, 2**26)
    return max(1, numbers // (per_position * wide)), wide
