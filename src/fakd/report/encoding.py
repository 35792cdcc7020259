"""Pictures embedded in a page: as many and as large as fit into a number of bytes."""

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from PIL import Image

from fakd.report import figures
from fakd.report.examination import Example

SIDES = (720, 560, 420, 320, 240)
"""Longer sides in pixels that are tried before pictures are left out."""
_LEAST = 4
"""Minimum number of pictures before reducing their size stops."""


class Scene(NamedTuple):
    """An image and its class maps by title, of equal size, encoded as ``data:`` URIs."""

    name: str
    disagreement: float
    width: int
    height: int
    photo: str
    maps: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Number of bytes it adds to a page."""
        return sum(map(len, (self.photo, *self.maps.values())))


def fit(shots: Sequence[Example], palette: figures.Palette, budget: int) -> list[Scene]:
    """Encode as many pictures, as large as possible, as fit into a number of bytes.

    The size is reduced down to 240 pixels to keep four pictures; then pictures are left out.
    """
    fitting: list[Scene] = []
    for side in SIDES:
        scenes = [_scene(shot, palette, side) for shot in shots]
        sizes = accumulate(scene.bytes for scene in scenes)
        fitting = [scene for scene, size in zip(scenes, sizes, strict=True) if size <= budget]
        if len(fitting) >= min(_LEAST, len(shots)):
            break
    return fitting


def _scene(shot: Example, palette: figures.Palette, side: int) -> Scene:
    size = figures.shrink_size(shot.photo.size, side)
    photo = shot.photo.resize(size, Image.Resampling.LANCZOS)
    maps = {}
    for title, classes in shot.maps.items():
        small = Image.fromarray(classes).resize(size, Image.Resampling.NEAREST)
        maps[title] = _uri(_palette_image(np.asarray(small), palette), "PNG", optimize=True)
    uri = _uri(photo, "JPEG", quality=80, optimize=True)
    return Scene(shot.name, shot.disagreement, *size, uri, maps)


def _palette_image(classes: np.ndarray, palette: figures.Palette) -> Image.Image:
    """Convert class ids to a palette image; ignored pixels are black."""
    black = [(0, 0, 0)] * max(1, 256 - len(palette))
    colours = np.array([*palette, *black], dtype=np.uint8)
    if len(colours) > 256:
        return Image.fromarray(colours[classes])
    # IGNORE becomes 255. An "L" image becomes "P" when it gets a palette.
    picture = Image.fromarray(classes.astype(np.uint8))
    picture.putpalette(colours.flatten().tolist())
    return picture


def _uri(picture: Image.Image, kind: str, **options: int | bool) -> str:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    text = base64.b64encode(content.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{text}"
