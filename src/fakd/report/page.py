"""What a report consists of, ready to be laid out: one section for every pair on every data set."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import yaml
from markupsafe import Markup

from fakd.comparing.verdict import Comparison, Tone, cautions, references, sentence, the, tone
from fakd.report import charts
from fakd.report.examination import Examination
from fakd.report.methods import method_table
from fakd.report.table import Entry, Row, filled, number
from fakd.runs.folder import RECIPE
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Failure, Methods, Run

_TITLES = {"val/mIoU": "validation mIoU (%)", "learning_rate": "learning rate"}
_TONES = ("helped", "hurt", "flat", "unsure")


class Sentence(NamedTuple):
    """One verdict."""

    text: str
    tone: Tone


class Swatch(NamedTuple):
    """A method in a legend; its place decides its colour."""

    name: str
    place: int


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


class Chart(NamedTuple):
    """A drawing and its title."""

    title: str
    drawing: Markup
    note: str = ""


class Picture(NamedTuple):
    """One picture of a scene: the image, the truth, or what a network says."""

    title: str
    uri: str
    """The whole file, as a ``data:`` address."""


class Scene(NamedTuple):
    """An image and its maps, of equal size."""

    name: str
    disagreement: float
    width: int
    height: int
    photo: Picture
    maps: Sequence[Picture]

    @property
    def bytes(self) -> int:
        """What it adds to a page."""
        return sum(len(each.uri) for each in (self.photo, *self.maps))


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
    differences: Sequence[Chart]
    methods: Sequence[Row]
    columns: dict[str, str]
    """Those of the methods that say something, and what."""
    legend: Sequence[Swatch]
    classes: Sequence[ClassBars]
    curves: Sequence[Chart]
    calibration: Sequence[Chart]
    examined: Examination | None
    failures: Sequence[Failed]
    runs: Sequence[Row]
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
    rows, notes = method_table(methods, found, examined)
    runs = [run for each in methods.values() for run in each]
    recipes = [
        (title_of(method), (each[0].folder / RECIPE).read_text(encoding="utf-8"))
        for method, each in methods.items()
    ]
    return Section(
        name=name,
        verdicts=[ranked(compared) for compared in found.values()],
        differences=[
            _differences(reference, compared) for reference, compared in found.items() if compared
        ],
        methods=rows,
        columns={name: notes[name] for name in filled(rows, notes)},
        legend=[Swatch(title_of(method), place) for place, method in enumerate(methods)],
        classes=class_bars(methods),
        curves=_curves(methods),
        calibration=_calibration(examined),
        examined=examined,
        failures=failed_runs(failures),
        runs=[_run_row(run) for run in runs],
        recipes=recipes,
        environments=_environments(runs),
        remarks=[*remarks, *(f"{each}." for each in cautions(found)), *_doubts(methods)],
    )


def ranked(found: Sequence[Comparison]) -> list[Sentence]:
    """Say of each method whether it helped: what is decided first, the largest gain first."""
    by_gain = sorted(found, key=lambda each: -each.difference.mean)
    said = [Sentence(sentence(each), tone(each.difference)) for each in by_gain]
    return sorted(said, key=lambda each: _TONES.index(each.tone))


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


def _curves(methods: Methods) -> list[Chart]:
    """Draw every logged quantity of all runs, one line for each run."""
    logged = [
        (f"{title_of(method)}, seed {run.seed}", place, run.curves)
        for place, (method, runs) in enumerate(methods.items())
        for run in runs
    ]
    drawn = []
    for quantity in charts.panels([curves for *_, curves in logged]):
        title = _TITLES.get(quantity, quantity)
        lines = [
            charts.Line(name, place, curves[quantity])
            for name, place, curves in logged
            if quantity in curves
        ]
        drawn.append(Chart(title, charts.training_curves(title, lines)))
    return drawn


def _differences(reference: str, compared: Sequence[Comparison]) -> Chart:
    title = f"Difference in mIoU to {the(reference)}"
    bars = [
        charts.Bar(
            title_of(each.method),
            each.difference.mean,
            each.difference.interval or each.difference.over_images,
            tone(each.difference),
        )
        for each in compared
    ]
    note = "Lines are 95 % intervals." if any(bar.interval for bar in bars) else "One seed only."
    return Chart(title, charts.differences(title, bars), note)


def _calibration(examined: Examination | None) -> list[Chart]:
    drawn = []
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
        drawn.append(Chart(title, charts.reliability_diagram(title, points), note))
    return drawn


def _run_row(run: Run) -> Row:
    """Tell where a run comes from, as far as its folder knows."""
    return {
        "method": Entry(title_of(run.method)),
        "seed": number(run.seed, "d"),
        "mIoU": number(run.miou),
        "steps": number(int(run.result["steps"]), "d"),
        "data fingerprint": Entry(str(run.result["data"].get("fingerprint", ""))),
        "folder": Entry(str(run.folder)),
        "command": Entry(str(run.environment.get("command", ""))),
    }


def _environments(runs: Sequence[Run]) -> list[str]:
    """Describe the machines and versions, each once, without what differs between any two runs."""
    described: dict[str, None] = {}
    for run in runs:
        known = run.environment
        if kept := {key: known[key] for key in known if key not in ("command", "started")}:
            described[yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)] = None
    return list(described)


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
