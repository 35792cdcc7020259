"""What a made-up street is drawn on: a map of parts in perspective, and what each part is."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from fakd.data.dataset import Colour

Point = tuple[float, float, float]
"""Metres to the right of the camera, above the ground, and ahead."""

NEAREST = 1.6
"""Depth in metres at which things are cut off before they reach the camera."""

FAR = 160.0
"""Depth at which the street ends."""


def tinted(dice: Random, colour: Colour, spread: float = 18.0) -> Colour:
    """Vary a colour in brightness and, less, in hue."""
    shift, third = dice.uniform(-spread, spread), spread / 3
    red, green, blue = (
        min(max(int(value + shift + dice.uniform(-third, third)), 0), 255) for value in colour
    )
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours, ``share`` of it the second."""
    rest = 1 - share
    return (
        int(first[0] * rest + second[0] * share),
        int(first[1] * rest + second[1] * share),
        int(first[2] * rest + second[2] * share),
    )


def rectangle(left: float, right: float, near: float, far: float) -> tuple[Point, ...]:
    """Corners of a rectangle on the ground."""
    return (left, 0.0, near), (left, 0.0, far), (right, 0.0, far), (right, 0.0, near)


class Camera(NamedTuple):
    """Where the street is seen from, in pixels of the canvas."""

    focal: float
    centre: float
    horizon: float
    height: float
    """Metres above the ground."""
    bend: float
    """How far the street leaves its straight course, in metres per squared metre ahead."""

    def project(self, *points: Point) -> list[tuple[int, int]]:
        """Find the pixels where points are seen."""
        pixels = []
        for right, up, ahead in points:
            distance = max(ahead, NEAREST)
            scale = self.focal / distance
            x = self.centre + scale * (right + self.bend * distance * distance)
            pixels.append((int(x), int(self.horizon + scale * (self.height - up))))
        return pixels


class Part(NamedTuple):
    """How everything drawn with one number looks, and what class it is."""

    label: int
    colour: Colour
    ahead: float
    """Metres of air in front of it, for fog; 0 on the ground, where each pixel has its own."""
    grain: float = 0.04
    """Amplitude of fine texture."""
    clump: float = 0.0
    """Amplitude of coarse texture."""
    on_ground: bool = False
    wall: int = 0
    """Number of the wall whose windows it shows; 0 for none."""


class Wall(NamedTuple):
    """The pattern of a wall, in metres along it and up."""

    sideways: bool
    """Whether it runs along the street, at ``at`` metres to the side, or faces it, ``at`` ahead."""
    at: float
    storey: float
    spacing: float
    window_width: float
    window_height: float
    glass: Colour
    lit: float
    """Share of windows with a light on."""
    bricks: float
    """Contrast of the courses of brick."""


class Canvas:
    """A picture of part numbers; whatever is drawn later hides what is behind it."""

    def __init__(self, width: int, height: int, camera: Camera) -> None:
        self.width, self.height, self.camera = width, height, camera
        self.parts: list[Part] = []
        self.walls: list[Wall] = []
        self._image = Image.new("I", (width, height))
        self._draw = ImageDraw.Draw(self._image)
        self._shadows = Image.new("L", (width, height))
        self._shade = ImageDraw.Draw(self._shadows)

    @property
    def numbers(self) -> np.ndarray:
        """Which part each pixel shows."""
        return np.asarray(self._image)

    @property
    def shadows(self) -> Image.Image:
        """How much of the sun each pixel of the ground misses, 0 to 255."""
        return self._shadows

    def add(self, part: Part) -> int:
        """Register a part and return the number to draw it with."""
        self.parts.append(part)
        return len(self.parts) - 1

    def wall(self, wall: Wall) -> int:
        """Register a wall and return its number."""
        self.walls.append(wall)
        return len(self.walls)

    def face(self, part: int, *points: Point) -> None:
        """Draw a polygon given in metres."""
        self._draw.polygon(self.camera.project(*points), fill=part)

    def flat(self, part: int, points: Sequence[tuple[float, float]]) -> None:
        """Draw a polygon given in pixels."""
        self._draw.polygon([(int(x), int(y)) for x, y in points], fill=part)

    def upright(
        self, part: int, left: float, right: float, low: float, high: float, ahead: float
    ) -> None:
        """Draw a rectangle that faces the camera, at least two pixels wide and one high."""
        (x0, y0), (x1, y1) = self.camera.project((left, high, ahead), (right, low, ahead))
        self._draw.rectangle((x0, y0, max(x1 - 1, x0 + 1), max(y1 - 1, y0)), fill=part)

    def disc(
        self, part: int, right: float, up: float, ahead: float, radius: float, squash: float = 1.0
    ) -> None:
        """Draw an ellipse that faces the camera, ``squash`` times as wide as high."""
        self._draw.ellipse(self._bounds(right, up, ahead, radius, squash), fill=part)

    def ring(
        self, part: int, right: float, up: float, ahead: float, radius: float, squash: float = 1.0
    ) -> None:
        """Draw the outline of an ellipse."""
        box = self._bounds(right, up, ahead, radius, squash)
        self._draw.ellipse(box, outline=part, width=max((box[3] - box[1]) // 8, 1))

    def stroke(self, part: int, first: Point, second: Point, metres: float) -> None:
        """Draw a line of a width in metres, at least one pixel wide."""
        width = int(self.camera.focal * metres / max(first[2], NEAREST) + 0.5)
        self._draw.line(self.camera.project(first, second), fill=part, width=max(width, 1))

    def shadow(self, darkness: float, *points: Point) -> None:
        """Darken a polygon of the ground."""
        corners = self.camera.project(*points)
        self._shade.polygon(corners, fill=int(255 * darkness))

    def _bounds(
        self, right: float, up: float, ahead: float, radius: float, squash: float
    ) -> tuple[int, int, int, int]:
        (x0, y0), (x1, y1) = self.camera.project(
            (right - radius * squash, up + radius, ahead),
            (right + radius * squash, up - radius, ahead),
        )
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
