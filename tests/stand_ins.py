"""What several tests stand in for or look at: a network without layers, the line of a refusal."""

import struct
import zlib

import pytest
from torch import nn

from fakd.errors import InputError
from fakd.types import Segmenter


class Shown(Segmenter):
    """A network that shows a classifier of so many channels, or none, and is never run."""

    def __init__(self, channels: int | None, classes: int = 2):
        super().__init__()
        self.classes, self.final = classes, channels and nn.Conv2d(channels, classes, 1)

    @property
    def classifier(self):
        return self.final

    def forward(self, images):
        raise NotImplementedError


def message(call) -> str:
    """Return the one line that a call is refused with."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def write_png(path, depth, colour, rows):
    """Write a PNG of any depth from rows of packed bytes."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    bands = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    width = len(rows[0]) * 8 // depth // bands
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
