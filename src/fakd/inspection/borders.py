"""Detection of void, the value without a name that annotators leave between classes."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Integer
from scipy.stats import entropy

from fakd.data.masks import MaskValue, Pixels

_MASKS = 0.9
"""Minimum share of masks that contain void."""
_AREA = 0.15
"""Maximum share of pixels that are void."""
_BORDERS = 0.25
"""Minimum share of void in the total length of borders between values."""
_THIN, _MOSTLY = 0.05, 2 / 3
"""Minimum share of void's runs along rows and columns that are shorter than this share of the
side."""
_EVEN = 0.5
"""Minimum effective number of neighbours, relative to that of values at all borders."""
_NEIGHBOURS = 1.6
"""Minimum effective number of neighbours: a value with one, and a little of another, is part of an
object."""

_PLACES = np.array([1 << 16, 1 << 8, 1])
"""Weights that pack red, green and blue into one number."""


def is_void(value: MaskValue, masks: Iterable[Pixels]) -> bool:
    """Return whether a value lies along the borders of the others, wherever these are.

    Void occurs in nearly every mask, is thin, has long borders for its few pixels, and its
    effective number of neighbours is comparable to that of the values at all borders. An effective
    number is the exponential of the entropy of border lengths, so it is 2 for two equally long
    ones.

    Args:
        value: An id, or a colour.
        masks: Some masks of the data set.
    """
    own = int(np.dot(value, _PLACES)) if isinstance(value, tuple) else value
    seen = count = pixels = area = 0
    thin: list[bool] = []
    own_borders, borders = np.zeros(0), np.zeros(0)
    known: dict[int, int] = {own: 0}
    for mask in masks:
        coded = _coded(mask, value)
        values, places = np.unique(coded, return_inverse=True)
        numbers = np.array([known.setdefault(each, len(known)) for each in values.tolist()])
        numbered = numbers[places.reshape(coded.shape)]
        lengths = np.zeros((len(known), len(known)))
        for turned in (numbered, numbered.T):
            one, other = turned[1:], turned[:-1]
            np.add.at(lengths, (one[one != other], other[one != other]), 1)
            steps = np.diff(np.pad(turned == 0, ((0, 0), (1, 1))).astype(np.int8).ravel())
            runs = np.flatnonzero(steps < 0) - np.flatnonzero(steps > 0)
            thin += (runs < _THIN * turned.shape[1]).tolist()
        lengths += lengths.T
        more = len(known) - len(borders)
        own_borders = np.pad(own_borders, (0, more)) + lengths[0]
        borders = np.pad(borders, (0, more)) + lengths.sum(0)
        here = int((numbered == 0).sum())
        seen, count, pixels, area = seen + (here > 0), count + 1, pixels + here, area + coded.size
    if seen < _MASKS * max(1, count) or pixels > _AREA * area or len(known) < 3:
        return False
    if borders[0] < _BORDERS * borders.sum() / 2 or np.mean(thin) < _MOSTLY:
        return False
    neighbours, all_of_them = (np.exp(entropy(each[1:])) for each in (own_borders, borders))
    return bool(neighbours >= max(_NEIGHBOURS, _EVEN * all_of_them))


def _coded(pixels: Pixels, value: MaskValue) -> Integer[np.ndarray, "height width"]:
    """Pack colours into one number, and greys as colours if the value is a colour."""
    coded: np.ndarray = pixels.astype(np.int64)
    if coded.ndim == 3:
        coded = coded @ _PLACES
    elif isinstance(value, tuple):
        coded = coded * _PLACES.sum()
    return coded
