"""A run that is overwritten: kept beside the new one until that has a result, whatever ends it."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fakd.files import writing

_KEPT = "overwritten-"
"""How folders in a run's folder begin that hold the runs before."""


def kept_runs(folder: Path) -> list[Path]:
    """List the folders of runs that were overwritten, the latest last."""
    numbers = (each.name.removeprefix(_KEPT) for each in folder.glob(f"{_KEPT}*") if each.is_dir())
    return [folder / f"{_KEPT}{n}" for n in sorted(int(n) for n in numbers if n.isdecimal())]


def set_aside(folder: Path, ours: Sequence[str]) -> Path | None:
    """Move what a run has written into a folder of its own there; None if there is nothing.

    Args:
        folder: of the run.
        ours: patterns of what runs write; the last is what each writes first.

    Raises:
        InputError: it cannot be moved.
    """
    if not _written_files(folder, ours):
        return None
    last = max((int(each.name.removeprefix(_KEPT)) for each in kept_runs(folder)), default=0)
    aside = folder / f"{_KEPT}{last + 1}"
    with writing(folder):
        aside.mkdir()
        _move(folder, aside, ours)
    return aside


def settle(folder: Path, ours: Sequence[str], result: str, last: str) -> None:
    """Remove the runs before if the new one has a result; bring back the latest if it is lost.

    The new run is lost if it has no checkpoint, for nothing can go on from it. As what runs write
    first is moved and removed last, two of it say that all else was, whenever a kill came.

    Args:
        folder: of the run.
        ours: as for `set_aside`.
        result: the name of the file that a finished run has.
        last: the name of the checkpoint.

    Raises:
        InputError: something cannot be moved or removed.
    """
    first = ours[-1]
    with writing(folder):
        for aside in reversed(kept_runs(folder)):
            begun = (aside / first).is_file() and (folder / first).is_file()
            if begun and (folder / result).is_file():
                remove(aside, ours)
            elif begun and (folder / last).is_file():
                return
            else:
                if begun:
                    remove(folder, ours)
                _move(aside, folder, ours)
            # What the user has put there stays.
            with suppress(OSError):
                aside.rmdir()


def remove(folder: Path, ours: Sequence[str]) -> None:
    """Remove what a run has written, and nothing else."""
    for each in _written_files(folder, ours):
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink()


def _written_files(folder: Path, ours: Sequence[str]) -> list[Path]:
    return [each for pattern in ours for each in sorted(folder.glob(pattern))]


def _move(folder: Path, to: Path, ours: Sequence[str]) -> None:
    for each in _written_files(folder, ours):
        os.replace(each, to / each.name)
