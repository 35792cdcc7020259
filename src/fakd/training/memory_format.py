"""Choose the memory layout in which a training step runs faster on this device."""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fakd.runs.folder import read_environment
from fakd.settings import Existing, Settings
from fakd.training.profiling import wait_for
from fakd.types import Segmenter

KEY = "channels_last"
"""Key of the choice in ``environment.json``."""
_LAYOUTS = {True: torch.channels_last, False: torch.contiguous_format}
_SECONDS, _ROUNDS = 10.0, 5
"""Limits after which no further round of timing starts."""


def reuse_choice(settings: Settings, run: Path, existing: Existing = "refuse") -> Settings:
    """Replace ``auto`` by the layout that the run chose earlier; else return settings unchanged."""
    known = {} if existing == "overwrite" else read_environment(run).get(KEY)
    if settings.hardware.channels_last != "auto" or not known:
        return settings
    return replace(settings, hardware=replace(settings.hardware, channels_last=known["chosen"]))


def choose(
    fabric: Fabric,
    settings: Settings,
    run: Path,
    existing: Existing,
    student: Segmenter,
    teacher: Any = None,
) -> tuple[Settings, dict[str, Any]]:
    """Resolve ``hardware.channels_last: auto``; return the settings and facts to record.

    A resumed run keeps its first choice, since layouts round differently. Weights and modes of
    the networks are unchanged; device and layout may change. ``teacher`` is timed if it is a
    network.
    """
    settings, known = reuse_choice(settings, run, existing), read_environment(run).get(KEY)
    if settings.hardware.channels_last != "auto":
        return settings, {KEY: known} if known and existing != "overwrite" else {}
    network = teacher if isinstance(teacher, Segmenter) else None
    mine = _times(fabric, settings, student, network) if fabric.is_global_zero else {}
    times = fabric.broadcast(mine)
    chosen = times[True] <= times[False]
    record = {"chosen": chosen, "seconds": times[True], "seconds_contiguous": times[False]}
    hardware = replace(settings.hardware, channels_last=chosen)
    return replace(settings, hardware=hardware), {KEY: record}


def _times(
    fabric: Fabric, settings: Settings, student: Segmenter, teacher: Segmenter | None
) -> dict[bool, float]:
    """Measure the median time of a step of two images in either layout, alternating."""
    networks = [each.to(fabric.device) for each in (student, teacher) if each is not None]
    training = [each.training for each in networks]
    kept = [(each, each.clone()) for each in student.buffers()]
    images = torch.zeros(2, 3, *settings.augmentation.crop, device=fabric.device)
    found: dict[bool, list[float]] = {True: [], False: []}
    began = time.monotonic()
    student.train()
    if teacher is not None:
        teacher.eval()
    try:
        with torch.random.fork_rng():
            while len(found[False]) < 2 or (
                len(found[False]) <= _ROUNDS and time.monotonic() - began < _SECONDS
            ):
                for last, layout in _LAYOUTS.items():
                    for network in networks:
                        network.to(memory_format=layout)
                    shown = images.contiguous(memory_format=layout)
                    step = _step(fabric, student, teacher, shown)
                    found[last].append(_seconds(step, fabric.device))
    finally:
        for network, was in zip(networks, training, strict=True):
            network.to(memory_format=torch.contiguous_format).train(was)
        student.zero_grad(set_to_none=True)
        with torch.no_grad():
            for each, before in kept:
                each.copy_(before)
    # The first round warms up.
    return {last: statistics.median(times[1:]) for last, times in found.items()}


def _step(
    fabric: Fabric, student: nn.Module, teacher: nn.Module | None, images: Tensor
) -> Callable[[], None]:
    def step() -> None:
        with fabric.autocast():
            if teacher is not None:
                with torch.no_grad():
                    teacher(images)
            answer = student(images)
        parts = [each.float().sum() for each in answer if each is not None and each.requires_grad]
        torch.autograd.backward(torch.stack(parts).sum())

    return step


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    """Time one step, waiting for the device."""
    wait_for(device)
    began = time.perf_counter()
    step()
    wait_for(device)
    return time.perf_counter() - began
