"""The report: the results of every pair on every data set, as one HTML file.

The file is self-contained and fetches nothing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fakd.comparing.verdict import (
    Comparison,
    Tone,
    format_signed,
    method_phrase,
    references,
    sentence,
    tone,
    unequal_training,
)
from fakd.data import SegmentationData
from fakd.data.names import printable
from fakd.errors import InputError
from fakd.files import write_text, yaml_text
from fakd.report import figures
from fakd.report.encoding import Scene, fit
from fakd.report.examination import Examination
from fakd.report.methods import class_iou, method_table
from fakd.report.table import Entry, Row, nonempty_columns, number
from fakd.runs.folder import RECIPE, read_json
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Failure, Methods
from fakd.sources import GUARANTEE

LIMIT = 5_000_000
"""Maximum size of a report in bytes, so that it can be sent by mail."""
_ROOM = 100_000
"""Bytes reserved for the page besides pictures."""
_QUANTITIES = {
    "task": "loss against the labels",
    "auxiliary": "loss of the auxiliary head",
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "lambda": "strength λ of the augmentation",
    "augmentation": "size λv/2 of the augmentation",
    "margin_share": "that size as a share of the margin",
}
_TONES: Mapping[Tone, str] = {
    "helped": "Helped",
    "hurt": "Hurt",
    "standout": "Promising, to be confirmed",
    "lagging": "Seems worse, to be confirmed",
    "flat": "No worthwhile difference",
    "unsure": "Cannot tell",
}
_JOINTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[._/])(?=\w)")


def breakable(text: str) -> Markup:
    """Allow a browser to break long names at word boundaries.

    >>> str(breakable("SegformerFor <me>"))
    'Segformer<wbr>For &lt;me&gt;'
    """
    return Markup("<wbr>").join(_JOINTS.split(text))


def templates(package: str) -> Environment:
    """Open the templates of a package; values are escaped, and undefined ones are errors."""
    found = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["breakable"] = breakable
    return found


_PAGES = templates("fakd.report")


class Note(NamedTuple):
    """Origin of a report, and what belongs to no section."""

    made: str
    version: str
    command: str
    failures: Sequence[Failure] = ()
    """Failed runs of pairs without finished runs."""


class Sentence(NamedTuple):
    """One verdict."""

    text: str
    tone: Tone


class VerdictGroup(NamedTuple):
    """Methods with the same verdict."""

    tone: Tone
    head: str
    methods: list[str]


class ClassBars(NamedTuple):
    """One class: its share of the labelled pixels, and mean and spread of its IoU by method.

    All are in percent; a spread is None for one seed, and both are None if no seed has the class.
    """

    name: str
    share: float
    bars: list[tuple[float | None, float | None]]


def ranked_verdicts(found: Sequence[Comparison]) -> list[Sentence]:
    """Return a verdict on each method: decided ones first, the largest gain first."""
    by_gain = sorted(found, key=lambda each: -each.difference.mean)
    said = [Sentence(sentence(each), tone(each)) for each in by_gain]
    return sorted(said, key=lambda each: [*_TONES].index(each.tone))


def grouped_verdicts(found: Sequence[Comparison]) -> list[VerdictGroup]:
    """Group methods by verdict: decided ones first, the largest gain first."""
    by_tone: dict[Tone, list[str]] = {}
    for each in sorted(found, key=lambda each: -each.difference.mean):
        gain = format_signed(each.difference.mean, 1)
        by_tone.setdefault(tone(each), []).append(f"{title_of(each.method)} {gain}")
    heads = sorted(by_tone, key=[*_TONES].index)
    return [VerdictGroup(each, _TONES[each], by_tone[each]) for each in heads]


@dataclass
class Section:
    """The content of one pair on one data set.

    Args:
        name: Of both.
        methods: The finished runs of each method.
        failures: The failed runs.
        examined: Measurements of the networks.
        notes: What could not be examined.
        data: Class names and colours for pictures; None for no pictures.
        test: The same methods on the test split, if it was opened.
    """

    name: str
    methods: Methods
    failures: Sequence[Failure]
    examined: Examination | None
    notes: Sequence[str]
    data: SegmentationData | None = None
    test: "Section | None" = None

    def __post_init__(self) -> None:
        """Compare the methods once for the whole section."""
        self.scenes: Sequence[Scene] = ()
        self.colours: Sequence[tuple[str, str]] = ()
        self.compared = references(self.methods)
        self.runs = [run for each in self.methods.values() for run in each]
        self.table, notes = method_table(self.methods, self.compared, self.examined)
        self.columns = {name: notes[name] for name in nonempty_columns(self.table, notes)}

    @cached_property
    def verdicts(self) -> list[list[Sentence]]:
        """Verdicts against the student alone, then against CWD."""
        return [ranked_verdicts(found) for found in self.compared.values()]

    @cached_property
    def summary(self) -> list[tuple[str, list[VerdictGroup]]]:
        """Short verdicts, by the method they are compared with."""
        return [
            (f"mIoU against {method_phrase(reference)}", grouped_verdicts(found))
            for reference, found in self.compared.items()
            if found
        ]

    @cached_property
    def remarks(self) -> list[str]:
        """What could not be examined, and reasons against comparing these runs."""
        doubts = [*self.notes]
        if len({run.result["data"].get("fingerprint") for run in self.runs}) > 1:
            doubts.append(
                "The runs used different versions of the data: their fingerprints differ."
            )
        if unequal := unequal_training(self.methods):
            doubts.append(unequal)
        if ALONE not in self.methods:
            doubts.append("Without runs of the student alone, no method can be judged.")
        return doubts

    @cached_property
    def differences(self) -> list[figures.Chart]:
        """Charts of the comparisons."""
        return [
            figures.differences(f"Difference in mIoU to {method_phrase(reference)}", found)
            for reference, found in self.compared.items()
            if found
        ]

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
    def curves(self) -> list[figures.Chart]:
        """Charts of every logged quantity, one line per run."""
        logged = [
            (f"{title_of(method)}, seed {run.seed}", place, run.curves)
            for place, (method, runs) in enumerate(self.methods.items())
            for run in runs
        ]
        drawn = []
        for quantity in figures.panels([curves for *_, curves in logged]):
            lines = [
                figures.Line(name, place, curves[quantity])
                for name, place, curves in logged
                if quantity in curves
            ]
            drawn.append(figures.training_curves(quantity_title(quantity), lines))
        return drawn

    @cached_property
    def calibration(self) -> list[figures.Chart]:
        """Reliability diagrams of every network."""
        qualities = self.examined.qualities if self.examined else {}
        return [figures.reliability_diagram(title, each.bins) for title, each in qualities.items()]

    @property
    def origins(self) -> list[Row]:
        """The origin of the runs, as recorded in their folders."""
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
    def exports(self) -> list[Row]:
        """The exports in the runs' folders, with their guarantees."""
        found = [
            (run, path, read_json(path))
            for run in self.runs
            for path in sorted(run.folder.glob(f"*/{GUARANTEE}*"))
        ]
        return [
            {
                "method": Entry(title_of(run.method)),
                "seed": number(run.seed, "d"),
                "folder": Entry(path.parent.name),
                "precision": Entry(told["precision"]),
                "guarantee": Entry("holds" if told["holds"] else "does not hold, rejected"),
                "student's mIoU": number(told["guarantee"]["student"]["miou"]),
                "mIoU": number(told["guarantee"]["file"]["miou"]),
                "pixels alike (%)": number(told["guarantee"]["agreement"], ".3f"),
                "MB": number(told["guarantee"]["file"]["megabytes"], ".1f"),
                "ms": number(told["guarantee"]["file"]["median_ms"], ".1f"),
                "memory (MB)": number(told["guarantee"]["file"]["memory_mb"], ".0f"),
            }
            for run, path, told in found
        ]

    @property
    def recipes(self) -> dict[str, str]:
        """The recipe file of every method's first seed."""
        return {
            title_of(method): (runs[0].folder / RECIPE).read_text(encoding="utf-8")
            for method, runs in self.methods.items()
        }

    @property
    def wiring(self) -> Mapping[str, Any] | None:
        """The wiring of the first run with a teacher, or else of the first run; None if unknown."""
        known = [each for run in self.runs if (each := run.environment.get("wiring"))]
        return max(known, key=lambda each: len(each["parts"]) > 1, default=None)

    @property
    def environments(self) -> list[str]:
        """The distinct machines and versions, without what differs between any two runs."""
        described: dict[str, None] = {}
        for known in (run.environment for run in self.runs):
            if kept := {
                key: known[key] for key in known if key not in ("command", "started", "wiring")
            }:
                described[yaml_text(kept)] = None
        return list(described)


def quantity_title(quantity: str) -> str:
    """Return the title of a logged quantity.

    >>> quantity_title("val/mIoU"), quantity_title("channel/lambda"), quantity_title("distillation")
    ('validation mIoU (%)', 'strength λ of the augmentation, channel loss', 'distillation loss')
    """
    term, _, last = quantity.rpartition("/")
    if term == "val":
        return f"validation {last} (%)"
    if not term:
        return _QUANTITIES.get(last, f"{last} loss")
    return f"{_QUANTITIES.get(last, last)}, {term} loss"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def add_pictures(sections: Sequence[Section], note: Note) -> None:
    """Add as many pictures as fit into a report's size, an equal share for every section."""
    spoken_for = len(render(sections, note).encode()) + _ROOM
    pictured = [
        (each, each.examined.shots, each.data)
        for each in sections
        if each.data and each.examined and each.examined.shots
    ]
    for section, shots, data in pictured:
        section.scenes = fit(shots, data.palette, max(0, LIMIT - spoken_for) // len(pictured))
        maps = [each for shot in shots[: len(section.scenes)] for each in shot.maps.values()]
        present = {number for classes in maps for number in np.unique(classes).tolist()}
        section.colours = [
            (name, "#{:02x}{:02x}{:02x}".format(*data.palette[number]))
            for number, name in enumerate(data.class_names)
            if number in present
        ]


def render(sections: Sequence[Section], note: Note) -> str:
    """Render the sections as one page."""
    style = {"title_of": title_of, "colours": len(figures.COLOURS), "dashes": figures.DASHES}
    page = _PAGES.get_template("template.html.jinja").render(sections=sections, note=note, **style)
    return printable(page)


def write_report(path: Path, sections: Sequence[Section], note: Note) -> int:
    """Write the page.

    Returns:
        Its size in bytes.

    Raises:
        InputError: it would be too large, for example with hundreds of long runs, or cannot be
            written.
    """
    text = render(sections, note)
    size = len(text.encode())
    if size > LIMIT:
        raise InputError(
            f"expected a report below {LIMIT / 1e6:.0f} MB, got {size / 1e6:.1f} MB even without "
            "pictures; report on fewer runs at a time"
        )
    write_text(path, text)
    return size
