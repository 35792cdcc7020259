"""The report as one HTML file: nothing is fetched, and all that it shows is inside."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fakd.data import SegmentationData
from fakd.errors import InputError
from fakd.files import write_text
from fakd.report.chart import dashes
from fakd.report.gallery import Scene, classes_in, fit
from fakd.report.page import Failed, Section

LIMIT = 5_000_000
"""Bytes that a report stays below, so that it can be sent by mail."""
_ROOM = 100_000
"""Bytes that pictures leave for the file's own frame."""


class Note(NamedTuple):
    """How a report came to be, and what of it has no section."""

    made: str
    version: str
    command: str
    failures: Sequence[Failed] = ()
    """Runs of pairs of which no run has finished."""


def with_pictures(
    sections: Sequence[Section], data: Sequence[SegmentationData | None], note: Note
) -> list[Section]:
    """Add the pictures that fit into a report's size, an equal share for every section."""
    spoken_for = len(render(sections, note).encode()) + _ROOM
    pictured = [each for each in sections if each.examined and each.examined.shots]
    budget = max(0, LIMIT - spoken_for) // max(1, len(pictured))
    return [
        each if opened is None else _with_pictures(each, opened, budget)
        for each, opened in zip(sections, data, strict=True)
    ]


def _with_pictures(section: Section, data: SegmentationData, budget: int) -> Section:
    if section.examined is None:
        return section
    shots = section.examined.shots
    scenes: list[Scene] = fit(shots, data.palette, budget)
    named = [
        (data.class_names[each], "#{:02x}{:02x}{:02x}".format(*data.palette[each]))
        for each in classes_in(shots[: len(scenes)])
        if each < data.classes
    ]
    return replace(section, scenes=scenes, colours=named)


def render(sections: Sequence[Section], note: Note) -> str:
    """Lay the sections out as one page."""
    return _environment().get_template("template.html.jinja").render(sections=sections, note=note)


def write_report(path: Path, sections: Sequence[Section], note: Note) -> int:
    """Write the page.

    Returns:
        Its size in bytes.

    Raises:
        InputError: it would be too large, as with hundreds of long runs, or cannot be written.
    """
    text = render(sections, note)
    size = len(text.encode())
    if size > LIMIT:
        raise InputError(
            f"expected a report below {LIMIT / 1e6:.0f} MB, got {size / 1e6:.1f} MB without any "
            "picture; report on fewer runs at a time"
        )
    write_text(path, text)
    return size


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fakd.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "style": _part("style.css"),
        "script": _part("script.js"),
        "dashes": dashes,
    }
    return environment


def _part(name: str) -> Markup:
    """Read a part of the page that is not escaped, for it is this package's own."""
    return Markup(files("fakd.report").joinpath(name).read_text(encoding="utf-8"))
