"""What annotation programs say about an image, and its drawing into a mask of class ids."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt16

Points = Sequence[Sequence[float | int]]
"""Corners (x, y) in pixels; (0, 0) is the upper left corner of the first pixel."""
Size = tuple[int, int]
"""Width and height."""


class Region(NamedTuple):
    """Part of an image that is of one class."""

    name: str | None
    """The class, None for no class."""
    outlines: Sequence[Points] = ()
    holes: Sequence[Points] = ()
    bitmap: Bool[np.ndarray, "height width"] | None = None
    """Instead of outlines."""
    corner: tuple[int, int] = (0, 0)
    """Where the bitmap's upper left pixel lies."""


class Drawing(NamedTuple):
    """The annotation of one image."""

    regions: Iterable[Region]
    """Those that follow lie over those before."""
    size: Size | None = None
    """Size of the image that was annotated, if the annotation tells."""


@dataclass
class Annotations:
    """What an annotation program has exported."""

    title: str
    names: list[str]
    """Classes in order."""
    images: dict[str, Callable[[Size], Drawing]]
    """Annotated images by their path below the root; asked for with the image's size."""
    beneath: str | None = "background"
    """The class of pixels in no region; None for no class."""
    splits: dict[str, list[str]] = field(default_factory=dict)
    """Images of each split, where the export tells."""
    remarks: list[str] = field(default_factory=list)


def drawn(
    drawing: Drawing, size: Size, ids: Mapping[str | None, int], beneath: str | None
) -> UInt16[np.ndarray, "height width"]:
    """Draw regions, each over those before it.

    Args:
        drawing: The regions.
        size: Of the mask.
        ids: Of each class; names that are none of them, and None, have no class.
        beneath: The class of pixels in no region.
    """
    mask = np.full((size[1], size[0]), ids[beneath], dtype=np.uint16)
    for region in drawing.regions:
        inside = np.zeros(mask.shape, dtype=bool)
        for outline in region.outlines:
            inside |= filled(outline, size)
        for hole in region.holes:
            inside &= ~filled(hole, size)
        if region.bitmap is not None:
            left, top = region.corner
            bitmap = region.bitmap[max(0, -top) :, max(0, -left) :]
            part = inside[max(0, top) :, max(0, left) :][: bitmap.shape[0], : bitmap.shape[1]]
            part |= bitmap[: part.shape[0], : part.shape[1]]
        mask[inside] = ids.get(region.name, ids[None])
    return mask


def filled(outline: Points, size: Size) -> Bool[np.ndarray, "height width"]:
    """Fill a polygon: the pixels whose centres lie inside, by the even-odd rule.

    Pillow fills the pixels that the outline touches as well, which makes objects of 8 pixels
    radius a sixth too large.

    >>> filled([(1, 0), (3, 0), (3, 1), (1, 1)], (4, 2)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    width, height = size
    # Crossings of each row with the outline: what lies between the first and the second is inside.
    crossed = np.zeros((height, width + 1), dtype=bool)
    for (x, y), (next_x, next_y) in zip(outline, [*outline[1:], outline[0]], strict=True):
        low, high = (int(np.ceil(each - 0.5)) for each in sorted((y, next_y)))
        rows = np.arange(max(0, low), min(height, high))
        if rows.size:
            crossings = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
            columns = np.ceil(crossings - 0.5).clip(0, width).astype(int)
            crossed[rows, columns] ^= True
    inside: np.ndarray = np.logical_xor.accumulate(crossed, axis=1)[:, :width]
    return inside


def area(outlines: Sequence[Points]) -> float:
    """Area of polygons, by the shoelace formula."""
    total = 0.0
    for outline in outlines:
        x, y = np.array(outline, dtype=float).T
        total += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return total
