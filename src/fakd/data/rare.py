"""Rare class sampling: draw a class, then an image that shows it."""

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from fakd.data.seeds import hash_seed

_DRAW = 5
"""Distinguishes these draws from others with the same seed."""


class ClassOccurrence(NamedTuple):
    """Which classes occur in which training images."""

    shows: Bool[np.ndarray, "images classes"]
    pixels: Int64[np.ndarray, "2 classes"]
    """Pixels of each class in the unlabelled and in the labelled images."""


def class_probabilities(
    pixels: Int64[np.ndarray, " classes"], temperature: float
) -> Float64[np.ndarray, " classes"]:
    r"""Compute the probability that a class is drawn: :math:`P(c) \propto e^{(1 - f_c) / T}`.

    :math:`f_c` is the class's share of the pixels. Rare class sampling of DAFormer (Hoyer et al.,
    2022, arXiv 2111.14887, Eq. 7 and 8), which uses T = 0.01.
    """
    share = pixels / max(int(pixels.sum()), 1)
    weights = np.exp((share.min() - share) / temperature)
    return np.asarray(weights / weights.sum())


class RareDraw:
    """Draws a class by its rareness, then uniformly one of the images that show it.

    Depends only on seed, kind and number of the draw.

    Args:
        shown: Which classes occur in which images.
        temperature: As in `class_probabilities`; smaller values favour the rarest classes more.
        seed: The run's seed.
        kinds: The image indices of each kind, and its rows of `Shown.pixels`.
    """

    def __init__(
        self,
        shown: ClassOccurrence,
        temperature: float,
        seed: int,
        kinds: Mapping[int, tuple[np.ndarray, list[int]]],
    ) -> None:
        self._seed = seed
        self._of: dict[int, tuple[Tensor, list[array]]] = {}
        for kind, (indices, rows) in kinds.items():
            among = indices.astype(np.intc)
            members = [array("i", among[each].tobytes()) for each in shown.shows[among].T]
            classes = [number for number, each in enumerate(members) if len(each)]
            if not classes:
                continue
            chances = class_probabilities(shown.pixels[rows].sum(0)[classes], temperature)
            self._of[kind] = torch.from_numpy(chances), [members[each] for each in classes]

    def __contains__(self, kind: int) -> bool:
        """Return whether any image of a kind shows a class."""
        return kind in self._of

    def order(self, kind: int, count: int) -> tuple[Sequence[int], int]:
        """Draw a class; return its images and a random position among them."""
        generator = torch.Generator().manual_seed(hash_seed(self._seed, _DRAW, kind, count))
        chances, members = self._of[kind]
        chosen = members[int(torch.multinomial(chances, 1, generator=generator))]
        place = int(torch.randint(len(chosen), (1,), generator=generator))
        return chosen, place
