"""Cross-entropy of upsampled logits, tile by tile, without storing the whole upsampled map."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from fakd.bilinear import Span, cut, mixing, tile_size
from fakd.losses.grid import to_float32
from fakd.types import IGNORE


def summed_cross_entropy(
    logits: Float[Tensor, "batch classes rows cols"],
    labels: Integer[Tensor, "batch height width"],
    class_weights: Float[Tensor, " classes"] | None = None,
    label_smoothing: float = 0.0,
    counted: Bool[Tensor, "batch height width"] | None = None,
    align_corners: bool = False,
    triton: bool = False,
) -> Float[Tensor, ""]:
    r"""Sum the cross-entropy of bilinearly upsampled logits over the counted pixels.

    .. math:: - \sum_i \Big[ (1 - \epsilon) w_{y_i} \log p_{i y_i}
        + \frac{\epsilon}{C} \sum_c w_c \log p_{ic} \Big], \quad p_i = \mathrm{softmax}_c (z_i)

    Equal to ``F.cross_entropy(F.interpolate(logits, ...), labels, reduction="sum")`` up to
    rounding. The gradient is computed with the value, tile by tile, and stored on the grid of the
    logits; further memory does not depend on the size of the labels. Computed in float32, also
    under autocast, or in float64; it cannot be differentiated twice.

    Args:
        logits: On any grid.
        labels: Class ids; `IGNORE` where there is none.
        class_weights: The factor of each class, :math:`w_c`; None means 1.
        label_smoothing: :math:`\epsilon`, the share of a label that is spread over all classes.
        counted: Which pixels count, unlabelled ones never; by default all labelled ones.
        align_corners: Whether the centres of the corner pixels are aligned, not their borders.
        triton: Whether to use the kernel of `triton_cross_entropy`, for at most 2048 classes.

    >>> summed_cross_entropy(torch.zeros(1, 2, 1, 1), torch.tensor([[[0, 1], [1, -1]]]))
    tensor(2.0794)
    """
    labelled = labels != IGNORE
    counted = labelled if counted is None else counted & labelled
    options = class_weights, label_smoothing, counted, align_corners, triton
    with torch.autocast(logits.device.type, enabled=False):
        value: Tensor = _SummedCrossEntropy.apply(logits, labels, *options)
    return value


@torch.no_grad()
def label_losses(
    logits: Float[Tensor, "batch classes rows cols"],
    labels: Integer[Tensor, "batch height width"],
    align_corners: bool = False,
) -> Float[Tensor, "batch height width"]:
    """Compute each pixel's cross-entropy, 0 where it has no label; tile by tile, no gradient."""
    losses = logits.new_zeros(labels.shape, dtype=_exact(logits))
    with torch.autocast(logits.device.type, enabled=False):
        for tile in _tiles(logits, labels, align_corners):
            own = _class_ids(labels[tile.place])
            losses[tile.place] = tile.maps.sub_(tile.maps.gather(1, own[:, None])).logsumexp(1)
    return losses.masked_fill(labels == IGNORE, 0.0)


MOST_CLASSES = 2**11
"""With more classes the tiles of the Triton kernel would be narrower than four pixels."""


class _SummedCrossEntropy(torch.autograd.Function):
    """Value and gradient of `summed_cross_entropy`, both in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        class_weights: Tensor | None,
        smoothing: float,
        counted: Tensor,
        align_corners: bool,
        triton: bool,
    ) -> Tensor:
        classes, exact = logits.shape[1], _exact(logits)
        weights = None if class_weights is None else class_weights.to(exact)
        level = logits.new_ones(classes, dtype=exact) if weights is None else weights
        spread = smoothing / classes

        def factors(labels: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            own, share = _class_ids(labels), counted.to(exact)
            factor = (share if weights is None else weights[own] * share) * (1 - smoothing)
            return own, factor, share * spread

        ctx.kind = logits.dtype
        if triton and ctx.needs_input_grad[0] and classes <= MOST_CLASSES:
            from fakd.training.triton_cross_entropy import loss_and_gradient

            own, factor, even = factors(labels, counted)
            maps, spreads = logits.detach().to(exact), even if spread else None
            total, slopes = loss_and_gradient(maps, own, factor, spreads, level, align_corners)
            ctx.save_for_backward(slopes)
            return total
        gradient = None
        if ctx.needs_input_grad[0]:
            # Contiguous, like the gradients of the distillation losses that it is added to.
            gradient = torch.zeros(logits.shape, dtype=exact, device=logits.device)
        totals = [logits.new_zeros((), dtype=exact)]
        for tile in _tiles(logits, labels, align_corners):
            maps = tile.maps
            own, factor, even = factors(labels[tile.place], counted[tile.place])
            maps.sub_(maps.amax(1, keepdim=True))
            picked = maps.gather(1, own[:, None])[:, 0]
            if spread:
                evenly, whole = level @ maps, level.sum()
            scale = maps.exp_().sum(1)
            normaliser = scale.log()
            totals.append((factor * (normaliser - picked)).sum())
            pull = factor
            if spread:
                totals.append((even * (whole * normaliser - evenly)).sum())
                pull = factor + even * whole
            if gradient is None:
                continue
            maps.mul_((pull / scale)[:, None])
            maps.scatter_add_(1, own[:, None], -factor[:, None])
            if spread:
                maps.addcmul_(even[:, None], level[:, None], value=-1)
            part = gradient.transpose(1, 2)[tile.source]
            part += tile.downsample()
        ctx.save_for_backward(gradient)
        return torch.stack(totals).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (upstream * gradient).to(ctx.kind), *[None] * 6


class _Tile(NamedTuple):
    """A tile of the upsampled logits, ``[height, classes, width]``."""

    maps: Tensor
    vertical: Span
    horizontal: Span
    image: int

    @property
    def place(self) -> tuple[int, slice, slice]:
        """Its index in the labels."""
        return self.image, self.vertical.fine, self.horizontal.fine

    @property
    def source(self) -> tuple[int, slice, slice, slice]:
        """Index of its source in logits of ``[batch, rows, classes, cols]``."""
        return self.image, self.vertical.coarse, slice(None), self.horizontal.coarse

    def downsample(self) -> Tensor:
        """Apply the adjoint of the interpolation to the gradient stored in ``maps``."""
        height, classes, width = self.maps.shape
        rows = self.vertical.mixing @ self.maps.view(height, classes * width)
        return rows.view(-1, classes, width) @ self.horizontal.mixing.T


def _tiles(logits: Tensor, labels: Tensor, align_corners: bool) -> Iterator[_Tile]:
    """Upsample the logits tile by tile: first along columns, on the tile's few source rows."""
    classes, (height, width) = logits.shape[1], labels.shape[1:]
    high, wide = tile_size(logits.device, classes, width)
    down = _spans(logits, 2, height, high, align_corners)
    along = _spans(logits, 3, width, wide, align_corners)
    for image, maps in enumerate(logits.detach().transpose(1, 2)):
        for vertical in down:
            for horizontal in along:
                part = to_float32(maps[vertical.coarse, :, horizontal.coarse])
                part = (part @ horizontal.mixing).flatten(1)
                enlarged = (vertical.mixing.T @ part).view(-1, classes, horizontal.mixing.shape[1])
                yield _Tile(enlarged, vertical, horizontal, image)


def _spans(logits: Tensor, dim: int, size: int, length: int, align_corners: bool) -> list[Span]:
    matrix = mixing(logits.shape[dim], size, align_corners, _exact(logits))
    return [span for span in cut(matrix, length, logits.device) if span]


def _exact(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _class_ids(labels: Tensor) -> Tensor:
    return labels.long().masked_fill(labels == IGNORE, 0)
