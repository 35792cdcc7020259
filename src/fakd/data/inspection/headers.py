"""What a file says of itself without being decoded: size, format, mode, whether it is whole."""

import os
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fakd.data.decode import read_mask
from fakd.errors import InputError

_ORIENTATION = 0x0112
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_TAIL = 64
"""Bytes at the end of a file in which its end is marked; some programs add a few more."""


class Header(NamedTuple):
    """The beginning of an image file and its last bytes."""

    size: tuple[int, int]
    """Width and height once turned upright."""
    format: str
    mode: str
    turned: bool
    """Whether EXIF says that the picture is to be turned."""
    length: int
    """Bytes."""

    @property
    def kind(self) -> str:
        """Name format and mode, such as ``PNG P``."""
        return f"{self.format} {self.mode}"


def read_header(path: Path, upright: bool) -> Header:
    """Read the header of an image or, where ``upright`` is false, of a mask, whose EXIF is moot.

    A file that lacks the mark of its end is decoded to see whether pixels are missing.

    Raises:
        InputError: the file is damaged, incomplete, no image or not there.
    """
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            with Image.open(file) as image:
                size, kind, mode = image.size, str(image.format), image.mode
                # Asked for EXIF that is not at its beginning, a PNG would be decoded.
                has_exif = upright and (kind != "PNG" or "exif" in image.info)
                code = image.getexif().get(_ORIENTATION, 1) if has_exif else 1
                file.seek(max(0, length - _TAIL))
                tail = file.read()
    # Pillow raises whatever its parsers stumble over in a damaged file.
    except Exception:
        # The reader's own words, also for what only the header got wrong.
        read_mask(path)
        raise InputError(f"cannot read the header of {path}; save it again") from None
    if _ENDS.get(kind, b"") not in tail:
        read_mask(path)
    if code in (5, 6, 7, 8):
        size = size[1], size[0]
    return Header(size, "JPEG" if kind == "MPO" else kind, mode, code not in (0, 1), length)
