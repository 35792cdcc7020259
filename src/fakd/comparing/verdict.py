"""Verdicts on whether a method helped, compared with another on the same seeds and images."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from statistics import median
from typing import Literal

import numpy as np

from fakd.comparing.design import LEAST, Design, design_of
from fakd.comparing.statistics import (
    Difference,
    Interval,
    bootstrap_differences,
    holm,
    paired_difference,
    percentile_interval,
    seeds_needed,
    widen_for_few_groups,
)
from fakd.data.groups import proposed_group
from fakd.errors import InputError
from fakd.losses import PRESETS
from fakd.runs.images import ImageCounts, Pixels
from fakd.runs.naming import ALONE, title_of
from fakd.runs.published import cell_of
from fakd.runs.reading import Methods, Run

CWD = "cwd"
_DEAD, _ALIVE = 1.0, 10.0
"""IoU in percent below which a class counts as lost, and above which it counts as learnt."""
Tone = Literal["helped", "hurt", "flat", "standout", "lagging", "unsure"]
"""Kinds of verdict. "standout" and "lagging" are unplanned findings, still to be confirmed."""


@dataclass(frozen=True)
class Comparison:
    """Difference of a method to another in mIoU and time."""

    method: str
    reference: str
    difference: Difference
    time_ratio: float
    """Time of a training step relative to the reference's, medians over the seeds."""
    design: Design = field(default_factory=Design)
    asked: int | None = None
    """Number of requested seeds; by default those compared."""
    family: int = 1
    """Number of comparisons made together, including this one; 1 if it was planned."""
    corrected: float | None = None
    """p value corrected for its family."""
    collapsed: tuple[str, ...] = ()
    """Classes learnt with some seeds and lost with others."""
    blind: bool = False
    """Whether neither is better, on average, than predicting the most frequent class everywhere."""
    like_frames: bool = False
    """Whether images that count as independent are named like frames of clips."""

    @property
    def interval(self) -> Interval | None:
        """Interval of the difference, at the level of its analysis; None for one seed."""
        return self.difference.at(self.design.level(self.difference.seeds))


Compared = Mapping[str, Sequence[Comparison]]
"""Comparisons of a pair's methods, by reference method."""


def compare_runs(runs: Sequence[Run], references: Sequence[Run]) -> Comparison | None:
    """Compare the runs of a method with those of another, seed by seed.

    Returns:
        The comparison over their common seeds; None if there are none.

    Raises:
        InputError: the runs were scored on different images or classes, or two seeds are copies of
            one run.
    """
    by_seed = {run.seed: run for run in references}
    pairs = [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]
    if not pairs:
        return None
    for run, reference in pairs:
        _require_same_set(pairs[0][0], run)
        _require_same_set(run, reference)
    for side in zip(*pairs, strict=True):
        _require_own_results(side)
    difference = paired_difference(
        [run.miou for run, _ in pairs], [reference.miou for _, reference in pairs]
    )
    counted = [(run.images, other.images) for run, other in pairs if run.images and other.images]
    # Only if all seeds have counts: otherwise they would describe other seeds than the mean.
    if len(counted) == len(pairs):
        difference = _over_images(difference, *zip(*counted, strict=True))
    ratio = seconds_per_step(runs) / max(seconds_per_step(references), 1e-9)
    design = design_of(runs[0].folder)
    asked = len({*(design.seeds or by_seed), *(run.seed for run in runs)})
    collapsed = {name for side in zip(*pairs, strict=True) for name in _collapsed(side)}
    methods = runs[0].method, references[0].method
    found = Comparison(*methods, difference, ratio, design, asked)
    if difference.over_images is not None and difference.groups is None:
        found = replace(found, like_frames=proposed_group(counted[0][0].names) is not None)
    blind = all(_is_uninformative(side) for side in zip(*pairs, strict=True))
    return replace(found, collapsed=tuple(sorted(collapsed)), blind=blind)


def _over_images(
    difference: Difference, ours: Sequence[ImageCounts], theirs: Sequence[ImageCounts]
) -> Difference:
    groups = ours[0].groups
    count = None if groups is None else len(set(groups))
    if count == 1:
        return replace(difference, groups=1)
    draws = bootstrap_differences(_stack(ours), _stack(theirs), groups=groups)
    interval = percentile_interval(draws)
    if count is not None:
        interval = widen_for_few_groups(difference.mean, interval, count)
    return replace(difference, over_images=interval, groups=count)


def _is_uninformative(runs: Sequence[Run]) -> bool:
    pixels = runs[0].class_pixels
    everywhere = 100 * pixels.max() / max(pixels.sum(), 1) / max((pixels > 0).sum(), 1)
    return bool(np.mean([run.miou for run in runs]) <= everywhere * (1 + 1e-9))


def _collapsed(runs: Sequence[Run]) -> list[str]:
    iou = np.stack([run.class_iou for run in runs])
    torn = (iou.min(0) < _DEAD) & (iou.max(0) > _ALIVE) & (runs[0].class_pixels > 0)
    return [name for name, is_torn in zip(runs[0].class_names, torn, strict=True) if is_torn]


def find_method(methods: Methods, name: str) -> str | None:
    """Find the method of that name, else one whose recipe is the paper's of that name.

    None if there is neither.
    """
    if name in methods:
        return name
    return next((each for each, runs in methods.items() if cell_of(runs[0].recipe) == name), None)


def augmented_pairs(methods: Methods) -> Iterator[tuple[str, Sequence[Run], Sequence[Run]]]:
    """Yield PD and CWD, each with its runs without and with augmentation, if both exist."""
    for base in ("pd", "cwd"):
        plain, augmented = find_method(methods, base), find_method(methods, f"{base}-fa")
        if plain and augmented:
            yield base, methods[plain], methods[augmented]


def seconds_per_step(runs: Sequence[Run]) -> float:
    """Compute the median time of a training step over runs; one may have shared the machine."""
    return median(run.seconds_per_step for run in runs)


def unequal_training(methods: Methods) -> str | None:
    """Say how long the methods were trained if their steps differ, as they do at equal minutes."""
    if len({run.result["steps"] for runs in methods.values() for run in runs}) <= 1:
        return None
    trained = [
        tuple(median(run.result[key] for run in runs) for key in ("train_seconds", "steps"))
        for runs in methods.values()
    ]
    (least, few), (most, many) = min(trained), max(trained)
    return (
        "The runs were not trained for the same number of steps: from "
        f"{few:,.0f} in {least:,.0f} s to {many:,.0f} in {most:,.0f} s, medians of a method."
    )


def _stack(images: Sequence[ImageCounts]) -> Pixels:
    counts = zip(*(each.pixels for each in images), strict=True)
    return Pixels(*(np.stack(seeds) for seeds in counts))


def _require_same_set(run: Run, other: Run) -> None:
    ours, theirs, what = run.images, other.images, ""
    if run.class_names != other.class_names:
        what = "classes"
    elif ours and theirs and ours.names != theirs.names:
        what = "images"
    elif ours and theirs and not np.array_equal(ours.pixels.truth, theirs.pixels.truth):
        what = "labels of the same images"
    if what:
        raise InputError(
            f"expected runs evaluated on the same data, got different {what} in {run.folder} and "
            f"{other.folder}; compare runs of one data set, or train one of them again"
        )


def _require_own_results(runs: Sequence[Run]) -> None:
    """Refuse copies of one run under two seeds: they would not be independent."""
    for run, other in combinations(runs, 2):
        same = run.result["final"] == other.result["final"]
        # Networks that predict one class everywhere do have equal scores.
        if same and (run.class_iou > 0).sum() > 1:
            raise InputError(
                f"expected independently trained seeds, got the same scores in {run.folder} and "
                f"{other.folder}; delete the copy, then fakd compare trains that seed"
            )


def references(methods: Methods) -> dict[str, list[Comparison]]:
    """Compare the methods of a pair with the student alone and with CWD, if present.

    All comparisons but the primary one are corrected for multiplicity (Holm). The bootstrap over
    images makes this the expensive part of a verdict: call it once.
    """
    found: dict[str, list[Comparison]] = {}
    for reference in filter(None, (find_method(methods, each) for each in (ALONE, CWD))):
        # The student alone against CWD would repeat CWD against the student alone.
        left_out = {reference} if reference == ALONE else {reference, ALONE}
        others = (runs for method, runs in methods.items() if method not in left_out)
        compared = (compare_runs(runs, methods[reference]) for runs in others)
        found[reference] = [each for each in compared if each is not None]
    explored = [each for each in chain.from_iterable(found.values()) if not is_primary(each)]
    corrected = holm([each.difference.p_value for each in explored])
    for each, p_value in zip(explored, corrected, strict=True):
        place = found[each.reference].index(each)
        found[each.reference][place] = replace(each, family=len(explored), corrected=p_value)
    return found


def is_primary(comparison: Comparison) -> bool:
    """Tell whether a comparison is the declared primary one of its grid."""
    design = comparison.design
    against_alone = comparison.reference == ALONE
    return design.primary == comparison.method and against_alone == (design.against == ALONE)


def tone(comparison: Comparison) -> Tone:
    """Classify a difference.

    "flat" (no worthwhile difference): the 90 % interval lies within the margin. "helped" or "hurt":
    the whole interval lies on one side of 0 and the comparison was primary, the only one, or made
    to confirm. With several comparisons the corrected p value must be below .05 too, and unplanned
    ones are "standout" or "lagging". After an unplanned look followed by more seeds, only
    "standout", "lagging" and "unsure" are possible. Fewer than three seeds, or networks that have
    learnt nothing, are always "unsure".
    """
    if comparison.blind:
        return "unsure"
    difference, margin = comparison.difference, comparison.design.worthwhile
    interval = comparison.interval
    level = comparison.design.level(difference.seeds)
    inner = difference.at(2 * level - 1)
    if interval is None or inner is None or difference.seeds < LEAST:
        return "unsure"
    explored, peeked = comparison.family > 1, comparison.design.peeked is not None
    if -margin < inner.low and inner.high < margin:
        return "unsure" if peeked else "flat"
    if interval.low <= 0 <= interval.high:
        return "unsure"
    if explored and (comparison.corrected or 0.0) >= 1 - level:
        return "unsure"
    if peeked or (explored and comparison.design.confirms is None):
        return "lagging" if interval.high < 0 else "standout"
    return "hurt" if interval.high < 0 else "helped"


def sentence(comparison: Comparison) -> str:
    """Write a verdict: helped, hurt, no worthwhile difference, or cannot tell.

    It states its basis: margin, interval, number of seeds, groups of images, time.
    """
    name, difference = title_of(comparison.method), comparison.difference
    gain = format_signed(difference.mean, _digits(comparison))
    facts = f"{gain} mIoU{_range(comparison)}, {_basis(comparison)}"
    found = tone(comparison)
    if difference.interval is None:
        return f"{name}: cannot tell from one seed: {facts}; run at least 3 seeds"
    if found == "flat":
        margin = f"{comparison.design.worthwhile:g}"
        than = f" to {method_phrase(comparison.reference)}"
        return f"{name}: no worthwhile difference{than} (within ±{margin}): {facts}"
    if found == "unsure":
        return f"{name}: cannot tell: {facts}{_looks_note(comparison)}; {_suggestion(comparison)}"
    if found in ("standout", "lagging"):
        word = "promising" if difference.mean > 0 else "seems worse"
        one = f", 1 of {comparison.family}" if comparison.family > 1 else ""
        return f"{name}: {word}{one}: {facts}{_looks_note(comparison)}; confirm with new seeds"
    rival, reference = title_of(comparison.reference), comparison.reference
    # An addition to the reference can help it; another method is better or worse.
    added = comparison.method in PRESETS and re.match(rf"{reference}-fa(-|$)", comparison.method)
    if reference == ALONE or added:
        return f"{name} {found}: {facts}"
    return f"{name} was {'better' if found == 'helped' else 'worse'} than {rival}: {facts}"


def _range(comparison: Comparison) -> str:
    difference = comparison.difference
    if (interval := comparison.interval or difference.over_images) is None:
        return ""
    percent = f"{100 * comparison.design.level(difference.seeds):.4g} %"
    source = ""
    if difference.interval is None:
        source = " over images only"
    elif difference.over_images is None:
        source = ", over seeds only"
    return f" ({percent} {format_interval(interval, _digits(comparison))}{source})"


def _digits(comparison: Comparison) -> int:
    """Choose the number of decimals by the margin."""
    return 1 if comparison.design.worthwhile >= 0.5 else 2


def _basis(comparison: Comparison) -> str:
    """State the basis of a difference: seeds, groups of images, lost classes, time."""
    difference, new = comparison.difference, comparison.design.confirms is not None
    asked = comparison.asked or difference.seeds
    seeds = f"{difference.seeds} of {asked} {'new ' if new else ''}seed{'s' if asked > 1 else ''}"
    parts = [seeds]
    if difference.groups == 1:
        parts.append("on these images only, all of one group")
    elif difference.groups is not None:
        parts.append(f"{difference.groups} groups of images")
    elif comparison.like_frames:
        parts.append("images counted as independent, though named like frames of clips")
    elif difference.over_images is not None:
        parts.append("images counted as independent")
    if comparison.collapsed:
        parts.append(f"interval too narrow, as some seeds lost {', '.join(comparison.collapsed)}")
    ratio = f"at {comparison.time_ratio:.2f}x the time of {method_phrase(comparison.reference)}"
    return f"{', '.join(parts)}, {ratio}"


def _looks_note(comparison: Comparison) -> str:
    peeked = comparison.design.peeked
    return "" if peeked is None else f"; seeds were added after a look at {peeked}"


def format_interval(interval: Interval, digits: int = 2) -> str:
    """Format an interval.

    >>> format_interval(Interval(-0.51, 1.5))
    '-0.51 to +1.50'
    """
    return f"{format_signed(interval.low, digits)} to {format_signed(interval.high, digits)}"


def format_signed(value: float, digits: int = 2) -> str:
    """Format a difference with its sign; a value rounded to 0 is +0."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def method_phrase(method: str) -> str:
    """Return a method's title for use within a sentence.

    >>> method_phrase("alone"), method_phrase("cwd")
    ('the student alone', 'CWD')
    """
    return f"the {title_of(method)}" if method == ALONE else title_of(method)


def _suggestion(comparison: Comparison) -> str:
    difference, margin = comparison.difference, f"{comparison.design.worthwhile:g} mIoU"
    if difference.seeds < LEAST:
        return f"a verdict needs at least {LEAST} seeds"
    if comparison.blind:
        return "neither is better than predicting the most frequent class everywhere: train longer"
    if comparison.design.peeked is not None:
        return "confirm with new seeds"
    interval = comparison.interval
    if interval is not None and not interval.low <= 0 <= interval.high:
        return f"not significant among {comparison.family} comparisons (Holm)"
    low, high = difference.over_images or (difference.mean, difference.mean)
    over_images = max(high - difference.mean, difference.mean - low)
    needed = seeds_needed(difference.spread or 0.0, comparison.design.worthwhile, over_images)
    if needed is not None and needed > difference.seeds:
        return f"{margin} needs about {needed} seeds at this spread"
    if needed is not None:
        return "more seeds narrow the interval"
    if over_images >= comparison.design.worthwhile:
        return f"the images are too few to show {margin} with any number of seeds"
    return f"{margin} needs more than 100 seeds at this spread"
