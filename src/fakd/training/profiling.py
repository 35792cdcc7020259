"""Profiling of training steps: time spent in loader, teacher, student, loss and optimiser."""

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
"""Warm-up steps, not profiled: memory is allocated and kernels are selected in them."""


def require_steps(wanted: int | None, steps: int) -> None:
    """Refuse to profile more steps than follow the warm-up.

    Raises:
        InputError: names the valid range.
    """
    if wanted is not None and not 1 <= wanted <= steps - _WARM:
        raise InputError(
            f"expected --profile from 1 to {steps - _WARM}, the schedule's {steps} steps without "
            f"{_WARM} of warm-up, got {wanted}"
        )


def wait_for(device: torch.device) -> None:
    """Synchronise with a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Profile:
    """Measures the time spent waiting for batches, and profiles the parts of some steps.

    Args:
        device: runs the steps; it is synchronised after each part of a profiled step, so that
            times are attributed correctly.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._waited = device, 0.0
        self._steps, self._seen = 0, 0
        self._trace: Path | None = None
        self._seconds: dict[str, float] = {}
        self._recorder: profile | None = None

    def watch(self, steps: int, trace: Path | None) -> None:
        """Profile ``steps`` steps after the warm-up, and record a trace in Chrome's format."""
        self._steps, self._trace = steps, trace

    def waiting(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, measuring the wait for each."""
        iterator = iter(batches)
        while True:
            began = time.perf_counter()
            with self.part("loader"):
                batch = next(iterator, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def take_waited(self) -> float:
        """Return the seconds spent waiting since the last call."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Attribute the time inside to a part of the step, if the step is profiled."""
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
        """Start profiling after the warm-up; print the table after the last profiled step.

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
        """Format the milliseconds of each part of a step, and their shares."""
        table = Table(title=f"a step, mean of {self._steps}", title_justify="left")
        table.add_column("part")
        table.add_column("ms", justify="right")
        table.add_column("share", justify="right")
        whole = sum(self._seconds.values())
        for name, seconds in {**self._seconds, "all": whole}.items():
            milliseconds = 1000 * seconds / self._steps
            table.add_row(name, f"{milliseconds:.1f}", f"{seconds / max(whole, 1e-9):.1%}")
        return table
