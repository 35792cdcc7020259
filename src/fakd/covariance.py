"""Running covariance of each class, and the variance of the logits that it implies."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from fakd.moments import Moments, class_moments, class_rows, look_up, merge
from fakd.processes import summed

CovarianceKind = Literal["diagonal", "full", "logits"]


class ClassCovariance(nn.Module):
    """Running mean and covariance of each class over all pixels seen, in buffers.

    Args:
        classes: How many classes the labels have.
        channels: Channels of what `update` is fed.
        kind: ``"diagonal"`` and ``"full"`` describe the classifier's input. ``"logits"`` describes
            the logits themselves: feed them to `update`; no gradient then reaches the classifier.
        momentum: Weight left to the past when a class is seen again; None remembers all equally.
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
        if kind not in get_args(CovarianceKind):
            raise ValueError(f"expected kind to be one of {get_args(CovarianceKind)}, got {kind!r}")
        if kind == "logits" and channels != classes:
            raise ValueError(
                f"kind 'logits' describes one logit per class, so channels must equal {classes=}, "
                f"got {channels=}; choose 'diagonal' or 'full' for features"
            )
        if momentum is not None and not 0 < momentum < 1:
            raise ValueError(
                f"expected momentum between 0 and 1, both excluded, got {momentum}; "
                "None gives all pixels ever seen the same weight"
            )
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
        """Take in one batch; with several processes, every process must call this.

        The sums of all processes are added up before they are merged, so that the statistics
        depend on the batch and not on how it was divided.
        """
        expected = (features.shape[0], *features.shape[2:])
        if features.shape[1] != self.channels or labels.shape != expected:
            raise ValueError(
                f"expected features [b {self.channels} rows cols] and labels [b rows cols], "
                f"got {list(features.shape)} and {list(labels.shape)}; "
                "bring the labels to the features' resolution first"
            )
        with torch.autocast(features.device.type, enabled=False):
            batch = class_moments(
                features.to(self.mean.dtype),
                labels,
                self.classes,
                full=self.kind == "full",
                ignore_index=self.ignore_index,
                add_ranks=summed,
            )
            seen = self.count
            if self.effective_count is not None and self.momentum is not None:
                faded = self.effective_count * self.momentum
                seen = torch.where(batch.count > 0, faded, self.effective_count)
            merged = merge(Moments(seen, self.mean, self.value), batch)
        # New tensors, not new contents: a backward pass may still need the old ones.
        self.mean, self.value = merged.mean, merged.value
        self.count = self.count + batch.count
        if self.effective_count is not None:
            self.effective_count = merged.count

    def logit_variance(
        self,
        weight: Float[Tensor, "classes channels size size"] | None,
        labels: Integer[Tensor, "batch rows cols"],
        spare_own_class: bool = False,
    ) -> Float[Tensor, "batch classes rows cols"]:
        r"""Variance of each logit when every pixel's feature varies as its class does.

        For a 1x1 classifier :math:`v_{ic} = w_c^\top \Sigma_{y_i} w_c`, one small table looked up
        by label. A k x k classifier (stride 1, padding k // 2) adds up its k * k taps, whose pixels
        vary independently. Pixels without a class do not vary. The gradient reaches ``weight``.
        ``spare_own_class`` leaves a pixel's own class without variance.
        """
        rows = class_rows(labels, self.classes, self.ignore_index)
        with torch.autocast(labels.device.type, enabled=False):
            if self.kind == "logits":
                taps = [self.value]
            else:
                taps = [self._table(tap) for tap in self._taps(weight)]
            if len(taps) == 1:
                variance = look_up(taps[0], rows).contiguous()
            else:
                size = round(len(taps) ** 0.5)
                shape = (self.classes, self.classes, size, size)
                kernel = torch.stack(taps, dim=-1).transpose(0, 1).reshape(shape)
                members = look_up(
                    torch.eye(self.classes, device=rows.device, dtype=kernel.dtype), rows
                )
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
        r"""Joint covariance of all logits, :math:`G_y = W \Sigma_y W^\top`, for each class y.

        ``spare_own_class`` leaves logit y of :math:`G_y` without variance (row and column 0).
        """
        taps = [] if self.kind == "logits" else self._taps(weight)
        if len(taps) != 1:
            got = f"a classifier with {len(taps)} taps" if taps else "kind 'logits'"
            raise ValueError(
                "the joint covariance of the logits needs a 1x1 classifier and kind 'diagonal' or "
                f"'full', got {got}; logit_variance works for all"
            )
        rows, value = taps[0], self.value
        with torch.autocast(rows.device.type, enabled=False):
            scaled = rows @ value.to(rows) if value.ndim == 3 else rows * value.to(rows)[:, None]
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

    def _table(self, rows: Float[Tensor, "classes channels"]) -> Float[Tensor, "labels classes"]:
        value = self.value.to(rows)
        if value.ndim == 3:
            return (rows @ value * rows).sum(2)
        return value @ rows.square().T


@dataclass(frozen=True)
class LogitStatistics:
    """How the student's logits vary under feature augmentation, as a loss receives it."""

    covariance: ClassCovariance
    weight: Tensor | None
    """The student's final classifier; None where only its logits are known."""
    labels: Tensor

    @property
    def rows(self) -> Tensor:
        """Where each pixel finds its class in a table; past the end for pixels without one."""
        return class_rows(self.labels, self.covariance.classes, self.covariance.ignore_index)

    def variance(self, spare_own_class: bool = False) -> Float[Tensor, "batch classes rows cols"]:
        """Variance of each logit at each pixel; see `ClassCovariance.logit_variance`."""
        return self.covariance.logit_variance(self.weight, self.labels, spare_own_class)

    def covariances(self, spare_own_class: bool = False) -> Float[Tensor, "labels classes classes"]:
        """Joint covariance of the logits by class; see `ClassCovariance.logit_covariance`."""
        return self.covariance.logit_covariance(self.weight, spare_own_class)
