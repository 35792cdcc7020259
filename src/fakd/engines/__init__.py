"""Where the cells of a grid run: on this machine, on a Ray cluster, or under SLURM."""

from collections.abc import Mapping
from typing import Any, Literal

from fakd.engines.engine import Engine
from fakd.engines.local import LocalEngine
from fakd.engines.ray import RayEngine
from fakd.engines.slurm import SlurmEngine
from fakd.engines.work import work
from fakd.training.settings import Hardware

Place = Literal["local", "ray", "slurm"]


def open_engine(
    place: Place, hardware: Hardware, parallel: int | None, options: Mapping[str, Any], logs: str
) -> Engine:
    """Prepare the engine of a place; ``logs`` is where its own log files go."""
    if place == "ray":
        return RayEngine(hardware, parallel, options)
    if place == "slurm":
        return SlurmEngine(hardware, parallel, options, logs)
    return LocalEngine(hardware, parallel)


__all__ = ["Engine", "LocalEngine", "Place", "RayEngine", "SlurmEngine", "open_engine", "work"]
