"""Count, mean and covariance of each class: of one batch, and of batches pooled."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """How many pixels each class has, their mean and their population covariance; else zeros."""

    count: Shaped[Tensor, " classes"]
    mean: Float[Tensor, "classes channels"]
    value: Float[Tensor, "classes ..."]


def class_rows(
    labels: Integer[Tensor, "*shape"], classes: int, ignore_index: int = 255
) -> Int[Tensor, "*shape"]:
    """Where each pixel finds its class in a table; ``classes``, one past the end, if ignored."""
    return labels.long().masked_fill(labels == ignore_index, classes)


def look_up(
    table: Float[Tensor, "classes channels"], rows: Int[Tensor, " batch *pixels"]
) -> Float[Tensor, " batch channels *pixels"]:
    """Give every pixel the table's row of its class, and zeros to pixels without one."""
    return F.embedding(rows, F.pad(table, (0, 0, 0, 1))).movedim(-1, 1)


def class_moments(
    features: Float[Tensor, "batch channels rows cols"],
    labels: Integer[Tensor, "batch rows cols"],
    classes: int,
    full: bool = False,
    ignore_index: int = 255,
    add_ranks: Callable[[Tensor], Tensor] = lambda share: share,
) -> Moments:
    """Count, mean and population covariance of each class in one batch.

    Sums per class, twice: once for the means, once for the squares (``full``: outer products) of
    what remains after subtracting them. The largest temporary is as large as the features.
    ``add_ranks`` turns this process's share of a sum into the sum over all processes.
    """
    pixels = features.flatten(2)
    rows = class_rows(labels, classes, ignore_index).flatten(1)
    members = pixels.new_zeros(len(rows), classes + 1, rows.shape[1])
    members = members.scatter_(1, rows[:, None], 1.0)[:, :classes]
    count = add_ranks(members.sum(2).long().sum(0))
    share = count.clamp(min=1).to(pixels.dtype)[:, None]
    mean = add_ranks(_sum_per_class(members, pixels)) / share
    centred = _centred(pixels, mean, rows)
    if full:
        return Moments(count, mean, add_ranks(_grams(centred, rows, classes)) / share[..., None])
    return Moments(count, mean, add_ranks(_sum_per_class(members, centred.square_())) / share)


def _centred(
    pixels: Float[Tensor, "batch channels pixels"],
    mean: Float[Tensor, "classes channels"],
    rows: Int[Tensor, "batch pixels"],
) -> Float[Tensor, "batch channels pixels"]:
    """Compute class mean minus feature, in the features' memory format: mixing them is slow."""
    if pixels.stride(1) == 1:
        return look_up(mean, rows).sub_(pixels)
    table = F.pad(mean, (0, 0, 0, 1)).T.expand(len(rows), -1, -1)
    return table.gather(2, rows[:, None].expand(-1, mean.shape[1], -1)).sub_(pixels)


def _sum_per_class(
    members: Float[Tensor, "batch classes pixels"], values: Float[Tensor, "batch channels pixels"]
) -> Float[Tensor, "classes channels"]:
    return (members @ values.transpose(1, 2)).sum(0)


def _grams(
    values: Float[Tensor, "batch channels pixels"], rows: Int[Tensor, "batch pixels"], classes: int
) -> Float[Tensor, "classes channels channels"]:
    """Sum the outer products of each class, at the cost of about two products per pixel.

    How many pixels a class has is known to the device only, and asking would stall it. So the
    pixels are laid out in blocks of one fixed size, each block of a single class and filled up
    with zeros: at most ``2 * classes + 1`` blocks, twice the pixels, and one batched product.
    """
    rows = rows.flatten()
    size = -(-len(rows) // classes)
    blocks = len(rows) // size + classes + 1
    count = rows.new_zeros(classes + 1).scatter_add_(0, rows, torch.ones_like(rows))
    last_block = ((count + size - 1) // size).cumsum(0)
    order = rows.argsort()
    position = torch.empty_like(order).scatter_(
        0, order, torch.arange(len(rows), device=rows.device)
    )
    rank = position - (count.cumsum(0) - count)[rows]
    slot = (last_block - (count + size - 1) // size)[rows] * size + rank
    padded = values.new_zeros(blocks * size, values.shape[1])
    padded.index_copy_(0, slot, values.transpose(1, 2).flatten(0, 1))
    padded = padded.view(blocks, size, -1)
    grams = padded.transpose(1, 2) @ padded
    owner = torch.searchsorted(last_block, torch.arange(blocks, device=rows.device), right=True)
    # Two more rows than classes: for the blocks of ignored pixels, and for those left empty.
    return grams.new_zeros(classes + 2, *grams.shape[1:]).index_add_(0, owner, grams)[:classes]


def merge(seen: Moments, batch: Moments) -> Moments:
    r"""Pool two sets of pixels into the moments of their union, exactly.

    With :math:`w = m / (n + m)`, the batch's share of a class,

    .. math:: \Sigma \leftarrow (1-w) \Sigma + w \Sigma' + w (1-w) (\mu-\mu')(\mu-\mu')^\top,
        \quad \mu \leftarrow (1-w) \mu + w \mu', \quad n \leftarrow n + m

    Chan, Golub and LeVeque, 1979. A class absent from either side keeps the other's moments.
    """
    total = seen.count + batch.count
    share = (batch.count.to(seen.mean.dtype) / total.clamp(min=1).to(seen.mean.dtype))[:, None]
    shift = batch.mean - seen.mean
    spread = shift.square()
    mean = seen.mean.lerp(batch.mean, share)
    if seen.value.ndim == 3:
        spread, share = shift[:, :, None] * shift[:, None, :], share[..., None]
    value = seen.value.lerp(batch.value, share).addcmul_(spread, share * (1 - share))
    return Moments(total, mean, value)
