"""Runs on this machine: one per GPU, or some at a time on the processor."""

import os
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from fakd.engines.engine import Engine, Task, Work
from fakd.errors import InputError
from fakd.training.cell import Cell
from fakd.training.settings import Hardware


class LocalEngine(Engine):
    """Runs on this machine, each with its own GPUs or its share of the processor's cores."""

    def __init__(self, hardware: Hardware, parallel: int | None) -> None:
        slots = environments(hardware, parallel, visible_gpus(hardware.accelerator), processors())
        self.slots = len(slots)
        self._free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        for environment in slots:
            self._free.put(environment)
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(self.slots, "fakd-run")

    def submit(self, function: Work, cell: Cell) -> Task:
        """Hand a call to a free slot."""
        return self._threads.submit(self._call, function, cell)

    def stop(self) -> None:
        """Interrupt the runs and wait for their end."""
        self._stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """End the waiting threads."""
        self._threads.shutdown()

    def _call(self, function: Work, cell: Cell) -> None:
        environment = self._free.get()
        try:
            function(cell, environment, self._stopped.is_set)
        finally:
            self._free.put(environment)


def environments(
    hardware: Hardware, parallel: int | None, gpus: Sequence[str], processors: int
) -> list[dict[str, str]]:
    """Divide a machine: one environment per run at a time.

    Raises:
        InputError: a run needs more GPUs than there are.
    """
    if parallel is not None and parallel < 1:
        raise InputError(f"expected parallel of at least 1, got {parallel}")
    each = hardware.devices
    if gpus and len(gpus) < each:
        raise InputError(
            f"expected hardware.devices of at most {len(gpus)}, the GPUs here, got {each}"
        )
    count = parallel or (len(gpus) // each if gpus else 1)
    # What the user has set for all processes is not ours to change.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, processors // count))
    result = []
    for slot in range(count):
        environment = {"OMP_NUM_THREADS": threads}
        if gpus:
            mine = [gpus[(slot * each + i) % len(gpus)] for i in range(each)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        result.append(environment)
    return result


def visible_gpus(accelerator: str) -> list[str]:
    """List the CUDA devices runs may use, in the words of CUDA_VISIBLE_DEVICES."""
    if accelerator not in ("auto", "cuda", "gpu"):
        return []
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


def processors() -> int:
    """Count the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
