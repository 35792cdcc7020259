"""The folder of one run: its recipe, curves, checkpoints and result."""

import csv
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fakd.errors import InputError
from fakd.files import write_atomically, write_text
from fakd.settings import Existing

RECIPE, RESULT, CURVES = "recipe.yaml", "result.json", "metrics.csv"
LAST, BEST, FINAL = "last.safetensors", "best.safetensors", "final.safetensors"
ENVIRONMENT, IMAGES = "environment.json", "images.npz"
# What may change between two sittings of the same run without changing what it computes.
FREE = ("hardware", "intervals", "existing", "run", "broken")


class RunFolder:
    """Opens or continues ``path`` and never destroys a finished run unasked.

    Args:
        path: the folder; created, with its parents, if missing.
        recipe: what the run computes, plain values; written as ``recipe.yaml``.
        existing: what to do where a finished run already is: refuse, reuse its result if the recipe
            is the same, or overwrite it (an unfinished run of another recipe too).

    Raises:
        InputError: the folder holds a finished run, a run of another recipe, or something else.
    """

    def __init__(
        self, path: Path, recipe: Mapping[str, Any], existing: Existing = "refuse"
    ) -> None:
        self.path = path
        self.recipe = dict(recipe)
        self.result: dict[str, Any] | None = None
        if existing == "overwrite" and (path / RECIPE).is_file():
            self._clear()
        else:
            self._inspect(existing)
        if self.result is not None:
            return
        self.resumable = (path / LAST).is_file()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create the run folder {path}: {error.strerror}") from error
        text = yaml.safe_dump(self.recipe, sort_keys=False, allow_unicode=True)
        write_text(path / RECIPE, text)
        self.write_json(ENVIRONMENT, environment())

    @property
    def last(self) -> Path:
        """The checkpoint training continues from."""
        return self.path / LAST

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one JSON file of the run, whole or not at all."""
        write_text(self.path / name, json.dumps(content, indent=2) + "\n")

    def write_images(self, names: Sequence[str], counts: np.ndarray) -> None:
        """Write what the network got right on each validation image, for comparisons.

        Args:
            names: Of the images.
            counts: Pixels right, labelled and predicted, ``[3, images, classes]``.
        """
        arrays = dict(zip(("hit", "truth", "said"), counts, strict=True))

        def write(path: Path) -> None:
            # Through a file object, as NumPy would add its suffix to a name.
            with path.open("wb") as file:
                np.savez_compressed(file, names=np.array(names), **arrays)

        write_atomically(self.path / IMAGES, write)

    def _inspect(self, existing: Existing) -> None:
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        recipe = self.path / RECIPE
        if not recipe.is_file():
            raise InputError(
                f"{self.path} exists and is not a run (no {RECIPE}); choose another --run"
            )
        finished = (self.path / RESULT).is_file()
        if finished and existing == "refuse":
            raise InputError(
                f"{self.path} holds a finished run; choose another --run, or give --existing "
                "overwrite to start it anew"
            )
        differing = differences(yaml.safe_load(recipe.read_text()) or {}, self.recipe)
        if differing:
            raise InputError(
                f"{self.path} holds a run of another recipe ({differing[0]}); use that recipe, "
                "choose another --run, or give --existing overwrite"
            )
        if finished:
            self.result = json.loads((self.path / RESULT).read_text())

    def _clear(self) -> None:
        ours = (RECIPE, RESULT, CURVES, LAST, BEST, FINAL, ENVIRONMENT, IMAGES)
        for file in self.path.iterdir():
            if file.is_file() and (file.name in ours or file.name.startswith("events.out.")):
                file.unlink()


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
        self._rows = self._read(first_step)
        self._columns = list(dict.fromkeys(key for row in self._rows for key in row))
        self._rewrite()
        self._board = SummaryWriter(str(folder), purge_step=first_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step (counted from 1)."""
        row = {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        self._rows.append(row)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if set(row) <= set(self._columns):
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        else:
            self._columns = list(dict.fromkeys([*self._columns, *row]))
            self._rewrite()

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._board.close()

    def _read(self, first_step: int) -> list[dict[str, str]]:
        if not self._path.is_file():
            return []
        with self._path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        # A kill may leave half a row behind.
        whole = [row for row in rows if (row.get("step") or "").isdigit()]
        kept = [row for row in whole if int(row["step"]) <= first_step]
        return [{name: value for name, value in row.items() if name and value} for row in kept]

    def _rewrite(self) -> None:
        def write(path: Path) -> None:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(self._rows)

        write_atomically(self._path, write)


def environment() -> dict[str, Any]:
    """Describe where and how this process runs, for whoever reads its results later."""
    import torch

    packages = ("fakd", "torch", "torchvision", "timm", "lightning-fabric")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": command_line(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "versions": {name: version(name) for name in packages},
    }


def command_line() -> str:
    """Write this process's command as it would be typed, ``fakd`` without where it is installed."""
    program = Path(sys.argv[0])
    module = program.parts[-2:] == ("fakd", "__main__.py")
    installed = module or program.name in ("fakd", "fakd.exe")
    return shlex.join(["fakd" if installed else sys.argv[0], *sys.argv[1:]])
