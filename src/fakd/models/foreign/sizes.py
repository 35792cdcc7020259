"""Which image sizes a foreign network takes, and how images of other sizes are shown to it."""

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


class Shown(NamedTuple):
    """Images as the network takes them."""

    images: Tensor
    padded_from: Size | None = None
    """What of them is image, from the upper left corner on; None for all."""


@dataclass(frozen=True)
class Sizes:
    """What image sizes a network takes: any, multiples of a number, or one.

    Args:
        multiple: what both sides must be multiples of.
        fixed: the one height and width it takes; None for many.
    """

    multiple: int = 1
    fixed: Size | None = None

    def fit(self, images: Tensor, stride: int | None) -> Shown:
        """Bring normalised images to a size the network takes.

        For multiples they are padded with zeros, the mean colour, below and to the right, if the
        logits can be cropped exactly, that is if the sides are multiples of the logits' ``stride``.
        Else, and to a fixed size, they are resized (bilinear, antialiased).
        """
        height, width = images.shape[-2:]
        wanted = self.fixed or (
            height + -height % self.multiple,
            width + -width % self.multiple,
        )
        if wanted == (height, width):
            return Shown(images)
        if self.fixed or stride is None or height % stride or width % stride:
            return Shown(F.interpolate(images, wanted, mode="bilinear", antialias=True))
        padding = (0, wanted[1] - width, 0, wanted[0] - height)
        return Shown(F.pad(images, padding), (height, width))

    def __str__(self) -> str:
        if self.fixed:
            return f"{self.fixed[0]}x{self.fixed[1]}, to which images are resized"
        if self.multiple > 1:
            return f"multiples of {self.multiple}, to which images are padded"
        return "any"


def crop(maps: Tensor, shown: Shown) -> Tensor:
    """Cut a map of padded images to what is image."""
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
    """Find what sizes a network takes, by trying.

    A size counts if the logits' grid covers the image: what only drops the pixels that its patches
    leave over does not take the size.

    Args:
        grid_at: runs the network on images of a size; the rows and columns of its logits.
        side: the one size that the caller says it takes.
        likely: sizes that it may be made for.

    Raises:
        InputError: it runs at none.
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
        f"the network must run on images of some size and none of those tried works, the first "
        f"said '{problem}'; give the side of an image it takes (side)"
    )


def _covers(even: Size, odd: Size) -> bool:
    """Tell whether the odd size's grid leaves out less than a cell of the even one's stride."""
    sides = zip(ODD, odd, EVEN, even, strict=True)
    return all(cells * whole / grid > side - whole / grid for side, cells, whole, grid in sides)
