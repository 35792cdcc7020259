"""What a finding is, and the words that all of them use."""

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple


class Weight(IntEnum):
    """How much a finding matters."""

    STOPS = 0
    """Training would stop there, or learn nothing."""
    HARMS = 1
    """It would go on, with worse data than it should."""
    TELLS = 2
    """Right as it is if it is meant so."""


class Finding(NamedTuple):
    """Something to fix or to know."""

    weight: Weight
    text: str


def files(paths: Sequence[Path], most: int = 2) -> str:
    """Name the first of some files."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{', '.join(str(path) for path in paths[:most])}{more}"


def count(number: int, noun: str) -> str:
    """Say how many there are of something."""
    return f"{number} {noun}{'s' if number > 1 else ''}"
