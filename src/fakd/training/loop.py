"""The training loop: step, log, evaluate, save; the same for every objective."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from fakd import models
from fakd.data import Batch, SegmentationData, cached, mixed, training_batches
from fakd.errors import InputError
from fakd.inference import to_unit
from fakd.metrics import Scores
from fakd.processes import average_gradients
from fakd.runs.curves import Curves
from fakd.runs.folder import RESULT, RunFolder, read_checkpoint_state, write_json
from fakd.settings import Settings
from fakd.training.checkpoint import load_checkpoint, save_checkpoint
from fakd.training.objective import Objective, scaled
from fakd.training.optimizer import build_optimizer, set_learning_rate
from fakd.training.preparation import average_of, checkpoint_activations, freeze
from fakd.training.progress import StepProgress, Stopwatch
from fakd.training.result import SkippedSamples, extension, result_of
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
    ended: str | None = None
    """Why the run is over; None while it is not."""
    scaler: dict[str, Any] = field(default_factory=dict)
    """How gradients are scaled in 16 bits; empty elsewhere."""


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
        console: Console,
        title: str = "train",
        teacher: Teacher | None = None,
    ) -> None:
        self.fabric, self.settings, self.data = fabric, settings, data
        parts = fabric.world_size * settings.schedule.accumulate
        if settings.schedule.batch_size % parts:
            raise InputError(
                f"expected schedule.batch_size to be a multiple of {parts}, the devices times "
                f"schedule.accumulate, got {settings.schedule.batch_size}"
            )
        if settings.schedule.accumulate > 1 and not objective.image_by_image:
            raise InputError(
                "schedule.accumulate needs a distillation that is a mean over images, and this one "
                "compares images with each other or trains an opponent on whole batches; leave it "
                "at 1"
            )
        # Small sets are decoded hundreds of times otherwise.
        self.train, self.val = cached((data.train, data.val), settings.hardware)
        self._batches(first=0)  # refuses what it cannot do before there is a folder
        self.folder: RunFolder | None = None
        self.console, self.title = console, title
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            for module in (network, objective):
                nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        self.network = network.to(fabric.device)
        if settings.hardware.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if settings.hardware.checkpoint_activations:
            checkpoint_activations(self.network)
        self.objective, self.teacher = objective.to(fabric.device), teacher
        self.extra = objective.learnt_with_student()
        self.state = State()
        self.average = average_of(self.network, settings.ema)
        if (settings.freeze.until or 0) >= settings.schedule.steps:
            raise InputError(
                f"expected freeze.until before the last of {settings.schedule.steps} steps, got "
                f"{settings.freeze.until}; leave it out to keep what is frozen"
            )
        if settings.freeze.until is not None and fabric.world_size > 1:
            raise InputError("freeze.until works on one device; leave it out, or give one")
        self._select(step=0)
        self.curves: Curves | None = None
        steps, every = settings.schedule.steps, settings.intervals.evaluate
        self.evaluate_every = every or max(1, math.ceil(steps / 10))
        self.display = StepProgress(console, title, settings.schedule.steps)
        self.watch, self.lapped = Stopwatch(), 0
        self.skipped = SkippedSamples()

    def _select(self, step: int) -> None:
        """Set up the optimiser over what learns from a step on: all, or all that is not frozen."""
        names, until = self.settings.freeze.names, self.settings.freeze.until
        if until is not None and step >= until:
            self.network.requires_grad_(True)
            names = ()
        self.frozen = freeze(self.network, names)
        self.optimizer = build_optimizer(self.settings.optimizer, self.network, self.extra)
        self.optimizers = (self.optimizer, *self.objective.optimizers())

    def _thaw(self, step: int) -> Any:
        """Let what was frozen learn; what has learnt keeps its momentum."""
        before = self.optimizer.state
        self._select(step)
        self.optimizer.state.update(before)
        self._training_mode()
        return self.fabric.setup_optimizers(self.optimizer)

    def _training_mode(self) -> None:
        self.network.train()
        for norm in self.frozen:
            norm.eval()

    @property
    def evaluated(self) -> Segmenter:
        """What is scored and saved: the network, or the moving average of its weights."""
        if self.average is None:
            return self.network
        network: Segmenter = self.average.module  # type: ignore[assignment]
        return network

    def run(self, folder: RunFolder | None = None, check_teacher: bool = False) -> dict[str, Any]:
        """Train to the last step and return the result that ``result.json`` holds.

        Args:
            folder: where all of it goes; None keeps nothing, as on all processes but the first.
            check_teacher: evaluate the teacher first.

        Raises:
            InputError: the teacher is no better than naming one class everywhere.
            FloatingPointError: a loss became infinite or NaN; the last checkpoint is intact.
        """
        schedule, intervals = self.settings.schedule, self.settings.intervals
        self.folder = folder
        self._resume()
        if check_teacher and self.teacher is not None and self.state.teacher_miou is None:
            self._check(self.teacher)
        student, optimizer = self.fabric.setup(self.network, self.optimizer)
        first = self.lapped = self.state.step
        if self.folder:
            self.curves = Curves(self.folder.path, first)
        found = None
        self._training_mode()
        self.watch.lap()
        with self.display:
            self.display.begin(first)
            batches = () if self.state.ended else self._batches(first)
            for step, batch in enumerate(batches, start=first):
                if step == self.settings.freeze.until and step > first:
                    optimizer = self._thaw(step)
                self.skipped.note(batch.skipped, self.display)
                done, last = step + 1, step + 1 == schedule.steps
                logged = done % intervals.log == 0 or last
                terms = self._step(step, batch, student, optimizer, measured=logged)
                if logged:
                    self._log(done, terms)
                    last = self._ends(done)
                if done % self.evaluate_every == 0 or last:
                    with self.watch.paused():
                        found = self._evaluate(done)
                    last = self._ends(done, patience=True)
                if done % intervals.save == 0 or last:
                    self._save(done, terms)
                if last:
                    break
        return self._finish(*(found or self._evaluate(self.state.step)))

    def _ends(self, done: int, patience: bool = False) -> bool:
        """Tell whether a step is the last, and remember why; patience ends after evaluations."""
        limits, state = self.settings.stopping, self.state
        waited = (done - state.best_step) // self.evaluate_every
        minutes = self.fabric.broadcast(state.seconds / 60)
        if state.ended is not None:
            return True
        if done == self.settings.schedule.steps:
            state.ended = "all steps done"
        elif patience and limits.patience is not None and waited >= limits.patience:
            state.ended = f"no better mIoU since step {state.best_step}"
        elif limits.minutes is not None and minutes >= limits.minutes:
            state.ended = f"{limits.minutes:g} minutes of training"
        return state.ended is not None

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
        set_learning_rate(optimizer, schedule.learning_rate_at(step))
        optimizer.zero_grad(set_to_none=True)
        parts = batch.parts(schedule.accumulate)
        task = self.objective.task
        shares = [1.0] * len(parts) if task is None else task.shares([p.labels for p in parts])
        sums: dict[str, Tensor] = {}
        progress = step / schedule.steps
        teacher = self.teacher if self.objective.asks_teacher(progress) else None
        for number, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
            images = to_unit(part.images.to(device, non_blocking=True))
            if self.settings.hardware.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            labels = part.labels.to(device, non_blocking=True)
            # Asked first, so that its activations are gone before the student's are kept.
            answer = None if teacher is None else teacher.answer(images, part)
            with self.fabric.no_backward_sync(student, enabled=number < len(parts)):
                prediction = student(images)
                with self.fabric.autocast():
                    outcome = self.objective(
                        prediction, labels, part.labelled, progress, answer, share
                    )
                terms = scaled(outcome.terms, 1 / len(parts))
                self.fabric.backward(torch.stack(list(terms.values())).sum())
            for name, term in terms.items():
                sums[name] = sums[name] + term.detach() if name in sums else term.detach()
        average_gradients(self.extra)
        clips = schedule.clip is not None or schedule.clip_value is not None
        norm = None
        if clips or measured:
            # Without a limit it only measures, after undoing the scale that 16 bits may need.
            limit = math.inf if schedule.clip is None else schedule.clip
            norm = self.fabric.clip_gradients(
                student, optimizer, max_norm=limit, error_if_nonfinite=False
            )
        if schedule.clip_value is not None:
            nn.utils.clip_grad_value_(self.network.parameters(), schedule.clip_value)
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        terms = {**sums, **self.objective.after_step(outcome)}
        if measured:
            terms |= self.objective.measures(outcome)
        if measured and norm is not None:
            terms["gradient_norm"] = norm
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

    def _evaluate(self, done: int) -> tuple[Scores, Tensor]:
        scores, counts = validate_images(self.fabric, self.evaluated, self.val, self.settings)
        self._training_mode()
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
        return scores, counts

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
                self.state.scaler = self._scaler().state_dict()
                save_checkpoint(self.folder.last, self._parts(), self.optimizers, vars(self.state))

    def _save_network(self, name: str, done: int, scores: Scores) -> None:
        if self.folder:
            models.save(
                self.evaluated,
                self.folder.path / f"{name}.safetensors",
                class_names=self.data.class_names,
                palette=self.data.palette,
                extra={
                    "step": done,
                    "miou": round(100 * scores.miou, 4),
                    "inference": asdict(self.settings.inference),
                    "levels": asdict(self.data.levels),
                },
            )

    def _resume(self) -> None:
        last = self.folder.last if self.folder and self.folder.last.is_file() else None
        path = self.fabric.broadcast(last)
        if path is None:
            return
        self.state = State(**read_checkpoint_state(path, State.__annotations__))
        before = self.fabric.broadcast(self.folder.extended_from if self.folder else None)
        if before is not None:
            self._extend(before)
        self._select(self.state.step)
        load_checkpoint(path, self._parts(), self.optimizers)
        self._scaler().load_state_dict(self.state.scaler)
        self.console.print(f"{self.title}: continuing at step {self.state.step}")

    def _extend(self, before: int) -> None:
        """Go on beyond the last step of a finished run."""
        self.state.ended = None
        told = extension(self.settings.schedule, self.objective, before, self.state.step)
        self.console.print(f"{self.title}: {told}", soft_wrap=True)

    def _parts(self) -> dict[str, nn.Module]:
        """Name all modules whose tensors a checkpoint holds."""
        parts = {"network": self.network, "objective": self.objective}
        return parts if self.average is None else {**parts, "average": self.average}

    def _scaler(self) -> torch.amp.GradScaler:
        """Find what scales gradients in 16 bits; elsewhere one that does nothing."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return scaler or torch.amp.GradScaler(enabled=False)

    def _finish(self, scores: Scores, counts: Tensor) -> dict[str, Any]:
        state = vars(self.state)
        result = result_of(self.evaluated, self.data, scores, state, self.fabric.device)
        result["ended"] = self.state.ended
        self._save_network("final", self.state.step, scores)
        if self.folder:
            names = [self.val.name(index) for index in range(len(self.val))]
            self.folder.write_images(names, counts.cpu().numpy())
            write_json(self.folder.path / RESULT, result)
        return result
