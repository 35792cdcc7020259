"""Where the time of a step goes: waiting for batches, the teacher, the student, its optimiser."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from fakd.errors import InputError
from fakd.files import writing

Item = TypeVar("Item")
_WARM = 3
"""Steps of a sitting that are left out, in which memory is found and kernels are chosen."""


def require_steps(wanted: int | None, steps: int) -> None:
    """Refuse to watch more steps than come after those that warm up.

    Raises:
        InputError: says how many there are.
    """
    if wanted is not None and not 1 <= wanted <= steps - _WARM:
        raise InputError(
            f"expected --profile from 1 to {steps - _WARM}, the schedule's {steps} steps but for "
            f"{_WARM} that warm up, got {wanted}"
        )


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Profile:
    """Counts the time spent waiting for batches, and watches some steps by their parts.

    Args:
        device: where steps are made; while they are watched it is waited for at the borders of
            parts, so that each part has its own time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._waited = device, 0.0
        self._steps, self._seen = 0, 0
        self._trace: Path | None = None
        self._seconds: dict[str, float] = {}
        self._recorder: profile | None = None

    def watch(self, steps: int, trace: Path | None) -> None:
        """Have so many steps watched, after a few others, and recorded in Chrome's format."""
        self._steps, self._trace = steps, trace

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass on batches, and count the time until each comes."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            with self.part("loader"):
                batch = next(iterator, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def waited(self) -> float:
        """Tell the seconds of waiting since this was asked last."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside as a part of the step, if this one is watched."""
        if self._recorder is None:
            yield
            return
        wait_for(self._device)
        began = time.perf_counter()
        with record_function(name):
            yield
            wait_for(self._device)
        seconds = time.perf_counter() - began
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def after_step(self, console: Console) -> None:
        """Begin to watch after the steps that warm up; say where time went after the last one.

        Raises:
            InputError: the trace cannot be written.
        """
        self._seen += 1
        if self._steps and self._seen == _WARM:
            kinds = [ProfilerActivity.CPU]
            kinds += [ProfilerActivity.CUDA] if self._device.type == "cuda" else []
            self._recorder = profile(activities=kinds)
            self._recorder.start()
        elif self._recorder is not None and self._seen == _WARM + self._steps:
            recorder, self._recorder = self._recorder, None
            recorder.stop()
            console.print(self.table())
            if self._trace is not None:
                with writing(self._trace):
                    recorder.export_chrome_trace(str(self._trace))
                console.print(f"trace of {self._steps} steps: {self._trace}", soft_wrap=True)

    def table(self) -> Table:
        """Lay out the milliseconds of each part of a step, and their shares."""
        table = Table(title=f"a step, mean of {self._steps}", title_justify="left")
        table.add_column("part")
        table.add_column("ms", justify="right")
        table.add_column("share", justify="right")
        whole = sum(self._seconds.values())
        for name, seconds in {**self._seconds, "all": whole}.items():
            milliseconds = 1000 * seconds / self._steps
            table.add_row(name, f"{milliseconds:.1f}", f"{seconds / max(whole, 1e-9):.1%}")
        return table
