"""One cell of a grid: a run as a process of its own, with its recipe, log and lock beside it."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fakd.files import write_text
from fakd.runs.folder import CURVES, RESULT

Stop = Callable[[], bool]
"""Says whether the work is to end early."""
_POLL = 0.1
_PATIENCE = 15.0


def never() -> bool:
    """Stop never: where whoever started the work can end the process instead."""
    return False


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a grid: a command, its recipe and where it lies.

    Args:
        command: what trains it.
        folder: the run's folder; recipe, log, lock and failure lie beside it under its name.
        recipe: the complete recipe of that command.
        label: what it is called in lines and tables.
        outcome: the file whose presence says that it is done; the run's result if not given.
        directory: where relative paths of the recipe begin.
    """

    command: Literal["train", "distill"]
    folder: Path
    recipe: Mapping[str, Any]
    label: str
    outcome: Path | None = None
    directory: Path = field(default_factory=Path.cwd)

    def beside(self, suffix: str) -> Path:
        """Name a file that lies beside the run's folder."""
        return self.folder.with_name(self.folder.name + suffix)

    @property
    def finished(self) -> bool:
        """Whether the work is done."""
        return (self.outcome or self.folder / RESULT).is_file()

    @property
    def failure(self) -> str | None:
        """Exit code and last line of the last attempt, if that failed."""
        with suppress(FileNotFoundError):
            return self.beside(".failed").read_text(encoding="utf-8").strip()
        return None

    @property
    def failed_at(self) -> int | None:
        """When the last attempt failed, to tell an old failure from a new one."""
        with suppress(FileNotFoundError):
            return self.beside(".failed").stat().st_mtime_ns
        return None

    @property
    def step(self) -> int:
        """The last step that the run has logged."""
        with suppress(OSError, ValueError, IndexError):
            return int((self.folder / CURVES).read_text().splitlines()[-1].partition(",")[0])
        return 0

    def busy(self) -> bool:
        """Tell whether someone, perhaps another process, is at work on it."""
        with lock(self.beside(".lock")) as held:
            return held is None

    def record_failure(self, reason: str) -> None:
        """Leave the reason for the table, and for whoever looks."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.beside(".failed"), reason + "\n")


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


def attempt(cell: Cell, environment: Mapping[str, str], stop: Stop = never) -> None:
    """Run the cell to its end, unless it is finished or someone else is at it.

    A run that was interrupted continues at its last checkpoint. A failure is left as a file.
    """
    with lock(cell.beside(".lock")) as held:
        if held is None or cell.finished:
            return
        cell.beside(".failed").unlink(missing_ok=True)
        log = cell.beside(".log")
        begin = log.stat().st_size if log.exists() else 0
        with process(cell, held, environment) as child:
            while child.poll() is None and not stop():
                time.sleep(_POLL)
            code = child.poll()
        if code is not None and not (code == 0 and cell.finished):
            cell.record_failure(f"{ending(code)}: {last_line(log, begin)}")


@contextmanager
def process(cell: Cell, held: int, environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """Start the cell's command with the lock in its hands; on leaving, it is no more."""
    recipe, log = cell.beside(".yaml"), cell.beside(".log")
    write_text(recipe, yaml.safe_dump(dict(cell.recipe), sort_keys=False, allow_unicode=True))
    command = [sys.executable, "-m", "fakd", cell.command, "--recipe", str(recipe.absolute())]
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*command, "--existing", "reuse"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            cwd=cell.directory,
            pass_fds=(held,),
            # A terminal's Ctrl-C must reach us first: we end our runs in order.
            start_new_session=True,
        )
    try:
        yield child
    finally:
        _end(child)


def last_line(log: Path, begin: int = 0) -> str:
    """Read the last line that says something, from a byte of the log on."""
    text = log.read_bytes()[begin:].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def ending(code: int) -> str:
    """Say how a process ended."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end(child: subprocess.Popen) -> None:
    """Interrupt the process and all it started; kill them if they take too long."""
    if child.poll() is not None:
        return
    for signal_, patience in ((signal.SIGINT, _PATIENCE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal_)
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            return
