"""Execution of a grid's cells, each once, also with concurrent commands; with a live table."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fakd import signals
from fakd.comparing.cell import Cell, attempt, measure, seconds_per_step, trial_of, with_minutes
from fakd.comparing.engines import Engine, Task, Work
from fakd.console import remark
from fakd.errors import last_line
from fakd.runs.folder import LOG, RESULT, read_json

_SHOWN = 12


class GridProgress:
    """Progress of a grid: running, finished and failed cells, and the estimated time left.

    Args:
        console: where to print; a live table if it is a terminal, else lines.
        title: what is running.
        cells: all cells.
    """

    def __init__(self, console: Console, title: str, cells: Sequence[Cell]) -> None:
        self._console, self._title = console, title
        self._states = {cell: "done" if cell.finished else "waiting" for cell in cells}
        # Earlier work does not count towards this command's pace.
        self._before = sum(map(self._share, cells))
        self._began = time.monotonic()
        self._started: dict[Cell, float] = {}

    def table(self) -> AbstractContextManager[object]:
        """Show a live table inside the context, on a terminal."""
        if not self._console.is_terminal:
            return nullcontext()
        options: dict[str, Any] = {"transient": True, "refresh_per_second": 1}
        return Live(console=self._console, get_renderable=self._table, **options)

    def started(self, cell: Cell) -> None:
        """Print that a cell starts or resumes."""
        self._started[cell] = time.monotonic()
        self._states[cell] = "running"
        at = f" at step {cell.step}" if cell.step else ""
        self._say(f"{cell.label}: {'resumes' if at else 'starts'}{at}")

    def finished(self, cell: Cell) -> None:
        """Print that a cell is done, unless it was before."""
        if self._states[cell] == "done":
            return
        self._states[cell] = "done"
        score = ""
        with suppress(OSError, KeyError, ValueError):
            score = f", val mIoU {read_json(cell.folder / RESULT)['final']['miou']:.2f}"
        where = "" if cell in self._started else " by another process"
        self._say(f"{cell.label}: done{where}{score}  ({self.summary()})")

    def failed(self, cell: Cell) -> None:
        """Print that a cell has failed, and why."""
        self._states[cell] = "failed"
        text = f"{cell.failure or ''}; full output: {cell.sibling(LOG)}"
        remark(self._console, text, f"{cell.label}: failed", "red")

    def summary(self) -> str:
        """Count the cells by state, and estimate the minutes left from the pace so far."""
        states = [*self._states.values()]
        parts = [f"{states.count('done')} of {len(states)} done"]
        parts += [f"{n} {state}" for state in ("running", "failed") if (n := states.count(state))]
        shares = sum(map(self._share, self._states))
        gained, rest = shares - self._before, len(states) - shares
        if gained > 0 and rest > 0:
            minutes = rest / gained * (time.monotonic() - self._began) / 60
            parts.append(f"about {minutes:.0f} min left" if minutes >= 1 else "under 1 min left")
        return ", ".join(parts)

    def _share(self, cell: Cell) -> float:
        if self._states[cell] in ("done", "failed"):
            return 1.0
        return min(1.0, cell.step / float(cell.recipe["schedule"]["steps"]))

    def _table(self) -> Group:
        table = Table(box=None, show_header=False)
        running = [cell for cell, state in self._states.items() if state == "running"]
        for cell in running[:_SHOWN]:
            steps = f"step {cell.step} of {cell.recipe['schedule']['steps']}"
            table.add_row(cell.label, steps, f"{time.monotonic() - self._started[cell]:.0f} s")
        if len(running) > _SHOWN:
            table.add_row(f"and {len(running) - _SHOWN} more")
        return Group(table, Text(f"{self._title}: {self.summary()}"))

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


def work(
    function: Work, cells: Sequence[Cell], engine: Engine, display: GridProgress, poll: float = 0.2
) -> list[Cell]:
    """Call ``function`` with each cell until all are finished or have failed; return the failed.

    Finished cells are skipped, cells that failed under an earlier command are tried once more, and
    cells that another process is running are waited for. A signal to stop is forwarded to all
    running cells, which save before they end; a second Ctrl-C does not wait for that.
    """
    earlier = {cell: cell.failed_at for cell in cells}
    waiting, running = list(cells), dict[Cell, Task]()
    failed: list[Cell] = []
    with display.table(), signals.listening(_print_signal):
        try:
            while (waiting or running) and not signals.received_signal():
                for cell in [*waiting]:
                    if cell.finished:
                        display.finished(cell)
                    elif cell.failed_at not in (None, earlier[cell]):
                        failed.append(cell)
                        display.failed(cell)
                    elif len(running) < engine.slots and not cell.busy():
                        running[cell] = engine.submit(function, cell)
                        display.started(cell)
                    else:
                        continue
                    waiting.remove(cell)
                for cell in [cell for cell, task in running.items() if task.done()]:
                    _record_engine_failure(cell, running.pop(cell), earlier[cell])
                    waiting.insert(0, cell)
                if waiting or running:
                    time.sleep(poll)
        except BaseException:
            engine.stop()
            raise
        if waiting or running:
            engine.stop()
            number = signals.received_signal()
            line = f"stopped by {signals.signal_name(number)}; the same command resumes"
            raise signals.stop_exception(number, line)
    return failed


def work_all(
    cells: Sequence[Cell], minutes: float | None, engine: Engine, console: Console
) -> list[Cell]:
    """Run all unfinished cells, with equal minutes for each or its own number of steps.

    Returns:
        The failed cells: those whose steps could not be timed, then those whose run failed.
    """
    lost: list[Cell] = []
    if minutes is not None:
        cells, lost = _set_steps(cells, minutes, engine, console)
    return [*lost, *work(attempt, cells, engine, GridProgress(console, "runs", cells))]


def expected_seconds(
    cells: Sequence[Cell], minutes: float | None, engine: Engine, console: Console
) -> float | None:
    """Estimate the total training time of cells, run sequentially, from a few steps per method.

    Evaluation and saving are not included. None if some cannot be timed; their runs will then fail
    and report the same error.
    """
    if minutes is not None:
        return 60 * minutes * len(cells)
    trials, untimed = _trials(cells, engine, console)
    if untimed:
        return None
    steps: dict[Cell, int] = {cell: cell.recipe["schedule"]["steps"] for cell in cells}
    return sum(seconds_per_step(trials[cell.folder.parent]) * steps[cell] for cell in cells)


def _trials(
    cells: Sequence[Cell], engine: Engine, console: Console
) -> tuple[dict[Path, Cell], list[Cell]]:
    """Time a few steps of each method; return trials by method folder, and the failed trials."""
    trials = {cell.folder.parent: trial_of(cell) for cell in cells if not cell.finished}
    display = GridProgress(console, "timing", [*trials.values()])
    return trials, work(measure, [*trials.values()], engine, display)


def _set_steps(
    cells: Sequence[Cell], minutes: float, engine: Engine, console: Console
) -> tuple[list[Cell], list[Cell]]:
    """Set every cell's steps to what its method does in the time; cells without timing fail."""
    trials, untimed = _trials(cells, engine, console)
    ready, lost = [], []
    for cell in cells:
        if cell.finished:
            ready.append(cell)
        elif (trial := trials[cell.folder.parent]) in untimed:
            cell.record_failure(trial.failure or "its steps could not be timed")
            lost.append(cell)
        else:
            ready.append(with_minutes(cell, minutes, trial))
    return ready, lost


def _record_engine_failure(cell: Cell, task: Task, earlier: int | None) -> None:
    """Record a failure of the engine itself, which no attempt could record."""
    try:
        task.result()
    except Exception as error:
        if not cell.finished and cell.failed_at in (None, earlier):
            cell.record_failure(f"{type(error).__name__}: {last_line(str(error)) or 'lost'}")


def _print_signal(number: int) -> None:
    again = "; press Ctrl-C again to stop at once" if number == signals.ASKING[0] else ""
    signals.write_line(
        f"{signals.signal_name(number)}: the runs finish their steps and save{again}"
    )
