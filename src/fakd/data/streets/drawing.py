"""The canvas of a synthetic street: an image of part numbers in perspective."""

from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fakd.data.dataset import Colour

CLASSES: tuple[tuple[str, Colour], ...] = (
    ("road", (128, 64, 128)), ("lane marking", (240, 240, 240)), ("pavement", (244, 35, 232)),
    ("building", (90, 90, 90)), ("fence", (190, 153, 153)), ("pole", (255, 160, 60)),
    ("sign", (250, 220, 0)), ("vegetation", (107, 142, 35)), ("sky", (70, 130, 180)),
    ("pedestrian", (220, 20, 60)), ("cyclist", (119, 230, 220)), ("car", (0, 0, 142)),
)  # fmt: skip
"""Class names and colours. Traffic lights are signs; vans and lorries are cars."""

ROAD, MARKING, PAVEMENT, BUILDING, FENCE, POLE = range(6)
SIGN, VEGETATION, SKY, PEDESTRIAN, CYCLIST, CAR = range(6, 12)

WALL = np.dtype([(name, "f4") for name in ("storey", "bay", "open", "lit", "aside")])
"""Windows: vertical and horizontal spacing in metres, the share of both that is open, the share
that is lit, and the lateral distance of a wall along the street; 0 for a wall that faces the
camera."""

PART = np.dtype(
    [("label", "i2"), ("colour", "f4", 3), ("ahead", "f4"), ("rough", "f4"), ("wall", WALL)]
)
"""Properties of one part number: class, colour before lighting, distance in metres for fog (0 on
the ground, where each pixel has its own), amplitude of its texture, windows."""

Point = tuple[float, float, float]
"""Metres to the right of the camera, above the ground, and ahead."""

Stroke = tuple[Colour, float, float, float, float, float]
"""A line's colour, its two ends in metres to the right and up, and its width."""

NEAREST = 1.6
"""Near clipping distance in metres."""


class Canvas:
    """An image of part numbers from a camera in the street; later parts cover earlier ones.

    All randomness of a scene comes from its ``dice``.
    """

    def __init__(self, size: tuple[int, int], dice: Random) -> None:
        height, width = size
        self.dice = dice
        self.focal = width * dice.uniform(0.72, 1.05)
        self.centre = width * dice.uniform(0.38, 0.62)
        self.horizon = height * dice.uniform(0.4, 0.56)
        self.eye = dice.uniform(1.3, 2.1)
        # Curvature of the street, in metres sideways per squared metre ahead.
        self.bend = dice.uniform(-0.0016, 0.0016) if dice.random() < 0.5 else 0.0
        self.dusk, self.sun = dice.random() < 0.16, dice.choice((-1, 1))
        self.parts: list[tuple[Any, ...]] = []
        self.numbers, self.shadows = (Image.new(mode, (width, height)) for mode in "IL")
        self._draw, self._shade = ImageDraw.Draw(self.numbers), ImageDraw.Draw(self.shadows)

    def part(
        self, label: int, colour: Colour, ahead: float = 0.0, rough: float = 0.04,
        wall: tuple[float, ...] = (1.0, 1.0, 0.0, 0.0, 0.0),
    ) -> int:  # fmt: skip
        """Add a `PART`; return its number."""
        self.parts.append((label, colour, ahead, rough, wall))
        return len(self.parts) - 1

    def project(self, *points: Point) -> list[tuple[int, int]]:
        """Project points to pixels."""
        pixels = []
        for right, up, ahead in points:
            distance = max(ahead, NEAREST)
            scale = self.focal / distance
            x = self.centre + scale * (right + self.bend * distance * distance)
            pixels.append((int(x), int(self.horizon + scale * (self.eye - up))))
        return pixels

    def face(self, part: int, *points: Point) -> None:
        """Draw a polygon."""
        self._draw.polygon(self.project(*points), fill=part)

    def along(self, part: int, x: float, low: float, high: float, near: float, far: float) -> None:
        """Draw a vertical rectangle along the street."""
        self.face(part, (x, low, near), (x, high, near), (x, high, far), (x, low, far))

    def ground(
        self, part: int, left: float, right: float, near: float, far: float, up: float = 0.0
    ) -> None:
        """Draw a horizontal rectangle, in steps that follow the street's curvature."""
        bends = [near * (far / near) ** (step / 6) for step in range(1, 6)]
        stops = [near, *(bends if far > 4 * near else ()), far]
        outline = [(left, up, stop) for stop in stops] + [(right, up, stop) for stop in stops[::-1]]
        self.face(part, *outline)

    def shadow(self, darkness: float, left: float, right: float, near: float, far: float) -> None:
        """Darken a rectangle of the ground."""
        corners = (left, 0.0, near), (left, 0.0, far), (right, 0.0, far), (right, 0.0, near)
        self._shade.polygon(self.project(*corners), fill=int(255 * darkness))

    def figure(
        self, label: int, right: float, ahead: float, *strokes: Stroke, rough: float = 0.04
    ) -> None:
        """Draw strokes that face the camera; one with equal ends is a disc."""
        scale = self.focal / max(ahead, NEAREST)
        for colour, x, y, u, v, metres in strokes:
            part = self.part(label, colour, ahead, rough)
            first, last = self.project((right + x, y, ahead), (right + u, v, ahead))
            width = max(int(scale * metres + 0.5), 1)
            if first == last:
                left, top = first[0] - width // 2, first[1] - width // 2
                self._draw.ellipse((left, top, left + width, top + width), fill=part)
            else:
                self._draw.line((first, last), fill=part, width=width)
