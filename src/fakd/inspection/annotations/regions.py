"""Annotated regions of an image, and their rasterisation into a mask of class ids."""

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

from fakd.data.names import tidy
from fakd.errors import InputError
from fakd.inspection.grouping import split_of

Points = Sequence[Sequence[float | int]]
"""Corners (x, y) in pixels; (0, 0) is the upper left corner of the first pixel."""
Size = tuple[int, int]
"""Width and height."""


class Region(NamedTuple):
    """A region of an image with one class."""

    name: str | None
    """The class; None for no class."""
    outlines: Sequence[Points] = ()
    holes: Sequence[Points] = ()
    bitmap: Bool[np.ndarray, "height width"] | None = None
    """Instead of outlines."""
    corner: tuple[int, int] = (0, 0)
    """Position of the bitmap's upper left pixel."""


class Drawing(NamedTuple):
    """The annotation of one image."""

    regions: Sequence[Region]
    """Later regions cover earlier ones."""
    size: Size | None = None
    """Size of the annotated image, if given."""


@dataclass
class Annotations:
    """The export of an annotation program."""

    title: str
    names: list[str]
    """Classes in order."""
    images: dict[str, Callable[[Size], Drawing]]
    """Readers of annotated images by path relative to the root; called with the image's size."""
    beneath: str | None = "background"
    """The class of pixels in no region; None for no class."""
    splits: dict[str, list[str]] = field(default_factory=dict)
    """Images of each split, if the export gives them."""
    remarks: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Errors of images that were left out."""
    sources: dict[str, str] = field(default_factory=dict)
    """The annotation file of each image."""

    def add(
        self, image: str, file: str, read: Callable[[Size], Drawing], split: str | None = None
    ) -> None:
        """Add the annotation of an image from a file; by default its folder determines the split.

        Raises:
            InputError: the image already has an annotation.
        """
        if image in self.images:
            raise InputError(
                f"{image} is annotated twice, in {self.sources[image]} and {file}; keep one, or "
                "give each annotated image a unique name"
                if self.sources[image] != file
                else f"{file} annotates {image} twice; merge the two, or name the image they are of"
            )
        self.images[image], self.sources[image] = read, file
        if (split := split or split_of(str(PurePosixPath(image).parent))) is not None:
            self.splits.setdefault(split, []).append(image)

    @contextmanager
    def skipping_malformed(self, file: str) -> Iterator[None]:
        """Leave out an image whose annotation is malformed, and record the error."""
        try:
            with annotation_errors(file):
                yield
        except InputError as error:
            self.failed.append(str(error))


@contextmanager
def annotation_errors(what: object) -> Iterator[None]:
    """Turn errors caused by malformed annotations into one-line messages."""
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
    """Finds images by the paths in annotations, which may have other folders or none."""

    def __init__(self, images: Iterable[str]) -> None:
        self._all = {*images}
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for image in self._all:
            parts = image.split("/")
            for start in range(len(parts)):
                self._by_end["/".join(parts[start:])].append(image)

    def beside(self, name: str, file: str) -> str | None:
        """Find an image by its path relative to the annotation file."""
        folder = file.rpartition("/")[0]
        path = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
        return path if path in self._all else None

    def find(self, name: str, file: str, split: str | None = None) -> str | None:
        """Find the image that a file annotates; None if it is missing.

        First relative to the file, then by the longest matching end of the path; of several, the
        only one in a folder of the split.

        Raises:
            InputError: several images match.
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
                f"{file} annotates {name}, which may be {several[0]} or {several[1]}; add the "
                "folders to the names in it, or give the images unique names"
            )
        return several[0] if several else None


def draw_regions(
    drawing: Drawing, size: Size, ids: Mapping[str | None, int], beneath: str | None
) -> UInt16[np.ndarray, "height width"]:
    """Draw regions, each over the earlier ones.

    Args:
        drawing: The regions.
        size: Of the mask.
        ids: Of each class, by its tidy name; other names, and None, have no class.
        beneath: The class of pixels in no region.

    Raises:
        InputError: corners are not pixel coordinates.
    """
    corners = [corner for region in drawing.regions for each in region.outlines for corner in each]
    if not np.isfinite(corners).all():
        raise InputError("an outline has a corner that is not a number")
    if corners and np.max(corners) <= 1 < min(size):
        raise InputError(
            "all outlines are within the first pixel, probably because they are shares of width "
            "and height; export them in pixels"
        )
    mask = np.full((size[1], size[0]), ids[beneath], dtype=np.uint16)
    for region in drawing.regions:
        inside = np.zeros(mask.shape, dtype=bool)
        for outline in region.outlines:
            inside |= fill_polygon(outline, size)
        for hole in region.holes:
            inside &= ~fill_polygon(hole, size)
        if region.bitmap is not None:
            left, top = region.corner
            bitmap = region.bitmap[max(0, -top) :, max(0, -left) :]
            part = inside[max(0, top) :, max(0, left) :][: bitmap.shape[0], : bitmap.shape[1]]
            part |= bitmap[: part.shape[0], : part.shape[1]]
        mask[inside] = ids.get(region.name and tidy(region.name), ids[None])
    return mask


def fill_polygon(outline: Points, size: Size) -> Bool[np.ndarray, "height width"]:
    """Fill a polygon: the pixels whose centres are inside, by the even-odd rule.

    Pillow also fills pixels that the outline touches, which makes objects of 8 pixels radius a
    sixth too large.

    >>> fill_polygon([(1, 0), (3, 0), (3, 1), (1, 1)], (4, 2)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    width, height = size
    # Where the outline crosses each row; pixels between an odd and the next crossing are inside.
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
