"""Settings of devices, precision and memory, which change results only by rounding."""

from dataclasses import dataclass
from typing import Literal

from fakd.errors import counts, require_each, weighs

TeacherPrecision = Literal["fp32", "bf16", "fp16"]
"""Precision of a network that is not trained."""


@dataclass(frozen=True)
class Hardware:
    """Devices, precision, workers and memory.

    Args:
        accelerator: cpu, cuda, mps, or auto for the best available.
        devices: number of devices, which share each batch. If torchrun or srun started the
            processes, their number is used instead.
        precision: 32-true; bf16-mixed, or on older GPUs 16-mixed with gradient scaling, runs
            networks in 16 bits (losses stay in float32).
        teacher_precision: fp32, bf16 or fp16 for a teacher that is run in each step, or to store
            its answers; by default as precision.
        teacher_ahead: run the teacher on the next batch while the student trains on the current
            one, on a separate CUDA stream; needs the memory of both at once.
        compile: compile student and teacher for the training step (torch.compile), and fold the
            teacher's batch norms into its convolutions; takes minutes once; results change only by
            rounding.
        channels_last: memory layout that is faster for most convolutions; auto times both for a few
            seconds before a run's first step, and the run keeps the faster one.
        checkpoint_activations: recompute activations instead of storing them, in networks that
            support it; batch norms then update their statistics twice per batch.
        workers: processes that decode and augment; 0 uses the training process.
        prefetch: batches that each worker prepares, which determines the memory of workers.
        threads: CPU threads per process; by default as many as PyTorch chooses, but at most the
            cores that affinity and quotas allow.
        cache: GiB of memory for decoded samples, divided among all worker processes of the run; 0
            caches none. With a cache_folder, GiB of disk.
        cache_folder: folder for decoded samples, shared by all runs on the same data.
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
