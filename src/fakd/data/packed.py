"""Where a picture lies: in a file of its own, or within another one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fakd.data.description import SHARDS, TABLE
from fakd.data.names import as_stored


class Packed(ABC):
    """A file within another one, opened and read as a path is; its text tells it from others."""

    suffix: str = ""
    """What its name ends in, if it has one."""

    @abstractmethod
    def __str__(self) -> str:
        """Name it for messages: what it is in, then its own name."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Read all of it."""

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
        """Tell its size."""
        return SimpleNamespace(st_size=len(self.read_bytes()))


class PackedFolder(ABC):
    """Files within other ones, found as those below a folder are."""

    @abstractmethod
    def __str__(self) -> str:
        """Name it for messages."""

    @abstractmethod
    def files(self) -> Sequence[str]:
        """List its files by relative path with slashes."""

    @abstractmethod
    def __truediv__(self, file: str) -> Packed:
        """Give what reads one of them."""

    def is_dir(self) -> bool:
        """Tell that it is there: it could not be made otherwise."""
        return True


Place = Path | Packed
"""Where a picture lies."""
Folder = Path | PackedFolder
"""Where pictures lie."""


def open_folder(root: Path, text: str) -> Folder:
    """Find a folder, or open shards or a table as one."""
    # Imported here because a folder of files needs neither of them.
    if text.startswith(TABLE):
        from fakd.data.tables import TableFolder

        return TableFolder(root / text.removeprefix(TABLE))
    if text.endswith(SHARDS) and not (root / text).is_dir():
        from fakd.data.shards import ShardFolder

        return ShardFolder(root, text)
    return as_stored(root / text)
