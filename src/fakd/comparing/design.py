"""The design of a comparison, declared before it begins and stored in its grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fakd.errors import InputError
from fakd.files import read_yaml
from fakd.runs.folder import GRID, place_in_grid, read_json, readable, write_json

LOOKS = "looks.json"
"""In a grid's folder: numbers of seeds at which someone looked at its results."""
LEVEL = 0.95
LEAST = 3
"""Minimum number of seeds for a verdict."""
MOST = 12
_LOOKS = (3, 6, 12)
Against = Literal["alone", "cwd"]


@dataclass(frozen=True)
class Design:
    """What a comparison is to decide, and how.

    Args:
        primary: the method that the comparison is about.
        against: the reference of the primary comparison, which needs no correction.
        worthwhile: the smallest difference in mIoU that matters.
        most: maximum seeds of a comparison that runs until decided; None for all seeds at once.
        confirms: the comparison whose choice the new seeds are to confirm.
        seeds: the requested seeds; None outside a grid.
        looked: numbers of seeds at which someone looked at the results.
    """

    primary: str | None = None
    against: Against = "alone"
    worthwhile: float = 1.0
    most: int | None = None
    confirms: str | None = None
    seeds: Sequence[int] | None = None
    looked: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Refuse a margin or a number of seeds that cannot decide anything."""
        if not 0 < self.worthwhile < 100:
            raise InputError(
                f"expected --worthwhile between 0 and 100 mIoU, got {self.worthwhile}; 1 is usual"
            )
        if self.most is not None and self.most < LEAST:
            raise InputError(f"expected --most of at least {LEAST} seeds, got {self.most}")

    def describe(self) -> dict[str, Any]:
        """Return the design as arguments of `fakd compare`."""
        return {
            "primary": self.primary,
            "against": self.against,
            "worthwhile": self.worthwhile,
            "until_decided": self.most is not None,
            "most": self.most or MOST,
            "confirms": self.confirms,
        }

    @property
    def looks(self) -> tuple[int, ...]:
        """Planned interim analyses: numbers of seeds after which a verdict is attempted."""
        most = self.most or 0
        return (*(look for look in _LOOKS if look < most), most)

    @property
    def peeked(self) -> int | None:
        """Number of seeds at an unplanned look before more were added; None if there was none.

        The confidence level does not account for such a look. Looks at fewer seeds than a verdict
        needs do not count.
        """
        if self.most is not None or self.seeds is None:
            return None
        return min((n for n in self.looked if LEAST <= n < len(self.seeds)), default=None)

    def level(self, seeds: int) -> float:
        """Compute the confidence level of an interval after a number of seeds.

        The error of 5 % is spent over the interim analyses in proportion to the seeds that each
        adds, so that the total error is at most 5 % (Lan and DeMets, Biometrika 70, 1983, with
        Bonferroni's bound instead of the joint distribution).
        """
        if self.most is None:
            return LEVEL
        at = next((n for n, look in enumerate(self.looks) if look >= seeds), len(self.looks) - 1)
        before = self.looks[at - 1] if at else 0
        return 1 - (1 - LEVEL) * (self.looks[at] - before) / self.looks[-1]


def design_of(folder: Path) -> Design:
    """Read the design of the grid of a run; outside a grid, return the default design.

    Raises:
        InputError: the grid's file cannot be read, or its design is invalid.
    """
    if place_in_grid(folder) is None:
        return Design()
    grid = read_yaml(folder.absolute().parents[2] / GRID)
    keys = ("primary", "against", "worthwhile", "confirms")
    known = {key: grid[key] for key in keys if key in grid}
    most = grid.get("most") if grid.get("until_decided") else None
    seeds = grid.get("seeds")
    asked = seeds if isinstance(seeds, list) else None
    return Design(**known, most=most, seeds=asked, looked=_looks(folder.absolute().parents[2]))


def record_look(grid: Path, seeds: int) -> None:
    """Record that someone looked at a grid's results after a number of seeds."""
    if seeds not in (looks := _looks(grid)):
        write_json(grid / LOOKS, {"seeds": sorted([*looks, seeds])})


def _looks(grid: Path) -> list[int]:
    if not (grid / LOOKS).is_file():
        return []
    with readable(grid):
        return [int(seeds) for seeds in read_json(grid / LOOKS)["seeds"]]
