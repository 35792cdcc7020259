"""The settings that training commands share."""

from dataclasses import dataclass, field
from typing import Literal

from fakd.data import Augmentation
from fakd.errors import InputError
from fakd.inference import Inference
from fakd.training.schedule import Schedule

Broken = Literal["stop", "skip"]
"""What to do about a training image that cannot be read."""


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Args:
        accelerator: cpu, cuda, mps, or auto for the best one present.
        devices: how many; each takes its share of the batch.
        precision: 32-true, or bf16-mixed for networks in bfloat16 (losses stay in float32).
        channels_last: memory layout that most convolutions prefer.
        workers: processes that decode and augment; 0 does it in the training process.
        threads: CPU threads per process; PyTorch decides if not given.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool = True
    workers: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts that mean nothing."""
        if self.devices < 1 or self.workers < 0 or (self.threads is not None and self.threads < 1):
            raise InputError(
                "expected hardware.devices and hardware.threads of at least 1 and "
                f"hardware.workers of at least 0, got {self}"
            )


@dataclass(frozen=True)
class Intervals:
    """How often a run logs, saves and evaluates.

    Args:
        log: steps between two logged rows.
        save: steps between two checkpoints; a killed run loses at most these.
        evaluate: steps between two evaluations; a tenth of the run if not given, always at the end.
    """

    log: int = 10
    save: int = 100
    evaluate: int | None = None

    def __post_init__(self) -> None:
        """Refuse intervals below one step."""
        for name in ("log", "save", "evaluate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected intervals.{name} of at least 1 step, got {value}")


@dataclass(frozen=True)
class Settings:
    """Everything about a run but the network, the data and what is minimised."""

    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    inference: Inference = field(default_factory=Inference)
    hardware: Hardware = field(default_factory=Hardware)
    intervals: Intervals = field(default_factory=Intervals)
    seed: int = 0
    broken: Broken = "stop"
