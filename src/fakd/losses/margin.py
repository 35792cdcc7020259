"""Margin between a student's two largest logits: a running median from a histogram."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fakd.losses.grid import to_float32
from fakd.processes import all_sum

LOWEST, HIGHEST, PER_OCTAVE = -12, 12, 16
"""Margins from 2^-12 to 2^12 are resolved, in bins that are 4.4 % wide."""
BINS = (HIGHEST - LOWEST) * PER_OCTAVE + 1
WINDOW = 0.02
"""Share of the training steps after which older counts are weighted by 1/e."""


def margin_counts(
    logits: Float[Tensor, "batch classes rows cols"], labelled: Bool[Tensor, "batch rows cols"]
) -> Int[Tensor, " bins"]:
    """Compute a histogram of the difference of the two largest logits over labelled pixels.

    Bins are logarithmic. The first holds everything below 2^-12, 0 included, the last also
    everything above 2^12.
    """
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        first, *others = to_float32(logits).contiguous().unbind(1)
        second = torch.full_like(first, -torch.inf) if others else first
        # Several times as fast as topk(2).
        for other in others:
            second = torch.maximum(second, torch.minimum(first, other))
            first = torch.maximum(first, other)
        places = (((first - second).log2() - LOWEST) * PER_OCTAVE).floor().clamp(-1, BINS - 2)
        places = 1 + places.nan_to_num(nan=-1.0).long()
        places = places.masked_fill(~labelled, BINS).flatten()
        counts = torch.zeros(BINS + 1, dtype=torch.int64, device=logits.device)
        return counts.scatter_add_(0, places, torch.ones_like(places))[:BINS]


def median_of(counts: Float[Tensor, " bins"] | Int[Tensor, " bins"]) -> Float[Tensor, ""]:
    """Compute the median of `margin_counts`, log-linear within a bin; 0 if empty."""
    below = to_float32(counts).cumsum(0)
    half = below[-1:] / 2
    place = torch.searchsorted(below, half).clamp(max=BINS - 1)
    inside = counts.gather(0, place)
    share = (half - below.gather(0, place) + inside) / inside.clamp(
        min=torch.finfo(half.dtype).tiny
    )
    median = torch.exp2(LOWEST + (place - 1 + share) / PER_OCTAVE)
    return torch.where(place > 0, median, 0.0).squeeze(0)


class RunningMargin(nn.Module):
    """Histogram of recent margins, in buffers; with several processes, summed over all of them.

    Older counts decay by ``exp(-(progress - former progress) / WINDOW)``. The decay depends on the
    run's progress and not on the number of updates, and the counts of one step are integers, so
    gradient accumulation gives the same result as the whole step, bit for bit.
    """

    past: Float[Tensor, " bins"]
    present: Int[Tensor, " bins"]
    progress: Float[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("past", torch.zeros(BINS))
        self.register_buffer("present", torch.zeros(BINS, dtype=torch.int64))
        self.register_buffer("progress", torch.zeros(()))

    @torch.no_grad()
    def update(
        self,
        logits: Float[Tensor, "batch classes rows cols"],
        labelled: Bool[Tensor, "batch rows cols"],
        progress: float,
    ) -> None:
        """Add one batch, or a part of it; with several processes, all must call this."""
        counts = all_sum(margin_counts(logits, labelled))
        now = torch.full_like(self.progress, progress)
        # Progress falls when a run is extended.
        faded = torch.exp(-(now - self.progress).clamp(min=0) / WINDOW)
        same = now == self.progress
        self.past = torch.where(same, self.past, (self.past + self.present) * faded)
        self.present = torch.where(same, self.present, 0) + counts
        self.progress = now

    @property
    def counts(self) -> Float[Tensor, " bins"]:
        """Decayed counts of the labelled pixels seen, by bin."""
        return self.past + self.present

    def median(self) -> Float[Tensor, ""]:
        """Compute the median margin of recent labelled pixels; 0 before the first."""
        return median_of(self.counts)
