"""Image sizes that an external network accepts, and padding or resizing of other images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from fakd.errors import InputError

Size = tuple[int, int]
ODD, EVEN = (95, 125), (96, 128)
_MULTIPLES = (2, 4, 8, 14, 16, 28, 32, 64, 128)
_SQUARES = (224, 256, 384, 512, 513, 518, 640, 768, 1024, 128, 64)


class FittedImages(NamedTuple):
    """Images at a size that the network accepts."""

    images: Tensor
    padded_from: Size | None = None
    """Height and width without the padding below and to the right; None without padding."""


@dataclass(frozen=True)
class Sizes:
    """Image sizes that a network accepts: any, multiples of a number, or a fixed one.

    Args:
        multiple: number that both sides must be multiples of.
        fixed: the only accepted height and width; None if there are others.
    """

    multiple: int = 1
    fixed: Size | None = None

    def fit(self, images: Tensor, stride: int | None) -> FittedImages:
        """Pad or resize normalised images to a size that the network accepts.

        To multiples they are padded below and to the right with zeros, the mean colour, if the
        logits can be cropped exactly, that is if the sides are multiples of the logits' ``stride``.
        Otherwise, and to a fixed size, they are resized (bilinear, antialiased).
        """
        height, width = images.shape[-2:]
        wanted = self.fixed or (
            height + -height % self.multiple,
            width + -width % self.multiple,
        )
        if wanted == (height, width):
            return FittedImages(images)
        if self.fixed or stride is None or height % stride or width % stride:
            return FittedImages(F.interpolate(images, wanted, mode="bilinear", antialias=True))
        padding = (0, wanted[1] - width, 0, wanted[0] - height)
        return FittedImages(F.pad(images, padding), (height, width))

    def __str__(self) -> str:
        if self.fixed:
            return f"{self.fixed[0]}x{self.fixed[1]}, to which images are resized"
        if self.multiple > 1:
            return f"multiples of {self.multiple}, to which images are padded"
        return "any"


def crop(maps: Tensor, shown: FittedImages) -> Tensor:
    """Crop the padding from a map."""
    if shown.padded_from is None:
        return maps
    rows, cols = (
        -(-side * cells // whole)
        for side, cells, whole in zip(
            shown.padded_from, maps.shape[-2:], shown.images.shape[-2:], strict=True
        )
    )
    return maps[..., :rows, :cols]


def find_sizes(
    grid_at: Callable[[Size], Size], side: Size | None, likely: Iterable[Size] = ()
) -> Sizes:
    """Find the sizes that a network accepts, by trying.

    A size counts as accepted only if the logits' grid covers the image, so not if the network
    ignores pixels that do not fill a patch.

    Args:
        grid_at: runs the network on images of a size; returns rows and columns of its logits.
        side: the fixed size, if stated by the caller.
        likely: sizes that it may be designed for.

    Raises:
        InputError: it runs at no size.
    """
    problem = ""

    def tried(size: Size) -> Size | None:
        nonlocal problem
        try:
            return grid_at(size)
        except InputError:
            raise
        except Exception as error:
            problem = problem or (str(error).splitlines() or [type(error).__name__])[0]
            return None

    if side is not None:
        if tried(side) is None:
            raise InputError(f"the network must run on {side[0]}x{side[1]} pixels, got '{problem}'")
        return Sizes(fixed=side)
    even, odd = tried(EVEN), tried(ODD)
    if even and odd and _covers(even, odd):
        return Sizes()
    for multiple in _MULTIPLES:
        first = max(1, 64 // multiple) | 1
        size = (multiple * first, multiple * (first + 2))
        if (grid := tried(size)) and size[0] * grid[1] == size[1] * grid[0]:
            return Sizes(multiple)
    for square in (*likely, *((each, each) for each in _SQUARES)):
        if tried(square):
            return Sizes(fixed=square)
    raise InputError(
        f"the network must run on images of some size, but failed at all sizes tried, first with "
        f"'{problem}'; give the side of images that it takes (side)"
    )


def _covers(even: Size, odd: Size) -> bool:
    """Return whether the odd size's grid misses less than one cell of the even size's stride."""
    sides = zip(ODD, odd, EVEN, even, strict=True)
    return all(cells * whole / grid > side - whole / grid for side, cells, whole, grid in sides)
