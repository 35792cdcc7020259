"""Trial of a run's first steps, to judge its settings before training."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from fakd.data import Batch, SegmentationData
from fakd.errors import MORE_MEMORY, InputError, is_out_of_memory
from fakd.inference import predict_classes, to_unit
from fakd.inspection import Finding, Severity
from fakd.memory import peak_memory
from fakd.settings import Optimizer, Schedule, Settings
from fakd.training.loop import Training
from fakd.training.preparation import require_step_memory
from fakd.types import TASK_TERMS, Segmenter

_STEPS = 8
_FEWEST = 2
_LOST = 2.0
"""Factor by which the loss of a repeated batch may grow at most."""
_UNBALANCED = 100.0
"""Ratio of two gradients from which on the smaller one is negligible."""


@dataclass(frozen=True)
class Trial:
    """Measurements of the first steps on one batch."""

    terms: Mapping[str, float]
    """Every weighted loss term before the first step."""
    task: float
    """Gradient norm of the task's terms, over the weights of the network."""
    distillation: float | None
    """Gradient norm of all other terms; None if there are none."""
    losses: Sequence[float]
    """Sum of the terms at each step, all on the same batch and at the peak learning rate."""
    step_seconds: float
    batch_seconds: float
    """Time to read a batch in this process."""
    image_seconds: float
    """Time to evaluate one validation image."""
    memory: int
    """Peak memory in bytes."""

    @property
    def ratio(self) -> float | None:
        """Ratio of the distillation's gradient norm to the task's."""
        if self.distillation is None or not self.task:
            return None
        return self.distillation / self.task


def try_steps(training: Training, seconds: float) -> Trial:
    """Run a few steps on the first batch; the network's weights are restored afterwards.

    Args:
        training: a run without a folder, at a constant learning rate.
        seconds: time limit, after which no step starts except the first two.

    Raises:
        MemoryError: the estimated or the actual memory needed is more than there is.
    """
    network, settings = training.network, training.settings
    try:
        require_step_memory(training.fabric, network, training.data, settings, training.teacher)
    except InputError as error:
        raise MemoryError(str(error)) from error
    kept = {name: each.clone() for name, each in network.state_dict().items()}
    began = time.monotonic()
    batch = next(iter(training.batches(0)))
    batch_seconds = time.monotonic() - began
    try:
        training.begin()
        terms, task, distillation = _gradients(training, batch)
        losses, times, until = list[float](), list[float](), time.monotonic() + seconds
        for step in range(min(_STEPS, settings.schedule.steps)):
            if step >= _FEWEST and time.monotonic() > until:
                break
            began = time.monotonic()
            found = training.advance(0, training.step.asking.answer_batch(0, batch), measured=False)
            losses.append(sum(found[name].item() for name in terms))
            times.append(time.monotonic() - began)
            if not math.isfinite(losses[-1]):
                break
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"memory ran out in a step; {MORE_MEMORY}") from error
    finally:
        network.load_state_dict(kept)
    # The first step warms up.
    step_seconds = min(times[1:] or times)
    image_seconds = _estimate_evaluation(network, training, settings)
    memory = peak_memory(training.fabric.device)
    return Trial(
        terms, task, distillation, losses, step_seconds, batch_seconds, image_seconds, memory
    )


def _estimate_evaluation(network: Segmenter, training: Training, settings: Settings) -> float:
    image = training.val[0].image[None].to(training.fabric.device)
    began = time.monotonic()
    network.eval()
    with training.fabric.autocast():
        predict_classes(network, image, settings.inference).cpu()
    return time.monotonic() - began


def _gradients(training: Training, batch: Batch) -> tuple[dict[str, float], float, float | None]:
    """Compute the terms of the batch's first part, and the gradient norms of task and others."""
    objective, teacher, device = training.objective, training.teacher, training.fabric.device
    part = batch.parts(training.settings.schedule.accumulate)[0]
    images = to_unit(part.images.to(device))
    answer = teacher.answer(images, part) if teacher and objective.asks_teacher(0.0) else None
    prediction = training.student(images)
    labels = part.labels.to(device)
    with training.fabric.autocast():
        terms = objective(prediction, labels, part.labelled, 0.0, answer).terms
    weights = [each for each in training.network.parameters() if each.requires_grad]
    groups = [
        [terms[name] for name in terms if (name in TASK_TERMS) == mine] for mine in (True, False)
    ]
    norms = [_norm(group, weights) if group else None for group in groups]
    values = {name: float(value.detach()) for name, value in terms.items()}
    return values, norms[0] or 0.0, norms[1]


def _norm(terms: Sequence[Tensor], weights: Sequence[nn.Parameter]) -> float:
    total = torch.stack([term.float() for term in terms]).sum()
    if not total.requires_grad:
        return 0.0
    found = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
    return float(get_total_norm([each for each in found if each is not None]))


def typical_learning_rates(optimizer: Optimizer, batch_size: int) -> tuple[float, float]:
    """Return the usual range of learning rates for an optimiser.

    Published recipes use 0.01 for SGD and 0.0001 for Adam and its variants at 16 images, within a
    factor of 4 (8 for Adam). The rate grows with the batch size, or with its square root for Adam
    (Goyal et al., 2017, arXiv 1706.02677; Malladi et al., 2022, arXiv 2205.10287).
    """
    share = batch_size / 16
    if optimizer.kind == "SGD":
        return 0.01 * share / 4, 0.01 * share * 4
    return 1e-4 * share**0.5 / 8, 1e-4 * share**0.5 * 8


def is_transformer(network: nn.Module) -> bool:
    """Tell whether layer norms outnumber batch norms, as in transformers."""
    kinds = [type(each).__name__ for each in network.modules()]
    return sum("LayerNorm" in kind for kind in kinds) > sum("BatchNorm" in kind for kind in kinds)


def judge_steps(
    trial: Trial, network: nn.Module, schedule: Schedule, optimizer: Optimizer
) -> list[Finding]:
    """Judge learning rate, optimiser and balance of the losses from the first steps."""
    found = []
    rate, losses = schedule.learning_rate or 0.0, trial.losses
    low, high = typical_learning_rates(optimizer, schedule.batch_size)
    usual = f"{low:.2g} to {high:.2g} is usual for {optimizer.kind} at {schedule.batch_size} images"
    finite = all(map(math.isfinite, losses))
    if not math.isfinite(losses[0]):
        wrong = ", ".join(name for name, value in trial.terms.items() if not math.isfinite(value))
        text = f"the loss is not finite before any step ({wrong or 'in training mode'})"
        found.append(Finding(Severity.STOPS, f"{text}; check the weights and the images"))
    elif not finite or losses[-1] > _LOST * losses[0]:
        how = f"from {losses[0]:.3g} to {losses[-1]:.3g}" if finite else "to infinity or NaN"
        found.append(
            Finding(
                Severity.HARMS if schedule.warmup else Severity.STOPS,
                f"at learning rate {rate:g} the loss of one batch rose {how} in {len(losses)} "
                f"steps; lower --schedule.learning_rate, {usual}",
            )
        )
    elif not low <= rate <= high:
        side = "above" if rate > high else "below"
        text = f"learning rate {rate:g} is {side} the usual range: {usual}"
        found.append(Finding(Severity.HARMS, f"{text}; give --schedule.learning_rate"))
    if optimizer.kind == "SGD" and is_transformer(network):
        warmup = min(1500, schedule.steps // 10)
        found.append(
            Finding(
                Severity.HARMS,
                "transformers learn poorly with SGD; give --optimizer AdamW "
                f"--schedule.learning_rate 6e-5 --schedule.warmup {warmup}",
            )
        )
    if (ratio := trial.ratio) is not None and not 1 / _UNBALANCED <= ratio <= _UNBALANCED:
        which, end = ("dominates", "lower") if ratio > 1 else ("hardly matters against", "raise")
        found.append(
            Finding(
                Severity.HARMS,
                f"the gradient of the distillation is {ratio:.2g} times that of the task, and so "
                f"{which} it; {end} --distillation.weight",
            )
        )
    return found


def note_finding(text: str) -> Finding:
    """Create a finding that only informs."""
    return Finding(Severity.TELLS, text)


def judge_names(network: Segmenter, data: SegmentationData) -> list[Finding]:
    """Judge by their names whether a teacher's classes are the data's."""
    theirs = [name.lower() for name in network.class_names or ()]
    ours = [name.lower() for name in data.class_names]
    differing = [(i, j) for i, j in zip(theirs, ours, strict=False) if i != j]
    if not differing or len(theirs) != len(ours):
        return []
    first = f"the first is {differing[0][0]!r} against {differing[0][1]!r}"
    if sorted(theirs) == sorted(ours):
        text = f"the teacher has the data's classes in another order ({first})"
        return [Finding(Severity.STOPS, f"{text}; map them: fakd classes, then --classes_from")]
    text = f"{len(differing)} of {len(ours)} class names of the teacher differ ({first})"
    return [Finding(Severity.HARMS, f"{text}; if the meanings differ, map them with fakd classes")]
