"""What every kind of stored answers can do: find a sample's map, read it, cut it as its view is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from fakd.data.dataset import Colour, Split
from fakd.errors import InputError, some

Size = tuple[int, int]
"""Height and width of an image."""


class Maps(NamedTuple):
    """A teacher's answer for one whole image."""

    logits: Float32[np.ndarray, "classes rows cols"]
    features: Float32[np.ndarray, "channels rows cols"] | None = None


class Answers(ABC):
    """Answers for the images of a data set, found by name; can be sent to other processes."""

    title: str
    classes: int
    class_names: tuple[str, ...] | None = None
    palette: tuple[Colour, ...] | None = None
    channels: int | None = None
    """Of the features; None where none are stored."""
    fingerprint: str
    """Tells one state of the answers from another."""
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def find(self, part: str, split: Split) -> Sequence[Any]:
        """Tell where each sample's answer lies.

        Args:
            part: ``train`` or ``val``.
            split: whose samples; their names are looked up.

        Raises:
            InputError: a sample has no answer, or another image was asked about.
        """

    @abstractmethod
    def read(self, part: str, place: Any, size: Size) -> Maps:
        """Read what lies at a place that was found, of an image of this size.

        Raises:
            InputError: it cannot be read, or is of another image.
        """


class Lookup:
    """Cuts the maps of samples as their views are, in whatever process loads them.

    Args:
        answers: where they lie.
        part: of the data.
        places: where each sample's answer lies.
        stride: how many pixels of a view, each way, a cell of its map spans.
    """

    def __init__(self, answers: Answers, part: str, places: Sequence[Any], stride: int) -> None:
        self._answers, self._part, self._places, self._stride = answers, part, places, stride

    def __call__(self, index: int, geometry: Any) -> tuple[Any, ...]:
        """Look one sample's maps up."""
        import torch

        from fakd.data.transforms import cut_like

        size = geometry.rows.before, geometry.columns.before
        maps = self._answers.read(self._part, self._places[index], size)
        grid = tuple(math.ceil(side / self._stride) for side in geometry.size)
        return tuple(
            cut_like(torch.from_numpy(each), geometry, grid, continued=True)
            for each in maps
            if each is not None
        )


def missing(title: str, part: str, names: Sequence[str], count: int, remedy: str) -> InputError:
    """Say which samples have no answer."""
    return InputError(
        f"{title} has no answer for {len(names)} of {count} {part} images: {some(names, 3)}; "
        f"{remedy}"
    )
