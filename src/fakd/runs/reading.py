"""Reading of finished runs, single ones or a grid of pairs x methods x seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fakd.errors import InputError, last_line
from fakd.files import expand_user, read_yaml
from fakd.losses import PRESETS
from fakd.runs.folder import (
    CURVES,
    FAILED,
    FINAL,
    GRID,
    IMAGES,
    RECIPE,
    RESULT,
    place_in_grid,
    read_curves,
    read_environment,
    read_json,
    read_recipe,
    readable,
)
from fakd.runs.images import ImageCounts, read_images
from fakd.runs.naming import ALONE, method_of, student_of, with_default_arguments

Curve = list[tuple[float, float]]
"""Steps and values of a logged quantity."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run."""

    folder: Path
    pair: str
    """Name of the student, in a grid of teacher and student; methods are compared in a pair."""
    method: str
    seed: int
    recipe: dict[str, Any]
    result: dict[str, Any]
    images: ImageCounts | None
    """None if there are no per-image counts."""

    @property
    def weights(self) -> Path:
        """The final network, which the scores belong to, or else the best one."""
        return self.folder / FINAL if (self.folder / FINAL).is_file() else self.folder

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Logged curves of the training, by quantity."""
        return curves_of(self.folder / CURVES)

    @property
    def environment(self) -> dict[str, Any]:
        """The environment of the training; empty if unknown."""
        return read_environment(self.folder)

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.result["data"]["name"])

    @property
    def miou(self) -> float:
        """Final mIoU in percent, over the classes in the labels."""
        classes = self.result["final"]["classes"].values()
        # Earlier versions counted classes that were predicted but never labelled as 0.
        if any(each["iou"] is not None and not each["pixels"] for each in classes):
            return float(np.mean([each["iou"] for each in classes if each["pixels"]]))
        return float(self.result["final"]["miou"])

    @property
    def macc(self) -> float:
        """Final mean class accuracy in percent."""
        return float(self.result["final"]["macc"])

    @property
    def seconds_per_step(self) -> float:
        """Training time per step, without evaluation."""
        return float(self.result["train_seconds"] / max(self.result["steps"], 1))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, ordered by id."""
        return tuple(self.result["final"]["classes"])

    @cached_property
    def class_iou(self) -> np.ndarray:
        """Final IoU of every class in percent; NaN for a class without one."""
        classes = self.result["final"]["classes"].values()
        return np.array([each["iou"] for each in classes], dtype=float)

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """Labelled pixels of every class in the validation images."""
        return np.array([each["pixels"] for each in self.result["final"]["classes"].values()])


@dataclass(frozen=True)
class Failure:
    """A run of a grid without a result."""

    folder: Path
    pair: str
    method: str
    seed: int
    reason: str
    """The last line of its output."""


class Outcome(NamedTuple):
    """The finished and failed runs of folders and grids so far."""

    runs: list[Run]
    failures: list[Failure]


Methods = Mapping[str, Sequence[Run]]
"""The runs of a pair, by method."""


def read_run(folder: str | Path) -> Run:
    """Read a finished run; in a grid its names come from its path, otherwise from its recipe.

    Raises:
        InputError: the folder contains no finished run, or damaged files.
    """
    folder = expand_user(folder)
    for name in (RECIPE, RESULT):
        if not (folder / name).is_file():
            raise InputError(
                f"expected a finished run with {name} in {folder}, found none; name a folder that "
                "fakd train or fakd distill wrote and finished"
            )
    with readable(folder):
        recipe, result = read_recipe(folder), read_json(folder / RESULT)
        if not (classes := result["final"]["classes"]):
            raise ValueError("no classes")
        # Named by the student only, as the student alone has no teacher but is in the same pair.
        by_recipe = student_of(recipe), method_of(recipe), int(recipe["seed"])
        for name in ("miou", "macc"):
            score = result["final"][name]
            if not isinstance(score, int | float) or not math.isfinite(score):
                raise ValueError(
                    f"{name} is {score}; the training has diverged, or a file is broken"
                )
        place = place_in_grid(folder)
        if place and place[2] != by_recipe[2]:
            raise ValueError(f"its recipe has seed {by_recipe[2]}; it is a copy of another run")
        images = read_images(folder / IMAGES, len(classes))
    return Run(folder, *(place or by_recipe), recipe, result, images)


def curves_of(file: Path) -> dict[str, Curve]:
    """Collect the values of a ``metrics.csv`` by quantity."""
    found: dict[str, Curve] = {}
    for row in read_curves(file):
        for name, value in row.items():
            if name != "step":
                found.setdefault(name, []).append((row["step"], value))
    return found


def read_grid(folder: str | Path) -> Outcome:
    """Read the finished and the failed runs of a grid; unfinished ones are skipped.

    A run without a score, or with unreadable files, counts as failed.

    Raises:
        InputError: the folder contains no grid.
    """
    folder = expand_user(folder)
    if not (folder / GRID).is_file():
        raise InputError(
            f"expected a grid with {GRID} in {folder}, found none; name the folder that fakd "
            "compare wrote"
        )
    results = [path.parent for path in folder.glob(f"*/*/*/{RESULT}")]
    finished = [path for path in results if place_in_grid(path)]
    failures = [
        Failure(path, *place, last_line(path.read_text(encoding="utf-8")) or "no reason given")
        for path in folder.glob(f"*/*/*{FAILED}")
        if (place := place_in_grid(path.with_suffix(""))) and path.with_suffix("") not in finished
    ]
    grid = read_yaml(folder / GRID)
    runs = []
    for path in finished:
        try:
            run = read_run(path)
            if _is_foreign(run, grid):
                raise InputError(
                    f"{path} has another distillation than {run.method} in {GRID}; it is a copy of "
                    "another run"
                )
            runs.append(run)
        except InputError as error:
            failures.append(Failure(path, *(place_in_grid(path) or ("", "", 0)), str(error)))
    return Outcome(sorted(runs, key=_order), sorted(failures, key=_order))


def _is_foreign(run: Run, grid: Mapping[str, Any]) -> bool:
    """Tell whether a run has another loss than its method in the grid."""
    methods = grid.get("methods")
    method = methods.get(run.method) if isinstance(methods, Mapping) else None
    if not isinstance(method, Mapping) or "distillation" not in method:
        return False
    planned, found = method["distillation"], run.recipe.get("distillation")
    return bool(with_default_arguments(planned) != with_default_arguments(found))


def read_folders(folders: Iterable[str | Path]) -> Outcome:
    """Read finished runs, and the runs of every grid among the folders.

    Raises:
        InputError: a folder contains neither, or there is no finished run at all.
    """
    runs: list[Run] = []
    failures: list[Failure] = []
    for folder in map(expand_user, folders):
        grid = read_grid(folder) if (folder / GRID).is_file() else Outcome([read_run(folder)], [])
        runs += grid.runs
        failures += grid.failures
    if not runs:
        last = f" ({len(failures)} failed, one with: {failures[-1].reason})" if failures else ""
        raise InputError(
            f"expected finished runs, got none{last}; name run folders or the folder of a "
            "comparison, after at least one run has finished"
        )
    return Outcome(runs, failures)


def by_pair(runs: Iterable[Run]) -> dict[tuple[str, str], dict[str, list[Run]]]:
    """Group runs by data set and pair, then by method, the student alone first.

    Raises:
        InputError: two runs of a pair have the same method and seed.
    """
    groups: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in sorted(runs, key=_order):
        same = groups.setdefault((run.data, run.pair), {}).setdefault(run.method, [])
        if twin := next((other for other in same if other.seed == run.seed), None):
            raise InputError(
                f"expected one run of {run.method} with seed {run.seed} for {run.pair} on "
                f"{run.data}, got {twin.folder} and {run.folder}; leave one out"
            )
        same.append(run)
    return groups


def _order(each: Run | Failure) -> tuple[str, int, str, int]:
    known = [ALONE, *PRESETS]
    rank = known.index(each.method) if each.method in known else len(known)
    return each.pair, rank, each.method, each.seed
