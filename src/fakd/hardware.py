"""The settings that say where and how to compute, and change no result but for rounding."""

from dataclasses import dataclass
from typing import Literal

from fakd.errors import counts, require_each, weighs

TeacherPrecision = Literal["fp32", "bf16", "fp16"]
"""How precisely a network that only answers computes."""


@dataclass(frozen=True)
class Hardware:
    """Where and how to compute.

    Args:
        accelerator: cpu, cuda, mps, or auto for the best one present.
        devices: how many; each takes its share of the batch. Where torchrun or srun has started the
            processes, their number counts.
        precision: 32-true; bf16-mixed, or on older GPUs 16-mixed with scaled gradients, computes
            networks in 16 bits (losses stay in float32).
        teacher_precision: fp32, bf16 or fp16 for a teacher that is asked in each step, or once for
            its answers; as precision says if not given.
        teacher_ahead: let a teacher answer for the next batch while the student learns from this
            one, on a CUDA stream of its own; takes the memory of both at once.
        compile: compile student and teacher for the training step (torch.compile), and fold the
            teacher's batch norms into its convolutions; takes minutes once, the numbers are the
            same but for rounding.
        channels_last: memory layout that most convolutions prefer; auto times both for some
            seconds before a run's first step, and the run keeps what was faster.
        checkpoint_activations: compute activations twice instead of keeping them, in networks that
            offer it; batch norms then count each batch twice.
        workers: processes that decode and augment; 0 does it in the training process.
        prefetch: batches that each worker has ready, and so how much memory workers take.
        threads: CPU threads per process; if not given, as many as PyTorch chooses, but no more
            than the cores that affinity and quotas leave to the process.
        cache: GiB of memory in which decoded samples are kept, shared out among all worker
            processes of the run; 0 keeps none. With a cache_folder, of disk instead.
        cache_folder: folder in which decoded samples are kept for all runs of the same data.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    teacher_precision: TeacherPrecision | None = None
    teacher_ahead: bool = False
    compile: bool = False
    channels_last: Literal["auto"] | bool = True
    checkpoint_activations: bool = False
    workers: int = 0
    prefetch: int = 2
    threads: int | None = None
    cache: float = 2.0
    cache_folder: str | None = None

    def __post_init__(self) -> None:
        require_each(self, "hardware", weighs, "of at least 0", "cache", "workers")
        require_each(self, "hardware", counts, "of at least 1", "devices", "threads")
