"""Interface of stored answers: find a sample's map, read it, and crop it like its view."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from fakd.data.dataset import Colour, Split
from fakd.errors import InputError, list_some

Size = tuple[int, int]
"""Height and width of an image."""


class Maps(NamedTuple):
    """A teacher's answer for one whole image."""

    logits: Float32[np.ndarray, "classes rows cols"]
    features: Float32[np.ndarray, "channels rows cols"] | None = None


class Answers(ABC):
    """Answers for the images of a data set, found by name; picklable."""

    title: str
    classes: int
    class_names: tuple[str, ...] | None = None
    palette: tuple[Colour, ...] | None = None
    channels: int | None = None
    """Number of feature channels; None if no features are stored."""
    fingerprint: str
    """Identifies the version of the answers."""
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def find(self, part: str, split: Split) -> Sequence[Any]:
        """Find the answer of each sample.

        Args:
            part: ``train`` or ``val``.
            split: The samples, looked up by name.

        Raises:
            InputError: a sample has no answer, or its image has changed.
        """

    @abstractmethod
    def read(self, part: str, place: Any, size: Size) -> Maps:
        """Read the answer at a position returned by `find`, for an image of this size.

        Raises:
            InputError: it cannot be read, or belongs to another image.
        """


class Lookup:
    """Crops the maps of samples like their views, in the loader processes.

    Args:
        answers: The answers.
        part: ``train`` or ``val``.
        places: The position of each sample's answer.
        stride: Side of a map cell in pixels of the view.
    """

    def __init__(self, answers: Answers, part: str, places: Sequence[Any], stride: int) -> None:
        self._answers, self._part, self._places, self._stride = answers, part, places, stride

    def __call__(self, index: int, geometry: Any) -> tuple[Any, ...]:
        """Read and crop the maps of one sample."""
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


def missing_answers(
    title: str, part: str, names: Sequence[str], count: int, remedy: str
) -> InputError:
    """Return the error for samples without an answer."""
    return InputError(
        f"{title} has no answer for {len(names)} of {count} {part} images: {list_some(names, 3)}; "
        f"{remedy}"
    )
