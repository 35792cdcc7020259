"""What a report consists of, ready to be laid out: one section for every pair on every data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import yaml
from markupsafe import Markup

from fakd.comparing.verdict import Comparison, Tone, cautions, references, sentence, the, tone
from fakd.report import charts
from fakd.report.examination import Examination
from fakd.report.methods import class_iou, method_table
from fakd.report.table import Entry, Row, filled, number
from fakd.runs.folder import RECIPE
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Failure, Methods

_TITLES = {"val/mIoU": "validation mIoU (%)", "learning_rate": "learning rate"}
_TONES = ("helped", "hurt", "flat", "unsure")


class Sentence(NamedTuple):
    """One verdict."""

    text: str
    tone: Tone


class ClassBars(NamedTuple):
    """One class: its share of the labelled pixels, and mean and spread of its IoU by method.

    All are in percent; a spread is None for one seed, and both are where no seed has the class.
    """

    name: str
    share: float
    bars: list[tuple[float | None, float | None]]


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


def ranked(found: Sequence[Comparison]) -> list[Sentence]:
    """Say of each method whether it helped: what is decided first, the largest gain first."""
    by_gain = sorted(found, key=lambda each: -each.difference.mean)
    said = [Sentence(sentence(each), tone(each.difference)) for each in by_gain]
    return sorted(said, key=lambda each: _TONES.index(each.tone))


@dataclass
class Section:
    """All that is shown of one pair on one data set.

    Args:
        name: of both.
        methods: the finished runs of each method.
        failures: the failed ones.
        examined: what showing images to the networks has found out.
        notes: what could not be looked at.
        scenes: pictures.
        colours: name and colour of the classes in the pictures.
    """

    name: str
    methods: Methods
    failures: Sequence[Failure]
    examined: Examination | None
    notes: Sequence[str]
    scenes: Sequence[Scene] = ()
    colours: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        """Compare the methods, once for all that is said about it."""
        self.compared = references(self.methods)
        self.runs = [run for each in self.methods.values() for run in each]
        self.table, notes = method_table(self.methods, self.compared, self.examined)
        self.columns = {name: notes[name] for name in filled(self.table, notes)}

    @cached_property
    def verdicts(self) -> list[list[Sentence]]:
        """Against the student alone, then against CWD."""
        return [ranked(found) for found in self.compared.values()]

    @cached_property
    def remarks(self) -> list[str]:
        """What could not be looked at, and what speaks against comparing these runs."""
        doubts = [*self.notes, *(f"{each}." for each in cautions(self.compared))]
        if len({run.result["data"].get("fingerprint") for run in self.runs}) > 1:
            doubts.append(
                "The runs have seen different states of the data: their fingerprints differ."
            )
        if len({run.result["steps"] for run in self.runs}) > 1:
            doubts.append("The runs were not trained for the same number of steps.")
        if ALONE not in self.methods:
            doubts.append("Without runs of the student alone nothing can be said to have helped.")
        return doubts

    @cached_property
    def differences(self) -> list[Chart]:
        """The comparisons, drawn."""
        drawn = []
        for reference, found in self.compared.items():
            title = f"Difference in mIoU to {the(reference)}"
            known = any(each.difference.any_interval for each in found)
            note = "Lines are 95 % intervals." if known else "One seed only."
            if found:
                drawn.append(Chart(title, charts.differences(title, found), note))
        return drawn

    @cached_property
    def classes(self) -> list[ClassBars]:
        """IoU of every labelled class by method, rare classes first."""
        pixels, names = self.runs[0].class_pixels, self.runs[0].class_names
        scores = [class_iou(runs) for runs in self.methods.values()]
        return [
            ClassBars(
                names[index],
                100 * float(pixels[index]) / float(pixels.sum()),
                [(_known(mean[index]), _known(spread[index])) for mean, spread in scores],
            )
            for index in np.argsort(pixels, kind="stable")
            if pixels[index]
        ]

    @cached_property
    def curves(self) -> list[Chart]:
        """Every logged quantity, one line for each run."""
        logged = [
            (f"{title_of(method)}, seed {run.seed}", place, run.curves)
            for place, (method, runs) in enumerate(self.methods.items())
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

    @cached_property
    def calibration(self) -> list[Chart]:
        """Reliability of every network."""
        return [
            Chart(
                title,
                charts.reliability_diagram(title, quality.reliability),
                f"error {quality.calibration_error:.2f} %",
            )
            for title, quality in (self.examined.qualities if self.examined else {}).items()
        ]

    @property
    def origins(self) -> list[Row]:
        """Where the runs come from, as far as their folders know."""
        return [
            {
                "method": Entry(title_of(run.method)),
                "seed": number(run.seed, "d"),
                "mIoU": number(run.miou),
                "steps": number(int(run.result["steps"]), "d"),
                "data fingerprint": Entry(str(run.result["data"].get("fingerprint", ""))),
                "folder": Entry(str(run.folder)),
                "command": Entry(str(run.environment.get("command", ""))),
            }
            for run in self.runs
        ]

    @property
    def recipes(self) -> dict[str, str]:
        """The recipe of every method's first seed, as it was written."""
        return {
            title_of(method): (runs[0].folder / RECIPE).read_text(encoding="utf-8")
            for method, runs in self.methods.items()
        }

    @property
    def environments(self) -> list[str]:
        """The machines and versions, each once, without what differs between any two runs."""
        described: dict[str, None] = {}
        for known in (run.environment for run in self.runs):
            if kept := {key: known[key] for key in known if key not in ("command", "started")}:
                described[yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)] = None
        return list(described)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
