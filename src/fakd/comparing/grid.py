"""A grid of runs, pairs x methods x seeds: what was asked for, in full, and the cells it has."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakd.comparing.cell import Cell
from fakd.errors import InputError
from fakd.runs.folder import (
    GRID,
    GRID_LOCK,
    differences,
    in_grid,
    lock,
    read_yaml,
    write_yaml,
)

# What may grow in a folder that already holds a grid.
GROWS = ("pairs", "methods", "seeds")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*$")


@dataclass(frozen=True)
class Grid:
    """Every run of a comparison, written out.

    Args:
        run: the folder of the grid.
        pairs: name to teacher and student, as a recipe names them.
        methods: name to its distillation, and settings that differ from the shared ones.
        seeds: one run per seed of every pair and method.
        shared: the settings that all runs have in common, the data among them.
        minutes: equal time for every run instead of equal steps.
    """

    run: Path
    pairs: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    shared: Mapping[str, Any]
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse names no folder can have, and counts that mean nothing."""
        for kind, names in (("pair", self.pairs), ("method", self.methods)):
            for name in names:
                if not _NAME.match(name):
                    raise InputError(
                        f"expected a {kind} name of letters, digits and . _ + -, got {name!r}; it "
                        "becomes a folder"
                    )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(
                f"expected seeds that differ, of at least 0, got {list(self.seeds)}; give a count "
                "such as 3, or a list"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"expected minutes above 0, got {self.minutes}")

    def describe(self) -> dict[str, Any]:
        """Write the grid as the recipe of `fakd compare` that gives it again."""
        return {
            "run": str(self.run),
            "pairs": {name: dict(pair) for name, pair in self.pairs.items()},
            "methods": {name: dict(method) for name, method in self.methods.items()},
            "seeds": list(self.seeds),
            "minutes": self.minutes,
            **self.shared,
        }

    def open(self) -> None:
        """Write the grid into its folder.

        Raises:
            InputError: the folder holds another grid that differs in more than what was added to
                it, or something else.
        """
        try:
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create the folder {self.run}: {error.strerror}") from error
        file, guard = self.run / GRID, self.run / GRID_LOCK
        if not file.is_file() and any(path != guard for path in self.run.iterdir()):
            raise InputError(
                f"{self.run} is not empty and holds no grid (no {GRID}); choose another --run"
            )
        with lock(guard, wait=True):
            if file.is_file():
                self._require_grown(read_yaml(file))
            write_yaml(file, self.describe())

    def _require_grown(self, old: Mapping[str, Any]) -> None:
        new = self.describe()
        changed = [
            *(f"{kind}: without {name}" for kind in GROWS for name in _missing(old, new, kind)),
            *differences(_kept(old, old), _kept(new, old)),
        ]
        if changed:
            raise InputError(
                f"{self.run} holds another grid ({changed[0]}); only pairs, methods and seeds may "
                "be added to it: give the rest as before, or choose another --run"
            )

    def cells(self) -> list[Cell]:
        """List the runs, every method of a seed before the next seed."""
        return [
            self._cell(pair, method, seed)
            for seed in self.seeds
            for pair in self.pairs
            for method in self.methods
        ]

    def _cell(self, pair: str, method: str, seed: int) -> Cell:
        given = {**self.pairs[pair], **self.methods[method]}
        loss, teacher, student = (given.pop(key) for key in ("distillation", "teacher", "student"))
        shared = dict(self.shared)
        check_teacher = given.pop("check_teacher", shared.pop("check_teacher"))
        folder = in_grid(self.run, pair, method, seed)
        rest = {**merged(shared, given), "seed": seed, "run": str(folder)}
        label = f"{pair} {method} seed {seed}"
        if loss is None:
            return Cell("train", folder, {"network": student, **rest}, label)
        distilled = {"teacher": teacher, "student": student, "distillation": loss}
        return Cell("distill", folder, {**distilled, **rest, "check_teacher": check_teacher}, label)


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change some values of nested settings, and leave the others."""
    result = dict(settings)
    for key, value in changes.items():
        old = settings.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if nested else value  # type: ignore[arg-type]
    return result


def _missing(old: Mapping[str, Any], new: Mapping[str, Any], kind: str) -> list[str]:
    return [str(name) for name in old.get(kind, ()) if name not in new[kind]]


def _kept(grid: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a grid what was added to the old one."""
    rest = {key: value for key, value in grid.items() if key != "seeds"}
    for kind in ("pairs", "methods"):
        entries: Mapping[str, Any] = grid.get(kind, {})
        rest[kind] = {name: entry for name, entry in entries.items() if name in old.get(kind, ())}
    return rest
