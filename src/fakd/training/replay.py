"""Recompute one step of a run: its batch, loss terms and gradients."""

from pathlib import Path
from typing import NamedTuple

from fakd.data import Batch
from fakd.training.loop import Training
from fakd.training.step import norm_of


class Replayed(NamedTuple):
    """The batch, loss terms and gradient norms of one step."""

    batch: Batch
    terms: dict[str, float]
    """The weighted loss terms."""
    norms: dict[str, float]
    """Gradient norm of each part of the network."""
    broken: list[str]
    """Names of the weights whose gradients are infinite or NaN."""
    since: int
    """Step of the checkpoint from which training was repeated."""


def replay(training: Training, number: int, checkpoint: Path | None) -> Replayed:
    """Compute one step, counted from 1, up to its gradients; nothing is written.

    The steps from the checkpoint on are repeated, so that the weights are those of the original
    step. A step before the checkpoint is computed with the checkpoint's weights.
    """
    training.resume(checkpoint)
    first = min(training.state.step, number - 1)
    training.begin()
    for step, asked in training.step.asking.answer_batches(training.batches(first), first):
        if step == number - 1:
            break
        training.advance(step, asked, measured=False)
    training.thaw(step)
    terms, _ = training.step.gradients(step, asked, training.student, training.wrapped)
    network = training.network
    groups = {**network.parameter_groups(), "distillation": training.extra}
    gradients = {name: each.grad for name, each in network.named_parameters()}
    return Replayed(
        asked.batch,
        {name: float(term) for name, term in terms.items()},
        {name: float(norm_of(members)) for name, members in groups.items() if members},
        [
            name
            for name, each in gradients.items()
            if each is not None and not each.isfinite().all()
        ],
        training.state.step,
    )
