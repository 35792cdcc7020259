"""The training loop (step, log, evaluate, save), the same for every objective."""

import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from fakd import models
from fakd.data import SegmentationData, cache_in_memory, training_batches
from fakd.data.rare import ClassOccurrence
from fakd.errors import InputError, list_some
from fakd.memory import peak_memory
from fakd.metrics import Scores
from fakd.runs.curves import Curves
from fakd.runs.folder import (
    IMAGES,
    RESULT,
    TRACE,
    WRONG,
    RunFolder,
    read_checkpoint_state,
    write_json,
)
from fakd.runs.images import write_images
from fakd.settings import Settings
from fakd.signals import Interrupted
from fakd.training.checkpoint import State, load_checkpoint, save_checkpoint
from fakd.training.compiling import compile_network, compiling, require_compilers
from fakd.training.disk_cache import cache_on_disk
from fakd.training.interruption import agreed_signal
from fakd.training.objective import Objective
from fakd.training.optimizer import build_optimizer
from fakd.training.prefetching import AnsweredBatch
from fakd.training.preparation import (
    average_of,
    checkpoint_activations,
    freeze,
    require_enough_images,
    require_feasible,
    synchronize_batch_norms,
)
from fakd.training.progress import StepProgress, Stopwatch
from fakd.training.rare import class_occurrence
from fakd.training.result import (
    SkippedSamples,
    conclusion,
    extension,
    result_of,
    save_network,
)
from fakd.training.step import Step
from fakd.training.teacher import Teacher, scores_of
from fakd.training.validation import refuse_degenerate_teacher, validate_images
from fakd.types import Segmenter

_REMEDY = "try a lower schedule.learning_rate, a schedule.warmup or a schedule.clip"


class Training:
    """One training run, from step 0 or its checkpoint to its end.

    The weights after step n depend only on settings, seed and data: batches, augmentation and
    dropout are drawn from (seed, step, sample). A run that is killed at any moment and resumed
    therefore ends with the same weights, up to kernels that add in any order, as some on GPUs do.
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
        require_feasible(fabric, objective, settings, teacher)
        require_compilers(fabric.device, settings.hardware)
        self.teacher = teacher
        # Otherwise small data sets would be decoded hundreds of times.
        self.train, self.val = cache_in_memory(data.train, data.val, settings.hardware)
        self.shown: ClassOccurrence | None = None
        self.batches(first=0)  # refuses unsupported settings before the folder is created
        self.folder: RunFolder | None = None
        self.console, self.title = console, title
        if fabric.world_size > 1 and fabric.device.type == "cuda":
            for module in (network, objective):
                synchronize_batch_norms(module)
        self.network = network.to(fabric.device)
        if settings.hardware.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if settings.hardware.checkpoint_activations:
            checkpoint_activations(self.network)
        self.objective = objective.to(fabric.device)
        self.extra, self.state = objective.learnt_with_student(), State()
        self._uncompiled = settings.hardware.compile
        self.average = average_of(self.network, settings.ema)
        self.frozen = freeze(self.network, ())
        self._select(step=0)
        self.curves: Curves | None = None
        steps, every = settings.schedule.steps, settings.intervals.evaluate
        self.evaluate_every = every or max(1, math.ceil(steps / 10))
        self.display = StepProgress(console, title, settings.schedule.steps)
        self.watch, self.lapped, self.skipped = Stopwatch(), 0, SkippedSamples()
        self.step = Step(fabric, settings, self.network, self.objective, teacher, self.average)
        self._training_mode()
        require_enough_images(fabric, self.network, settings)

    def _select(self, step: int) -> None:
        """Freeze parts and set up the optimiser over all parameters that learn from a step on."""
        until = self.settings.freeze.until
        names = self.settings.freeze.names if until is None or step < until else ()
        self.frozen.thaw()
        self.frozen = freeze(self.network, names)
        self.optimizer = build_optimizer(self.settings.optimizer, self.network, self.extra)
        self.optimizers = (self.optimizer, *self.objective.optimizers())

    def thaw(self, step: int) -> None:
        """Unfreeze all parameters if it is time; those already trained keep their state."""
        until = self.settings.freeze.until
        if until is None or step < until or not any(self.frozen):
            return
        before = self.optimizer.state
        self._select(step)
        self.optimizer.state.update(before)
        self._training_mode()
        self.wrapped = self.fabric.setup_optimizers(self.optimizer)

    def _training_mode(self) -> None:
        self.network.train()
        for norm in self.frozen.norms:
            norm.eval()

    @property
    def evaluated(self) -> Segmenter:
        """The network that is evaluated and saved: the trained one, or its weights' average."""
        if self.average is None:
            return self.network
        network: Segmenter = self.average.module  # type: ignore[assignment]
        return network

    def run(
        self, folder: RunFolder | None = None, check_teacher: bool = False, profile: int = 0
    ) -> dict[str, Any]:
        """Train to the last step and return the content of ``result.json``.

        Args:
            folder: the run's folder; None writes nothing, as on all processes but the first.
            check_teacher: evaluate the teacher first.
            profile: number of steps to profile.

        Raises:
            InputError: the teacher is no better than predicting one class everywhere.
            FloatingPointError: losses, gradients, weights or outputs became infinite or NaN; names
                the step. The last checkpoint is intact.
            Interrupted: a signal asked to stop (`fakd.signals`); a checkpoint was saved.
        """
        schedule, intervals = self.settings.schedule, self.settings.intervals
        self.folder = folder
        if self.settings.hardware.cache_folder is not None:
            self.train, self.val = cache_on_disk(self.data, self.settings.hardware, self.console)
        saved = folder.last if folder and folder.last.is_file() else None
        self.resume(self.fabric.broadcast(saved))
        if check_teacher and self.teacher and self.state.teacher_miou is None:
            self._check(self.teacher)
        if schedule.rare is not None:
            self.shown = class_occurrence(self, folder.path if folder else None)
        first = self.lapped = self.state.step
        self.begin()
        if self.folder:
            self.step.profile.watch(profile, self.folder.path / TRACE)
            (self.folder.path / WRONG).unlink(missing_ok=True)
            self.curves = Curves(self.folder.path, first)
        found = None
        self.watch.lap()
        # Closed, since the traceback of an exception would keep the loader's workers alive.
        with self.display, closing(self.batches(first)) as batches:
            self.display.begin(first)
            if self.state.pending:
                with self.watch.paused():
                    found = self._evaluate(first)
                self._ends(first, patience=True)
                self._save(first)
            coming = () if self.state.ended else batches
            for step, asked in self.step.asking.answer_batches(coming, first):
                if number := agreed_signal():
                    self._leave(number, step)
                done, last = step + 1, step + 1 == schedule.steps
                logged = done % intervals.log == 0 or last
                terms = self.advance(step, asked, measured=logged)
                if logged:
                    self._log(done, terms)
                    last = self._ends(done)
                if done % self.evaluate_every == 0 or last:
                    with self.watch.paused():
                        found = self._evaluate(done)
                    last = self._ends(done, patience=True)
                if done % intervals.save == 0 or last:
                    self._save(done)
                if last:
                    break
        return self._finish(*(found or self._evaluate(self.state.step)))

    def begin(self) -> None:
        """Compile and wrap network and optimiser, once weights and layout are final."""
        learns = compile_network(self.network) if self.settings.hardware.compile else self.network
        self.student, self.wrapped = self.fabric.setup(learns, self.optimizer)
        self._training_mode()

    def advance(self, step: int, asked: AnsweredBatch, measured: bool) -> Mapping[str, Tensor]:
        """Run one step and return the values to log."""
        self.thaw(step)
        self.skipped.note(asked.batch.skipped, self.display)
        told = compiling(self.display.say) if self._uncompiled else nullcontext()
        self._uncompiled = False
        with told:
            terms = self.step(step, asked, self.student, self.wrapped, measured)
        self.step.profile.after_step(self.console)
        return terms

    def _leave(self, number: int, step: int) -> NoReturn:
        """Save a checkpoint, then stop because of a signal."""
        if step > self.state.step or self.state.pending:
            self._save(step)
        raise Interrupted(number, step, self.settings.schedule.steps)

    def _ends(self, done: int, patience: bool = False) -> bool:
        """Tell whether to stop after a step, and record why; check patience only if asked to."""
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

    def batches(self, first: int) -> Any:
        """Yield the batches of this process from a step on, counted from 0."""
        schedule = self.settings.schedule
        return training_batches(
            self.train,
            self.settings.augmentation,
            schedule.batch_size,
            self.settings.seed,
            first,
            schedule.steps,
            workers=self.settings.hardware.workers,
            prefetch=self.settings.hardware.prefetch,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            pin_memory=self.fabric.device.type == "cuda",
            broken=self.settings.broken,
            lookup=None if self.teacher is None else self.teacher.lookup,
            # Without a teacher, unlabelled images contribute nothing.
            unlabelled_share=schedule.unlabelled_share if self.teacher else 0.0,
            rare=(self.shown, schedule.rare) if self.shown and schedule.rare else None,
        )

    def _log(self, done: int, terms: Mapping[str, Tensor]) -> None:
        self._look()
        values = {name: value.item() for name, value in terms.items()}
        if self.step.scaler().is_enabled() and not math.isfinite(values["gradient_norm"]):
            del values["gradient_norm"]
        if broken := [name for name, value in values.items() if not math.isfinite(value)]:
            self._fail(done, broken)
        speed = self._lap(done)
        if self.curves:
            rate = self.settings.schedule.learning_rate_at(done - 1)
            self.curves.write(done, {**values, "learning_rate": rate, "images/s": speed})
        best = {"best mIoU": 100 * self.state.best_miou} if self.state.best_step else {}
        memory = {"GB": peak_memory(self.fabric.device) / 1e9}
        self.display.show(
            done, {**values, "images/s": speed}, {"images/s": speed, **best, **memory}
        )

    def _lap(self, done: int) -> float:
        """Add the time since the last lap to the run's total and return the images per second."""
        seconds, waited = self.watch.lap(), self.step.profile.take_waited()
        images = (done - self.lapped) * self.settings.schedule.batch_size
        self.state.seconds += seconds
        self.state.waited += waited
        self.lapped = done
        return images / max(seconds, 1e-9)

    def _look(self, done: int | None = None) -> None:
        """Fail if a recent step was not finite or, after step ``done``, a weight is not finite."""
        if (wrong := self.step.wrong()) is not None:
            self._fail(*wrong)
        if done is not None:
            for network in {self.network, self.evaluated}:
                if broken := models.not_finite(network):
                    self._fail(done, broken)

    def _fail(self, step: int, names: Sequence[str]) -> NoReturn:
        saved, shown = "", ""
        if self.folder:
            write_json(self.folder.path / WRONG, {"step": step, "names": list(names)})
            shown = f"; fakd replay {shlex.quote(str(self.folder.path))} shows that step"
            if self.state.step:
                saved = f"; the checkpoint of step {self.state.step} is intact"
        what = list_some(names, 3) or "a loss or gradient"
        raise FloatingPointError(
            f"{what} became infinite or NaN at step {step}{saved}{shown}; {_REMEDY}"
        )

    def _evaluate(self, done: int) -> tuple[Scores, Tensor]:
        self._look(done)
        try:
            scores, counts = validate_images(self.fabric, self.evaluated, self.val, self.settings)
        except Interrupted as interrupted:
            self.state.pending = True
            self._leave(interrupted.number, done)
        except FloatingPointError:
            self._fail(done, ["the network's output on validation images"])
        self.state.pending = False
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
        try:
            scores, members = scores_of(teacher, self.val, self.settings, self.title, self.console)
        except FloatingPointError as error:
            raise InputError(
                f"the teacher's output on {self.data.name} is infinite or NaN; "
                "train it again, or use another teacher"
            ) from error
        self.state.teacher_miou, self.state.teacher_mious = scores.miou, members
        refuse_degenerate_teacher(scores, self.data.name)

    def _save(self, done: int) -> None:
        self._look(done)
        self._lap(done)
        with self.watch.paused():
            self.state.step = done
            self.state.skipped += self.skipped.take(self.fabric)
            if self.folder:
                self.state.scaler = self.step.scaler().state_dict()
                save_checkpoint(self.folder.last, self._parts(), self.optimizers, vars(self.state))

    def _save_network(self, name: str, done: int, scores: Scores) -> None:
        if self.folder:
            path = self.folder.path / f"{name}.safetensors"
            save_network(self.evaluated, path, self.data, self.settings.inference, done, scores)

    def resume(self, path: Path | None) -> None:
        """Resume from a checkpoint, if there is one."""
        if path is None:
            return
        self.state = State(**read_checkpoint_state(path, State.__annotations__))
        before = self.fabric.broadcast(self.folder.extended_from if self.folder else None)
        if before is not None:
            self.state.ended = None
            told = extension(self.settings.schedule, self.objective, before, self.state.step)
            self.display.say(f"{self.title}: {told}")
        # As in the step before it: the optimiser's state goes by the order of its parameters.
        self._select(self.state.step - 1)
        load_checkpoint(path, self._parts(), self.optimizers)
        if self.state.scaler:  # empty after a part of the run in another precision
            self.step.scaler().load_state_dict(self.state.scaler)
        self.console.print(f"{self.title}: continuing at step {self.state.step}")

    def _parts(self) -> dict[str, nn.Module]:
        """List, by name, the modules whose tensors a checkpoint stores."""
        parts = {"network": self.network, "objective": self.objective}
        return parts if self.average is None else {**parts, "average": self.average}

    def _finish(self, scores: Scores, counts: Tensor) -> dict[str, Any]:
        result = result_of(self.evaluated, self.data, scores, vars(self.state), self.fabric.device)
        self._save_network("final", self.state.step, scores)
        if self.folder:
            names = [self.val.name(index) for index in range(len(self.val))]
            groups = [self.val.group(index) for index in range(len(self.val))]
            write_images(self.folder.path / IMAGES, names, counts.cpu().numpy(), groups)
            write_json(self.folder.path / RESULT, result)
            self.display.say(f"{self.title}: {conclusion(result, self.folder.path)}")
        return result
