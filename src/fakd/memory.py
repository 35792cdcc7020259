"""Memory of the process: its peak, and how much is still free."""

import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from fakd.errors import InputError

WORKER = 64 * 2**20
"""Minimum private memory of a data-loading process, in bytes; 95 MB were measured in a run."""
_CACHES = ("active_file", "inactive_file")
"""Parts of a control group's memory that the system reclaims when needed."""


def peak_memory(device: torch.device) -> int:
    """Measure the peak memory so far, in bytes: of the GPU, or of the whole process.

    0 if the system does not report it, as on Windows without a GPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if find_spec("resource") is None:
        return 0
    resource = import_module("resource")
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Measure the free memory, in bytes: of the GPU, or of the machine.

    A control group's limit counts if it leaves less. None if the system does not report it.
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
    """Parse lines with a name, a number and an optional unit."""
    lines = (line.split() for line in file.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def require_memory(needed: int, what: str, remedy: str, device: torch.device | None = None) -> None:
    """Refuse to use more memory than is free, since the system would kill the process.

    Args:
        needed: bytes, estimated rather too low than too high.
        what: what needs the memory, for the error message.
        remedy: how to need less.
        device: device whose memory is used; the machine's memory if not given.

    Raises:
        InputError: says how much is needed and how much is free.
    """
    free = free_memory(device or torch.device("cpu"))
    if free is not None and needed > free:
        raise InputError(
            f"{what} would take at least {needed / 1e9:,.1f} GB of memory, but {free / 1e9:,.1f} "
            f"GB are free; {remedy}"
        )
