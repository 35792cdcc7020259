"""Transfer of batches to the device and the teacher's predictions, optionally one batch ahead."""

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
from fakd.training.compiling import compiler_errors
from fakd.training.objective import Objective
from fakd.training.profiling import Profile
from fakd.training.teacher import Teacher
from fakd.types import Prediction

Item = TypeVar("Item")


class MicroBatch(NamedTuple):
    """A part of a batch on the device, and the teacher's prediction."""

    images: Float[Tensor, "batch 3 height width"]
    labels: Integer[Tensor, "batch height width"]
    labelled: Bool[Tensor, " batch"]
    """On the CPU."""
    share: float
    """Weight of this part's task loss; see `TaskLoss.shares`."""
    answer: Prediction | None
    """The teacher's prediction; None if it is not needed."""


class AnsweredBatch(NamedTuple):
    """A batch with the teacher's predictions."""

    batch: Batch
    parts: Iterable[MicroBatch]
    """Can be iterated once."""


class TeacherPrefetch:
    """Moves batches to the device and runs the teacher on them.

    With ``hardware.teacher_ahead`` the teacher predicts for the next batch before the student
    learns from the current one, on its own CUDA stream; on a CPU in the same order without streams.
    A batch depends only on seed and step, so a resumed run draws a batch again whose prediction
    was never used.

    Args:
        fabric: names the device.
        settings: of the run.
        objective: decides whether the teacher's prediction is needed.
        teacher: the teacher, if any.
        profile: measures the teacher's time and the wait for batches.
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
        # torch.cpu's streams do nothing, so that there is one code path to test.
        self._streams: Any = torch.cuda if fabric.device.type == "cuda" else torch.cpu
        self._own: Any = self._streams.Stream() if self._ahead else None

    def answer_batches(
        self, batches: Iterable[Batch], first: int
    ) -> Iterator[tuple[int, AnsweredBatch]]:
        """Yield each batch, with predictions, and its step, counted from 0."""
        asked = (
            (step, self.answer_batch(step, batch))
            for step, batch in enumerate(self._profile.waiting(batches), start=first)
        )
        if not self._ahead:
            yield from asked
            return
        for step, each, answered in prefetch(self._send(*each) for each in asked):
            self._streams.current_stream().wait_event(answered)
            yield step, each

    def answer_batch(self, step: int, batch: Batch) -> AnsweredBatch:
        """Prepare a batch; the teacher runs on each part when it is iterated to."""
        return AnsweredBatch(batch, self._parts(step, batch))

    def _send(self, step: int, asked: AnsweredBatch) -> tuple[int, AnsweredBatch, Any]:
        """Queue all work of a batch on the teacher's stream; the event marks its end.

        The stream first waits for the steps queued so far. So nothing that they still read is
        overwritten, although the two streams share memory.
        """
        self._own.wait_stream(self._streams.current_stream())
        told = compiler_errors() if self._settings.hardware.compile else nullcontext()
        with told, self._streams.stream(self._own):
            # An exhausted iterator frees its list, although the step still holds the iterator.
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
            # Before the student, so that the teacher's activations are freed by then.
            with self._profile.part("teacher"):
                answer = self._teacher.answer(images, part) if self._teacher and asks else None
            yield MicroBatch(images, labels, part.labelled, share, answer)


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Fetch each item before the previous one is yielded; raise its error in its turn.

    >>> taken = []
    >>> for item in prefetch(map(lambda each: taken.append(each) or each, "abc")):
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
