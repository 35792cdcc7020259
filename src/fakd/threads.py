"""CPU threads on a shared machine, and environment variables of launchers."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fakd.errors import InputError

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables that set what OpenMP threads do while they wait; read when libraries are loaded."""

_NUMBERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"),
    *("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE"),
)
"""Numeric variables that launchers set for the processes of a run."""


def let_waiting_threads_sleep() -> None:
    """Make PyTorch's threads, also in child processes, sleep while they wait.

    By default they spin, which takes cores from other processes. Nothing is changed if the user has
    set one of `WAITING`, or if PyTorch is loaded already.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def free_cores(root: Path = Path("/")) -> int:
    """Count the cores available to this process, by its affinity and its control groups' quotas.

    A quota of a control group, version 1 or 2, is rounded down, but to at least 1: with one thread
    too many, one is throttled in each period and all others wait for it.
    """
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([known or 1, *(int(quota) for quota in _quotas(root))]))


def require_threads(count: int, root: Path = Path("/")) -> None:
    """Refuse more threads than the system allows, with which libraries would crash.

    Forward and backward passes have separate threads, and each thread needs two memory maps.

    Raises:
        InputError: the number is above the limit.
    """
    found = []
    for name, share in (("kernel/threads-max", 2), ("kernel/pid_max", 2), ("vm/max_map_count", 4)):
        with suppress(OSError, ValueError):
            found.append(int((root / "proc/sys" / name).read_text()) // share)
    if found and count > min(found):
        raise InputError(
            f"{count:,} threads are more than this machine's limit of {min(found):,}; lower "
            "hardware.threads or OMP_NUM_THREADS"
        )


def require_numbers() -> None:
    """Refuse environment variables that should be numbers and are not; libraries would crash.

    Raises:
        InputError: names the variable and its value.
    """
    for name in _NUMBERS:
        value = os.environ.get(name)
        if value is not None and not value.strip().isdecimal():
            raise InputError(
                f"the environment variable {name} must be a whole number, got {value!r}; unset it, "
                "or leave it to torchrun or srun"
            )
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads and not all(each.strip().isdecimal() and int(each) for each in threads.split(",")):
        raise InputError(
            "the environment variable OMP_NUM_THREADS must be a number of threads, got "
            f"{threads!r}; unset it"
        )


def _quotas(root: Path) -> Iterator[float]:
    """Read the quotas, in cores, of the control groups of this process that have one."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            place, names = root / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            place, names = root / "sys/fs/cgroup/cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # In a container its own group often appears as the root, whatever the path.
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):
            group = place.joinpath(*parts[:depth])
            try:
                quota, period = " ".join((group / name).read_text() for name in names).split()
                if quota not in ("max", "-1"):
                    yield float(quota) / float(period)
            except (OSError, ValueError, ZeroDivisionError):
                continue
