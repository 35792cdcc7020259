"""What the processes of one run tell each other; with a single process, nothing."""

import os
from collections.abc import Iterable
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor


def launched() -> tuple[int, int]:
    """Count the processes that torchrun or srun has started as one run: on this machine, in all.

    A batch script of SLURM is one process, whatever tasks it has; those are started by its srun.
    """
    known = os.environ
    if dist.is_available() and dist.is_torchelastic_launched():
        return int(known["LOCAL_WORLD_SIZE"]), int(known["WORLD_SIZE"])
    if "SLURM_STEP_ID" in known:
        # Imported here because losses need not wait for it.
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        if SLURMEnvironment.detect():
            total = int(known["SLURM_NTASKS"])
            return total // int(known.get("SLURM_NNODES", 1)), total
    return 1, 1


def count() -> int:
    """Count the processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(share: Tensor) -> Tensor:
    """Add up every process's share, in place."""
    if count() > 1:
        dist.all_reduce(share)
    return share


def largest(number: int) -> int:
    """Find the largest of all processes' numbers; no device is waited for."""
    if count() == 1:
        return number
    share = torch.tensor(number)
    dist.all_reduce(share, dist.ReduceOp.MAX, group=_between_hosts(dist.group.WORLD))
    return int(share)


@cache
def _between_hosts(world: object) -> dist.ProcessGroup | None:
    """Connect the processes beside their GPUs; the usual connection where there are none."""
    if dist.get_backend() != "nccl":
        return None
    return dist.new_group(backend="gloo")  # type: ignore[return-value]


def gathered(share: Tensor) -> Tensor:
    """Join every process's share, all of one shape, along the first axis; without gradient."""
    if count() == 1:
        return share
    share = share.contiguous()
    parts = [torch.empty_like(share) for _ in range(count())]
    dist.all_gather(parts, share)
    return torch.cat(parts)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over all processes, for what no wrapper takes care of."""
    if count() == 1:
        return
    for parameter in parameters:
        # Every process must take part, also one whose batch left a parameter out.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad.div_(count())


def shared_generator() -> torch.Generator | None:
    """Give all processes the first one's random draws; None, the default, on the first itself."""
    if count() == 1:
        return None
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    state = torch.get_rng_state().to(device)
    dist.broadcast(state, src=0)
    return None if dist.get_rank() == 0 else torch.Generator().set_state(state.cpu())
