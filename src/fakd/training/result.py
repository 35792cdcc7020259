"""What a finished run states about itself."""

import resource
import sys
from typing import Any

import torch
from torch import nn

from fakd.data import SegmentationData
from fakd.metrics import Scores


def result_of(
    network: nn.Module,
    data: SegmentationData,
    scores: Scores,
    state: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Put together what ``result.json`` holds: scores in percent, time, memory, size.

    Args:
        network: What was trained.
        data: What it was trained on.
        scores: Of the last step.
        state: The run's plain values: steps, seconds, best scores, samples left out.
        device: What it was trained on.
    """
    teacher = state["teacher_miou"]
    return {
        "steps": state["step"],
        "train_seconds": round(state["seconds"], 3),
        "peak_memory_bytes": peak_memory(device),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "best": {"miou": 100 * state["best_miou"], "step": state["best_step"]},
        "final": scores.as_dict(data.class_names),
        "teacher_miou": teacher if teacher is None else 100 * teacher,
        "skipped_samples": state["skipped"],
        "data": {"name": data.name, "fingerprint": data.fingerprint()},
    }


def peak_memory(device: torch.device) -> int:
    """Measure the most memory held so far, in bytes: the GPU's, or the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
