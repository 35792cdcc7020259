"""Images that use little of their range, and so look black, or exceed it."""

import math
from collections.abc import Sequence
from contextlib import suppress

from fakd.data.decoding import TIFF_MARKS, decode_raw
from fakd.data.layout import Levels
from fakd.data.masks import Pair
from fakd.errors import InputError

_LOOKED_AT = 4
_FAINT = 1 / 8
_CUT = 1 / 2
"""If more than this share of an image's values is outside its range, the range is probably
wrong."""


def describe_unused_range(pairs: Sequence[Pair], levels: Levels) -> str | None:
    """Describe images that use little of their range, and so look black, or exceed it.

    A few images, spread evenly, are decoded; 8-bit images only if ``levels`` gives a range.
    """
    peak, white, beyond = 0.0, 1.0, 0
    low, high = levels.range or (0.0, math.inf)
    chosen = [pair.image for pair in pairs[:: max(1, len(pairs) // _LOOKED_AT)]]
    for path in chosen:
        # Errors in a file are reported when it is needed.
        with suppress(InputError, OSError):
            with path.open("rb") as file:
                beginning = file.read(25)
            if not levels.range and beginning[:4] not in TIFF_MARKS and beginning[24:] != b"\x10":
                continue
            image = decode_raw(path)
            peak = max(peak, float(image.pixels.max()))
            white = max(white, image.white or 1.0)
            outside = (image.pixels < low) | (image.pixels > high)
            beyond += image.palette is None and bool(outside.mean() > _CUT)
    if levels.range is not None:
        bounds = f"range: [{low:g}, {high:g}] in the description"
        if 2 * beyond > len(chosen):
            return f"most pixels of images ({chosen[0]}) are outside {bounds}, so black or white"
        if 0 < peak - low < _FAINT * (high - low):
            return f"images hold values up to {peak:g} ({chosen[0]}), nearly black with {bounds}"
        return None
    if not 0 < peak < _FAINT * white:
        return None
    high = 2 ** math.ceil(math.log2(peak + 1)) - 1 if white > 1 else float(f"{peak:.1g}")
    return (
        f"images hold values up to {peak:g}, where {white:g} is white, and are read as nearly "
        f"black ({chosen[0]}); say what is white with range: [0, {high:g}] in the description"
    )
