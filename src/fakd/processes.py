"""Communication between the processes of one run; does nothing with a single process."""

import os
from collections.abc import Iterable
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor


def launched_processes() -> tuple[int, int]:
    """Count the processes that torchrun or srun started as one run: on this machine, in total.

    A SLURM batch script itself is one process, however many tasks it has: srun starts those.
    """
    known = os.environ
    if dist.is_available() and dist.is_torchelastic_launched():
        return int(known["LOCAL_WORLD_SIZE"]), int(known["WORLD_SIZE"])
    if "SLURM_STEP_ID" in known:
        # Imported here to keep the import of losses fast.
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        if SLURMEnvironment.detect():
            total = int(known["SLURM_NTASKS"])
            return total // int(known.get("SLURM_NNODES", 1)), total
    return 1, 1


def count() -> int:
    """Count the processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(share: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if count() > 1:
        dist.all_reduce(share)
    return share


def all_max(number: int) -> int:
    """Return the maximum of a number over all processes, without synchronising with a device."""
    if count() == 1:
        return number
    share = torch.tensor(number)
    dist.all_reduce(share, dist.ReduceOp.MAX, group=_between_hosts(dist.group.WORLD))
    return int(share)


@cache
def _between_hosts(world: object) -> dist.ProcessGroup | None:
    """Return a gloo group, if the default group is of GPUs (nccl); None for the default group."""
    if dist.get_backend() != "nccl":
        return None
    return dist.new_group(backend="gloo")  # type: ignore[return-value]


def all_gather(share: Tensor) -> Tensor:
    """Concatenate tensors of equal shape from all processes along the first axis, no gradient."""
    if count() == 1:
        return share
    share = share.contiguous()
    parts = [torch.empty_like(share) for _ in range(count())]
    dist.all_gather(parts, share)
    return torch.cat(parts)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over all processes, for parameters outside DDP."""
    if count() == 1:
        return
    for parameter in parameters:
        # Every process must take part, even if its batch gave a parameter no gradient.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad.div_(count())


def shared_generator() -> torch.Generator | None:
    """Return a generator with the first process's random state; None, the default, on the first."""
    if count() == 1:
        return None
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    state = torch.get_rng_state().to(device)
    dist.broadcast(state, src=0)
    return None if dist.get_rank() == 0 else torch.Generator().set_state(state.cpu())
