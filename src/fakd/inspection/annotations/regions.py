"""What annotation programs say about an image, and its drawing into a mask of class ids."""

import posixpath
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt16

from fakd.errors import InputError
from fakd.inspection.grouping import split_of

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

    regions: Sequence[Region]
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
    failed: list[str] = field(default_factory=list)
    """What is wrong with images that were left out."""
    sources: dict[str, str] = field(default_factory=dict)
    """The files that annotate the images."""

    def add(
        self, image: str, file: str, read: Callable[[Size], Drawing], split: str | None = None
    ) -> None:
        """Take the annotation of an image from a file; its folder tells the split if nothing does.

        Raises:
            InputError: there is one already.
        """
        if image in self.images:
            raise InputError(
                f"{image} is annotated twice, in {self.sources[image]} and {file}; keep one, or "
                "give each annotated image a name of its own"
                if self.sources[image] != file
                else f"{file} annotates {image} twice; merge the two, or name the image they are of"
            )
        self.images[image], self.sources[image] = read, file
        if (split := split or split_of(str(PurePosixPath(image).parent))) is not None:
            self.splits.setdefault(split, []).append(image)

    @contextmanager
    def leaving_out(self, file: str) -> Iterator[None]:
        """Leave an image out, and say so, whose annotation lacks what its format promises."""
        try:
            with understood(file):
                yield
        except InputError as error:
            self.failed.append(str(error))


@contextmanager
def understood(what: object) -> Iterator[None]:
    """Say in one line that annotations lack what their format promises."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OSError, zlib.error) as error:
        raise InputError(
            f"cannot read the annotations in {what} ({type(error).__name__}: {error}); export them "
            "again, or export masks"
        ) from error


class Places:
    """Images by their paths, as annotations name them: with other folders, or none."""

    def __init__(self, images: Iterable[str]) -> None:
        self._all = {*images}
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for image in self._all:
            parts = image.split("/")
            for start in range(len(parts)):
                self._by_end["/".join(parts[start:])].append(image)

    def beside(self, name: str, file: str) -> str | None:
        """Find an image by the path that leads to it from the file that speaks of it."""
        folder = file.rpartition("/")[0]
        path = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
        return path if path in self._all else None

    def find(self, name: str, file: str, split: str | None = None) -> str | None:
        """Find the image of which a file speaks; None if it is not there.

        Beside the file, else the one whose path ends in most of the name; of several, the only one
        in a folder of the split.

        Raises:
            InputError: several images may be meant.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        if (found := self.beside(name, file)) is not None or (ends and ends[0] in self._all):
            return found or ends[0]
        several = next((each for end in ends if (each := self._by_end.get(end))), [])
        of_split = [each for each in several if split is not None and split_of(each) == split]
        several = sorted(of_split if len(of_split) == 1 else several)
        if len(several) > 1:
            raise InputError(
                f"{file} speaks of {name}, which may be {several[0]} or {several[1]}; write the "
                "folders of images into it, or give images names of their own"
            )
        return several[0] if several else None


def drawn(
    drawing: Drawing, size: Size, ids: Mapping[str | None, int], beneath: str | None
) -> UInt16[np.ndarray, "height width"]:
    """Draw regions, each over those before it.

    Args:
        drawing: The regions.
        size: Of the mask.
        ids: Of each class; names that are none of them, and None, have no class.
        beneath: The class of pixels in no region.

    Raises:
        InputError: corners are no pixels.
    """
    corners = [corner for region in drawing.regions for each in region.outlines for corner in each]
    if not np.isfinite(corners).all():
        raise InputError("an outline has a corner that is no number")
    if corners and np.max(corners) <= 1 < min(size):
        raise InputError(
            "all outlines lie within its first pixel, as shares of width and height would; export "
            "them in pixels"
        )
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
