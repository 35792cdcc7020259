"""Runs as tasks of a Ray cluster, which must see the same files under the same paths."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fakd.engines.engine import Engine, Task, Work
from fakd.errors import InputError
from fakd.training.cell import Cell
from fakd.training.settings import Hardware


class RayEngine(Engine):
    """Runs as Ray tasks; Ray gives each its GPUs and cores.

    Args:
        hardware: what one run needs.
        parallel: how many at a time; as many as the cluster has room for if not given.
        options: passed to ``ray.init``, for example ``{address: auto}`` for a running cluster.
    """

    def __init__(
        self, hardware: Hardware, parallel: int | None, options: Mapping[str, Any]
    ) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise InputError(
                "--on ray needs the extra 'ray', which is not installed; pip install 'fakd[ray]'"
            ) from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(**{"log_to_driver": False, "include_dashboard": False, **options})
        uses_gpus = hardware.accelerator != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
        threads = hardware.threads or 1
        self._needs = {
            "num_cpus": threads + hardware.workers,
            "num_gpus": hardware.devices if uses_gpus else 0,
            # The grid tries again itself, with what the failed attempt has left.
            "max_retries": 0,
        }
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._references: list[Any] = []
        # Ray queues what it has no room for.
        self.slots = parallel or 10**6

    def submit(self, function: Work, cell: Cell) -> Task:
        """Hand a call to the cluster."""
        remote = self._ray.remote(**self._needs)(function)
        reference = remote.remote(cell, self._environment)
        self._references.append(reference)
        task: Task = reference.future()
        return task

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
