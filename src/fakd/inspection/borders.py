"""Whether a value that nothing names is void, which annotators leave between classes."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Integer
from scipy.stats import entropy

from fakd.data.masks import MaskValue, Pixels

_MASKS = 0.9
"""Share of the masks that void stands in at least."""
_AREA = 0.15
"""Share of the pixels that it has at most."""
_BORDERS = 0.25
"""Share of the length of all borders between values that is its own at least."""
_THIN, _MOSTLY = 0.05, 2 / 3
"""Share of its runs along rows and columns that are shorter than so much of the image's side."""
_EVEN = 0.5
"""Neighbours that it has at least, relative to the number of values that borders are made of."""
_NEIGHBOURS = 1.6
"""Neighbours that it has at least: one, and a little of another, is part of an object."""

_PLACES = np.array([1 << 16, 1 << 8, 1])
"""Of red, green and blue in one number."""


def is_void(value: MaskValue, masks: Iterable[Pixels]) -> bool:
    """Tell whether a value lies along the borders of the others, wherever these are.

    Void stands in nearly every mask, is thin, has long borders for its few pixels, and borders on
    other values about as often as these border on anything. Their number is the exponential of
    the entropy of the lengths of borders, so that it is 2 for two equally long ones.

    Args:
        value: An id, or a colour.
        masks: Some of the set.
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
    """Write colours as one number, and greys as colours where the value is a colour."""
    coded: np.ndarray = pixels.astype(np.int64)
    if coded.ndim == 3:
        coded = coded @ _PLACES
    elif isinstance(value, tuple):
        coded = coded * _PLACES.sum()
    return coded
