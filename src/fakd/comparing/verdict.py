"""Whether a method helped: compared with another on the same seeds and images, in a sentence."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import numpy as np

from fakd.comparing.statistics import (
    Difference,
    Interval,
    bootstrap_differences,
    paired_difference,
    percentile_interval,
    seeds_needed,
)
from fakd.errors import InputError
from fakd.runs.naming import ALONE, title_of
from fakd.runs.published import cell_of
from fakd.runs.reading import ImageCounts, Methods, Pixels, Run

WORTH = 0.5
"""The smallest gain in mIoU worth naming: about what seeds differ by in published work."""
CWD = "cwd"
MANY = 4
"""So many comparisons at 95 % find at least one difference where there is none in 1 of 5 cases."""
Tone = Literal["helped", "hurt", "flat", "unsure"]
"""What a difference amounts to."""


@dataclass(frozen=True)
class Comparison:
    """How a method differs from another in mIoU and time."""

    method: str
    reference: str
    difference: Difference
    time_ratio: float
    """Time of a training step over that of the reference, medians over the seeds."""


Compared = Mapping[str, Sequence[Comparison]]
"""What every other method of a pair was found to be, by the method they are compared with."""


def compare_runs(runs: Sequence[Run], references: Sequence[Run]) -> Comparison | None:
    """Compare the runs of a method with those of another, seed by seed.

    Returns:
        The comparison over the seeds both have; None where they share none.

    Raises:
        InputError: the runs were scored on different images or classes.
    """
    by_seed = {run.seed: run for run in references}
    pairs = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if not pairs:
        return None
    for run, reference in pairs:
        _require_same_set(pairs[0][0], run)
        _require_same_set(run, reference)
    difference = paired_difference(
        [run.miou for run, _ in pairs], [reference.miou for _, reference in pairs]
    )
    counted = [(run.images, other.images) for run, other in pairs if run.images and other.images]
    if counted:
        ours, theirs = zip(*counted, strict=True)
        drawn = bootstrap_differences(_stacked(ours), _stacked(theirs))
        difference = replace(difference, over_images=percentile_interval(drawn))
    ratio = seconds_per_step(runs) / max(seconds_per_step(references), 1e-9)
    return Comparison(runs[0].method, references[0].method, difference, ratio)


def find_method(methods: Methods, name: str) -> str | None:
    """Find the method of that name or, failing that, one whose recipe is the paper's of that name.

    None where there is neither.
    """
    if name in methods:
        return name
    return next((each for each, runs in methods.items() if cell_of(runs[0].recipe) == name), None)


def augmented_pairs(methods: Methods) -> Iterator[tuple[str, Sequence[Run], Sequence[Run]]]:
    """Yield each of PD and CWD with its runs without and with augmentation, where both were run."""
    for base in ("pd", "cwd"):
        plain, augmented = find_method(methods, base), find_method(methods, f"{base}-fa")
        if plain and augmented:
            yield base, methods[plain], methods[augmented]


def seconds_per_step(runs: Sequence[Run]) -> float:
    """Time of a training step, median over runs: one may have shared the machine."""
    return median(run.seconds_per_step for run in runs)


def _stacked(images: Sequence[ImageCounts]) -> Pixels:
    counts = zip(*(each.pixels for each in images), strict=True)
    return Pixels(*(np.stack(seeds) for seeds in counts))


def _require_same_set(run: Run, other: Run) -> None:
    if run.class_names != other.class_names:
        what = "classes"
    elif run.images is None or other.images is None:
        return
    elif run.images.names != other.images.names:
        what = "images"
    elif not np.array_equal(run.images.pixels.truth, other.images.pixels.truth):
        what = "labels of the same images"
    else:
        return
    raise InputError(
        f"expected runs scored on the same data, got different {what} in {run.folder} and "
        f"{other.folder}; compare runs of one data set, or train one of them again"
    )


def references(methods: Methods) -> dict[str, list[Comparison]]:
    """Compare the methods of a pair with the student alone and with CWD, where they are present.

    The bootstrap over images makes this the dear part of a verdict: it is for doing once.
    """
    found: dict[str, list[Comparison]] = {}
    for reference in filter(None, (find_method(methods, each) for each in (ALONE, CWD))):
        # Against CWD, the student alone would repeat what its own comparison says.
        left_out = {reference} if reference == ALONE else {reference, ALONE}
        others = (runs for method, runs in methods.items() if method not in left_out)
        compared = (compare_runs(runs, methods[reference]) for runs in others)
        found[reference] = [each for each in compared if each is not None]
    return found


def cautions(compared: Compared) -> list[str]:
    """Say where so many methods were compared that what stands out may owe it to luck.

    Of ``n`` independent 95 % intervals about no difference, at least one leaves 0 with probability
    ``1 - 0.95^n``; methods compared with the same runs are not independent, so it is an estimate.
    """
    warned = []
    for reference, found in compared.items():
        intervals = [each.difference.interval for each in found if each.difference.interval]
        if len(intervals) < MANY or all(each.low <= 0 for each in intervals):
            continue
        count, chance = len(intervals), 1 - 0.95 ** len(intervals)
        warned.append(
            f"{count} methods were compared with {the(reference)}: if none differed from it, one "
            f"or more would still seem to in about {100 * chance:.0f} % of such comparisons; "
            "repeat what stands out with other seeds"
        )
    return warned


def tone(difference: Difference) -> Tone:
    """Tell what a difference amounts to.

    It helped, or hurt, if the whole interval lies on one side of 0, and did not help if the
    interval has no gain of 0.5 mIoU or more in it. One seed never gives a verdict.
    """
    interval = difference.interval
    if interval is None:
        return "unsure"
    if interval.high < 0:
        return "hurt"
    if interval.high < WORTH:
        return "flat"
    return "helped" if interval.low > 0 else "unsure"


def sentence(comparison: Comparison) -> str:
    """Say whether a method helped, did not, hurt, or that these runs cannot tell."""
    name, difference = title_of(comparison.method), comparison.difference
    time = f" at {comparison.time_ratio:.2f}x the time of {the(comparison.reference)}"
    facts = f"{signed(difference.mean, 1)} mIoU{_range(difference)}{time}"
    if difference.interval is None:
        return f"{name}: one seed shows no more than itself: {facts}; run at least 3 seeds"
    found = tone(difference)
    if found == "unsure":
        return f"{name}: cannot tell with these seeds: {facts}; {_what_would_do(difference)}"
    rival, reference = title_of(comparison.reference), comparison.reference
    # Only what is added to the reference can help it; a rival is better or worse.
    if reference == ALONE or comparison.method.startswith(f"{reference}-fa"):
        words = {"hurt": "hurt", "flat": "did not help here", "helped": "helped"}
    else:
        words = {
            "hurt": f"was worse than {rival}",
            "flat": f"was no better than {rival} here",
            "helped": f"was better than {rival}",
        }
    return f"{name} {words[found]}: {facts}"


def _range(difference: Difference) -> str:
    if (interval := difference.any_interval) is None:
        return ""
    source = ", over seeds only" if difference.over_images is None else ""
    source = " over images only" if difference.interval is None else source
    return f" (95 % {ends(interval, 1)}{source})"


def ends(interval: Interval, digits: int = 2) -> str:
    """Write an interval.

    >>> ends(Interval(-0.51, 1.5))
    '-0.51 to +1.50'
    """
    return f"{signed(interval.low, digits)} to {signed(interval.high, digits)}"


def signed(value: float, digits: int = 2) -> str:
    """Write a difference with its sign; one that is rounded to 0 is +0."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def the(method: str) -> str:
    """Name a method within a sentence.

    >>> the("alone"), the("cwd")
    ('the student alone', 'CWD')
    """
    return f"the {title_of(method)}" if method == ALONE else title_of(method)


def _what_would_do(difference: Difference) -> str:
    """Count the seeds after which some verdict would stand if mean and spread stay."""
    above = difference.over_images.high - difference.mean if difference.over_images else 0.0
    below = difference.mean - difference.over_images.low if difference.over_images else 0.0
    spread = difference.spread or 0.0
    verdict_at = (
        (difference.mean, below),
        (-difference.mean, above),
        (WORTH - difference.mean, above),
    )
    counts = [seeds_needed(spread, within, over_images) for within, over_images in verdict_at]
    enough = min((count for count in counts if count is not None), default=None)
    if enough is not None:
        more = max(enough - difference.seeds, 1)
        return f"{more} more seed{'s' if more > 1 else ''} would do"
    if all(over_images >= within for within, over_images in verdict_at):
        return "the images are too few for any number of seeds"
    return "100 seeds would not do"
