"""The report as one HTML file: nothing is fetched, and all that it shows is inside."""

import base64
import io
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from fakd.data import SegmentationData
from fakd.errors import InputError
from fakd.files import write_text
from fakd.report.charts import COLOURS, DASHES
from fakd.report.examination import Shot
from fakd.report.page import Picture, Scene, Section
from fakd.runs.naming import title_of
from fakd.runs.reading import Failure
from fakd.types import IGNORE

LIMIT = 5_000_000
"""Bytes that a report stays below, so that it can be sent by mail."""
_ROOM = 100_000
"""Bytes that pictures leave for the file's own frame."""
SIDES = (720, 560, 420, 320, 240)
"""Pixels of the longer side that are tried before pictures are left out."""
_LEAST = 4
"""Pictures that are rather made smaller than left out."""


class Note(NamedTuple):
    """How a report came to be, and what of it has no section."""

    made: str
    version: str
    command: str
    failures: Sequence[Failure] = ()
    """Runs of pairs of which no run has finished."""


def add_pictures(
    sections: Sequence[Section], data: Sequence[SegmentationData | None], note: Note
) -> None:
    """Add the pictures that fit into a report's size, an equal share for every section."""
    spoken_for = len(render(sections, note).encode()) + _ROOM
    pictured = [each for each in sections if each.examined and each.examined.shots]
    budget = max(0, LIMIT - spoken_for) // max(1, len(pictured))
    for section, opened in zip(sections, data, strict=True):
        if opened is not None and section.examined is not None:
            shots = section.examined.shots
            section.scenes = fit(shots, opened.palette, budget)
            section.colours = [
                (opened.class_names[each], "#{:02x}{:02x}{:02x}".format(*opened.palette[each]))
                for each in _classes_in(shots[: len(section.scenes)])
                if each < opened.classes
            ]


def fit(shots: Sequence[Shot], palette: Sequence[Sequence[int]], budget: int) -> list[Scene]:
    """Encode as many pictures, as large as fit into a number of bytes.

    Sizes are lowered down to 240 pixels with four pictures or more; then pictures are left out.
    """
    for side in SIDES:
        scenes = _within([_scene(shot, palette, side) for shot in shots], budget)
        if len(scenes) >= min(_LEAST, len(shots)):
            return scenes
    return scenes if shots else []


def _within(scenes: Sequence[Scene], budget: int) -> list[Scene]:
    """Keep the first scenes that together stay within a number of bytes."""
    sizes = accumulate(scene.bytes for scene in scenes)
    return [scene for scene, size in zip(scenes, sizes, strict=True) if size <= budget]


def _classes_in(shots: Sequence[Shot]) -> list[int]:
    """List the ids of the classes that occur in any map."""
    maps = [classes for shot in shots for classes in shot.maps.values()]
    found = {int(each) for classes in maps for each in np.unique(classes)}
    return sorted(found - {IGNORE})


def _scene(shot: Shot, palette: Sequence[Sequence[int]], side: int) -> Scene:
    scale = min(1.0, side / max(shot.photo.size))
    width, height = (max(1, round(length * scale)) for length in shot.photo.size)
    photo = shot.photo.resize((width, height), Image.Resampling.LANCZOS)
    maps = []
    for title, classes in shot.maps.items():
        small = Image.fromarray(classes).resize((width, height), Image.Resampling.NEAREST)
        maps.append(
            Picture(title, _uri(_painted(np.asarray(small), palette), "PNG", optimize=True))
        )
    return Scene(
        shot.name,
        shot.disagreement,
        width,
        height,
        Picture("image", _uri(photo, "JPEG", quality=80, optimize=True)),
        maps,
    )


def _painted(classes: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    """Turn class ids into a palette picture, of few classes; ignored pixels are black."""
    colours = np.zeros((max(256, len(palette) + 1), 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    if len(colours) > 256:
        return Image.fromarray(colours[classes])
    # IGNORE becomes 255. An "L" picture that is given a palette becomes a "P" one.
    picture = Image.fromarray(classes.astype(np.uint8))
    picture.putpalette(colours.flatten().tolist())
    return picture


def _uri(picture: Image.Image, kind: str, **options: int | bool) -> str:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    text = base64.b64encode(content.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"


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
        "hues": len(COLOURS),
        "dashes": DASHES,
    }
    environment.filters["title_of"] = title_of
    return environment


def _part(name: str) -> Markup:
    """Read a part of the page that is not escaped, for it is this package's own."""
    return Markup(files("fakd.report").joinpath(name).read_text(encoding="utf-8"))
