"""What masks hold, in counts, and what that means."""

from collections.abc import Iterable

import numpy as np

from fakd.data.inspection.facts import MaskValue
from fakd.data.masks import MaskReader
from fakd.data.pairs import Pair
from fakd.types import IGNORE


def by_colour(reader: MaskReader) -> bool:
    """Tell whether RGB masks mean colours to a reader, also where they are grey."""
    return reader.description.has_palette and reader.description.masks != "ids"


def counted(pixels: np.ndarray, colours: bool) -> dict[MaskValue, int]:
    """Count the pixels of each id or colour.

    Args:
        pixels: A mask as it is stored.
        colours: Whether RGB that is grey everywhere also means colours, instead of ids.
    """
    if pixels.ndim == 3 and not colours and (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        if pixels.dtype == np.uint8:
            histogram = np.bincount(pixels.ravel(), minlength=256)
            return {int(value): int(histogram[value]) for value in np.flatnonzero(histogram)}
        ids, counts = np.unique(pixels, return_counts=True)
        return {int(value): int(count) for value, count in zip(ids, counts, strict=True)}
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    codes, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    triples = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
    return dict(zip(triples, counts.tolist(), strict=True))


def meanings(pair: Pair, values: Iterable[MaskValue]) -> list[int | None]:
    """Say which class each value means, `IGNORE` for none, None for what is not known."""
    if pair.reader is None:
        return [None for _ in values]
    described, encoding = pair.reader.description, pair.reader.encoding
    colours: dict[MaskValue, int] = {}
    if by_colour(pair.reader):
        colours |= {colour: number for number, colour in enumerate(described.palette)}
        colours |= dict.fromkeys(described.ignored_colours, IGNORE)
    ids, others = encoding.ids, encoding.others
    return [
        ids.get(value, others) if isinstance(value, int) else colours.get(value) for value in values
    ]
