"""Getting a grid done: each cell once, whoever else is at it, with a live table."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fakd.comparing.cell import Cell, attempt, measure, trial_of, within
from fakd.comparing.engines import Engine, Task, Work
from fakd.runs.folder import RESULT, read_json

_SHOWN = 12


class GridProgress(AbstractContextManager["GridProgress"]):
    """What runs, what is done, what has failed, and about how long the rest will take.

    Args:
        console: where to write; its being a terminal decides between a table and lines.
        title: what is going on.
        cells: all that is to be done.
        interval: seconds between two renewals of the table.
    """

    def __init__(
        self, console: Console, title: str, cells: Sequence[Cell], interval: float = 1.0
    ) -> None:
        self._console, self._title, self._cells, self._interval = console, title, cells, interval
        self._states = dict.fromkeys(cells, "waiting")
        self._began = time.monotonic()
        self._shown = 0.0
        self._before = 0.0
        self._started: dict[Cell, float] = {}
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> "GridProgress":
        for cell in self._cells:
            if cell.finished:
                self._states[cell] = "done"
        # What was done before says nothing about the pace of this sitting.
        self._before = sum(self._share(cell) for cell in self._cells)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def started(self, cell: Cell) -> None:
        """Say that a cell begins, or continues."""
        self._states[cell] = "running"
        self._started[cell] = time.monotonic()
        at = f" at step {cell.step}" if cell.step else ""
        self._say(f"{cell.label}: {'continues' if at else 'starts'}{at}")

    def finished(self, cell: Cell) -> None:
        """Say that a cell is done, unless it was before."""
        if self._states[cell] == "done":
            return
        self._states[cell] = "done"
        score = ""
        with suppress(OSError, KeyError, ValueError):
            score = f", val mIoU {read_json(cell.folder / RESULT)['final']['miou']:.2f}"
        where = "" if cell in self._started else " by another process"
        self._say(f"{cell.label}: done{where}{score}  ({self.summary()})")

    def failed(self, cell: Cell) -> None:
        """Say that a cell has failed, and why."""
        self._states[cell] = "failed"
        self._console.print(
            f"[red]{cell.label}: failed[/], {escape(cell.failure or '')}; all of it: {cell.log}",
            soft_wrap=True,
        )

    def update(self) -> None:
        """Renew the table, if it is old enough."""
        now = time.monotonic()
        if self._console.is_terminal and now - self._shown > self._interval:
            self._shown = now
            self._live.update(self._table(), refresh=True)

    def summary(self) -> str:
        """Count the cells, and estimate the minutes left from the pace so far."""
        states = [*self._states.values()]
        parts = [f"{states.count('done')} of {len(states)} done"]
        parts += [f"{n} {state}" for state in ("running", "failed") if (n := states.count(state))]
        if (minutes := self._minutes_left()) is not None:
            parts.append(f"about {minutes:.0f} min left" if minutes >= 1 else "under 1 min left")
        return ", ".join(parts)

    def _share(self, cell: Cell) -> float:
        if self._states[cell] in ("done", "failed"):
            return 1.0
        steps: int = cell.recipe["schedule"]["steps"]
        return min(1.0, cell.step / steps)

    def _minutes_left(self) -> float | None:
        shares = sum(self._share(cell) for cell in self._cells)
        gained, rest = shares - self._before, len(self._cells) - shares
        if gained <= 0 or rest <= 0:
            return None
        return rest / gained * (time.monotonic() - self._began) / 60

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
        self._console.print(line, markup=False, soft_wrap=True)


def work(
    function: Work, cells: Sequence[Cell], engine: Engine, display: GridProgress, poll: float = 0.2
) -> list[Cell]:
    """Call ``function`` with each cell until all are finished or have failed; return the failed.

    Finished cells are left alone, cells that failed in an earlier sitting are tried once more, and
    cells that another process is at are waited for. An interrupt stops all that run.
    """
    earlier = {cell: cell.failed_at for cell in cells}
    waiting, running = list(cells), dict[Cell, Task]()
    failed: list[Cell] = []
    with display, _interruptible():
        try:
            while waiting or running:
                for cell in [*waiting]:
                    if cell.finished:
                        display.finished(cell)
                    elif cell.failed_at not in (None, earlier[cell]):
                        failed.append(cell)
                        display.failed(cell)
                    else:
                        if len(running) < engine.slots and not cell.busy():
                            waiting.remove(cell)
                            running[cell] = engine.submit(function, cell)
                            display.started(cell)
                        continue
                    waiting.remove(cell)
                for cell in [cell for cell, task in running.items() if task.done()]:
                    _look(cell, running.pop(cell), earlier[cell])
                    waiting.insert(0, cell)
                display.update()
                if waiting or running:
                    time.sleep(poll)
        except BaseException:
            engine.stop()
            raise
    return failed


def work_all(
    cells: Sequence[Cell], minutes: float | None, engine: Engine, console: Console
) -> list[Cell]:
    """Do all that is unfinished, with equal minutes for every cell or as many steps as it says.

    Returns:
        The failed: cells whose steps could not be timed, then those that failed themselves.
    """
    lost: list[Cell] = []
    if minutes is not None:
        cells, lost = _timed(cells, minutes, engine, console)
    failed = work(attempt, cells, engine, GridProgress(console, "runs", cells))
    engine.close()
    return [*lost, *failed]


def _timed(
    cells: Sequence[Cell], minutes: float, engine: Engine, console: Console
) -> tuple[list[Cell], list[Cell]]:
    """Give every cell the steps its method makes in the time; those that cannot be timed fail."""
    trials = {cell.folder.parent: trial_of(cell) for cell in cells if not cell.finished}
    display = GridProgress(console, "timing", [*trials.values()])
    untimed = {
        trial.folder.parent: trial.failure or "its steps could not be timed"
        for trial in work(measure, [*trials.values()], engine, display)
    }
    ready, lost = [], []
    for cell in cells:
        method = cell.folder.parent
        if cell.finished:
            ready.append(cell)
        elif method in untimed:
            cell.record_failure(untimed[method])
            lost.append(cell)
        else:
            ready.append(within(cell, minutes, trials[method]))
    return ready, lost


def _look(cell: Cell, task: Task, earlier: int | None) -> None:
    """Record what no attempt could: that the engine itself lost the call."""
    try:
        task.result()
    except Exception as error:
        if not cell.finished and cell.failed_at in (None, earlier):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            cell.record_failure(f"{type(error).__name__}: {lines[-1] if lines else 'lost'}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a polite kill end the runs in order too, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
