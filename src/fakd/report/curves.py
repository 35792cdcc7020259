"""The curves of a run's training, as its metrics.csv has them."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

Points = list[tuple[float, float]]
POINTS = 150
"""Of one line in a picture; more could not be told apart."""
_LEFT_OUT = ("step", "images/s", "val/mAcc", "val/aAcc")
_LAST = ("learning_rate", "lambda", "augmentation")


def read_curves(file: Path) -> dict[str, Points]:
    """Read (step, value) of every quantity that was logged; nothing if the file is gone."""
    curves: dict[str, Points] = {}
    if not file.is_file():
        return curves
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                # A kill may leave half a row behind.
                if name and value and row["step"]:
                    curves.setdefault(name, []).append((float(row["step"]), float(value)))
    return curves


def last_augmentation(file: Path) -> float | None:
    """Read the size of the augmentation's term, mean λv/2T², last logged; None without one."""
    sizes = [
        points[-1]
        for name, points in read_curves(file).items()
        if name.rpartition("/")[2] == "augmentation"
    ]
    return max(sizes)[1] if sizes else None


def panels(curves: Sequence[Mapping[str, Points]]) -> list[str]:
    """List the quantities to draw: scores first, then losses, then settings that change."""
    names = {name: None for each in curves for name in each if name not in _LEFT_OUT}

    def rank(name: str) -> int:
        if name.startswith("val/"):
            return -1
        last = name.rpartition("/")[2]
        return _LAST.index(last) + 1 if last in _LAST else 0

    return sorted(names, key=rank)


def thinned(points: Points, most: int = POINTS) -> Points:
    """Average neighbours until no more than ``most`` points are left; the last step stays."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
