"""Reading finished runs, alone or as a grid of pairs x methods x seeds."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import yaml
from jaxtyping import Num

from fakd.errors import InputError
from fakd.losses import PRESETS
from fakd.runs.naming import ALONE, method_of, student_of

RECIPE, RESULT, CURVES, IMAGES, GRID = (
    "recipe.yaml",
    "result.json",
    "metrics.csv",
    "images.npz",
    "grid.yaml",
)
_SEED = re.compile(r"seed-(\d+)")


class Pixels(NamedTuple):
    """Pixels of each class that are right, labelled, and predicted, ignored ones left out."""

    hit: Num[np.ndarray, "*sets classes"]
    truth: Num[np.ndarray, "*sets classes"]
    said: Num[np.ndarray, "*sets classes"]


class ImageCounts(NamedTuple):
    """What a network got right on each validation image."""

    names: tuple[str, ...]
    pixels: Pixels
    """Counts ``[images, classes]``."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run."""

    folder: Path
    pair: str
    """Which student, and in a grid which teacher: methods are compared within a pair."""
    method: str
    seed: int
    recipe: dict[str, Any]
    result: dict[str, Any]
    images: ImageCounts | None
    """None where the trainer did not count the images one by one."""
    curves: Path

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.result["data"]["name"])

    @property
    def miou(self) -> float:
        """Final mIoU in percent."""
        return float(self.result["final"]["miou"])

    @property
    def macc(self) -> float:
        """Final mean class accuracy in percent."""
        return float(self.result["final"]["macc"])

    @property
    def seconds_per_step(self) -> float:
        """Training time of a step, evaluation left out."""
        return float(self.result["train_seconds"] / max(self.result["steps"], 1))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order of their ids."""
        return tuple(self.result["final"]["classes"])

    @cached_property
    def class_iou(self) -> np.ndarray:
        """Final IoU of every class in percent; NaN where a class has none."""
        classes = self.result["final"]["classes"].values()
        return np.array([np.nan if each["iou"] is None else each["iou"] for each in classes])

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """Labelled pixels of every class in the validation images."""
        return np.array([each["pixels"] for each in self.result["final"]["classes"].values()])


@dataclass(frozen=True)
class Failure:
    """A run of a grid that ended without a result."""

    folder: Path
    pair: str
    method: str
    seed: int
    reason: str
    """Its last line."""


class Grid(NamedTuple):
    """What a grid has to show so far."""

    runs: list[Run]
    failures: list[Failure]


def read_run(folder: str | Path) -> Run:
    """Read a finished run; one of a grid is named by its place there, any other by its recipe.

    Raises:
        InputError: the folder holds no finished run, or files that are not those of a run.
    """
    folder = Path(folder)
    for name in (RECIPE, RESULT):
        if not (folder / name).is_file():
            raise InputError(
                f"expected a finished run with {name} in {folder}, found none; name a folder that "
                "fakd train or fakd distill wrote and finished"
            )
    try:
        recipe = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        final = result["final"]
        if not final["classes"]:
            raise ValueError("no classes")
        place = _place_in_grid(folder)
        pair, method, seed = place or _place_by_recipe(recipe)
        images = _read_images(folder / IMAGES, len(final["classes"]))
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{folder} holds a run that cannot be read ({reason}); train it again with "
            "--existing overwrite"
        ) from error
    return Run(folder, pair, method, seed, recipe, result, images, folder / CURVES)


def read_grid(folder: str | Path) -> Grid:
    """Read the finished and the failed runs of a grid; those still to be run are passed over.

    Raises:
        InputError: the folder holds no grid, or a run in it cannot be read.
    """
    folder = Path(folder)
    if not (folder / GRID).is_file():
        raise InputError(
            f"expected a grid with {GRID} in {folder}, found none; name the folder that fakd "
            "compare wrote"
        )
    finished = [path.parent for path in folder.glob(f"*/*/seed-*/{RESULT}")]
    runs = [read_run(path) for path in finished]
    failures = [
        Failure(path, path.parts[-3], path.parts[-2], int(match[1]), _last_line(path))
        for path in folder.glob("*/*/seed-*.failed")
        if (match := _SEED.fullmatch(path.stem)) and path.with_suffix("") not in finished
    ]
    return Grid(sorted(runs, key=_order), sorted(failures, key=_order))


def read_folders(folders: Iterable[str | Path]) -> Grid:
    """Read finished runs, and the runs of every grid among the folders.

    Raises:
        InputError: a folder holds neither, or none holds a finished run.
    """
    runs: list[Run] = []
    failures: list[Failure] = []
    for folder in map(Path, folders):
        grid = read_grid(folder) if (folder / GRID).is_file() else Grid([read_run(folder)], [])
        runs += grid.runs
        failures += grid.failures
    if not runs:
        last = f" ({len(failures)} failed, one with: {failures[-1].reason})" if failures else ""
        raise InputError(
            f"expected finished runs, got none{last}; name run folders or the folder of a "
            "comparison, after at least one run has finished"
        )
    return Grid(runs, failures)


def by_pair(runs: Iterable[Run]) -> dict[tuple[str, str], dict[str, list[Run]]]:
    """Group runs by data set and pair, then by method, the student alone first.

    Raises:
        InputError: two runs are the same method with the same seed.
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


def _place_in_grid(folder: Path) -> tuple[str, str, int] | None:
    folder = folder.absolute()
    match = _SEED.fullmatch(folder.name)
    if not match or len(folder.parents) < 3 or not (folder.parents[2] / GRID).is_file():
        return None
    return folder.parts[-3], folder.parts[-2], int(match[1])


def _place_by_recipe(recipe: Mapping[str, Any]) -> tuple[str, str, int]:
    # The student alone has no teacher, yet belongs with the runs it is compared with.
    return student_of(recipe), method_of(recipe), int(recipe["seed"])


def _read_images(path: Path, classes: int) -> ImageCounts | None:
    if not path.is_file():
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        names = tuple(str(name) for name in arrays["names"])
        pixels = Pixels(arrays["hit"], arrays["truth"], arrays["said"])
    shapes = {array.shape for array in pixels}
    if shapes != {(len(names), classes)}:
        raise ValueError(f"expected {(len(names), classes)} counts in {path.name}, got {shapes}")
    return ImageCounts(names, pixels)


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return next((line for line in reversed(lines) if line), "no reason given")
