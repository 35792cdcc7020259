"""A grid of runs, pairs x methods x seeds: its complete specification, and its cells."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakd.comparing.cell import Cell
from fakd.comparing.design import Design
from fakd.errors import InputError, require_seed
from fakd.files import make_folder, read_yaml, write_yaml
from fakd.runs.folder import GRID, GRID_LOCK, OPENED, RESULT, differences, in_grid, read_json
from fakd.runs.locks import lock
from fakd.runs.naming import ALONE

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*$")


@dataclass(frozen=True)
class Grid:
    """The complete specification of all runs of a comparison.

    Args:
        run: the folder of the grid.
        pairs: teacher and student by name, as specs of a recipe.
        methods: distillation by name, and settings that differ from the shared ones.
        seeds: one run per seed of every pair and method.
        shared: the settings of all runs, including the data.
        minutes: equal training time for every run instead of equal steps.
        design: what is to be decided.
    """

    run: Path
    pairs: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    shared: Mapping[str, Any]
    minutes: float | None = None
    design: Design = field(default_factory=Design)

    def __post_init__(self) -> None:
        """Refuse invalid names, seeds, references and minutes."""
        for kind, names in (("pair", self.pairs), ("method", self.methods)):
            for name in names:
                if not _NAME.match(name):
                    raise InputError(
                        f"expected a {kind} name of letters, digits and . _ + -, got {name!r}; it "
                        "is used as a folder's name"
                    )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(
                f"expected different seeds, got {list(self.seeds)}; give a count such as 3, or a "
                "list"
            )
        for each in self.seeds:
            require_seed(each)
        primary = self.design.primary
        if primary is not None and (primary == ALONE or primary not in self.methods):
            known = ", ".join(name for name in self.methods if name != ALONE)
            raise InputError(f"expected --primary to name one of {known}, got {primary!r}")
        if self.design.against != ALONE:
            others = [name for name in self.methods if name != primary]
            if primary is None or self.design.against not in others:
                raise InputError(
                    f"--against {self.design.against} needs that method among --methods, and "
                    "another one as --primary"
                )
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"expected minutes above 0, got {self.minutes}")

    def describe(self) -> dict[str, Any]:
        """Return the recipe of `fakd compare` that reproduces the grid."""
        return {
            "run": str(self.run),
            "pairs": dict(self.pairs),
            "methods": dict(self.methods),
            "seeds": list(self.seeds),
            "minutes": self.minutes,
            **self.design.describe(),
            **self.shared,
        }

    def open(self) -> None:
        """Write the grid into its folder.

        Raises:
            InputError: the folder contains a grid that differs in more than added pairs, methods
                and seeds, or something else.
        """
        make_folder(self.run)
        file, guard = self.run / GRID, self.run / GRID_LOCK
        if not file.is_file() and any(path != guard for path in self.run.iterdir()):
            raise InputError(
                f"{self.run} is not empty and contains no grid (no {GRID}); choose another --run"
            )
        new = self.describe()
        with lock(guard, wait=True):
            if (self.run / OPENED).is_file() and (more := _added(read_yaml(file), new)):
                raise InputError(
                    f"the test split of {self.run} was opened ({OPENED}), so no runs may be added, "
                    f"and {more[0]} is new; compare it in another --run"
                )
            if file.is_file() and (changed := _changes(read_yaml(file), new)):
                raise InputError(
                    f"{self.run} contains another grid ({changed[0]}); only pairs, methods and "
                    "seeds may be added: leave the rest unchanged, or choose another --run"
                )
            write_yaml(file, new)

    def require_data(self, fingerprint: Callable[[], str]) -> None:
        """Refuse to add runs to finished ones that used other content of the same data.

        Args:
            fingerprint: Computes that of the data as they are now; called only if it matters.

        Raises:
            InputError: a finished run had another; the message names it.
        """
        cells = [cell for cell in self.cells() if cell.recipe["data"] == self.shared["data"]]
        finished = [cell for cell in cells if cell.finished]
        if not finished or len(finished) == len(cells):
            return
        now = fingerprint()
        for cell in finished:
            before = read_json(cell.folder / RESULT)["data"].get("fingerprint", now)
            if before != now:
                raise InputError(
                    f"the data have changed since {cell.folder} was trained on them (fingerprint "
                    f"{before}, now {now}), so its runs cannot be compared with new ones; restore "
                    "the data, or choose another --run"
                )

    def begun(self) -> int:
        """Count the seeds of the grid in the folder; 0 if there is none."""
        file = self.run / GRID
        return len(read_yaml(file).get("seeds", [])) if file.is_file() else 0

    def cells(self) -> list[Cell]:
        """List the runs, all methods of a seed before the next seed."""
        return [
            self._cell(pair, method, seed)
            for seed in self.seeds
            for pair in self.pairs
            for method in self.methods
        ]

    def _cell(self, pair: str, method: str, seed: int) -> Cell:
        given = {**self.pairs[pair], **self.methods[method]}
        loss, teacher, student = (given.pop(key) for key in ("distillation", "teacher", "student"))
        folder = in_grid(self.run, pair, method, seed)
        rest = {**merged(self.shared, given), "seed": seed, "run": str(folder)}
        label = f"{pair} {method} seed {seed}"
        if loss is None:
            for key in ("check_teacher", "classes_from"):
                rest.pop(key, None)
            return Cell("train", folder, {"network": student, **rest}, label)
        distilled = {"teacher": teacher, "student": student, "distillation": loss}
        return Cell("distill", folder, {**distilled, **rest}, label)


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Update nested settings recursively."""
    result = dict(settings)
    for key, value in changes.items():
        old = settings.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if nested else value  # type: ignore[arg-type]
    return result


def _added(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    kinds = {"pairs": "pair", "methods": "method", "seeds": "seed"}
    return [
        f"{kind} {name}"
        for key, kind in kinds.items()
        for name in new[key]
        if name not in old.get(key, ())
    ]


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List changes to the old grid; added pairs, methods and seeds do not count."""
    old = {"pairs": {}, "methods": {}, "seeds": [], **Design().describe(), **old}
    missing = [
        f"{kind}: without {name}"
        for kind in ("pairs", "methods", "seeds")
        for name in old[kind]
        if name not in new[kind]
    ]
    if missing:
        return missing
    kept = {kind: {name: new[kind][name] for name in old[kind]} for kind in ("pairs", "methods")}
    return differences(old, {**new, **kept, "seeds": old["seeds"]})
