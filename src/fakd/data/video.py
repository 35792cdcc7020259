"""Every nth frame of a video, found by timestamp and decoded on access."""

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fakd.data.packed import Packed, Place
from fakd.data.unlabelled import Block
from fakd.errors import InputError
from fakd.imports import require_library


class Frame(Packed):
    """The frame of a video at a timestamp."""

    def __init__(self, video: Path, time: int) -> None:
        self._video, self._time = video, time

    def __str__(self) -> str:
        return f"{self._video} at {self._time}"

    def read_bytes(self) -> bytes:
        """Decode it, starting at the preceding key frame."""
        with _open_video(self._video) as (source, stream):
            source.seek(self._time, stream=stream, backward=True)
            found = next(each for each in source.decode(stream) if each.pts >= self._time)
            written = BytesIO()
            Image.fromarray(rotate_upright(found)).save(written, "BMP")
        return written.getvalue()


class Frames(Block):
    """Every nth frame of a video; a name is the file's, followed by the frame number from 1.

    Args:
        video: Any file that FFmpeg decodes.
        every: Take one of this many frames.

    Raises:
        InputError: PyAV is missing, or the file is not a video with frames.
    """

    def __init__(self, video: Path, every: int) -> None:
        if not video.is_file():
            raise InputError(f"there is no video {video}; check the path")
        with _open_video(video) as (source, stream):
            times = sorted(each.pts for each in source.demux(stream) if each.pts is not None)
        if not times:
            raise InputError(f"{video} has no frames with timestamps; convert it")
        self._video, self._every, self._times = video, every, array("q", times[::every])
        self._size = video.stat().st_size

    def __len__(self) -> int:
        return len(self._times)

    def name(self, place: int) -> str:
        """Return file and frame number."""
        return f"{self._video.stem}/{1 + place * self._every:06d}"

    def image(self, place: int) -> Place:
        """Return the frame, decoded when read."""
        return Frame(self._video, self._times[place])

    def stamp(self, place: int) -> str:
        """Return the size of the file in bytes, and the timestamp."""
        return f"{self._size}.{self._times[place]}"


def rotate_upright(frame: Any) -> UInt8[np.ndarray, "height width 3"]:
    """Return the pixels of a decoded frame, rotated by its display matrix.

    Phones store frames in sensor orientation, with the rotation as metadata.
    """
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, round(frame.rotation / 90)).copy() if frame.rotation else pixels


@contextmanager
def _open_video(video: Path) -> Iterator[tuple[Any, Any]]:
    require_library("av")
    av: Any = import_module("av")
    try:
        with av.open(str(video)) as source:
            yield source, source.streams.video[0]
    except (av.FFmpegError, IndexError, StopIteration) as error:
        raise InputError(f"{video} cannot be decoded as a video: {error}") from error
