"""Batches on the device with the teacher's answers: as a step needs them, or one batch ahead."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Integer
from lightning_fabric import Fabric
from torch import Tensor

from fakd.data import Batch
from fakd.inference import to_unit
from fakd.settings import Settings
from fakd.training.compiling import refused
from fakd.training.objective import Objective
from fakd.training.profiling import Profile
from fakd.training.teacher import Teacher
from fakd.types import Prediction

Item = TypeVar("Item")


class MicroBatch(NamedTuple):
    """A part of a batch on the device, and what the teacher says of it."""

    images: Float[Tensor, "batch 3 height width"]
    labels: Integer[Tensor, "batch height width"]
    labelled: Bool[Tensor, " batch"]
    """On the CPU."""
    share: float
    """What the task's loss of this part counts; see `TaskLoss.shares`."""
    answer: Prediction | None
    """None where nobody asks for it."""


class Asked(NamedTuple):
    """What a step learns from."""

    batch: Batch
    parts: Iterable[MicroBatch]
    """Can be gone through once."""


class Asking:
    """Brings batches to the device and asks the teacher about them.

    With ``hardware.teacher_ahead`` the teacher answers for a batch before the student learns from
    the one in front of it, on a CUDA stream of its own; elsewhere in the same order on the CPU. A
    batch is a function of seed and step, so one that is asked about and never learnt from is drawn
    and asked about again by the run that goes on there.

    Args:
        fabric: says where to compute.
        settings: of the run.
        objective: says whether the teacher's answer is of use.
        teacher: whom to ask, if anyone.
        profile: counts the teacher's time and that spent waiting for batches.
    """

    def __init__(
        self,
        fabric: Fabric,
        settings: Settings,
        objective: Objective,
        teacher: Teacher | None,
        profile: Profile,
    ) -> None:
        self._device, self._settings = fabric.device, settings
        self._objective, self._teacher, self._profile = objective, teacher, profile
        self._ahead = settings.hardware.teacher_ahead and teacher is not None
        # Those of the CPU do nothing, so that there is one path to test.
        self._streams: Any = torch.cuda if fabric.device.type == "cuda" else torch.cpu
        self._own: Any = self._streams.Stream() if self._ahead else None

    def through(self, batches: Iterable[Batch], first: int) -> Iterator[tuple[int, Asked]]:
        """Ask about batches from a step on; yields each with its step, counted from 0."""
        asked = (
            (step, self.asked(step, batch))
            for step, batch in enumerate(self._profile.waiting(batches), start=first)
        )
        if not self._ahead:
            yield from asked
            return
        for step, each, answered in one_ahead(self._sent(*each) for each in asked):
            self._streams.current_stream().wait_event(answered)
            yield step, each

    def asked(self, step: int, batch: Batch) -> Asked:
        """Ask about each part of a batch when it is gone to."""
        return Asked(batch, self._parts(step, batch))

    def _sent(self, step: int, asked: Asked) -> tuple[int, Asked, Any]:
        """Let the stream of its own do all of it; the event says when it is done.

        It begins once the steps that were made are through. So nothing is overwritten that they
        still read, though the memory of one stream is used by the other.
        """
        self._own.wait_stream(self._streams.current_stream())
        told = refused() if self._settings.hardware.compile else nullcontext()
        with told, self._streams.stream(self._own):
            # An iterator lets go of its list at the end, while the step still holds the iterator.
            parts = iter([*asked.parts])
        return step, asked._replace(parts=parts), self._own.record_event()

    def _parts(self, step: int, batch: Batch) -> Iterator[MicroBatch]:
        parts = batch.parts(self._settings.schedule.accumulate)
        task = self._objective.task
        shares = [1.0] * len(parts) if task is None else task.shares([p.labels for p in parts])
        asks = self._objective.asks_teacher(step / self._settings.schedule.steps)
        for part, share in zip(parts, shares, strict=True):
            images = to_unit(part.images.to(self._device, non_blocking=True))
            if self._settings.hardware.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            labels = part.labels.to(self._device, non_blocking=True)
            # Asked first, so that its activations are gone before the student's are kept.
            with self._profile.part("teacher"):
                answer = self._teacher.answer(images, part) if self._teacher and asks else None
            yield MicroBatch(images, labels, part.labelled, share, answer)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Take each item before the one in front of it is used; an error comes in its item's turn.

    >>> taken = []
    >>> for item in one_ahead(map(lambda each: taken.append(each) or each, "abc")):
    ...     print(item, taken)
    a ['a', 'b']
    b ['a', 'b', 'c']
    c ['a', 'b', 'c']
    """
    iterator, held, problem = iter(items), None, None
    while True:
        try:
            following = next(iterator, None)
        except Exception as error:
            following, problem = None, error
        if held is not None:
            yield held
        if problem is not None:
            raise problem
        if following is None:
            return
        held = following
