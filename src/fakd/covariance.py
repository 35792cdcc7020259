"""Moments of each class, running covariance, and the resulting variance of the logits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer, Shaped
from torch import Tensor, nn

from fakd.errors import require_choice
from fakd.membership import Membership, look_up
from fakd.processes import all_sum

_CACHED = 2**18
"""Features of an image processed at once on a CPU, as many as fit its cache."""


@dataclass(frozen=True)
class Moments:
    """Pixel count, mean and population covariance of each class; zeros for absent classes."""

    count: Shaped[Tensor, " classes"]
    mean: Float[Tensor, "classes channels"]
    covariance: Float[Tensor, "classes ..."]


def class_rows(
    labels: Integer[Tensor, "*shape"], classes: int, ignore_index: int = 255
) -> Int[Tensor, "*shape"]:
    """Convert labels to rows of a table by class; ``classes``, one past the end, if ignored."""
    return labels.long().masked_fill(labels == ignore_index, classes)


def class_moments(
    features: Float[Tensor, "batch channels rows cols"],
    labels: Integer[Tensor, "batch rows cols"],
    classes: int,
    full: bool = False,
    ignore_index: int = 255,
    add_ranks: Callable[[Tensor], Tensor] = lambda share: share,
    dtype: torch.dtype | None = None,
) -> Moments:
    r"""Compute count, mean and population covariance of each class in one batch.

    The features are read once, image by image: with m the mean of a class within image b,

    .. math:: n \Sigma = \sum_b \Big[ \sum_{i \in b} (x_i - m_b)^2 + n_b (m_b - \mu)^2 \Big]

    as in Chan, Golub and LeVeque, 1979, which is numerically stable far from zero. ``full`` sums
    outer products instead, and reads the features a second time. ``add_ranks`` maps this process's
    share of a sum to the sum over all processes. In ``dtype``, or at least float32.
    """
    dtype = dtype or torch.promote_types(features.dtype, torch.float32)
    rows = class_rows(labels, classes, ignore_index).flatten(1)
    membership = Membership(rows, classes, dtype)
    shown, members = membership.shown, membership.members
    counts = members.sum(2)

    def over_images(shares: Tensor) -> Tensor:
        total = shares.new_zeros(classes + 1, *shares.shape[2:])
        return add_ranks(total.index_add_(0, shown.flatten(), shares.flatten(0, 1))[:classes])

    sums, squares = members.new_zeros(2, *shown.shape, features.shape[1])
    width = max(1, _CACHED // rows.shape[1]) if membership.on_host else features.shape[1]
    images = features.flatten(2).mT
    for own, count, *wide in zip(members, counts, images, sums, squares, strict=True):
        for part, total, square in zip(*(each.split(width, 1) for each in wide), strict=True):
            total.copy_(own @ (pixels := part.to(dtype)))
            if not full:
                mean = total / count.clamp(min=1)[:, None]
                square.copy_(own @ _centre(pixels, mean, own).square_())
    count = over_images(counts.long())
    share = count.clamp(min=1).to(dtype)[:, None]
    mean = over_images(sums) / share
    near = F.pad(mean, (0, 0, 0, 1))[shown]
    if full:
        every = zip(images, near, members, strict=True)
        centred = torch.stack([_centre(image.to(dtype), *own) for image, *own in every])
        return Moments(count, mean, add_ranks(_grams(centred, rows, classes)) / share[..., None])
    means = sums / counts.clamp(min=1)[..., None]
    spread = squares + counts[..., None] * (means - near).square()
    return Moments(count, mean, over_images(spread) / share)


def _centre(
    pixels: Float[Tensor, "pixels channels"],
    mean: Float[Tensor, "shown channels"],
    members: Float[Tensor, "shown pixels"],
) -> Float[Tensor, "pixels channels"]:
    """Compute class mean minus feature, in the features' memory format: mixed formats are slow."""
    own = members.mT @ mean if pixels.stride(1) == 1 else (mean.mT @ members).mT
    return own.sub_(pixels)


def _grams(
    values: Float[Tensor, "batch pixels channels"], rows: Int[Tensor, "batch pixels"], classes: int
) -> Float[Tensor, "classes channels channels"]:
    """Sum the outer products of each class, at the cost of about two products per pixel.

    Reading the pixel counts of classes from the device would synchronise it. So the pixels are
    arranged in blocks of a fixed size, each of a single class and padded with zeros: at most
    ``2 * classes + 1`` blocks, twice the pixels, and one batched product.
    """
    rows = rows.flatten()
    size = -(-len(rows) // classes)
    blocks = len(rows) // size + classes + 1
    count = rows.new_zeros(classes + 1).scatter_add_(0, rows, torch.ones_like(rows))
    last_block = ((count + size - 1) // size).cumsum(0)
    order = rows.argsort()
    places = torch.arange(len(rows), device=rows.device)
    position = torch.empty_like(order).scatter_(0, order, places)
    rank = position - (count.cumsum(0) - count)[rows]
    slot = (last_block - (count + size - 1) // size)[rows] * size + rank
    padded = values.new_zeros(blocks * size, values.shape[2])
    padded = padded.index_copy_(0, slot, values.flatten(0, 1)).view(blocks, size, -1)
    grams = padded.transpose(1, 2) @ padded
    owner = torch.searchsorted(last_block, torch.arange(blocks, device=rows.device), right=True)
    # Two more rows than classes: for the blocks of ignored pixels, and for empty blocks.
    return grams.new_zeros(classes + 2, *grams.shape[1:]).index_add_(0, owner, grams)[:classes]


def merge(seen: Moments, batch: Moments) -> Moments:
    r"""Merge the moments of two sets of pixels exactly into those of their union.

    With :math:`w = m / (n + m)`, the batch's share of a class,

    .. math:: \Sigma \leftarrow (1-w) \Sigma + w \Sigma' + w (1-w) (\mu-\mu')(\mu-\mu')^\top,
        \quad \mu \leftarrow (1-w) \mu + w \mu', \quad n \leftarrow n + m

    Chan, Golub and LeVeque, 1979. A class absent from either side keeps the other's moments.
    """
    total = seen.count + batch.count
    share = (batch.count.to(seen.mean.dtype) / total.clamp(min=1).to(seen.mean.dtype))[:, None]
    shift = batch.mean - seen.mean
    spread, mean = shift.square(), seen.mean.lerp(batch.mean, share)
    if seen.covariance.ndim == 3:
        spread, share = shift[:, :, None] * shift[:, None, :], share[..., None]
    covariance = seen.covariance.lerp(batch.covariance, share)
    return Moments(total, mean, covariance.addcmul_(spread, share * (1 - share)))


CovarianceKind = Literal["diagonal", "full", "logits"]


def check_momentum(momentum: float | None) -> None:
    """Check that momentum is None or between 0 and 1.

    Raises:
        ValueError: names the value and what None means.
    """
    if momentum is not None and not 0 < momentum < 1:
        raise ValueError(
            f"expected momentum between 0 and 1, both excluded, got {momentum}; "
            "None weights all pixels seen equally"
        )


class ClassCovariance(nn.Module):
    """Running mean and covariance of each class over all pixels seen, in buffers.

    Args:
        classes: Number of classes of the labels.
        channels: Channels of the input of `update`.
        kind: ``"diagonal"`` and ``"full"`` describe the classifier's input. ``"logits"`` describes
            the logits themselves: pass them to `update`; the classifier then gets no gradient.
        momentum: Weight of the past when a class is seen again; None weights all pixels equally.
        ignore_index: Label of pixels without a class.
    """

    count: Int[Tensor, " classes"]
    mean: Float[Tensor, "classes channels"]
    value: Float[Tensor, "classes ..."]
    effective_count: Tensor | None

    def __init__(
        self,
        classes: int,
        channels: int,
        kind: CovarianceKind = "diagonal",
        momentum: float | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if min(classes, channels) < 1:
            raise ValueError(
                f"expected at least one class and one channel, got {classes=}, {channels=}"
            )
        require_choice("kind", kind, CovarianceKind)
        if kind == "logits" and channels != classes:
            raise ValueError(
                f"kind 'logits' describes one logit per class, so channels must equal {classes=}, "
                f"got {channels=}; choose 'diagonal' or 'full' for features"
            )
        check_momentum(momentum)
        self.classes, self.channels, self.kind = classes, channels, kind
        self.momentum, self.ignore_index = momentum, ignore_index
        shape = (classes, channels, channels) if kind == "full" else (classes, channels)
        self.register_buffer("count", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(classes, channels))
        self.register_buffer("value", torch.zeros(shape))
        window = None if momentum is None else torch.zeros(classes)
        self.register_buffer("effective_count", window)

    @torch.no_grad()
    def update(
        self,
        features: Float[Tensor, "batch channels rows cols"],
        labels: Integer[Tensor, "batch rows cols"],
    ) -> None:
        """Add one batch; with several processes, all must call this.

        The sums of all processes are added before they are merged, so that the statistics
        depend on the batch and not on its division among processes.
        """
        expected = (features.shape[0], *features.shape[2:])
        if features.shape[1] != self.channels or labels.shape != expected:
            raise ValueError(
                f"expected features [b {self.channels} rows cols] and labels [b rows cols], "
                f"got {list(features.shape)} and {list(labels.shape)}; "
                "resize the labels to the features' resolution first"
            )
        with torch.autocast(features.device.type, enabled=False):
            batch = class_moments(
                features,
                labels,
                self.classes,
                full=self.kind == "full",
                ignore_index=self.ignore_index,
                add_ranks=all_sum,
                dtype=self.mean.dtype,
            )
            seen = self.count
            if self.effective_count is not None and self.momentum is not None:
                faded = self.effective_count * self.momentum
                seen = torch.where(batch.count > 0, faded, self.effective_count)
            merged = merge(Moments(seen, self.mean, self.value), batch)
        # New tensors, as a pending backward pass may need the old ones.
        self.mean, self.value = merged.mean, merged.covariance
        self.count = self.count + batch.count
        if self.effective_count is not None:
            self.effective_count = merged.count

    def logit_variance(
        self,
        weight: Float[Tensor, "classes channels size size"] | None,
        labels: Integer[Tensor, "batch rows cols"],
        spare_own_class: bool = False,
        factor: float | Tensor = 1.0,
    ) -> Float[Tensor, "batch classes rows cols"]:
        r"""Compute each logit's variance if every pixel's feature has its class's covariance.

        For a 1x1 classifier :math:`v_{ic} = w_c^\top \Sigma_{y_i} w_c`, one small table looked up
        by label. For a k x k classifier (stride 1, padding k // 2) the k * k taps, whose pixels
        vary independently, are summed. Pixels without a class have no variance. The gradient flows
        to ``weight``. ``spare_own_class`` sets the variance of a pixel's own class to 0. The result
        is multiplied by ``factor``.
        """
        rows = class_rows(labels, self.classes, self.ignore_index)
        with torch.autocast(labels.device.type, enabled=False):
            taps = self.tables(weight)
            # Applied to the small table, which saves a pass over the map and its gradient.
            if isinstance(factor, Tensor) or factor != 1:
                taps = [factor * tap for tap in taps]
            if len(taps) == 1:
                variance = look_up(taps[0], rows)
            else:
                size = round(len(taps) ** 0.5)
                shape = (self.classes, self.classes, size, size)
                kernel = torch.stack(taps, dim=-1).transpose(0, 1).reshape(shape)
                members = look_up(torch.eye(self.classes).to(kernel), rows)
                variance = F.conv2d(members, kernel, padding=size // 2)
        if spare_own_class:
            own = torch.arange(self.classes, device=rows.device)[:, None, None] == rows[:, None]
            variance = variance.masked_fill(own, 0.0)
        return variance

    def logit_covariance(
        self,
        weight: Float[Tensor, "classes channels size size"] | None,
        spare_own_class: bool = False,
    ) -> Float[Tensor, "labels classes classes"]:
        r"""Compute the covariance of all logits, :math:`G_y = W \Sigma_y W^\top`, for each class y.

        ``spare_own_class`` sets row and column y of :math:`G_y` to 0.
        """
        taps = [] if self.kind == "logits" else self._taps(weight)
        if len(taps) != 1:
            got = f"a classifier with {len(taps)} taps" if taps else "kind 'logits'"
            raise ValueError(
                "the joint covariance of the logits needs a 1x1 classifier and kind 'diagonal' or "
                f"'full', got {got}; logit_variance works for all"
            )
        rows, value = taps[0], self.value.to(taps[0])
        with torch.autocast(rows.device.type, enabled=False):
            scaled = rows @ value if value.ndim == 3 else rows * value[:, None]
            joint = scaled @ rows.T
        if spare_own_class:
            own = torch.eye(self.classes, dtype=torch.bool, device=joint.device)
            joint = joint.masked_fill(own[:, :, None] | own[:, None, :], 0.0)
        return joint

    def _taps(self, weight: Tensor | None) -> list[Tensor]:
        """Split a classifier into one [classes channels] matrix per position of its window."""
        shape = [] if weight is None else list(weight.shape)
        size = shape[-1] if shape else 0
        if weight is None or size % 2 == 0 or shape != [self.classes, self.channels, size, size]:
            raise ValueError(
                f"expected a classifier weight [{self.classes} {self.channels} k k] with odd k, "
                f"got {shape or None}; only kind 'logits' works without one"
            )
        precise = weight.to(torch.promote_types(weight.dtype, self.value.dtype))
        return list(precise.flatten(2).unbind(2))

    def tables(self, weight: Tensor | None) -> list[Float[Tensor, "labels classes"]]:
        """Compute the variance of each logit by class, one table for each tap of the classifier."""
        if self.kind == "logits":
            return [self.value]
        taps = self._taps(weight)
        value = self.value.to(taps[0])
        if value.ndim == 3:
            return [(tap @ value * tap).sum(2) for tap in taps]
        return [value @ tap.square().T for tap in taps]


@dataclass(frozen=True)
class LogitStatistics:
    """Statistics of the student's logits under feature augmentation, as passed to a loss."""

    covariance: ClassCovariance
    weight: Tensor | None
    """Weight of the student's final classifier; None if only its logits are known."""
    labels: Tensor
    margin: Float[Tensor, ""] | None = None
    """Running median difference of the two largest logits; None if the loss does not need it."""

    @property
    def rows(self) -> Tensor:
        """Row of each pixel's class in a table; past the end for pixels without a class."""
        return class_rows(self.labels, self.covariance.classes, self.covariance.ignore_index)

    def variance(
        self, spare_own_class: bool = False, factor: float | Tensor = 1.0
    ) -> Float[Tensor, "batch classes rows cols"]:
        """Compute each logit's variance at each pixel; see `ClassCovariance.logit_variance`."""
        given = self.weight, self.labels, spare_own_class, factor
        return self.covariance.logit_variance(*given)

    @torch.no_grad()
    def mean_variance(self, spare_own_class: bool = False) -> Float[Tensor, ""]:
        """Compute the mean of `variance` over classes and all labelled pixels seen; 0 before any.

        All pixels in a k x k classifier's window are taken to be of its central pixel's class.
        """
        known = self.covariance
        seen = known.count if known.effective_count is None else known.effective_count
        with torch.autocast(seen.device.type, enabled=False):
            table = torch.stack(known.tables(self.weight)).sum(0)
            if spare_own_class:
                table = table - table.diagonal().diag()
            return (seen.to(table) @ table.mean(1)) / seen.sum().clamp(min=1)

    def covariances(self, spare_own_class: bool = False) -> Float[Tensor, "labels classes classes"]:
        """Compute the logits' covariance by class; see `ClassCovariance.logit_covariance`."""
        return self.covariance.logit_covariance(self.weight, spare_own_class)
