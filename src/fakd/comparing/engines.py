"""Where a grid's runs are worked on: here, on a Ray cluster, under SLURM."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import import_module
from itertools import cycle, islice
from typing import Any, Literal

from fakd.comparing.cell import Cell
from fakd.errors import InputError
from fakd.settings import Hardware
from fakd.threads import free_cores

Work = Callable[..., None]
"""Called with a cell, the environment of its process, and perhaps what says to stop."""
# Clusters queue what they have no room for.
_UNLIMITED = 10**6
Task = Any
"""A call that was handed over: a future of any library, which has ``done()`` and ``result()``."""


class Engine(ABC):
    """Calls functions with cells. What comes of a cell is read from its files, not from here."""

    slots: int
    """How many calls may be handed over at a time."""

    @abstractmethod
    def submit(self, function: Work, cell: Cell) -> Task:
        """Hand a call over."""

    @abstractmethod
    def stop(self) -> None:
        """End all calls, and the processes they have started."""

    def close(self) -> None:
        """Give back what the engine holds, once no call is left."""
        return


class LocalEngine(Engine):
    """Runs on this machine, each with its own GPUs or its share of the processor's cores."""

    def __init__(self, hardware: Hardware, parallel: int | None) -> None:
        self._free = environments(hardware, parallel, _gpus(hardware.accelerator), free_cores())
        self.slots = len(self._free)
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
        # There are as many threads as environments, so one is always free.
        environment = self._free.pop(0)
        try:
            function(cell, environment, self._stopped.is_set)
        finally:
            self._free.append(environment)


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
    result = [{"OMP_NUM_THREADS": threads} for _ in range(count)]
    turns = cycle(gpus)
    for environment in result if gpus else []:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(islice(turns, each))
    return result


def _gpus(accelerator: str) -> list[str]:
    """List the CUDA devices runs may use, in the words of CUDA_VISIBLE_DEVICES."""
    if accelerator not in ("auto", "cuda", "gpu"):
        return []
    # Imported here because it takes seconds that a run on processors need not wait.
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


class RayEngine(Engine):
    """Runs as Ray tasks; Ray gives each its GPUs and cores."""

    def __init__(
        self, hardware: Hardware, parallel: int | None, options: Mapping[str, Any]
    ) -> None:
        self._ray = ray = _extra("ray", "ray")
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(**{"log_to_driver": False, "include_dashboard": False, **options})
        uses_gpus = hardware.accelerator != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        threads = hardware.threads or 1
        self._remote = ray.remote(
            num_cpus=threads + hardware.workers,
            num_gpus=hardware.devices if uses_gpus else 0,
            # The grid tries again itself, with what the failed attempt has left.
            max_retries=0,
        )
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._references: list[Any] = []
        self.slots = parallel or _UNLIMITED

    def submit(self, function: Work, cell: Cell) -> Task:
        """Hand a call to the cluster."""
        self._references.append(self._remote(function).remote(cell, self._environment))
        return self._references[-1].future()

    def stop(self) -> None:
        """Interrupt the tasks, which end their processes, and wait for that."""
        for reference in self._references:
            self._ray.cancel(reference)
        self._ray.wait(self._references, num_returns=len(self._references), timeout=30)
        self.close()

    def close(self) -> None:
        """Leave the cluster, unless the caller had joined it."""
        if self._ours:
            self._ray.shutdown()


class SlurmEngine(Engine):
    """Runs as SLURM jobs; where there is no SLURM, submitit runs them here."""

    def __init__(
        self, hardware: Hardware, parallel: int | None, options: Mapping[str, Any], logs: str
    ) -> None:
        self._submitit = _extra("slurm", "submitit")
        threads = hardware.threads or 1
        self._parameters: dict[str, Any] = {
            "name": "fakd",
            "timeout_min": 24 * 60,
            "cpus_per_task": threads + hardware.workers,
            "gpus_per_node": 0 if hardware.accelerator == "cpu" else hardware.devices,
            **options,
        }
        self._place = {"folder": logs, "cluster": self._parameters.pop("cluster", None)}
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._jobs: list[Any] = []
        self.slots = parallel or _UNLIMITED

    @cached_property
    def _executor(self) -> Any:
        # Not before it is needed: submitit creates the folder.
        try:
            executor = self._submitit.AutoExecutor(**self._place)
            executor.update_parameters(**self._parameters)
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--cluster: submitit refuses {self._parameters}: {error}") from error
        return executor

    def submit(self, function: Work, cell: Cell) -> Task:
        """Submit a job."""
        call = _Requeued(function)
        self._jobs.append(self._executor.submit(call, cell, self._environment))
        return self._jobs[-1]

    def stop(self) -> None:
        """Cancel the jobs."""
        for job in self._jobs:
            if not job.done():
                job.cancel()


class _Requeued:
    """Lets SLURM queue a job again that it ends before its time, or because its time is over.

    submitit asks for ``checkpoint`` then, has SLURM requeue the job, and leaves the call, which
    lets the run save and end. The call made anew goes on at what was saved.
    """

    def __init__(self, function: Work) -> None:
        self._function = function

    def __call__(self, cell: Cell, environment: Mapping[str, str]) -> None:
        self._function(cell, environment)

    def checkpoint(self, cell: Cell, environment: Mapping[str, str]) -> Any:
        """Say what is to be called when the job runs again: the same."""
        return import_module("submitit.helpers").DelayedSubmission(self, cell, environment)


def _extra(place: str, library: str) -> Any:
    try:
        return import_module(library)
    except ImportError as error:
        raise InputError(
            f"--on {place} needs the extra {place!r}, which is not installed; pip install "
            f"'fakd[{place}]'"
        ) from error


Place = Literal["local", "ray", "slurm"]


def open_engine(
    place: Place, hardware: Hardware, parallel: int | None, options: Mapping[str, Any], logs: str
) -> Engine:
    """Prepare the engine of a place.

    Args:
        place: this machine, a Ray cluster, or SLURM.
        hardware: what one run needs.
        parallel: how many runs, tasks or jobs at a time; as many as there is room for if not given.
        options: of the cluster: what ``ray.init`` takes, for example ``{address: auto}`` for one
            that runs, or submitit's parameters, for example ``{slurm_partition: gpu, timeout_min:
            240}``; ``{cluster: local}`` lets submitit run the jobs here.
        logs: folder of submitit's own files.
    """
    if place == "ray":
        return RayEngine(hardware, parallel, options)
    if place == "slurm":
        return SlurmEngine(hardware, parallel, options, logs)
    return LocalEngine(hardware, parallel)
