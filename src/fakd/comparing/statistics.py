"""Whether a difference between two methods is more than chance: over seeds, images, and both.

Scores are in percent and differences in percent points, as in ``result.json``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from scipy.special import stdtrit

from fakd.runs.reading import Pixels

LEVEL = 0.95
RESAMPLES = 1000
MOST_SEEDS = 100


class Interval(NamedTuple):
    """Where a difference lies with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much better one method scores than another with the same seeds."""

    mean: float
    spread: float | None
    """Sample standard deviation over the seeds; None for one seed."""
    seeds: int
    over_seeds: Interval | None = None
    """Student's t interval of the mean; None for one seed."""
    over_images: Interval | None = None
    """Bootstrap interval over the images; None where the images were not counted one by one."""

    @property
    def interval(self) -> Interval | None:
        """Both sources together; None for one seed, which says nothing about the next one."""
        if self.over_seeds is None or self.over_images is None:
            return self.over_seeds
        return combine(self.mean, self.over_seeds, self.over_images)

    @property
    def any_interval(self) -> Interval | None:
        """The interval or, for one seed, that over the images alone."""
        return self.interval or self.over_images


def mean_iou(pixels: Pixels) -> Float[np.ndarray, "*sets"]:
    """Mean IoU of sets of images in percent, from their summed counts.

    A class neither labelled nor predicted in a set is left out of its mean, as in
    `fakd.metrics.Scores`; NaN for a set without any class.
    """
    union = pixels.truth + pixels.said - pixels.hit
    seen = union > 0
    iou = np.divide(pixels.hit, union, out=np.zeros(union.shape), where=seen)
    count = seen.sum(-1)
    empty = np.full(count.shape, math.nan)
    means: Float[np.ndarray, "*sets"]
    means = np.divide(100 * iou.sum(-1), count, out=empty, where=count > 0)
    return means


def paired_difference(method: Sequence[float], reference: Sequence[float]) -> Difference:
    """Compare scores of the same seeds: mean difference, spread, and Student's t interval.

    Pairing takes out what the seeds share, the initial weights and the order of the images.

    >>> difference = paired_difference([32.0, 34.0, 33.0], [30.0, 31.0, 32.0])
    >>> difference.mean, difference.spread
    (2.0, 1.0)
    """
    if len(method) != len(reference) or not method:
        raise ValueError(
            "expected one score of each method for every seed, and at least one seed, got "
            f"{len(method)} and {len(reference)}"
        )
    gains = np.subtract(method, reference)
    mean, seeds = float(gains.mean()), len(gains)
    if seeds == 1:
        return Difference(mean, None, seeds)
    spread = float(gains.std(ddof=1))
    half = half_width(spread, seeds)
    return Difference(mean, spread, seeds, Interval(mean - half, mean + half))


def half_width(spread: float, seeds: int) -> float:
    """Half the width of Student's t interval of a mean over seeds."""
    quantile = float(stdtrit(seeds - 1, (1 + LEVEL) / 2))
    return quantile * spread / math.sqrt(seeds)


def bootstrap_differences(
    method: Pixels, reference: Pixels, resamples: int = RESAMPLES
) -> Float[np.ndarray, " resamples"]:
    """Draw the images anew, with replacement, and compare the methods on each draw.

    A draw is the same for both methods and all seeds. Its difference is that of the mIoU of the
    whole drawn set, averaged over the seeds.

    Args:
        method: Counts ``[seeds, images, classes]``.
        reference: Counts of the same seeds and images.
        resamples: How many sets are drawn; always the same ones.
    """
    draws = _draws(method.hit.shape[1], resamples)

    def score(pixels: Pixels) -> Float[np.ndarray, "seeds resamples"]:
        return mean_iou(Pixels(*(draws @ counts.astype(float) for counts in pixels)))

    differences: Float[np.ndarray, " resamples"] = (score(method) - score(reference)).mean(0)
    return differences


def _draws(images: int, resamples: int) -> Float[np.ndarray, "resamples images"]:
    """How often each image is in each draw."""
    chances = np.full(images, 1 / images)
    counts: Integer[np.ndarray, "resamples images"] = np.random.default_rng(0).multinomial(
        images, chances, size=resamples
    )
    return counts.astype(float)


def percentile_interval(differences: Float[np.ndarray, " resamples"]) -> Interval:
    """Leave out the same share of draws on both sides; draws without any class do not count."""
    low, high = np.nanquantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def combine(mean: float, *sources: Interval) -> Interval:
    r"""Join the intervals of sources of chance that do not depend on one another.

    .. math:: \text{low} = m - \sqrt{\textstyle\sum_k (m - \text{low}_k)^2}, \quad
        \text{high} = m + \sqrt{\textstyle\sum_k (\text{high}_k - m)^2}

    This adds the variances, each at its own quantile (method of variance estimates recovery, Zou
    and Donner, Statistics in Medicine 27, 2008). The seeds say how another training would have come
    out on these images, the images how these trainings would have come out on others. That a seed
    may suit some images better counts on both sides, so the interval is rather too wide than too
    narrow.
    """
    low = math.hypot(*(max(mean - source.low, 0.0) for source in sources))
    high = math.hypot(*(max(source.high - mean, 0.0) for source in sources))
    return Interval(mean - low, mean + high)


def seeds_needed(spread: float, within: float, over_images: float = 0.0) -> int | None:
    """Count the seeds that make an interval's half width smaller than ``within``.

    Args:
        spread: Standard deviation over seeds, taken to stay what it is.
        within: What the half width must fall below.
        over_images: Half width over the images, which no seed makes smaller.

    Returns:
        At least 2; None if even 100 would not do.

    >>> seeds_needed(spread=1.0, within=1.0)
    7
    """
    for seeds in range(2, MOST_SEEDS + 1):
        if math.hypot(half_width(spread, seeds), over_images) < within:
            return seeds
    return None
