"""Runs as SLURM jobs through submitit, from a folder that all nodes share."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fakd.engines.engine import Engine, Task, Work
from fakd.errors import InputError
from fakd.training.cell import Cell
from fakd.training.settings import Hardware


class SlurmEngine(Engine):
    """Runs as SLURM jobs; where there is no SLURM, submitit runs them here.

    Args:
        hardware: what one run needs.
        parallel: how many jobs may be submitted at a time; all if not given.
        options: submitit's parameters, for example ``{slurm_partition: gpu, timeout_min: 240}``;
            ``cluster: local`` runs the jobs here.
        logs: folder of submitit's own files.
    """

    def __init__(
        self, hardware: Hardware, parallel: int | None, options: Mapping[str, Any], logs: str
    ) -> None:
        try:
            submitit: Any = import_module("submitit")
        except ImportError as error:
            raise InputError(
                "--on slurm needs the extra 'slurm', which is not installed; pip install "
                "'fakd[slurm]'"
            ) from error
        threads = hardware.threads or 1
        parameters: dict[str, Any] = {
            "name": "fakd",
            "timeout_min": 24 * 60,
            "cpus_per_task": threads + hardware.workers,
            "gpus_per_node": 0 if hardware.accelerator == "cpu" else hardware.devices,
            **options,
        }
        self._submitit, self._parameters, self._logs = submitit, parameters, logs
        self._executor: Any = None
        self._environment = {"OMP_NUM_THREADS": str(threads)}
        self._jobs: list[Any] = []
        self.slots = parallel or 10**6

    def submit(self, function: Work, cell: Cell) -> Task:
        """Submit a job."""
        self._executor = self._executor or self._open()
        job: Any = self._executor.submit(function, cell, self._environment)
        self._jobs.append(job)
        task: Task = job
        return task

    def stop(self) -> None:
        """Cancel the jobs."""
        for job in self._jobs:
            if not job.done():
                job.cancel()

    def _open(self) -> Any:
        # Not before it is needed: submitit creates the folder.
        parameters = dict(self._parameters)
        cluster = parameters.pop("cluster", None)
        try:
            executor = self._submitit.AutoExecutor(folder=self._logs, cluster=cluster)
            executor.update_parameters(**parameters)
        except (NameError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"--cluster: submitit refuses {parameters}: {error}") from error
        return executor
