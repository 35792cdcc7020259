"""What a comparison sets out to decide, declared before it begins and kept in its grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fakd.errors import InputError
from fakd.files import read_yaml
from fakd.runs.folder import GRID, place_in_grid, read_json, readable, write_json

LOOKS = "looks.json"
"""Beside a grid: numbers of seeds at which someone has looked at what it shows."""
LEVEL = 0.95
LEAST = 3
"""Seeds without which nothing is said to have helped or hurt."""
MOST = 12
_LOOKS = (3, 6, 12)
Against = Literal["alone", "cwd"]


@dataclass(frozen=True)
class Design:
    """The question of a comparison.

    Args:
        primary: the method that the comparison is about.
        against: what it is compared with; that difference needs no correction.
        worthwhile: the smallest difference in mIoU that matters.
        most: seeds after which a comparison until decided ends; None for all seeds at once.
        confirms: the comparison whose choice new seeds are to confirm.
        seeds: those asked for; None outside of a grid.
        looked: numbers of seeds at which someone has looked.
    """

    primary: str | None = None
    against: Against = "alone"
    worthwhile: float = 1.0
    most: int | None = None
    confirms: str | None = None
    seeds: Sequence[int] | None = None
    looked: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Refuse a margin or a number of seeds that can decide nothing."""
        if not 0 < self.worthwhile < 100:
            raise InputError(
                f"expected --worthwhile between 0 and 100 mIoU, got {self.worthwhile}; 1 is usual"
            )
        if self.most is not None and self.most < LEAST:
            raise InputError(f"expected --most of at least {LEAST} seeds, got {self.most}")

    def describe(self) -> dict[str, Any]:
        """Write it in the words of `fakd compare`."""
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
        """Numbers of seeds after which a comparison until decided is looked at."""
        most = self.most or 0
        return (*(look for look in _LOOKS if look < most), most)

    @property
    def peeked(self) -> int | None:
        """Seeds at which someone looked before more were added, which no level allows for.

        Fewer than give a verdict were no look at one.
        """
        if self.most is not None or self.seeds is None:
            return None
        return min((n for n in self.looked if LEAST <= n < len(self.seeds)), default=None)

    def level(self, seeds: int) -> float:
        """Confidence of an interval after so many seeds.

        The error of 5 % is spent over the looks in proportion to the seeds that each adds, so that
        all looks together err in no more than 5 % (Lan and DeMets, Biometrika 70, 1983, with
        Bonferroni's bound in place of the joint distribution).
        """
        if self.most is None:
            return LEVEL
        at = next((n for n, look in enumerate(self.looks) if look >= seeds), len(self.looks) - 1)
        before = self.looks[at - 1] if at else 0
        return 1 - (1 - LEVEL) * (self.looks[at] - before) / self.looks[-1]


def design_of(folder: Path) -> Design:
    """Read the design of the grid that a run lies in; that of no grid has no seeds.

    Raises:
        InputError: the grid's file cannot be read or holds what no design can be.
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
    """Keep that someone has looked at a grid after so many seeds."""
    if seeds not in (looks := _looks(grid)):
        write_json(grid / LOOKS, {"seeds": sorted([*looks, seeds])})


def _looks(grid: Path) -> list[int]:
    if not (grid / LOOKS).is_file():
        return []
    with readable(grid):
        return [int(seeds) for seeds in read_json(grid / LOOKS)["seeds"]]
