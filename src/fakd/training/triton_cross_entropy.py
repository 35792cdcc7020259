# mypy: disable-error-code="arg-type, call-arg, no-untyped-def, no-untyped-call, untyped-decorator"
"""A Triton kernel for the cross-entropy of upsampled logits; the reference is `upsampled`.

A cell is the fine positions between four neighbouring coarse ones, on which alone they depend. One
program computes a cell: its logits, losses and gradients live in registers, and each coarse
position's share of the gradient is written once, so nothing is added atomically and results are
the same from run to run.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fakd.bilinear import mixing

_NUMBERS = 2**13
"""Upsampled logits that a program holds at a time."""


class _Axis(NamedTuple):
    """The interpolation along one axis."""

    first: Tensor
    """First fine position of each cell, int32 ``[coarse]``."""
    number: Tensor
    """Number of fine positions of each cell, int32 ``[coarse]``."""
    weights: Tensor
    """Weights of a fine position's two coarse ones, ``[2, fine]``."""
    most: int
    """The largest number of fine positions of a cell."""


@lru_cache(maxsize=64)
def _axis(
    coarse: int, fine: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> _Axis:
    matrix = mixing(coarse, fine, align_corners, torch.float64)
    cell = (matrix != 0).int().argmax(0)
    count = torch.bincount(cell, minlength=coarse)
    following = torch.cat([matrix, matrix.new_zeros(1, fine)]).gather(0, cell[None] + 1)
    weights = torch.cat([matrix.gather(0, cell[None]), following])
    first = count.cumsum(0) - count
    return _Axis(
        first.to(device, torch.int32),
        count.to(device, torch.int32),
        weights.to(device, dtype).contiguous(),
        int(count.max()),
    )


def loss_and_gradient(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor,
    even: Tensor | None,
    level: Tensor,
    align_corners: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the summed loss and its gradient on the grid of the logits.

    Args:
        logits: ``[batch, classes, rows, cols]``, in float32 or float64.
        labels: Class ids ``[batch, height, width]``, none of them `IGNORE`.
        factor: Factor of each pixel's own class, ``[batch, height, width]``, 0 if not counted.
        even: Factor of the evenly spread label of each pixel; None without smoothing.
        level: The factor of each class, ``[classes]``.
        align_corners: Of the interpolation.
    """
    batch, classes, rows, cols = logits.shape
    height, width = labels.shape[1:]
    kind = align_corners, logits.dtype, logits.device
    down, along = _axis(rows, height, *kind), _axis(cols, width, *kind)
    padded = triton.next_power_of_2(classes)
    pixels = triton.next_power_of_2(down.most * along.most)
    pixels = max(1, min(pixels, _NUMBERS // padded, 64))
    # Classes are neighbours in memory, as a program reads and writes all of them.
    coarse = logits.permute(0, 2, 3, 1).contiguous()
    shares = coarse.new_empty(4, *coarse.shape)
    losses = coarse.new_empty(batch * rows * cols)
    _cells[(batch * rows * cols,)](
        coarse, labels.contiguous(), factor.contiguous(),
        factor if even is None else even.contiguous(), level, shares, losses,
        down.first, down.number, down.weights, along.first, along.number, along.weights,
        shares.stride(0), classes, rows, cols, height, width,
        smoothed=even is not None, padded=padded, pixels=pixels,
        exact=tl.float64 if logits.dtype == torch.float64 else tl.float32,
        num_warps=8 if padded * pixels >= 2**11 else 4,
    )  # fmt: skip
    gradient = shares[0]
    gradient[:, 1:] += shares[1, :, :-1]
    gradient[:, :, 1:] += shares[2, :, :, :-1]
    gradient[:, 1:, 1:] += shares[3, :, :-1, :-1]
    return losses.sum(), gradient.permute(0, 3, 1, 2).contiguous()


@triton.jit
def _cells(
    coarse, labels, factor, even, level, shares, losses,
    top, high, down, left, wide, along,
    corner, classes, rows, cols, height, width,
    smoothed: tl.constexpr, padded: tl.constexpr, pixels: tl.constexpr, exact: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0).to(tl.int64)
    col = cell % cols
    row = (cell // cols) % rows
    image = cell // (cols * rows)
    kinds = tl.arange(0, padded)
    real = kinds < classes
    below = tl.where(row + 1 < rows, cols, 0)
    beside = tl.where(col + 1 < cols, 1, 0)
    z00 = tl.load(coarse + cell * classes + kinds, mask=real, other=0.0)
    z10 = tl.load(coarse + (cell + below) * classes + kinds, mask=real, other=0.0)
    z01 = tl.load(coarse + (cell + beside) * classes + kinds, mask=real, other=0.0)
    z11 = tl.load(coarse + (cell + below + beside) * classes + kinds, mask=real, other=0.0)
    levels = tl.load(level + kinds, mask=real, other=0.0)
    whole = tl.sum(levels, 0)
    y_first = tl.load(top + row)
    x_first = tl.load(left + col)
    x_count = tl.load(wide + col)
    count = tl.load(high + row) * x_count
    s00 = tl.zeros([padded], exact)
    s10 = tl.zeros([padded], exact)
    s01 = tl.zeros([padded], exact)
    s11 = tl.zeros([padded], exact)
    total = tl.zeros([pixels], exact)
    for start in range(0, count, pixels):
        place = start + tl.arange(0, pixels)
        inside = place < count
        y = y_first + place // x_count
        x = x_first + place % x_count
        y0 = tl.load(down + y, mask=inside, other=0.0)
        y1 = tl.load(down + height + y, mask=inside, other=0.0)
        x0 = tl.load(along + x, mask=inside, other=0.0)
        x1 = tl.load(along + width + x, mask=inside, other=0.0)
        w00 = (y0 * x0)[None, :]
        w10 = (y1 * x0)[None, :]
        w01 = (y0 * x1)[None, :]
        w11 = (y1 * x1)[None, :]
        maps = z00[:, None] * w00 + z10[:, None] * w10 + z01[:, None] * w01 + z11[:, None] * w11
        pixel = (image * height + y) * width + x
        own = kinds[:, None] == tl.load(labels + pixel, mask=inside, other=0)[None, :]
        own_factor = tl.load(factor + pixel, mask=inside, other=0.0)
        largest = tl.max(tl.where(real[:, None], maps, float("-inf")), 0)
        maps = tl.where(real[:, None], maps - largest[None, :], 0.0)
        chances = tl.where(real[:, None], tl.exp(maps), 0.0)
        scale = tl.sum(chances, 0)
        normaliser = tl.log(scale)
        total += own_factor * (normaliser - tl.sum(tl.where(own, maps, 0.0), 0))
        pull = own_factor
        if smoothed:
            spread = tl.load(even + pixel, mask=inside, other=0.0)
            total += spread * (whole * normaliser - tl.sum(levels[:, None] * maps, 0))
            pull += spread * whole
        slopes = chances * (pull / scale)[None, :] - tl.where(own, own_factor[None, :], 0.0)
        if smoothed:
            slopes -= levels[:, None] * spread[None, :]
        s00 += tl.sum(slopes * w00, 1)
        s10 += tl.sum(slopes * w10, 1)
        s01 += tl.sum(slopes * w01, 1)
        s11 += tl.sum(slopes * w11, 1)
    tl.store(losses + cell, tl.sum(total, 0))
    to = shares + cell * classes + kinds
    tl.store(to, s00, mask=real)
    tl.store(to + corner, s10, mask=real)
    tl.store(to + 2 * corner, s01, mask=real)
    tl.store(to + 3 * corner, s11, mask=real)
