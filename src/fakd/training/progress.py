"""Timing and progress of a long run: a progress bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import MappingProxyType, TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Stopwatch:
    """Counts seconds since its creation, except inside ``paused``."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last lap and start a new one."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent inside from the lap."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began


class StepProgress(AbstractContextManager["StepProgress"]):
    """Progress of a training run.

    Args:
        console: where to print; a bar if it is a terminal, else lines.
        title: what is running.
        total: number of steps.
        interval: minimum seconds between two lines, without a terminal.
    """

    def __init__(self, console: Console, title: str, total: int, interval: float = 15.0) -> None:
        self._console, self._title, self._total, self._first = console, title, total, 0
        self._interval = interval
        self._started = time.monotonic()
        self._last_line = 0.0
        # Long names differ at their end.
        name, bar = max(8, console.width // 5), 24 if console.width >= 100 else 6
        shown = title if len(title) <= name else f"…{title[1 - name :]}"
        # Width reserved for title, bar, step and time left, with a space between columns.
        taken = len(shown) + bar + len(f"{total}/{total}") + len("left") + len("0:00:00") + 5
        self._room = console.width - taken
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=bar),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(shown, total=total, text="")

    def __enter__(self) -> "StepProgress":
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Stopping a bar that never began prints an empty line in some versions of rich.
        if not self._bar.disable:
            self._bar.stop()

    def begin(self, step: int) -> None:
        """Set the first step of a resumed run, from which the pace is measured."""
        self._first, self._started = step, time.monotonic()
        self._bar.update(self._task, completed=step)

    def advance(self, step: int) -> None:
        """Move to a step, without new values."""
        self._bar.update(self._task, completed=step)

    def show(
        self,
        step: int,
        values: Mapping[str, float],
        foremost: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Show the latest values next to the bar, or as a line if the last one is old enough.

        Next to the bar, ``foremost`` comes first, then as many others as fit.
        """
        words = {name: f"{name} {value:.4g}" for name, value in {**foremost, **values}.items()}
        text = "  ".join(words[name] for name in values)
        joined = ["  ".join([*words.values()][:count]) for count in range(len(words) + 1)]
        fitting = [line for line in joined if len(line) <= self._room]
        self._bar.update(self._task, completed=step, text=fitting[-1] if fitting else "")
        now = time.monotonic()
        if self._console.is_terminal or now - self._last_line < self._interval:
            return
        self._last_line = now
        pace = (now - self._started) / max(1, step - self._first)
        left = timedelta(seconds=round(pace * (self._total - step)))
        self.say(f"{self._title}: step {step}/{self._total}  {text}  left {left}")

    def say(self, line: str) -> None:
        """Print a permanent line."""
        # One event per line in logs, whatever width is assumed for the terminal.
        self._console.print(line, soft_wrap=True)
