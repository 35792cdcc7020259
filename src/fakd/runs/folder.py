"""The folder of one run, and of a grid of runs: what lies in it, how it is written and locked."""

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from safetensors import SafetensorError, safe_open

from fakd.errors import InputError, require_choice
from fakd.files import (
    make_folder,
    paths_in,
    read_yaml,
    write_text,
    write_yaml,
    writing,
)
from fakd.runs.environment import environment
from fakd.runs.locks import holder, lock
from fakd.runs.naming import completed
from fakd.runs.overwriting import kept, remove, set_aside, settle
from fakd.settings import Existing
from fakd.signals import Interrupted

FORMAT = 1
"""Version of what a run's files say; raised when readers of the old one would misunderstand it."""
RECIPE, RESULT, CURVES = "recipe.yaml", "result.json", "metrics.csv"
LAST, BEST, FINAL = "last.safetensors", "best.safetensors", "final.safetensors"
"""The checkpoint, the best and the last network; a result's scores are those of the last one."""
ENVIRONMENT, IMAGES, SHOWN = "environment.json", "images.npz", "shown.npz"
WRONG = "wrong.json"
"""The step at which a loss or gradient was not finite; gone when the run goes on."""
TRACE = "trace.json"
"""What PyTorch recorded of some steps, where it was asked to."""
GRID, GRID_LOCK, CALIBRATION = "grid.yaml", "grid.lock", "calibration.json"
OPENED = "test.json"
"""Beside a grid: when and by which command its test split was opened, and the scores there."""
TEST_IMAGES = "test.npz"
"""In a run's folder: what its network got right on each test image."""
GUARD = "run.lock"
"""The lock of a run's own folder, held by the process that trains it."""
LOG, LOCK, GIVEN, FAILED = ".log", ".lock", ".yaml", ".failed"
"""What lies beside a run of a grid: its output, its lock, its recipe, and why it failed."""
_OURS = (
    *(RESULT, CURVES, LAST, BEST, Path(BEST).stem, FINAL, ENVIRONMENT, IMAGES, WRONG, SHOWN, TRACE),
    *("events.out.*", RECIPE),
)
"""What a run writes, the recipe first, and so last here."""
_OWN = f"fakd {version('fakd')}"
# What may change between two sittings of the same run without changing what it computes.
FREE = ("hardware", "intervals", "existing", "run", "broken", "inference.batch_size")
# Where a recipe says where things lie, not what they are.
_PATHS = ("root", "description", "path", "source", "weights")
# What a kill left of a file that was being written, here or in safetensors.
_UNFINISHED = re.compile(r"\.[0-9a-f]{12}\.tmp|\.tmp[A-Za-z0-9]{6}")
_SEED = re.compile(r"seed-(\d+)")


def refuse_taken(path: Path, existing: Existing) -> None:
    """Refuse a folder of something else, and one with a finished run that is to be left alone.

    Raises:
        InputError: it is one.
    """
    require_choice("existing", existing, Existing)
    begun = (path / RECIPE).is_file() or bool(kept(path))
    others = path.is_dir() and any(file.name != GUARD for file in path.iterdir())
    if path.is_file() or (others and not begun):
        raise InputError(f"{path} exists and is not a run (no {RECIPE}); choose another --run")
    if begun and existing == "refuse" and (path / RESULT).is_file():
        raise InputError(
            f"{path} holds a finished run; choose another --run, or give --existing overwrite to "
            "start it anew"
        )


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


class RunFolder(AbstractContextManager["RunFolder"]):
    """Opens or continues ``path`` and never destroys a finished run unasked.

    Until it is left, no other process gets the folder. Its ``last`` is the checkpoint that training
    continues from, if there is one, and its ``result`` that of a finished run that is reused.
    ``extended_from`` is the number of steps that the run had before it was given more, ``remarks``
    what the user should know.

    Args:
        path: the folder; created, with its parents, if missing.
        recipe: what the run computes, plain values; written as ``recipe.yaml``.
        existing: what to do where a finished run already is: refuse, reuse its result if the recipe
            is the same, overwrite it (an unfinished run of another recipe too; it is kept until the
            new one has a result, and comes back if that has no checkpoint), or extend it to more
            steps of the same recipe.
        fingerprints: of the data and the networks by their keys in the recipe; where one is as
            before, the paths below its key may have changed.

    Raises:
        InputError: the folder holds a finished run, a run of another recipe, or something else, or
            another process is at work on it.
    """

    def __init__(
        self,
        path: Path,
        recipe: Mapping[str, Any],
        existing: Existing = "refuse",
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.last = path, path / LAST
        self.result: dict[str, Any] | None = None
        self.extended_from: int | None = None
        self.remarks: list[str] = []
        self._recipe, self._fingerprints = recipe, dict(fingerprints or {})
        self._held, self._locked = ExitStack(), False
        refuse_taken(path, existing)
        self._found = path.is_dir() and any(path.iterdir())
        if self._reused(existing):
            return
        make_folder(path)
        if self._held.enter_context(lock(path / GUARD)) is None:
            raise InputError(
                f"another process is at work on {path} ({holder(path / GUARD)}); wait for its end, "
                "or choose another --run"
            )
        self._locked = True
        try:
            self._settle()
            refuse_taken(path, existing)
            if not self._reused(existing):
                self._open(existing)
        except BaseException:
            self.abandon()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, InputError | Interrupted | KeyboardInterrupt):
            self.abandon()
        elif (self.path / RESULT).is_file():
            self._settle()
        self._held.close()

    def _reused(self, existing: Existing) -> bool:
        path = self.path
        if existing == "reuse" and (path / RECIPE).is_file() and (path / RESULT).is_file():
            self._refuse_another()
            with readable(path):
                self.result = read_json(path / RESULT)
        return self.result is not None

    def _open(self, existing: Existing) -> None:
        path = self.path
        if not (path / RECIPE).is_file() or existing == "overwrite":
            for each in paths_in({**self._recipe, "run": None}):
                if each.is_relative_to(path.resolve()):
                    raise InputError(
                        f"{path} is to be overwritten, but {each} in it is what the run reads; "
                        "choose another --run"
                    )
            if aside := set_aside(path, _OURS):
                self.remarks.append(
                    f"was a run before, kept in {aside} until the new one has a result"
                )
        elif existing == "extend":
            self.extended_from = self._fewer_steps()
        else:
            self._refuse_another()
        if self.last.is_file():
            with readable(path):
                read_checkpoint_state(self.last)
        with writing(path):
            for rubbish in path.glob(".*"):
                if _UNFINISHED.fullmatch(rubbish.name):
                    rubbish.unlink()
        write_yaml(path / RECIPE, self._recipe)
        made = {"format": FORMAT, **environment(), "fingerprints": self._fingerprints}
        write_json(path / ENVIRONMENT, made)
        with writing(path):
            (path / RESULT).unlink(missing_ok=True)

    def _settle(self) -> None:
        if self._locked:
            settle(self.path, _OURS, RESULT, LAST)

    def abandon(self) -> None:
        """Bring back what was there before, unless there is something to continue from."""
        self._settle()
        if not (self._found or self.last.is_file() or (self.path / RESULT).is_file()):
            remove(self.path, _OURS)
            (self.path / GUARD).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()
        self._held.close()

    def note(self, **facts: Any) -> None:
        """Add to what ``environment.json`` says of how the run is made."""
        write_json(self.path / ENVIRONMENT, read_environment(self.path) | facts)

    def _fewer_steps(self) -> int:
        """Read the steps of a run that is to be extended; refuse one of another recipe."""
        path, schedule = self.path, self._recipe["schedule"]
        with readable(path):
            before: int = read_recipe(path)["schedule"]["steps"]
        former = {**self._recipe, "schedule": {**schedule, "steps": before}}
        if differing := self._differing(former):
            raise InputError(
                f"{path} holds a run of another recipe ({differing}); --existing extend changes "
                "schedule.steps only"
            )
        if not self.last.is_file():
            raise InputError(
                f"{self.last} is gone, and with it what --existing extend goes on from"
            )
        if not before < schedule["steps"]:
            raise InputError(
                f"{path} has {before} steps; --existing extend needs a larger --schedule.steps "
                f"than that, got {schedule['steps']}"
            )
        return before

    def _refuse_another(self) -> None:
        if differing := self._differing(self._recipe):
            raise InputError(
                f"{self.path} holds a run of another recipe ({differing}); use that recipe, choose "
                "another --run, or give --existing overwrite"
            )

    def _differing(self, recipe: Mapping[str, Any]) -> str | None:
        """Name the first thing in which the run that is there is another one."""
        with readable(self.path):
            before = read_environment(self.path).get("fingerprints") or {}
            now = self._fingerprints
            same = {key for key in now if before.get(key) == now[key]}
            for each in differences(completed(read_recipe(self.path)), completed(recipe)):
                key = each.partition(":")[0]
                if key.partition(".")[0] not in same or key.rpartition(".")[2] not in _PATHS:
                    writer = writer_of(self.path)
                    return each if writer == _OWN else f"{each}; written by {writer}"
                what = key.partition(".")[0]
                self.remarks.append(f"is of the same {what} by another path ({each})")
        for key in ("data", "teacher"):
            if key in before and key in now and key not in same:
                return f"the {key} have changed" if key == "data" else f"the {key} has changed"
        return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the settings in which two recipes compute different things, as ``key: old -> new``."""
    found = []
    for key in (each for each in {**old, **new} if f"{prefix}{each}" not in FREE):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


def read_curves(file: Path) -> list[dict[str, float]]:
    """Read the rows of a ``metrics.csv``: its step, and what was logged there.

    A row that is still being written, or that a kill has cut off, is left out; without a file there
    are no rows.
    """
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    try:
        rows = [
            {name: float(each) for name, each in row.items() if name and each} for row in reader
        ]
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{file} is damaged in line {reader.line_num} ({error}); delete that line"
        ) from error
    return [row for row in rows if "step" in row]


def read_json(file: Path) -> dict[str, Any]:
    """Read one JSON file of a run."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON file of a run, whole or not at all."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read the recipe of a run; to be called where what is wrong with it is `readable`."""
    try:
        return read_yaml(folder / RECIPE)
    except InputError as error:
        raise ValueError(str(error)) from error


def read_environment(folder: Path) -> dict[str, Any]:
    """Read where and how a run was made; nothing if that is not known."""
    try:
        content = read_json(folder / ENVIRONMENT)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def writer_of(folder: Path) -> str:
    """Name the version of fakd that wrote a run, as far as it says so."""
    versions = read_environment(folder).get("versions")
    known = versions.get("fakd") if isinstance(versions, dict) else None
    return f"fakd {known}" if known else "an unknown version of fakd"


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Refuse in one line what the files of a run say that this version cannot make sense of.

    Raises:
        InputError: they are of another format than `FORMAT`, or broken.
    """
    writer = writer_of(folder)
    if (found := read_environment(folder).get("format", FORMAT)) != FORMAT:
        raise InputError(
            f"{folder} was written by {writer} in format {found}, and this is {_OWN}, which "
            f"reads format {FORMAT}; use that version"
        )
    try:
        yield
    except InputError as error:
        raise InputError(f"{folder}, written by {writer}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = "train it again with --existing overwrite"
        if (folder / LAST).is_file() and (folder / RESULT).is_file():
            remedy = f"remove {RESULT} there and give its command again, which writes what is lost"
        raise InputError(
            f"{folder} holds a run that cannot be read ({reason}), written by {writer}; {remedy}"
        ) from error


def read_checkpoint_state(path: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """Read only the plain values of a checkpoint.

    Raises:
        InputError: the file is damaged, of another format than `FORMAT`, or says what is not known.
    """
    remedy = "give --existing overwrite to start the run anew"
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        state = json.loads(metadata["state"])
        found = int(metadata.get("format", 0))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no readable checkpoint ({error}); {remedy}") from error
    if found != FORMAT or not isinstance(state, dict):
        raise InputError(
            f"{path} is a checkpoint of another version of fakd, in format {found} and not "
            f"{FORMAT}; continue with that version, or {remedy}"
        )
    if strange := set(state) - set(state if known is None else known):
        raise InputError(
            f"{path} holds {', '.join(sorted(strange))}, which {_OWN} does not know; continue "
            f"with the version that wrote it, or {remedy}"
        )
    if type(state.get("step")) is not int:
        raise InputError(f"{path} is no readable checkpoint (of no step); {remedy}")
    return state
