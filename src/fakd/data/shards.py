"""Images in WebDataset tar shards, read with random access through an index of offsets."""

import hashlib
import os
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fakd.data.layout import IMAGE_SUFFIXES
from fakd.data.names import to_nfc
from fakd.data.packed import Packed, PackedFolder, Place
from fakd.data.scan import cache_folder
from fakd.data.unlabelled import Block
from fakd.errors import InputError
from fakd.files import write_atomically

_FORMAT = 2
_WORTH_KEEPING = 1000
"""Minimum number of images for caching a shard's index; below it, reading headers is fast."""


class Member(Packed):
    """A member of a shard."""

    def __init__(self, shard: Path, file: str, start: int, length: int) -> None:
        self.suffix = PurePosixPath(file).suffix
        self._shard, self._file, self._start, self._length = shard, file, start, length

    def __str__(self) -> str:
        return f"{self._shard}/{self._file}"

    def read_bytes(self) -> bytes:
        """Read its content."""
        with self._shard.open("rb") as opened:
            opened.seek(self._start)
            return opened.read(self._length)

    def stat(self) -> Any:
        """Return its size from the shard's header."""
        return SimpleNamespace(st_size=self._length)


class Shards(Block):
    """The images of tar files; a name is the shard's, followed by the key.

    As in WebDataset, a member's key ends at the first dot of its file name. Members with only an
    image suffix after the key are images; others are skipped. Reading headers takes about twenty
    seconds for a million images; the index is cached next to folder listings, as long as the
    shard's modification time stays the same.

    Args:
        root: The folder that the pattern is relative to.
        pattern: Of their paths, with * as a wildcard.

    Raises:
        InputError: there is no such file, or one is not a tar file, compressed, or without images.
    """

    def __init__(self, root: Path, pattern: str) -> None:
        self._paths, self._stems = _find_shards(root, pattern)
        self._indices = [_read_index(path) for path in self._paths]
        self._rows = [np.flatnonzero(index.images) for index in self._indices]
        self._starts = array("q", [0])
        for path, rows in zip(self._paths, self._rows, strict=True):
            if not len(rows):
                raise InputError(f"{path} holds no image named KEY{', KEY'.join(IMAGE_SUFFIXES)}")
            self._starts.append(self._starts[-1] + len(rows))

    def __len__(self) -> int:
        return self._starts[-1]

    def _place(self, place: int) -> tuple[int, int]:
        number = bisect_right(self._starts, place) - 1
        return number, int(self._rows[number][place - self._starts[number]])

    def name(self, place: int) -> str:
        """Return shard and key."""
        number, row = self._place(place)
        return f"{self._stems[number]}/{_split(self._indices[number].file(row))[0]}"

    def image(self, place: int) -> Place:
        """Return an image's member."""
        number, row = self._place(place)
        return self._indices[number].member(self._paths[number], row)

    def stamp(self, place: int) -> str:
        """Return the size of a member in bytes."""
        number, row = self._place(place)
        return str(self._indices[number].lengths[row])


class ShardFolder(PackedFolder):
    """The images of tar files as files of a folder: the shard's name, then the member's.

    Args:
        root: The folder that the pattern is relative to.
        pattern: Of their paths, with * as a wildcard.

    Raises:
        InputError: as for `Shards`, except that a shard without images is allowed.
    """

    def __init__(self, root: Path, pattern: str) -> None:
        self._text = str(root / pattern)
        self._members = {
            f"{stem}/{index.file(row).removeprefix('./')}": (path, index, row)
            for path, stem in zip(*_find_shards(root, pattern), strict=True)
            for index in [_read_index(path)]
            for row in range(len(index.starts))
        }

    def __str__(self) -> str:
        return self._text

    def files(self) -> Sequence[str]:
        """List the members of all shards."""
        return [*self._members]

    def __truediv__(self, file: str) -> Packed:
        """Return a file's member."""
        path, index, row = self._members[file]
        return index.member(path, row)


def _find_shards(root: Path, pattern: str) -> tuple[list[Path], list[str]]:
    """Find tar files, and a short name that distinguishes each."""
    paths = [Path(each) for each in sorted(glob(str(root / pattern)))]
    if not paths:
        raise InputError(f"no tar shards match {root / pattern}; check the path")
    place = Path(os.path.commonpath([path.parent for path in paths]))
    return paths, [path.relative_to(place).with_suffix("").as_posix() for path in paths]


class _Index(NamedTuple):
    """The offsets of the images of a shard."""

    text: np.ndarray
    """Their names, concatenated."""
    ends: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    images: np.ndarray
    """Whether only an image suffix follows the key."""

    def file(self, row: int) -> str:
        """Return the name of a member."""
        begin = self.ends[row - 1] if row else 0
        return self.text[begin : self.ends[row]].tobytes().decode(errors="surrogateescape")

    def member(self, shard: Path, row: int) -> Member:
        """Return a file's member."""
        return Member(shard, self.file(row), int(self.starts[row]), int(self.lengths[row]))


def _split(file: str) -> tuple[str, str]:
    """Split a member's name into key and suffix.

    >>> _split("a/0001.seg.png")
    ('a/0001', '.seg.png')
    """
    folder, slash, name = file.rpartition("/")
    key, dot, rest = name.partition(".")
    return to_nfc(folder + slash + key), dot + rest


def _read_index(path: Path) -> _Index:
    """Read the headers of a shard, or its cached index."""
    state, cache = path.stat(), cache_folder()
    memory = None
    if cache is not None:
        told = f"{_FORMAT} {path.absolute()} {state.st_size} {state.st_mtime_ns}"
        key = hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()[:32]
        memory = cache / "shards" / f"{key}.npz"
        with suppress(OSError, ValueError, LookupError), np.load(memory) as content:
            return _Index(*(content[name] for name in _Index._fields))
    text, ends, starts, lengths = bytearray(), array("q"), array("q"), array("q")
    images = array("b")
    try:
        with tarfile.open(path, "r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                suffix = _split(entry.name)[1].lower()
                if entry.isreg() and suffix.endswith(IMAGE_SUFFIXES):
                    text += entry.name.encode(errors="surrogateescape")
                    ends.append(len(text))
                    starts.append(entry.offset_data)
                    lengths.append(entry.size)
                    images.append(suffix in IMAGE_SUFFIXES)
            # Where a file was cut between members, tarfile sees its end.
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise InputError(
                    f"{path} is not a complete tar file: its end is missing; copy it again"
                )
    except (tarfile.TarError, OSError) as error:
        raise InputError(
            f"{path} is not a complete tar file ({error}); random access needs an uncompressed "
            "one, so decompress it to .tar"
        ) from error
    found = _Index(
        np.frombuffer(bytes(text), np.uint8),
        *(np.array(each) for each in (ends, starts, lengths, images)),
    )
    if memory is not None and len(ends) >= _WORTH_KEEPING:
        _write_cache(memory, found)
    return found


def _write_cache(memory: Path, index: _Index) -> None:
    def write(file: Path) -> None:
        # Through a file object, since NumPy would append a suffix to a path.
        with file.open("wb") as opened:
            np.savez(opened, **index._asdict())

    # If the cache is not writable, the next run reads the headers again.
    with suppress(OSError, InputError):
        write_atomically(memory, write)
