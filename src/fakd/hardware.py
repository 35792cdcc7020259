"""Settings of devices, precision and memory, which change results only by rounding."""

from dataclasses import dataclass
from typing import Literal

from fakd.errors import is_count, is_weight, require_each

TeacherPrecision = Literal["fp32", "bf16", "fp16"]
"""Precision of a network that is not trained."""


@dataclass(frozen=True)
class Hardware:
    """Devices, precision, workers and memory.

    Args:
        accelerator: cpu, cuda, mps, or auto for the best one present.
        devices: number of devices; each takes its share of the batch. Under torchrun or srun, the
            number of started processes counts instead.
        precision: 32-true; bf16-mixed, or 16-mixed with loss scaling on older GPUs, computes
            networks in 16 bits (losses stay in float32).
        teacher_precision: fp32, bf16 or fp16 for a live teacher, or for storing its answers; by
            default as precision says.
        teacher_ahead: run the teacher on the next batch while the student learns from this one, on
            its own CUDA stream; needs the memory of both at once.
        compile: compile student and teacher for the training step (torch.compile), and fold the
            teacher's batch norms into its convolutions; takes minutes once, and changes numbers
            only by rounding.
        triton: compute the cross-entropy of upsampled logits by a Triton kernel, on an NVIDIA GPU,
            without storing any of them; changes numbers only by rounding. Its speed has not been
            measured.
        channels_last: memory layout that most convolutions prefer; auto times both for some seconds
            before a run's first step, and the run keeps the faster one.
        checkpoint_activations: recompute activations instead of storing them, in networks that
            support it; batch norms then count each batch twice.
        workers: data-loading processes; 0 loads in the training process.
        prefetch: batches prefetched by each worker, which determines the memory of the workers.
        threads: CPU threads per process; by default as many as PyTorch chooses, up to the cores
            that affinity and quotas allow.
        cache: GiB of memory for decoded samples, shared among all worker processes of the run; 0
            for none. With a cache_folder, GiB of disk instead.
        cache_folder: folder for decoded samples, shared by all runs on the same data.
    """

    accelerator: str = "auto"
    devices: int = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    teacher_precision: TeacherPrecision | None = None
    teacher_ahead: bool = False
    compile: bool = False
    triton: bool = False
    channels_last: Literal["auto"] | bool = True
    checkpoint_activations: bool = False
    workers: int = 0
    prefetch: int = 2
    threads: int | None = None
    cache: float = 2.0
    cache_folder: str | None = None

    def __post_init__(self) -> None:
        require_each(self, "hardware", is_weight, "of at least 0", "cache", "workers")
        require_each(self, "hardware", is_count, "of at least 1", "devices", "threads")
