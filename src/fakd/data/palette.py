"""Colours for classes that were given none."""

from fakd.data.dataset import Colour


def default_palette(classes: int) -> tuple[Colour, ...]:
    """Give each class its own fixed colour, black left out.

    The bits of ``class + 1`` are dealt in turn to the high bits of red, green and blue, as in
    the PASCAL VOC colour map, so neighbouring ids look different and all 255 are distinct.

    >>> default_palette(3)
    ((128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    return tuple(_interleaved(number + 1) for number in range(classes))


def _interleaved(number: int) -> Colour:
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    red, green, blue = channels
    return red, green, blue
