"""Checkpoints: everything that a run needs to resume exactly, in one file without pickle."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fakd.errors import InputError
from fakd.files import write_atomically
from fakd.runs.folder import FORMAT


@dataclass
class State:
    """JSON-serialisable values of a run, stored in its checkpoint."""

    step: int = 0
    seconds: float = 0.0
    """Training time, including loading, without evaluation and saving."""
    waited: float = 0.0
    """The part of it spent waiting for batches."""
    best_miou: float = -math.inf
    best_step: int = 0
    teacher_miou: float | None = None
    teacher_mious: dict[str, float] = field(default_factory=dict)
    """mIoU of each of several teachers, by name."""
    skipped: int = 0
    """Number of broken samples that were replaced by others."""
    pending: bool = False
    """Whether the run was stopped before this step's evaluation was complete."""
    ended: str | None = None
    """Why the run has ended; None while it has not."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """State of the gradient scaler; empty without one."""


def save_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    state: dict[str, Any],
) -> None:
    """Write the tensors of modules (network, objective, ...) and optimisers, and the run's state.

    ``state`` must be JSON-serialisable. There is no random state to save: every random draw of a
    run derives from seed, step and sample.
    """
    tensors = {
        f"{part}.{name}": tensor
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    for number, optimizer in enumerate(optimizers):
        for index, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                if value is not None:
                    tensors[f"optimizer{number}.{index}.{name}"] = torch.as_tensor(value)
    # Copied, because safetensors refuses tensors that share memory.
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    metadata = {"state": json.dumps(state), "format": str(FORMAT)}
    write_atomically(path, lambda file: save_file(tensors, file, metadata=metadata))


def load_checkpoint(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Restore what `save_checkpoint` wrote, strictly.

    Raises:
        InputError: the file belongs to another network or loss; names the first mismatch.
    """
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            part, _, rest = name.partition(".")
            parts[part][rest] = file.get_tensor(name)
    for part, module in modules.items():
        try:
            module.load_state_dict(parts[part])
        except RuntimeError as error:
            misfit = " ".join(str(error).split())[:300]
            raise InputError(f"{path} belongs to another {part}: {misfit}") from error
    for number, optimizer in enumerate(optimizers):
        _load_optimizer(optimizer, parts[f"optimizer{number}"])


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, entry = name.partition(".")
        like = parameters[int(index)]
        if tensor.shape == like.shape:  # keep the memory layout, and so the rounding
            tensor = torch.empty_like(like).copy_(tensor)
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
