"""How processor threads behave on a machine that others use too."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Each says what an OpenMP thread does while it waits; libraries read them when they load."""


def let_waiting_threads_sleep() -> None:
    """Have PyTorch's threads, and those of all processes started from here, sleep while they wait.

    By default they spin, which takes the cores from whoever would use them. Nothing is changed if
    the user has decided (`WAITING`), or where PyTorch is loaded and would not notice.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def free_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may keep busy: its affinity and its groups' quotas.

    A quota of a control group, version 1 or 2, is rounded down, but to no less than 1: a thread
    too many is stopped in the middle of each period, and all others wait for it.
    """
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([known or 1, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Read how many cores each control group around this process may use, where it is limited."""
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
        # A container often sees its own group as the root, whatever the path says.
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts) + 1):
            group = place.joinpath(*parts[:depth])
            try:
                quota, period = " ".join((group / name).read_text() for name in names).split()
                if quota not in ("max", "-1"):
                    yield float(quota) / float(period)
            except (OSError, ValueError, ZeroDivisionError):
                continue
