"""Whether a method helped: compared with another on the same seeds and images, in a sentence."""

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
    widened_for_few,
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
"""IoU in percent below which a class has collapsed, and above which it is found."""
Tone = Literal["helped", "hurt", "flat", "standout", "lagging", "unsure"]
"""What a difference amounts to; one that stands out among many is to be confirmed."""


@dataclass(frozen=True)
class Comparison:
    """How a method differs from another in mIoU and time."""

    method: str
    reference: str
    difference: Difference
    time_ratio: float
    """Time of a training step over that of the reference, medians over the seeds."""
    design: Design = field(default_factory=Design)
    asked: int | None = None
    """Seeds that were to count; all that do if not given."""
    family: int = 1
    """Comparisons that were looked at together with this one; 1 if it was planned."""
    corrected: float | None = None
    """p value corrected for its family."""
    collapsed: tuple[str, ...] = ()
    """Classes that some of the seeds find and others do not."""
    blind: bool = False
    """Whether neither is better, on average, than naming the most frequent class everywhere."""
    like_frames: bool = False
    """Whether images that count as independent have names as frames of clips have."""

    @property
    def interval(self) -> Interval | None:
        """That of the difference, at the confidence of its look; None for one seed."""
        return self.difference.at(self.design.level(self.difference.seeds))


Compared = Mapping[str, Sequence[Comparison]]
"""What every other method of a pair was found to be, by the method they are compared with."""


def compare_runs(runs: Sequence[Run], references: Sequence[Run]) -> Comparison | None:
    """Compare the runs of a method with those of another, seed by seed.

    Returns:
        The comparison over the seeds both have; None where they share none.

    Raises:
        InputError: the runs were scored on different images or classes, or two seeds are one run.
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
    # Images that only some of the seeds have counted would tell of other seeds than the mean does.
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
    blind = all(_is_blind(side) for side in zip(*pairs, strict=True))
    return replace(found, collapsed=tuple(sorted(collapsed)), blind=blind)


def _over_images(
    difference: Difference, ours: Sequence[ImageCounts], theirs: Sequence[ImageCounts]
) -> Difference:
    groups = ours[0].groups
    count = None if groups is None else len(set(groups))
    if count == 1:
        return replace(difference, groups=1)
    draws = bootstrap_differences(_stacked(ours), _stacked(theirs), groups=groups)
    interval = percentile_interval(draws)
    if count is not None:
        interval = widened_for_few(difference.mean, interval, count)
    return replace(difference, over_images=interval, groups=count)


def _is_blind(runs: Sequence[Run]) -> bool:
    pixels = runs[0].class_pixels
    everywhere = 100 * pixels.max() / max(pixels.sum(), 1) / max((pixels > 0).sum(), 1)
    return bool(np.mean([run.miou for run in runs]) <= everywhere * (1 + 1e-9))


def _collapsed(runs: Sequence[Run]) -> list[str]:
    iou = np.stack([run.class_iou for run in runs])
    torn = (iou.min(0) < _DEAD) & (iou.max(0) > _ALIVE) & (runs[0].class_pixels > 0)
    return [name for name, is_torn in zip(runs[0].class_names, torn, strict=True) if is_torn]


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
    ours, theirs, what = run.images, other.images, ""
    if run.class_names != other.class_names:
        what = "classes"
    elif ours and theirs and ours.names != theirs.names:
        what = "images"
    elif ours and theirs and not np.array_equal(ours.pixels.truth, theirs.pixels.truth):
        what = "labels of the same images"
    if what:
        raise InputError(
            f"expected runs scored on the same data, got different {what} in {run.folder} and "
            f"{other.folder}; compare runs of one data set, or train one of them again"
        )


def _require_own_results(runs: Sequence[Run]) -> None:
    """Refuse one run under two seeds: its chance would count twice."""
    for run, other in combinations(runs, 2):
        same = run.result["final"] == other.result["final"]
        # Networks that name one class everywhere do agree.
        if same and (run.class_iou > 0).sum() > 1:
            raise InputError(
                f"expected seeds that were trained apart, got the same scores in {run.folder} and "
                f"{other.folder}; remove the copy, fakd compare trains that seed anew"
            )


def references(methods: Methods) -> dict[str, list[Comparison]]:
    """Compare the methods of a pair with the student alone and with CWD, where they are present.

    All but the primary comparison are corrected for one another (Holm). The bootstrap over
    images makes this the costly part of a verdict: do it once.
    """
    found: dict[str, list[Comparison]] = {}
    for reference in filter(None, (find_method(methods, each) for each in (ALONE, CWD))):
        # Against CWD, the student alone would repeat what its own comparison says.
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
    """Tell whether a comparison was declared to be what its grid is about."""
    design = comparison.design
    against_alone = comparison.reference == ALONE
    return design.primary == comparison.method and against_alone == (design.against == ALONE)


def tone(comparison: Comparison) -> Tone:
    """Tell what a difference amounts to.

    There is no worthwhile difference if the 90 % interval lies within the margin. A method helped,
    or hurt, if the whole interval lies on one side of 0 and the comparison was primary, the only
    one, or made to confirm. Of several, the corrected p value must be below .05 too, and those that
    nothing has planned stand out or lag behind. Fewer than three seeds never give a verdict, and
    seeds that were added after a look not planned give none but that, nor do networks that have
    learnt nothing.
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
    """Say whether a method helped, hurt, makes no worthwhile difference, or that none can tell.

    What it rests on follows: margin, interval, seeds that count, groups of images, time.
    """
    name, difference = title_of(comparison.method), comparison.difference
    gain = signed(difference.mean, _digits(comparison))
    facts = f"{gain} mIoU{_range(comparison)}, {_basis(comparison)}"
    found = tone(comparison)
    if difference.interval is None:
        return f"{name}: one seed shows no more than itself: {facts}; run at least 3 seeds"
    if found == "flat":
        margin = f"{comparison.design.worthwhile:g}"
        than = f" to {the(comparison.reference)}"
        return f"{name}: no worthwhile difference{than} (within ±{margin}): {facts}"
    if found == "unsure":
        return f"{name}: cannot tell: {facts}{_peeked(comparison)}; {_what_would_do(comparison)}"
    if found in ("standout", "lagging"):
        word = "promising" if difference.mean > 0 else "seems worse"
        one = f", 1 of {comparison.family}" if comparison.family > 1 else ""
        return f"{name}: {word}{one}: {facts}{_peeked(comparison)}; confirm with new seeds"
    rival, reference = title_of(comparison.reference), comparison.reference
    # Only what is added to the reference can help it; a rival is better or worse.
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
    return f" ({percent} {ends(interval, _digits(comparison))}{source})"


def _digits(comparison: Comparison) -> int:
    """Count the digits behind the point that show a margin as one."""
    return 1 if comparison.design.worthwhile >= 0.5 else 2


def _basis(comparison: Comparison) -> str:
    """Name what a difference rests on."""
    difference, new = comparison.difference, comparison.design.confirms is not None
    asked = comparison.asked or difference.seeds
    seeds = f"{difference.seeds} of {asked} {'new ' if new else ''}seed{'s' if asked > 1 else ''}"
    parts = [seeds]
    if difference.groups == 1:
        parts.append("on these images, all of one group (other scenes are not covered)")
    elif difference.groups is not None:
        parts.append(f"{difference.groups} groups of images")
    elif comparison.like_frames:
        parts.append("images counted as independent, though named like frames of clips")
    elif difference.over_images is not None:
        parts.append("images counted as independent")
    if comparison.collapsed:
        parts.append(f"an interval too narrow as some seeds lost {', '.join(comparison.collapsed)}")
    ratio = f"at {comparison.time_ratio:.2f}x the time of {the(comparison.reference)}"
    return f"{', '.join(parts)}, {ratio}"


def _peeked(comparison: Comparison) -> str:
    peeked = comparison.design.peeked
    return "" if peeked is None else f"; seeds were added after a look at {peeked}"


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


def _what_would_do(comparison: Comparison) -> str:
    difference, margin = comparison.difference, f"{comparison.design.worthwhile:g} mIoU"
    if difference.seeds < LEAST:
        return f"a verdict takes at least {LEAST} seeds"
    if comparison.blind:
        return "neither is better than naming the most frequent class everywhere: train longer"
    if comparison.design.peeked is not None:
        return "confirm with new seeds"
    interval = comparison.interval
    if interval is not None and not interval.low <= 0 <= interval.high:
        return f"it does not stand out among {comparison.family} comparisons (Holm)"
    low, high = difference.over_images or (difference.mean, difference.mean)
    over_images = max(high - difference.mean, difference.mean - low)
    needed = seeds_needed(difference.spread or 0.0, comparison.design.worthwhile, over_images)
    if needed is not None and needed > difference.seeds:
        return f"{margin} needs about {needed} seeds at this spread"
    if needed is not None:
        return "more seeds narrow it"
    if over_images >= comparison.design.worthwhile:
        return f"the images are too few to show {margin} with any number of seeds"
    return f"{margin} needs more than 100 seeds at this spread"
