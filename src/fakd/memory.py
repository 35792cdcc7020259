"""How much memory a process has taken, and how much there is for what it is about to do."""

import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from fakd.errors import InputError

WORKER = 64 * 2**20
"""Bytes that a process which loads samples has of its own at least; a run's had 95 MB."""
_CACHES = ("active_file", "inactive_file")
"""Of a control group's memory, what is given back where it is needed."""


def peak_memory(device: torch.device) -> int:
    """Measure the most memory held so far, in bytes: the GPU's, or the whole process's.

    0 where the system does not say it, as on Windows without a GPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if find_spec("resource") is None:
        return 0
    resource = import_module("resource")
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Measure how much memory may still be taken, in bytes: the GPU's, or the machine's.

    A control group's limit counts where it leaves less. None where nothing says it.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    groups = root / "sys/fs/cgroup"
    found = []
    with suppress(OSError, KeyError, ValueError):
        known = _table(root / "proc/meminfo")
        found.append(1024 * (known["MemAvailable:"] + known.get("SwapFree:", 0)))
    for limit, used, place in (
        ("memory.max", "memory.current", groups),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", groups / "memory"),
    ):
        with suppress(OSError, ValueError):
            whole, taken = (int((place / each).read_text()) for each in (limit, used))
            cached = 0
            with suppress(OSError, ValueError):
                known = _table(place / "memory.stat")
                cached = sum(known.get(f"total_{each}", known.get(each, 0)) for each in _CACHES)
            found.append(whole - taken + cached)
    return min(found, default=None)


def _table(file: Path) -> dict[str, int]:
    """Read lines of a name and a number, and perhaps a unit."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def require_memory(needed: int, what: str, remedy: str, device: torch.device | None = None) -> None:
    """Refuse what takes more memory than is free: where it is short, processes are killed.

    Args:
        needed: bytes, counted rather too low than too high.
        what: takes them.
        remedy: how less would do.
        device: whose memory it is; the machine's if not given.

    Raises:
        InputError: says how much is needed and how much is free.
    """
    free = free_memory(device or torch.device("cpu"))
    if free is not None and needed > free:
        raise InputError(
            f"{what} would take {needed / 1e9:,.1f} GB of memory or more, and {free / 1e9:,.1f} GB "
            f"are free; {remedy}"
        )
