"""Where a picture lies: in a file of its own, or within another one."""

from abc import ABC, abstractmethod
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Packed(ABC):
    """A file within another one, opened and read as a path is."""

    suffix: str = ""
    """What its name ends in, if it has one."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Read all of it."""

    def open(self, mode: str = "rb") -> BytesIO:
        """Open it for reading."""
        return BytesIO(self.read_bytes())

    def stat(self) -> Any:
        """Tell its size."""
        return SimpleNamespace(st_size=len(self.read_bytes()))


Place = Path | Packed
"""Where a picture lies."""
