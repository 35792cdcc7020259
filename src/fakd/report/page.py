"""What a report consists of, ready to be laid out: one section for every pair on every data set."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from fakd.comparing.verdict import cautions, references
from fakd.report import chart
from fakd.report.curves import panels, read_curves, thinned
from fakd.report.examination import Examination
from fakd.report.gallery import Scene
from fakd.report.origin import Origin, environments, origin_of, recipe_text
from fakd.report.summary import Column, Methods, Sentence, method_table, tone, verdict
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Failure

_TITLES = {"val/mIoU": "validation mIoU (%)", "learning_rate": "learning rate"}


class Swatch(NamedTuple):
    """A colour of the legend."""

    name: str
    colour: int


class ClassBar(NamedTuple):
    """IoU of a class by one method in percent, None where it has none."""

    method: Swatch
    iou: float | None
    spread: float | None


class ClassBars(NamedTuple):
    """One class: its share of the labelled pixels in percent, and its bars."""

    name: str
    share: float
    bars: list[ClassBar]


class Figure(NamedTuple):
    """A drawing and its title."""

    title: str
    drawing: Markup
    note: str = ""


class Failed(NamedTuple):
    """A run without a result: which, and the last it said."""

    name: str
    reason: str


@dataclass(frozen=True)
class Section:
    """All that is shown of one pair on one data set."""

    name: str
    verdicts: Sequence[Sequence[Sentence]]
    """Against the student alone, then against CWD."""
    differences: Sequence[Figure]
    table: Sequence[Column]
    legend: Sequence[Swatch]
    classes: Sequence[ClassBars]
    curves: Sequence[Figure]
    calibration: Sequence[Figure]
    examined: Examination | None
    failures: Sequence[Failed]
    origins: Sequence[Origin]
    recipes: Sequence[tuple[str, str]]
    environments: Sequence[str]
    remarks: Sequence[str]
    scenes: Sequence[Scene] = field(default_factory=list)
    colours: Sequence[tuple[str, str]] = field(default_factory=list)
    """Name and colour of the classes in the pictures."""


def section(
    name: str,
    methods: Methods,
    failures: Sequence[Failure],
    examined: Examination | None,
    remarks: Sequence[str],
) -> Section:
    """Put together what is known of one pair, its pictures apart."""
    found = references(methods)
    legend = [Swatch(title_of(method), index) for index, method in enumerate(methods)]
    runs = [run for each in methods.values() for run in each]
    return Section(
        name=name,
        verdicts=[verdict(compared) for compared in found.values()],
        differences=[
            _differences(reference, compared) for reference, compared in found.items() if compared
        ],
        table=method_table(methods, found, examined),
        legend=legend,
        classes=class_bars(methods),
        curves=curve_figures(methods),
        calibration=_calibration(examined),
        examined=examined,
        failures=failed_runs(failures),
        origins=[origin_of(run) for run in runs],
        recipes=[(title_of(method), recipe_text(each[0])) for method, each in methods.items()],
        environments=environments(runs),
        remarks=[*remarks, *(f"{each}." for each in cautions(found)), *_doubts(methods)],
    )


def failed_runs(failures: Sequence[Failure], with_pair: bool = False) -> list[Failed]:
    """Name the failed runs by method and seed, and by pair where no heading does."""
    return [
        Failed(
            (f"{each.pair}, " if with_pair else "") + f"{title_of(each.method)}, seed {each.seed}",
            each.reason,
        )
        for each in failures
    ]


def class_bars(methods: Methods) -> list[ClassBars]:
    """List the IoU of every labelled class by method, rare classes first, mean over the seeds."""
    first = next(iter(methods.values()))[0]
    pixels = first.class_pixels
    scores = {method: np.stack([run.class_iou for run in runs]) for method, runs in methods.items()}
    rows = []
    for index in np.argsort(pixels, kind="stable"):
        if pixels[index] == 0:
            continue
        bars = []
        for place, method in enumerate(methods):
            values = scores[method][:, index]
            values = values[np.isfinite(values)]
            mean = float(values.mean()) if len(values) else None
            spread = float(values.std(ddof=1)) if len(values) > 1 else None
            bars.append(ClassBar(Swatch(title_of(method), place), mean, spread))
        share = 100 * float(pixels[index]) / float(pixels.sum())
        rows.append(ClassBars(first.class_names[index], share, bars))
    return rows


def curve_figures(methods: Methods) -> list[Figure]:
    """Draw every logged quantity of all runs, one line for each run."""
    logged = [
        (Swatch(f"{title_of(method)}, seed {run.seed}", place), read_curves(run.curves))
        for place, (method, runs) in enumerate(methods.items())
        for run in runs
    ]
    figures = []
    for name in panels([curves for _, curves in logged]):
        title = _TITLES.get(name, name)
        lines = [
            chart.Line(swatch.name, swatch.colour, thinned(curves[name]))
            for swatch, curves in logged
            if name in curves
        ]
        figures.append(Figure(title, chart.curves(title, lines)))
    return figures


def _differences(reference: str, compared: Sequence[Any]) -> Figure:
    against = "the student alone" if reference == ALONE else title_of(reference)
    title = f"Difference in mIoU to {against}"
    bars = [
        chart.Bar(
            title_of(each.method),
            each.difference.mean,
            each.difference.interval or each.difference.over_images,
            tone(each.difference),
        )
        for each in compared
    ]
    note = "Lines are 95 % intervals." if any(bar.interval for bar in bars) else "One seed only."
    return Figure(title, chart.differences(title, bars), note)


def _calibration(examined: Examination | None) -> list[Figure]:
    figures = []
    for title, quality in (examined.qualities if examined else {}).items():
        bins = quality.reliability
        total = float(bins.pixels.sum())
        points = [
            (float(confidence / count), float(right / count), float(count) / total)
            for count, confidence, right in zip(
                bins.pixels, bins.confidence, bins.right, strict=True
            )
            if count > 0
        ]
        note = f"error {quality.calibration_error:.2f} %"
        figures.append(Figure(title, chart.reliability_diagram(title, points), note))
    return figures


def _doubts(methods: Methods) -> list[str]:
    """Say what speaks against comparing these runs."""
    runs = [run for each in methods.values() for run in each]
    doubts = []
    prints = {run.result["data"].get("fingerprint") for run in runs}
    if len(prints) > 1:
        doubts.append("The runs have seen different states of the data: their fingerprints differ.")
    if len({run.result["steps"] for run in runs}) > 1:
        doubts.append("The runs were not trained for the same number of steps.")
    if ALONE not in methods:
        doubts.append("Without runs of the student alone nothing can be said to have helped.")
    return doubts
