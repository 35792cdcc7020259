"""Execution of a grid's runs: on this machine, on a Ray cluster or under SLURM."""

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
"""Called with a cell, environment variables for its process and optionally a stop condition."""
# Clusters queue excess calls themselves.
_UNLIMITED = 10**6
Task = Any
"""A submitted call: a future of any library, with ``done()`` and ``result()``."""


class Engine(ABC):
    """Calls functions with cells. Results are read from a cell's files, not from the engine."""

    slots: int
    """Maximum number of concurrent calls."""

    @abstractmethod
    def submit(self, function: Work, cell: Cell) -> Task:
        """Submit a call."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all calls and the processes they have started."""

    def close(self) -> None:
        """Release the engine's resources, once no call is left."""
        return


class LocalEngine(Engine):
    """Runs on this machine, each with its own GPUs or its share of the processor's cores."""

    def __init__(self, hardware: Hardware, parallel: int | None) -> None:
        self._free = environments(hardware, parallel, _gpus(hardware.accelerator), free_cores())
        self.slots = len(self._free)
        self._stopped = threading.Event()
        self._threads = ThreadPoolExecutor(self.slots, "fakd-run")

    def submit(self, function: Work, cell: Cell) -> Task:
        """Submit a call to a free slot."""
        return self._threads.submit(self._call, function, cell)

    def stop(self) -> None:
        """Interrupt the runs and wait until they have ended."""
        self._stopped.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Shut down the thread pool."""
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
    """Divide a machine's GPUs and cores: return environment variables per concurrent run.

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
    # A value set by the user takes precedence.
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, processors // count))
    result = [{"OMP_NUM_THREADS": threads} for _ in range(count)]
    turns = cycle(gpus)
    for environment in result if gpus else []:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(islice(turns, each))
    return result


def _gpus(accelerator: str) -> list[str]:
    """List the CUDA devices that runs may use, as named in CUDA_VISIBLE_DEVICES."""
    if accelerator not in ("auto", "cuda", "gpu"):
        return []
    # Imported here because it takes seconds, which runs on the CPU need not wait.
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(index) for index in range(count)]


class RayEngine(Engine):
    """Executes runs as Ray tasks; Ray assigns GPUs and cores."""

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
            # The grid itself retries, from the checkpoint of the failed attempt.
            max_retries=0,
        )
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._references: list[Any] = []
        self.slots = parallel or _UNLIMITED

    def submit(self, function: Work, cell: Cell) -> Task:
        """Submit a call to the cluster."""
        self._references.append(self._remote(function).remote(cell, self._environment))
        return self._references[-1].future()

    def stop(self) -> None:
        """Interrupt the tasks, which stop their processes, and wait for them."""
        for reference in self._references:
            self._ray.cancel(reference)
        self._ray.wait(self._references, num_returns=len(self._references), timeout=30)
        self.close()

    def close(self) -> None:
        """Disconnect from the cluster, unless the caller connected to it."""
        if self._ours:
            self._ray.shutdown()


class SlurmEngine(Engine):
    """Executes runs as SLURM jobs; without SLURM, submitit runs them on this machine."""

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
        # Created when first needed, since submitit creates the folder.
        try:
            executor = self._submitit.AutoExecutor(**self._place)
            executor.update_parameters(**self._parameters)
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--cluster: submitit rejects {self._parameters}: {error}") from error
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
    """Makes SLURM requeue a job that it preempts or that reaches its time limit.

    submitit then calls ``checkpoint``, lets SLURM requeue the job, and aborts the call, so that the
    run saves and ends. The new call resumes from the checkpoint.
    """

    def __init__(self, function: Work) -> None:
        self._function = function

    def __call__(self, cell: Cell, environment: Mapping[str, str]) -> None:
        self._function(cell, environment)

    def checkpoint(self, cell: Cell, environment: Mapping[str, str]) -> Any:
        """Return the call for the requeued job: the same one."""
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
    """Create the engine for a place.

    Args:
        place: this machine, a Ray cluster, or SLURM.
        hardware: what one run needs.
        parallel: maximum concurrent runs, tasks or jobs; by default as many as there is room for.
        options: of the cluster: arguments of ``ray.init``, for example ``{address: auto}`` for a
            running cluster, or submitit's parameters, for example ``{slurm_partition: gpu,
            timeout_min: 240}``; ``{cluster: local}`` lets submitit run the jobs on this machine.
        logs: folder for submitit's files.
    """
    if place == "ray":
        return RayEngine(hardware, parallel, options)
    if place == "slurm":
        return SlurmEngine(hardware, parallel, options, logs)
    return LocalEngine(hardware, parallel)
