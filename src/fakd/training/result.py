"""What a run reports: skipped samples, its extension, and its result."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from fakd import models
from fakd.data import SegmentationData
from fakd.memory import peak_memory
from fakd.metrics import Scores
from fakd.runs.folder import BEST, place_in_grid
from fakd.settings import Inference, Schedule
from fakd.training.objective import Objective
from fakd.training.progress import StepProgress
from fakd.types import Segmenter


class SkippedSamples:
    """Counts the broken samples of this process, and prints each distinct problem once."""

    def __init__(self) -> None:
        self._count = 0
        self._told: set[str] = set()

    def note(self, lines: tuple[str, ...] | list[str], display: StepProgress) -> None:
        """Count and print the problems that made a batch skip samples."""
        for line in lines:
            self._count += 1
            if line not in self._told:
                self._told.add(line)
                display.say(f"left out: {line}")

    def take(self, fabric: Fabric) -> int:
        """Return and reset the count, summed over all processes."""
        count = torch.tensor(self._count, device=fabric.device)
        self._count = 0
        return int(fabric.all_reduce(count, reduce_op="sum"))  # type: ignore[arg-type]


def extension(schedule: Schedule, objective: Objective, before: int, step: int) -> str:
    """Describe how scheduled values change when a run of ``before`` steps is extended."""
    last = max(step - 1, 0)
    was = {"learning rate": replace(schedule, steps=before).learning_rate_at(last)}
    was |= objective.fading(last / before)
    now = {"learning rate": schedule.learning_rate_at(step)}
    now |= objective.fading(step / schedule.steps)
    told = (
        f"the {name} changes from {rate:.3g}, at step {step} of the old schedule, to "
        f"{now[name]:.3g} of the new one"
        for name, rate in was.items()
    )
    return f"extended from {before} to {schedule.steps} steps; {'; '.join(told)}"


def result_of(
    network: nn.Module,
    data: SegmentationData,
    scores: Scores,
    state: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Assemble the content of ``result.json``: scores in percent, time, memory, size.

    Args:
        network: The trained network.
        data: Its data.
        scores: Of the last step.
        state: The fields of the run's `State`: steps, seconds, best scores, and so on.
        device: The device it was trained on.
    """
    teacher, members = state["teacher_miou"], state["teacher_mious"]
    several = {"teacher_mious": {name: 100 * miou for name, miou in members.items()}}
    return {
        "steps": state["step"],
        "train_seconds": round(state["seconds"], 3),
        "waited_seconds": round(state["waited"], 3),
        "peak_memory_bytes": peak_memory(device),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "best": {"miou": 100 * state["best_miou"], "step": state["best_step"]},
        "final": scores.as_dict(data.class_names),
        "teacher_miou": teacher if teacher is None else 100 * teacher,
        **(several if members else {}),
        "skipped_samples": state["skipped"],
        "data": {"name": data.name, "fingerprint": data.fingerprint()},
        "ended": state["ended"],
    }


def conclusion(result: Mapping[str, Any], folder: Path) -> str:
    """Summarise in a line how a run ended, where it is saved, and what to do next."""
    best = result["best"]
    took = timedelta(seconds=round(result["train_seconds"]))
    waited = result["waited_seconds"] / max(result["train_seconds"], 1e-9)
    text = (
        f"{result['ended']} in {took}, {waited:.0%} of it waiting for images; final mIoU "
        f"{result['final']['miou']:.2f}, best {best['miou']:.2f} at step {best['step']}; "
        f"saved in {folder}"
    )
    if place_in_grid(folder):
        return text
    return (
        f"{text}; next: fakd predict --network {shlex.quote(str(folder))} --images PHOTOS --out OUT"
    )


def save_network(
    network: Segmenter,
    path: Path,
    data: SegmentationData,
    inference: Inference,
    step: int,
    scores: Scores,
) -> None:
    """Write a run's network, with metadata on its training and evaluation."""
    models.save(
        network,
        path,
        class_names=data.class_names,
        palette=data.palette,
        extra={
            "step": step,
            "miou": round(100 * scores.miou, 4),
            "inference": inference.views(),
            "levels": asdict(data.levels),
        },
        own_format=path.name == BEST,
    )
