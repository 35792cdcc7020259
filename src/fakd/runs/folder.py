"""The folder of one run, and of a grid of runs: what lies in it, how it is written and locked."""

import csv
import fcntl
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml

from fakd.errors import InputError
from fakd.files import make_folder, write_atomically, write_text
from fakd.settings import Existing

FORMAT = 1
"""Version of what a run's files say; raised when readers of the old one would misunderstand it."""
RECIPE, RESULT, CURVES = "recipe.yaml", "result.json", "metrics.csv"
LAST, BEST, FINAL = "last.safetensors", "best.safetensors", "final.safetensors"
"""The checkpoint, the best and the last network; a result's scores are those of the last one."""
ENVIRONMENT, IMAGES = "environment.json", "images.npz"
GRID, GRID_LOCK, CALIBRATION = "grid.yaml", "grid.lock", "calibration.json"
LOG, LOCK, GIVEN, FAILED = ".log", ".lock", ".yaml", ".failed"
"""What lies beside a run of a grid: its output, its lock, its recipe, and why it failed."""
# What may change between two sittings of the same run without changing what it computes.
FREE = ("hardware", "intervals", "existing", "run", "broken")
_SEED = re.compile(r"seed-(\d+)")


def in_grid(grid: Path, pair: str, method: str, seed: int) -> Path:
    """Name the folder of a run in a grid."""
    return grid / pair / method / f"seed-{seed}"


def place_in_grid(folder: Path) -> tuple[str, str, int] | None:
    """Tell pair, method and seed of a run from its folder; None outside of a grid."""
    folder = folder.absolute()
    match = _SEED.fullmatch(folder.name)
    if not match or len(folder.parents) < 3 or not (folder.parents[2] / GRID).is_file():
        return None
    return folder.parts[-3], folder.parts[-2], int(match[1])


class RunFolder:
    """Opens or continues ``path`` and never destroys a finished run unasked.

    Its ``last`` is the checkpoint that training continues from, if there is one, and its ``result``
    that of a finished run that is reused. ``extended_from`` is the number of steps that the run had
    before it was given more.

    Args:
        path: the folder; created, with its parents, if missing.
        recipe: what the run computes, plain values; written as ``recipe.yaml``.
        existing: what to do where a finished run already is: refuse, reuse its result if the recipe
            is the same, overwrite it (an unfinished run of another recipe too), or extend it to
            more steps of the same recipe.

    Raises:
        InputError: the folder holds a finished run, a run of another recipe, or something else.
    """

    def __init__(
        self, path: Path, recipe: Mapping[str, Any], existing: Existing = "refuse"
    ) -> None:
        self.path, self.last = path, path / LAST
        self.result: dict[str, Any] | None = None
        self.extended_from: int | None = None
        self._found = path.is_dir() and any(path.iterdir())
        if existing == "overwrite" and (path / RECIPE).is_file():
            self._clear()
        elif path.is_file() or self._found:
            if not (path / RECIPE).is_file():
                raise InputError(
                    f"{path} exists and is not a run (no {RECIPE}); choose another --run"
                )
            if existing == "extend":
                self.extended_from = _fewer_steps(path, recipe)
            else:
                self.result = _earlier_result(path, recipe, existing)
        if self.result is None:
            make_folder(path)
            write_yaml(path / RECIPE, recipe)
            write_json(path / ENVIRONMENT, environment())
            (path / RESULT).unlink(missing_ok=True)

    def _clear(self) -> None:
        ours = (RECIPE, RESULT, CURVES, LAST, BEST, FINAL, ENVIRONMENT, IMAGES)
        for file in self.path.iterdir():
            if file.is_file() and (file.name in ours or file.name.startswith("events.out.")):
                file.unlink()

    def abandon(self) -> None:
        """Remove a folder that was not there, unless there is something to continue from."""
        if self._found or self.last.is_file() or (self.path / RESULT).is_file():
            return
        self._clear()
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def write_images(self, names: Sequence[str], counts: np.ndarray) -> None:
        """Write what the network got right on each validation image, for comparisons.

        The counts are of pixels right, labelled and predicted, ``[3, images, classes]``.
        """
        arrays = dict(zip(("hit", "truth", "said"), counts, strict=True))

        def write(path: Path) -> None:
            # Through a file object, as NumPy would add its suffix to a name.
            with path.open("wb") as file:
                np.savez_compressed(file, names=np.array(names), **arrays)

        write_atomically(self.path / IMAGES, write)


def _fewer_steps(path: Path, recipe: Mapping[str, Any]) -> int:
    """Read the steps of a run that is to be extended; refuse one of another recipe."""
    with readable(path):
        earlier = read_yaml(path / RECIPE)
        before: int = earlier["schedule"]["steps"]
    schedule = {**recipe["schedule"], "steps": before}
    if differing := differences(earlier, {**recipe, "schedule": schedule}):
        raise InputError(
            f"{path} holds a run of another recipe ({differing[0]}); --existing extend changes "
            "schedule.steps only"
        )
    if not before < recipe["schedule"]["steps"]:
        raise InputError(
            f"{path} has {before} steps; --existing extend needs a larger --schedule.steps than "
            f"that, got {recipe['schedule']['steps']}"
        )
    return before


def _earlier_result(
    path: Path, recipe: Mapping[str, Any], existing: Existing
) -> dict[str, Any] | None:
    """Read the result of a finished run of the same recipe, refuse whatever else is in a folder."""
    finished = (path / RESULT).is_file()
    if finished and existing == "refuse":
        raise InputError(
            f"{path} holds a finished run; choose another --run, or give --existing overwrite to "
            "start it anew"
        )
    with readable(path):
        differing = differences(read_yaml(path / RECIPE), recipe)
        result = read_json(path / RESULT) if finished else None
    if differing:
        raise InputError(
            f"{path} holds a run of another recipe ({differing[0]}); use that recipe, choose "
            "another --run, or give --existing overwrite"
        )
    return result


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the settings in which two recipes compute different things, as ``key: old -> new``."""
    found = []
    for key in {**old, **new}:
        if not prefix and key in FREE:
            continue
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


class Curves:
    """One CSV row per logged step, and the same values for TensorBoard.

    Continuing at a step drops the rows that were written after it, so that a killed run leaves the
    same curves as an uninterrupted one.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        # Imported here because it takes a second that `fakd --help` need not wait.
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / CURVES
        self._rows = [row for row in read_curves(self._path) if row["step"] <= first_step]
        self._rewrite()
        self._board = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step (counted from 1)."""
        row = {"step": float(step), **values}
        self._rows.append(row)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if set(row) <= set(self._columns):
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(_written(row))
        else:
            self._rewrite()

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._board.close()

    def _rewrite(self) -> None:
        self._columns = list(dict.fromkeys(key for row in self._rows for key in row))
        text = StringIO()
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(map(_written, self._rows))
        write_text(self._path, text.getvalue())


def _written(row: Mapping[str, float]) -> dict[str, str]:
    return {**{name: f"{value:.6g}" for name, value in row.items()}, "step": f"{row['step']:.0f}"}


def read_curves(file: Path) -> list[dict[str, float]]:
    """Read the rows of a ``metrics.csv``: its step, and what was logged there.

    A row that is still being written, or that a kill has cut off, is left out; without a file there
    are no rows.
    """
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8")
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    filled = ({name: float(value) for name, value in row.items() if name and value} for row in rows)
    return [row for row in filled if "step" in row]


def last_line(text: str) -> str:
    """Read the last line that says something; nothing where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def read_json(file: Path) -> dict[str, Any]:
    """Read one JSON file of a run."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON file of a run, whole or not at all."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_yaml(file: Path) -> dict[str, Any]:
    """Read one YAML file of a run or grid."""
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return content


def write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    """Write one YAML file of a run or grid, whole or not at all."""
    write_text(file, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def read_environment(folder: Path) -> dict[str, Any]:
    """Read where and how a run was made; nothing if that is not known."""
    try:
        content = read_json(folder / ENVIRONMENT)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Refuse in one line what the files of a run say that this version cannot make sense of.

    Raises:
        InputError: they are of another format than `FORMAT`, or broken.
    """
    environment = read_environment(folder)
    versions = environment.get("versions")
    known = versions.get("fakd") if isinstance(versions, dict) else None
    writer = f"fakd {known}" if known else "an unknown version of fakd"
    if (found := environment.get("format", FORMAT)) != FORMAT:
        raise InputError(
            f"{folder} was written by {writer} in format {found}, and this is fakd "
            f"{version('fakd')}, which reads format {FORMAT}; use that version"
        )
    try:
        yield
    except InputError as error:
        raise InputError(f"{folder}, written by {writer}: {error}") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{folder} holds a run that cannot be read ({reason}), written by {writer}; train it "
            "again with --existing overwrite"
        ) from error


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Hold a file's lock and yield its descriptor, or None if another holds it already.

    The kernel releases the lock when the last process that has the descriptor ends, however it
    ends. A run inherits it, and so stays locked if only the process that started it was killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        try:
            yield descriptor
        finally:
            # Closing would not do where a straggler of the run still has the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def environment() -> dict[str, Any]:
    """Describe where and how this process runs, for whoever reads its results later."""
    import torch

    packages = ("fakd", "torch", "torchvision", "timm", "lightning-fabric")
    return {
        "format": FORMAT,
        "command": command_line(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "versions": {name: version(name) for name in packages},
    }


def command_line() -> str:
    """Write this process's command as it would be typed, ``fakd`` without where it is installed."""
    program = Path(sys.argv[0])
    module = program.parts[-2:] == ("fakd", "__main__.py")
    installed = module or program.name in ("fakd", "fakd.exe")
    return shlex.join(["fakd" if installed else sys.argv[0], *sys.argv[1:]])
