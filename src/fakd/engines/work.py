"""Getting a grid done: each cell once, whoever else is at it, and the failed ones told apart."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fakd.engines.engine import Engine, Task, Work
from fakd.engines.progress import GridProgress
from fakd.training.cell import Cell


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
