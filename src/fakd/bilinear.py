"""Bilinear resizing as products of small matrices, so that large maps can be made in tiles."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TILE_WIDTH = 128
TILE_NUMBERS = {"cpu": 2**20}
"""Enlarged logits held at once: on a CPU about what a cache keeps, elsewhere 2^26."""


class Span(NamedTuple):
    """Neighbouring fine positions, the coarse ones they lie between, and how they mix them."""

    fine: slice
    coarse: slice
    mixing: Float[Tensor, "coarse fine"]
    copies: bool = False
    """Whether each fine position is one coarse position, so that there is nothing to mix."""


def mixing(
    coarse: int, fine: int, align_corners: bool, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "coarse fine"]:
    """Tell how much each coarse position adds to each fine one, along one axis.

    What `F.interpolate` makes of unit vectors, so that its rules need no second spelling.
    """
    unit = torch.eye(coarse, dtype=dtype)
    if coarse == fine:
        return unit
    return F.interpolate(unit[None], fine, mode="linear", align_corners=align_corners)[0]


def cut(
    matrix: Float[Tensor, "coarse fine"], length: int, device: torch.device | None = None
) -> list[Span | None]:
    """Cut the fine positions into spans of a length; None where nothing coarse reaches them."""
    spans: list[Span | None] = []
    for start in range(0, matrix.shape[1], length):
        part = matrix[:, start : start + length]
        # By NumPy, as reading a tensor's values would count as waiting for the device.
        used = np.flatnonzero(part.numpy().any(1)).tolist()
        if not used:
            spans.append(None)
            continue
        coarse = slice(used[0], used[-1] + 1)
        fine = slice(start, start + part.shape[1])
        # A copy, which does not keep the whole matrix alive.
        part = part[coarse].clone()
        copies = len(part) == part.shape[1] and torch.equal(part, torch.eye(len(part)).to(part))
        spans.append(Span(fine, coarse, part.to(device), copies))
    return spans


def tile_size(device: torch.device, per_position: int, width: int) -> tuple[int, int]:
    """Choose rows and columns of a tile that has so many numbers at each position."""
    wide = min(width, TILE_WIDTH)
    numbers = TILE_NUMBERS.get(device.type, 2**26)
    return max(1, numbers // (per_position * wide)), wide
