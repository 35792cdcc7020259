"""Pictures that are part of a page, made as small as the page's size allows."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fakd.report.examination import Shot
from fakd.types import IGNORE

SIDES = (720, 560, 420, 320, 240)
"""Pixels of the longer side that are tried before pictures are left out."""
_LEAST = 4
"""Pictures that are rather made smaller than left out."""


@dataclass(frozen=True)
class Layer:
    """One picture of a scene: the image, the truth, or what a network says."""

    title: str
    uri: str
    """The whole file, as a ``data:`` address."""


@dataclass(frozen=True)
class Scene:
    """An image and its maps, of equal size."""

    name: str
    disagreement: float
    width: int
    height: int
    photo: Layer
    maps: Sequence[Layer]

    @property
    def bytes(self) -> int:
        """What it adds to a page."""
        return sum(len(each.uri) for each in (self.photo, *self.maps))


def fit(shots: Sequence[Shot], palette: Sequence[Sequence[int]], budget: int) -> list[Scene]:
    """Encode as many pictures, as large as fit into a number of bytes.

    Sizes are lowered down to 240 pixels with four pictures or more; then pictures are left out.
    """
    for side in SIDES:
        scenes = within([_scene(shot, palette, side) for shot in shots], budget)
        if len(scenes) >= min(_LEAST, len(shots)):
            return scenes
    return scenes if shots else []


def within(scenes: Sequence[Scene], budget: int) -> list[Scene]:
    """Keep the first scenes that together stay within a number of bytes."""
    kept: list[Scene] = []
    for scene in scenes:
        budget -= scene.bytes
        if budget < 0:
            break
        kept.append(scene)
    return kept


def classes_in(shots: Sequence[Shot]) -> list[int]:
    """List the ids of the classes that occur in any map."""
    maps = [classes for shot in shots for classes in shot.maps.values()]
    found = {int(each) for classes in maps for each in np.unique(classes)}
    return sorted(found - {IGNORE})


def _scene(shot: Shot, palette: Sequence[Sequence[int]], side: int) -> Scene:
    scale = min(1.0, side / max(shot.photo.size))
    width, height = (max(1, round(length * scale)) for length in shot.photo.size)
    photo = shot.photo.resize((width, height), Image.Resampling.LANCZOS)
    layers = []
    for title, classes in shot.maps.items():
        small = Image.fromarray(classes).resize((width, height), Image.Resampling.NEAREST)
        layers.append(
            Layer(title, _uri(_painted(np.asarray(small), palette), "PNG", optimize=True))
        )
    return Scene(
        shot.name,
        shot.disagreement,
        width,
        height,
        Layer("image", _uri(photo, "JPEG", quality=80, optimize=True)),
        layers,
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
