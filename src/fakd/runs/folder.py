"""The folders of a run and of a grid: their files, how these are written, and locking."""

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
from fakd.runs.naming import with_default_arguments
from fakd.runs.overwriting import kept_runs, remove, set_aside, settle
from fakd.settings import Existing
from fakd.signals import Interrupted

FORMAT = 1
"""Version of the format of a run's files; increased when older readers would misread them."""
RECIPE, RESULT, CURVES = "recipe.yaml", "result.json", "metrics.csv"
LAST, BEST, FINAL = "last.safetensors", "best.safetensors", "final.safetensors"
"""The checkpoint, the best and the final network; a result's scores are the final network's."""
ENVIRONMENT, IMAGES, SHOWN = "environment.json", "images.npz", "shown.npz"
WRONG = "wrong.json"
"""The step at which a loss or gradient was not finite; deleted when the run resumes."""
TRACE = "trace.json"
"""Trace of the profiled steps, if any."""
GRID, GRID_LOCK, CALIBRATION = "grid.yaml", "grid.lock", "calibration.json"
OPENED = "test.json"
"""In a grid's folder: when and by which command its test split was opened, and the scores."""
TEST_IMAGES = "test.npz"
"""In a run's folder: its network's pixel counts on each test image."""
GUARD = "run.lock"
"""The lock of a run's own folder, held by the process that trains it."""
LOG, LOCK, GIVEN, FAILED = ".log", ".lock", ".yaml", ".failed"
"""Suffixes of the files next to a run of a grid: output, lock, recipe, reason of failure."""
_OURS = (
    *(RESULT, CURVES, LAST, BEST, Path(BEST).stem, FINAL, ENVIRONMENT, IMAGES, WRONG, SHOWN, TRACE),
    *("events.out.*", RECIPE),
)
"""The files that a run writes, in the order of removal: the recipe last."""
_OWN = f"fakd {version('fakd')}"
# Settings that may change when a run resumes, as they do not change what it computes.
FREE = ("hardware", "intervals", "existing", "run", "broken", "inference.batch_size")
# Arguments that are paths: content is compared by fingerprint instead.
_PATHS = ("root", "description", "path", "source", "weights")
# Temporary files left by a killed process, ours or those of safetensors.
_UNFINISHED = re.compile(r"\.[0-9a-f]{12}\.tmp|\.tmp[A-Za-z0-9]{6}")
_SEED = re.compile(r"seed-(\d+)")


def refuse_taken(path: Path, existing: Existing) -> None:
    """Refuse a folder that is not a run, or that has a finished run and ``existing`` is refuse.

    Raises:
        InputError: the folder is refused.
    """
    require_choice("existing", existing, Existing)
    begun = (path / RECIPE).is_file() or bool(kept_runs(path))
    others = path.is_dir() and any(file.name != GUARD for file in path.iterdir())
    if path.is_file() or (others and not begun):
        raise InputError(f"{path} exists and is not a run (no {RECIPE}); choose another --run")
    if begun and existing == "refuse" and (path / RESULT).is_file():
        raise InputError(
            f"{path} contains a finished run; choose another --run, or give --existing overwrite "
            "to start over"
        )


def in_grid(grid: Path, pair: str, method: str, seed: int) -> Path:
    """Return the folder of a run in a grid."""
    return grid / pair / method / f"seed-{seed}"


def place_in_grid(folder: Path) -> tuple[str, str, int] | None:
    """Parse pair, method and seed of a run from its folder; None outside a grid."""
    folder = folder.absolute()
    match = _SEED.fullmatch(folder.name)
    if not match or len(folder.parents) < 3 or not (folder.parents[2] / GRID).is_file():
        return None
    return folder.parts[-3], folder.parts[-2], int(match[1])


class RunFolder(AbstractContextManager["RunFolder"]):
    """Opens or resumes the run in ``path``; never destroys a finished run unless told to.

    The folder is locked until the context is left. ``last`` is the path of the checkpoint to resume
    from, if it exists, and ``result`` the result of a finished run that is reused.
    ``extended_from`` is the number of steps before an extension, ``remarks`` what the user should
    know.

    Args:
        path: the folder; created, with its parents, if missing.
        recipe: what the run computes, as YAML values; written as ``recipe.yaml``.
        existing: what to do with a finished run: refuse, reuse its result if the recipe is the
            same, overwrite it (also an unfinished run of another recipe; the old one is kept until
            the new one has a result, and restored if that ends before its first checkpoint), or
            extend it to more steps of the same recipe.
        fingerprints: of data and networks by their keys in the recipe; if one is unchanged, the
            paths below its key may change.

    Raises:
        InputError: the folder contains a finished run, a run of another recipe or something else,
            or another process uses it.
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
                f"another process uses {path} ({holder(path / GUARD)}); wait until it ends, or "
                "choose another --run"
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
                        f"{path} would be overwritten, but the run reads {each} in it; choose "
                        "another --run"
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
        """Restore an overwritten run unless this one can be resumed; remove a new, empty folder."""
        self._settle()
        if not (self._found or self.last.is_file() or (self.path / RESULT).is_file()):
            remove(self.path, _OURS)
            (self.path / GUARD).unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()
        self._held.close()

    def note(self, **facts: Any) -> None:
        """Add facts to ``environment.json``."""
        write_json(self.path / ENVIRONMENT, read_environment(self.path) | facts)

    def _fewer_steps(self) -> int:
        """Return the steps of the run to extend; refuse a run of another recipe."""
        path, schedule = self.path, self._recipe["schedule"]
        with readable(path):
            before: int = read_recipe(path)["schedule"]["steps"]
        former = {**self._recipe, "schedule": {**schedule, "steps": before}}
        if differing := self._differing(former):
            raise InputError(
                f"{path} contains a run of another recipe ({differing}); --existing extend may "
                "change schedule.steps only"
            )
        if not self.last.is_file():
            raise InputError(
                f"{self.last} is missing, and --existing extend resumes from it; give --existing "
                "overwrite to start over"
            )
        if not before < schedule["steps"]:
            raise InputError(
                f"{path} has {before} steps; --existing extend needs a larger --schedule.steps, "
                f"got {schedule['steps']}"
            )
        return before

    def _refuse_another(self) -> None:
        if differing := self._differing(self._recipe):
            raise InputError(
                f"{self.path} contains a run of another recipe ({differing}); use that recipe, "
                "choose another --run, or give --existing overwrite"
            )

    def _differing(self, recipe: Mapping[str, Any]) -> str | None:
        """Name the first difference to the run in the folder; None if it is the same run."""
        with readable(self.path):
            before = read_environment(self.path).get("fingerprints") or {}
            now = self._fingerprints
            same = {key for key in now if before.get(key) == now[key]}
            for each in differences(
                with_default_arguments(read_recipe(self.path)), with_default_arguments(recipe)
            ):
                key = each.partition(":")[0]
                if key.partition(".")[0] not in same or key.rpartition(".")[2] not in _PATHS:
                    writer = writer_of(self.path)
                    return each if writer == _OWN else f"{each}; written by {writer}"
                what = key.partition(".")[0]
                self.remarks.append(f"uses the same {what} from another path ({each})")
        for key in ("data", "teacher"):
            if key in before and key in now and key not in same:
                return f"the {key} have changed" if key == "data" else f"the {key} has changed"
        return None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the settings, as ``key: old -> new``, that make two recipes compute different things."""
    found = []
    for key in (each for each in {**old, **new} if f"{prefix}{each}" not in FREE):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before} -> {after}")
    return found


def read_curves(file: Path) -> list[dict[str, float]]:
    """Read the rows of a ``metrics.csv``, each with its step and the logged values.

    A last row that is incomplete is left out; without a file there are no rows.

    Raises:
        InputError: a row is damaged.
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
    """Write one JSON file of a run atomically."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read the recipe of a run; to be called inside `readable`, which reports its ValueError."""
    try:
        return read_yaml(folder / RECIPE)
    except InputError as error:
        raise ValueError(str(error)) from error


def read_environment(folder: Path) -> dict[str, Any]:
    """Read the environment of a run; empty if unknown."""
    try:
        content = read_json(folder / ENVIRONMENT)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def writer_of(folder: Path) -> str:
    """Name the version of fakd that wrote a run, if recorded."""
    versions = read_environment(folder).get("versions")
    known = versions.get("fakd") if isinstance(versions, dict) else None
    return f"fakd {known}" if known else "an unknown version of fakd"


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn failures to read the files of a run into an error message of one line.

    Raises:
        InputError: the files have another format than `FORMAT`, or are damaged.
    """
    writer = writer_of(folder)
    if (found := read_environment(folder).get("format", FORMAT)) != FORMAT:
        raise InputError(
            f"{folder} was written by {writer} in format {found}, but this is {_OWN}, which "
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
            remedy = f"delete {RESULT} there and repeat its command, which writes the files again"
        raise InputError(
            f"{folder} contains a run that cannot be read ({reason}), written by {writer}; {remedy}"
        ) from error


def read_checkpoint_state(path: Path, known: Collection[str] | None = None) -> dict[str, Any]:
    """Read only a checkpoint's state, without its tensors.

    Raises:
        InputError: the file is damaged, has another format than `FORMAT`, or unknown fields.
    """
    remedy = "give --existing overwrite to start over"
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        state = json.loads(metadata["state"])
        found = int(metadata.get("format", 0))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a readable checkpoint ({error}); {remedy}") from error
    if found != FORMAT or not isinstance(state, dict):
        raise InputError(
            f"{path} is a checkpoint of another version of fakd, in format {found} instead of "
            f"{FORMAT}; resume with that version, or {remedy}"
        )
    if strange := set(state) - set(state if known is None else known):
        raise InputError(
            f"{path} contains {', '.join(sorted(strange))}, unknown to {_OWN}; resume with the "
            f"version that wrote it, or {remedy}"
        )
    if type(state.get("step")) is not int:
        raise InputError(f"{path} is not a readable checkpoint (no step); {remedy}")
    return state
