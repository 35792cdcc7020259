"""One method against another on the same seeds and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from fakd.comparing.statistics import (
    Difference,
    bootstrap_differences,
    paired_difference,
    percentile_interval,
)
from fakd.errors import InputError
from fakd.report.paper.scores import cell_of
from fakd.runs.reading import ImageCounts, Pixels, Run


@dataclass(frozen=True)
class Comparison:
    """How a method differs from another in mIoU and time."""

    method: str
    reference: str
    difference: Difference
    time_ratio: float
    """Time of a training step over that of the reference, medians over the seeds."""


def compare(runs: Sequence[Run], references: Sequence[Run]) -> Comparison | None:
    """Compare the runs of a method with those of another, seed by seed.

    Returns:
        The comparison over the seeds both have; None where they share none.

    Raises:
        InputError: the runs were scored on different images or classes.
    """
    first, second = _by_seed(runs), _by_seed(references)
    shared = [seed for seed in first if seed in second]
    if not shared:
        return None
    pairs = [(first[seed], second[seed]) for seed in shared]
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


def find_method(methods: Mapping[str, Sequence[Run]], name: str) -> str | None:
    """Find the method of that name or, failing that, one whose recipe is the paper's of that name.

    None where there is neither.
    """
    if name in methods:
        return name
    return next((each for each, runs in methods.items() if cell_of(runs[0].recipe) == name), None)


def seconds_per_step(runs: Sequence[Run]) -> float:
    """Time of a training step, median over runs: one may have shared the machine."""
    return median(run.seconds_per_step for run in runs)


def _by_seed(runs: Sequence[Run]) -> Mapping[int, Run]:
    return {run.seed: run for run in runs}


def _stacked(images: Sequence[ImageCounts]) -> Pixels:
    counts = zip(*(each.pixels for each in images), strict=True)
    return Pixels(*(np.stack(seeds) for seeds in counts))


def _require_same_set(run: Run, other: Run) -> None:
    if run.class_names != other.class_names:
        raise _different(run, other, "classes")
    if run.images is None or other.images is None:
        return
    if run.images.names != other.images.names:
        raise _different(run, other, "images")
    if not np.array_equal(run.images.pixels.truth, other.images.pixels.truth):
        raise _different(run, other, "labels of the same images")


def _different(run: Run, other: Run, what: str) -> InputError:
    return InputError(
        f"expected runs scored on the same data, got different {what} in {run.folder} and "
        f"{other.folder}; compare runs of one data set, or train one of them again"
    )
