"""Locations of images: a file, or an entry within a shard, table or video."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fakd.data.description import SHARDS, TABLE
from fakd.data.names import find_as_stored


class Packed(ABC):
    """A file within another one, with the interface of a path; identified by its text."""

    suffix: str = ""
    """The suffix of its name, if any."""

    @abstractmethod
    def __str__(self) -> str:
        """Return its name for messages: its container, then its own name."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Read its content."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packed) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)

    def __gt__(self, other: object) -> bool:
        return str(self) > str(other)

    @property
    def name(self) -> str:
        """The last part of its name."""
        return str(self).rpartition("/")[2]

    def open(self, mode: str = "rb") -> BytesIO:
        """Open it for reading."""
        return BytesIO(self.read_bytes())

    def stat(self) -> Any:
        """Return its size as ``st_size``."""
        return SimpleNamespace(st_size=len(self.read_bytes()))


class PackedFolder(ABC):
    """A folder-like collection of files within other files."""

    @abstractmethod
    def __str__(self) -> str:
        """Return its name for messages."""

    @abstractmethod
    def files(self) -> Sequence[str]:
        """List its files as relative paths with slashes."""

    @abstractmethod
    def __truediv__(self, file: str) -> Packed:
        """Return one of its files."""

    def is_dir(self) -> bool:
        """Return True: a missing one cannot be constructed."""
        return True


Place = Path | Packed
"""The location of an image."""
Folder = Path | PackedFolder
"""The location of several images."""


def open_folder(root: Path, text: str) -> Folder:
    """Find a folder, or open shards or a table as one."""
    # Imported here because a folder of files needs neither.
    if text.startswith(TABLE):
        from fakd.data.tables import TableFolder

        return TableFolder(root / text.removeprefix(TABLE))
    if text.endswith(SHARDS) and not (root / text).is_dir():
        from fakd.data.shards import ShardFolder

        return ShardFolder(root, text)
    return find_as_stored(root / text)
