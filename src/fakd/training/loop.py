"""The training loop: step, log, evaluate, save; the same for every objective."""

import math
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from fakd import models
from fakd.data import Batch, SegmentationData, cached, mixed, training_batches
from fakd.inference import to_unit
from fakd.metrics import Scores
from fakd.processes import average_gradients
from fakd.runs.folder import RESULT, Curves, RunFolder
from fakd.settings import Settings
from fakd.training.checkpoint import load_checkpoint, read_checkpoint_state, save_checkpoint
from fakd.training.objective import Objective
from fakd.training.optimizer import build_optimizer, set_learning_rate
from fakd.training.progress import StepProgress, Stopwatch
from fakd.training.teacher import Teacher
from fakd.training.validation import refuse_degenerate_teacher, validate_images
from fakd.types import Segmenter


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


class Training:
    """One run from its first or last saved step to its end.

    The weights after step n are a function of settings, seed and data alone: batches, augmentation
    and dropout are drawn from (seed, step, sample), so that a run killed at any moment and started
    again ends in the same weights.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: Segmenter,
        objective: Objective,
        data: SegmentationData,
        settings: Settings,
        folder: RunFolder | None,
        console: Console,
        title: str = "train",
        teacher: Teacher | None = None,
    ) -> None:
        self.fabric, self.settings, self.data = fabric, settings, data
        # Small sets are decoded hundreds of times otherwise.
        self.train, self.val = cached((data.train, data.val), settings.hardware)
        self.folder, self.console, self.title = folder, console, title
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            for module in (network, objective):
                nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        self.network = network.to(fabric.device)
        if settings.hardware.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.objective, self.teacher = objective.to(fabric.device), teacher
        self.extra = objective.learnt_with_student()
        self.optimizer = build_optimizer(settings.schedule, network, self.extra)
        self.optimizers = (self.optimizer, *objective.optimizers())
        self.state = State()
        self.curves: Curves | None = None
        self.display = StepProgress(console, title, settings.schedule.steps)
        self.watch, self.lapped = Stopwatch(), 0
        self.skipped = SkippedSamples()

    def run(self, check_teacher: bool = False) -> dict[str, Any]:
        """Train to the last step and return the result that ``result.json`` holds.

        Args:
            check_teacher: evaluate the teacher first.

        Raises:
            InputError: the teacher is no better than naming one class everywhere.
            FloatingPointError: a loss became infinite or NaN; the last checkpoint is intact.
        """
        schedule, intervals = self.settings.schedule, self.settings.intervals
        self._resume()
        if check_teacher and self.teacher is not None and self.state.teacher_miou is None:
            self._check(self.teacher)
        student, optimizer = self.fabric.setup(self.network, self.optimizer)
        first = self.lapped = self.state.step
        if self.folder:
            self.curves = Curves(self.folder.path, first)
        evaluate_every = intervals.evaluate or max(1, math.ceil(schedule.steps / 10))
        scores = None
        self.network.train()
        self.watch.lap()
        with self.display:
            self.display.begin(first)
            for step, batch in enumerate(self._batches(first), start=first):
                self.skipped.note(batch.skipped, self.display)
                done, last = step + 1, step + 1 == schedule.steps
                logged = done % intervals.log == 0 or last
                terms = self._step(step, batch, student, optimizer, measured=logged)
                if logged:
                    self._log(done, terms)
                if done % evaluate_every == 0 or last:
                    with self.watch.paused():
                        scores = self._evaluate(done)
                if done % intervals.save == 0 or last:
                    self._save(done, terms)
        if self.curves:
            self.curves.close()
        return self._finish(scores or self._evaluate(schedule.steps))

    def _batches(self, first: int) -> Any:
        schedule = self.settings.schedule
        return training_batches(
            self.train,
            self.settings.augmentation,
            schedule.batch_size,
            self.settings.seed,
            first,
            schedule.steps,
            workers=self.settings.hardware.workers,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            pin_memory=self.fabric.device.type == "cuda",
            broken=self.settings.broken,
        )

    def _step(
        self, step: int, batch: Batch, student: Any, optimizer: Any, measured: bool
    ) -> dict[str, Tensor]:
        """Make one step; return its loss terms and, if asked for, what else is worth a curve."""
        schedule, device = self.settings.schedule, self.fabric.device
        # Dropout draws from here, so that a resumed step draws what the uninterrupted one did.
        torch.manual_seed(mixed(self.settings.seed, step, self.fabric.global_rank))
        images = to_unit(batch.images.to(device, non_blocking=True))
        if self.settings.hardware.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        labels = batch.labels.to(device, non_blocking=True)
        set_learning_rate(optimizer, schedule.learning_rate_at(step))
        # Asked first, so that its activations are gone before the student's are kept.
        answer = None if self.teacher is None else self.teacher.answer(images, batch)
        prediction = student(images)
        progress = step / schedule.steps
        with self.fabric.autocast():
            outcome = self.objective(prediction, labels, batch.labelled, progress, answer)
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(torch.stack(list(outcome.terms.values())).sum())
        average_gradients(self.extra)
        if schedule.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), schedule.clip)
        optimizer.step()
        terms = {**outcome.terms, **self.objective.after_step(outcome)}
        if measured:
            terms |= self.objective.measures(outcome)
        return {name: term.detach() for name, term in terms.items()}

    def _log(self, done: int, terms: Mapping[str, Tensor]) -> None:
        schedule = self.settings.schedule
        values = self._finite(terms, done)
        speed = self._lap(done)
        if self.curves:
            rate = schedule.learning_rate_at(done - 1)
            self.curves.write(done, {**values, "learning_rate": rate, "images/s": speed})
        self.display.show(done, {**values, "images/s": speed})

    def _lap(self, done: int) -> float:
        """Add the time since the last lap to the run's and return its images per second."""
        seconds = self.watch.lap()
        images = (done - self.lapped) * self.settings.schedule.batch_size
        self.state.seconds += seconds
        self.lapped = done
        return images / max(seconds, 1e-9)

    def _finite(self, values: Mapping[str, Tensor], done: int) -> dict[str, float]:
        numbers = {name: value.item() for name, value in values.items()}
        broken = [name for name, number in numbers.items() if not math.isfinite(number)]
        if broken:
            saved = self.folder is not None and self.state.step > 0
            kept = f"; the checkpoint of step {self.state.step} is intact" if saved else ""
            raise FloatingPointError(
                f"{', '.join(broken)} became infinite or NaN at step {done}{kept}; try a lower "
                "schedule.learning_rate, a schedule.warmup or a schedule.clip"
            )
        return numbers

    def _evaluate(self, done: int) -> Scores:
        scores, counts = validate_images(self.fabric, self.network, self.val, self.settings)
        self.network.train()
        if self.folder and done == self.settings.schedule.steps:
            names = [self.val.name(index) for index in range(len(self.val))]
            self.folder.write_images(names, counts.cpu().numpy())
        if self.curves:
            values = {"mIoU": scores.miou, "mAcc": scores.macc, "aAcc": scores.pixel_accuracy}
            self.curves.write(done, {f"val/{name}": 100 * value for name, value in values.items()})
        if scores.miou > self.state.best_miou:
            self.state.best_miou, self.state.best_step = scores.miou, done
            self._save_network("best", done, scores)
        self.display.say(
            f"{self.title}: step {done}  val mIoU {100 * scores.miou:.2f}  "
            f"mAcc {100 * scores.macc:.2f}  aAcc {100 * scores.pixel_accuracy:.2f}"
        )
        return scores

    def _check(self, teacher: Teacher) -> None:
        scores = teacher.validate(self.val, self.settings)
        self.state.teacher_miou = scores.miou
        self.console.print(f"{self.title}: teacher  val mIoU {100 * scores.miou:.2f}")
        refuse_degenerate_teacher(scores, self.data.name)

    def _save(self, done: int, terms: Mapping[str, Tensor]) -> None:
        self._finite(terms, done)
        self._lap(done)
        with self.watch.paused():
            self.state.step = done
            self.state.skipped += self.skipped.taken(self.fabric)
            if self.folder:
                parts = self.network, self.objective, self.optimizers
                save_checkpoint(self.folder.last, *parts, vars(self.state))

    def _save_network(self, name: str, done: int, scores: Scores) -> None:
        if self.folder:
            models.save(
                self.network,
                self.folder.path / f"{name}.safetensors",
                class_names=self.data.class_names,
                palette=self.data.palette,
                extra={
                    "step": done,
                    "miou": round(100 * scores.miou, 4),
                    "inference": asdict(self.settings.inference),
                },
            )

    def _resume(self) -> None:
        last = self.folder.last if self.folder and self.folder.resumable else None
        path = self.fabric.broadcast(last)
        if path is None:
            return
        self.state = State(**read_checkpoint_state(path))
        load_checkpoint(path, self.network, self.objective, self.optimizers)
        self.console.print(f"{self.title}: continuing at step {self.state.step}")

    def _finish(self, scores: Scores) -> dict[str, Any]:
        state = vars(self.state)
        result = result_of(self.network, self.data, scores, state, self.fabric.device)
        self._save_network("final", self.state.step, scores)
        if self.folder:
            self.folder.write_json(RESULT, result)
        return result


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
