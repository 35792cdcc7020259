"""One cell of a grid: a run in its own process, and the timing of its method's steps."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fakd import signals
from fakd.errors import last_line
from fakd.files import write_text, write_yaml
from fakd.imports import allowed
from fakd.runs.folder import (
    CALIBRATION,
    CURVES,
    FAILED,
    GIVEN,
    LOCK,
    LOG,
    RESULT,
    read_curves,
    read_json,
    write_json,
)
from fakd.runs.locks import lock

Stop = Callable[[], bool]
"""Tells whether to stop early; always false where the engine kills the process instead."""
_POLL = 0.1
_PATIENCE = 60.0
"""Seconds for a run to finish its step and save."""
LAP, LAPS = 4, 3
"""Steps per timing, and number of timings; the first is warm-up and does not count."""
ENDLESS = 10**9


@dataclass(frozen=True, eq=False)
class Cell:
    """One run of a grid: a command, its recipe and its folder.

    Args:
        command: the command to run.
        folder: the run's folder; recipe, log, lock and failure are next to it, with its name.
        recipe: the command's complete recipe.
        label: its name in lines and tables.
        outcome: the file that exists once it is done; by default the run's result.
        directory: base of relative paths in the recipe.
        code: the code that the user allows the recipe to run.
    """

    command: Literal["train", "distill", "answer"]
    folder: Path
    recipe: Mapping[str, Any]
    label: str
    outcome: Path | None = None
    directory: Path = field(default_factory=Path.cwd)
    code: Sequence[str] = field(default_factory=allowed)

    def sibling(self, suffix: str) -> Path:
        """Return the path of a file next to the run's folder: log, lock, recipe or failure."""
        return self.folder.with_name(self.folder.name + suffix)

    @property
    def finished(self) -> bool:
        """Whether the outcome exists."""
        return (self.outcome or self.folder / RESULT).is_file()

    @property
    def failure(self) -> str | None:
        """Exit code and last line of the last attempt, if it failed."""
        with suppress(FileNotFoundError):
            return self.sibling(FAILED).read_text(encoding="utf-8").strip()
        return None

    @property
    def failed_at(self) -> int | None:
        """When the last attempt failed, to tell an old failure from a new one."""
        with suppress(FileNotFoundError):
            return self.sibling(FAILED).stat().st_mtime_ns
        return None

    @property
    def step(self) -> int:
        """The last logged step."""
        rows = read_curves(self.folder / CURVES)
        return int(rows[-1]["step"]) if rows else 0

    def busy(self) -> bool:
        """Tell whether any process is running it."""
        with lock(self.sibling(LOCK)) as held:
            return held is None

    def record_failure(self, reason: str) -> None:
        """Write the reason of a failure to its file."""
        write_text(self.sibling(FAILED), reason + "\n")


def attempt(cell: Cell, environment: Mapping[str, str], stop: Stop = lambda: False) -> None:
    """Run the cell to its end, unless it is finished or another process is running it.

    An interrupted run resumes from its last checkpoint. A failure is recorded in a file.
    """
    with lock(cell.sibling(LOCK)) as held:
        if held is not None and not cell.finished:
            ending = run(cell, held, environment, stop)
            if ending and not cell.finished:
                cell.record_failure(ending)


def run(cell: Cell, held: int, environment: Mapping[str, str], stop: Stop) -> str | None:
    """Run the cell's command, which inherits the lock; return how it failed, None if stopped."""
    cell.sibling(FAILED).unlink(missing_ok=True)
    recipe = cell.sibling(GIVEN)
    write_yaml(recipe, cell.recipe)
    command = [sys.executable, "-m", "fakd", cell.command, "--recipe", str(recipe.absolute())]
    command += [f"--code={json.dumps(cell.code)}"] if cell.code else []
    with cell.sibling(LOG).open("ab") as output:
        begin = output.tell()
        child = subprocess.Popen(
            command if cell.command == "answer" else [*command, "--existing", "reuse"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            cwd=cell.directory,
            pass_fds=(held,),
            # A terminal's Ctrl-C must reach this process first, which ends its runs in order.
            start_new_session=True,
        )
    try:
        while (code := child.poll()) is None and not stop():
            time.sleep(_POLL)
    finally:
        _end(child)
    if code is None or signals.was_signalled(code):
        return None  # it resumes at the next attempt
    how = f"killed by {signals.signal_name(-code)}" if code < 0 else f"exit code {code}"
    said = last_line(cell.sibling(LOG).read_bytes()[begin:].decode("utf-8", "replace"))
    return f"{how}: {said or 'no output'}"


def _end(child: subprocess.Popen) -> None:
    """Forward the stop signal to a process and its children; kill them after the time limit."""
    if child.poll() is not None:
        return
    deadline = time.monotonic() + _PATIENCE
    # Background processes of a shell ignore SIGINT.
    number = (
        signal.SIGTERM
        if signals.received_signal() in (0, signal.SIGINT)
        else signals.received_signal()
    )
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
        while (
            child.poll() is None
            and time.monotonic() < deadline
            and not signals.is_second_interrupt()
        ):
            time.sleep(_POLL)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def trial_of(cell: Cell) -> Cell:
    """Create the cell that times the steps of a cell's method: its command, stopped early."""
    folder = cell.folder.with_name("calibration")
    schedule = {**cell.recipe["schedule"], "steps": ENDLESS}
    intervals = {"log": LAP, "save": ENDLESS, "evaluate": ENDLESS}
    recipe = {**cell.recipe, "schedule": schedule, "intervals": intervals, "run": str(folder)}
    if cell.command == "distill":
        recipe["check_teacher"] = False
    label = f"{folder.parent.parent.name} {folder.parent.name}, timing its steps"
    outcome = folder.with_name(CALIBRATION)
    return replace(cell, folder=folder, recipe=recipe, label=label, outcome=outcome)


def measure(trial: Cell, environment: Mapping[str, str], stop: Stop = lambda: False) -> None:
    """Time a few steps of a trial and write the seconds per step to its outcome."""
    with lock(trial.sibling(LOCK)) as held:
        if held is None or trial.finished or trial.outcome is None:
            return
        shutil.rmtree(trial.folder, ignore_errors=True)
        ending = run(trial, held, environment, lambda: stop() or len(_read_laps(trial)) >= LAPS)
        if len(laps := _read_laps(trial)) >= LAPS:
            seconds = statistics.mean(laps[1:LAPS])
            content = {"seconds_per_step": seconds, "steps_timed": LAP * (LAPS - 1)}
            write_json(trial.outcome, content)
            shutil.rmtree(trial.folder, ignore_errors=True)
        elif ending:
            trial.record_failure(ending)


def with_minutes(cell: Cell, minutes: float, trial: Cell) -> Cell:
    """Set a cell's steps to what its method, timed by a trial, does in the given minutes."""
    steps = max(1, round(60 * minutes / seconds_per_step(trial)))
    schedule = {**cell.recipe["schedule"], "steps": steps}
    return replace(cell, recipe={**cell.recipe, "schedule": schedule})


def seconds_per_step(trial: Cell) -> float:
    """Read the seconds per step measured by a trial."""
    return float(read_json(trial.folder.with_name(CALIBRATION))["seconds_per_step"])


def _read_laps(trial: Cell) -> list[float]:
    """Read the seconds per step of each timing from the curves of the trial."""
    batch: float = trial.recipe["schedule"]["batch_size"]
    rows = read_curves(trial.folder / CURVES)
    return [batch / row["images/s"] for row in rows if "images/s" in row]
