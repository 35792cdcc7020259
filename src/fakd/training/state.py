"""What a run remembers beside weights: plain values, and samples it had to leave out."""

import math
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric

from fakd.training.progress import StepProgress


@dataclass
class State:
    """Plain values of a run that travel in its checkpoint."""

    step: int = 0
    seconds: float = 0.0
    """Spent on training, loading included, evaluation and saving left out."""
    best_miou: float = -math.inf
    best_step: int = 0
    teacher_miou: float | None = None
    skipped: int = 0
    """Broken samples that others took the place of."""


class SkippedSamples:
    """Counts the broken samples of this process, and tells of each file once."""

    def __init__(self) -> None:
        self._count = 0
        self._told: set[str] = set()

    def note(self, lines: tuple[str, ...] | list[str], display: StepProgress) -> None:
        """Take in why a batch lacks samples."""
        for line in lines:
            self._count += 1
            if line not in self._told:
                self._told.add(line)
                display.say(f"left out: {line}")

    def taken(self, fabric: Fabric) -> int:
        """Sum up over all processes what was noted since the last time."""
        count = torch.tensor(self._count, device=fabric.device)
        self._count = 0
        return int(fabric.all_reduce(count, reduce_op="sum"))  # type: ignore[arg-type]
