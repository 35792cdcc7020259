"""Confidence intervals and tests of a difference between two methods, over seeds and images.

Scores are in percent and differences in percentage points, as in ``result.json``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import nctdtr, ndtri, stdtrit

from fakd.comparing.design import LEVEL
from fakd.runs.images import Pixels

POWER = 0.8
RESAMPLES = 1000
MOST_SEEDS = 100


class Interval(NamedTuple):
    """A confidence interval of a difference."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Difference in score of one method to another with the same seeds."""

    mean: float
    spread: float | None
    """Sample standard deviation over the seeds; None for one seed."""
    seeds: int
    over_seeds: Interval | None = None
    """Student's t interval of the mean; None for one seed."""
    over_images: Interval | None = None
    """Bootstrap interval over images or groups of images; None without per-image counts."""
    groups: int | None = None
    """Number of groups of images; None for images that count as independent."""

    @property
    def interval(self) -> Interval | None:
        """95 % interval over seeds and images; None for one seed, which has no spread."""
        return self.at(LEVEL)

    @property
    def any_interval(self) -> Interval | None:
        """The interval over seeds and images or, for one seed, over the images only."""
        return self.interval or self.over_images

    def at(self, level: float) -> Interval | None:
        """Compute the interval over both at another level, each widened by its distribution."""
        if self.over_seeds is None:
            return None
        free = self.seeds - 1
        sources = [_widen(self.mean, self.over_seeds, _quantile(free, level) / _quantile(free))]
        if self.over_images is not None:
            wider = _quantile(None, level) / _quantile(None)
            if self.groups is not None:
                wider = _quantile(self.groups - 1, level) / _quantile(self.groups - 1)
            sources.append(_widen(self.mean, self.over_images, wider))
        return combine(self.mean, *sources) if len(sources) > 1 else sources[0]

    @property
    def p_value(self) -> float:
        """The smallest error level whose interval excludes 0; 1 for one seed.

        Without per-image counts it is that of the paired t test.
        """
        low, high = 1e-12, 1.0
        if self.over_seeds is None or self.mean == 0:
            return 1.0
        while high / low > 1 + 1e-6:
            middle = math.sqrt(low * high)
            interval = self.at(1 - middle)
            if interval is not None and not interval.low <= 0 <= interval.high:
                high = middle
            else:
                low = middle
        return high


def _quantile(free: int | None, level: float = LEVEL) -> float:
    """Half the width of a standard interval: Student's t with ``free`` degrees, else normal."""
    return float(ndtri((1 + level) / 2) if free is None else stdtrit(free, (1 + level) / 2))


def _widen(mean: float, interval: Interval, factor: float) -> Interval:
    if factor == 1:
        return interval
    return Interval(mean - factor * (mean - interval.low), mean + factor * (interval.high - mean))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple comparisons (Holm, Scand. J. Statist. 6, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    raised = np.maximum.accumulate(np.asarray(p_values)[order] * factors).clip(max=1.0)
    return [float(raised[place]) for place in np.argsort(order, kind="stable")]


def mean_iou(pixels: Pixels) -> Float[np.ndarray, "*sets"]:
    """Compute the mean IoU of sets of images in percent, from their summed counts.

    Classes without labels in a set are left out of its mean, as in `fakd.metrics.Scores`; NaN for a
    set without any class.
    """
    union = pixels.truth + pixels.said - pixels.hit
    seen = pixels.truth > 0
    iou = np.divide(pixels.hit, union, out=np.zeros(union.shape), where=seen)
    count = seen.sum(-1)
    empty = np.full(count.shape, math.nan)
    means: Float[np.ndarray, "*sets"]
    means = np.divide(100 * iou.sum(-1), count, out=empty, where=count > 0)
    return means


def paired_difference(method: Sequence[float], reference: Sequence[float]) -> Difference:
    """Compare scores of the same seeds: mean difference, spread and Student's t interval.

    Pairing removes what equal seeds share: the initial weights and the order of the images.

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
    """Compute half the width of Student's t interval of a mean over seeds."""
    return _quantile(seeds - 1) * spread / math.sqrt(seeds)


def bootstrap_differences(
    method: Pixels,
    reference: Pixels,
    resamples: int = RESAMPLES,
    groups: Sequence[str] | None = None,
) -> Float[np.ndarray, " resamples"]:
    """Resample the images with replacement, and compare the methods on each resample.

    With groups, such as clips, whole groups are resampled (cluster bootstrap).

    Each resample is the same for both methods and all seeds. Its difference is that of the mIoU of
    the whole resampled set, averaged over the seeds.

    Args:
        method: Counts ``[seeds, images, classes]``.
        reference: Counts of the same seeds and images.
        resamples: Number of resamples, drawn with a fixed seed.
        groups: The group of every image.
    """
    if groups is not None:
        places = np.unique(groups, return_inverse=True)[1].ravel()
        member = np.eye(places.max() + 1)[places].T
        method, reference = (
            Pixels(*(member @ counts for counts in each)) for each in (method, reference)
        )
    images = method.hit.shape[1]
    chances = np.full(images, 1 / images)
    # Multiplicity of each image in each resample, [resamples, images].
    draws = np.random.default_rng(0).multinomial(images, chances, resamples).astype(float)

    def score(pixels: Pixels) -> Float[np.ndarray, "seeds resamples"]:
        return mean_iou(Pixels(*(draws @ counts.astype(float) for counts in pixels)))

    differences: Float[np.ndarray, " resamples"] = (score(method) - score(reference)).mean(0)
    return differences


def percentile_interval(differences: Float[np.ndarray, " resamples"]) -> Interval:
    """Compute the 95 % percentile interval; resamples without any class do not count."""
    low, high = np.nanquantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def widen_for_few_groups(mean: float, interval: Interval, groups: int) -> Interval:
    """Widen a bootstrap interval over few groups, which underestimates the variance.

    The factor replaces the normal by Student's t, and makes the variance unbiased.
    """
    factor = _quantile(groups - 1) / _quantile(None) * math.sqrt(groups / (groups - 1))
    return _widen(mean, interval, factor)


def combine(mean: float, *sources: Interval) -> Interval:
    r"""Combine the intervals of independent sources of variation.

    .. math:: \text{low} = m - \sqrt{\textstyle\sum_k (m - \text{low}_k)^2}, \quad
        \text{high} = m + \sqrt{\textstyle\sum_k (\text{high}_k - m)^2}

    This adds the variances, each at its own quantile (method of variance estimates recovery, Zou
    and Donner, Statistics in Medicine 27, 2008). Seeds give the variation of another training on
    these images, images that of these trainings on other images. The interaction of seeds and
    images is counted in both, so the interval is conservative.
    """
    low = math.hypot(*(max(mean - source.low, 0.0) for source in sources))
    high = math.hypot(*(max(source.high - mean, 0.0) for source in sources))
    return Interval(mean - low, mean + high)


def seeds_needed(spread: float, gain: float, over_images: float = 0.0) -> int | None:
    """Compute the seeds needed to detect a gain with a power of 80 %, by the noncentral t.

    Args:
        spread: Standard deviation of the paired differences, assumed to be the true one; an
            estimate from three seeds may be off by a factor of two.
        gain: The gain to be detected.
        over_images: Half width over the images, which more seeds do not reduce.

    Returns:
        At least 3; None if more than 100 are needed.

    >>> seeds_needed(spread=1.0, gain=1.0)
    10
    """
    left = math.sqrt(max(gain**2 - over_images**2, 0.0))
    for seeds in range(3, MOST_SEEDS + 1):
        shift = left * math.sqrt(seeds) / max(spread, 1e-9)
        if left and 1 - nctdtr(seeds - 1, min(shift, 30.0), _quantile(seeds - 1)) >= POWER:
            return seeds
    return None
