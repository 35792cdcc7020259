"""One training step: forward and backward passes over the parts of a batch, then the update."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from fakd import processes
from fakd.data import hash_seed
from fakd.processes import average_gradients
from fakd.settings import Settings
from fakd.training.objective import Objective, Outcome, Terms, scale_terms
from fakd.training.optimizer import set_learning_rate
from fakd.training.prefetching import AnsweredBatch, TeacherPrefetch
from fakd.training.profiling import Profile
from fakd.training.teacher import Teacher
from fakd.types import Segmenter

_NEVER = 2**40


def norm_of(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Compute the norm of the gradients of some parameters."""
    found = [each.grad for each in parameters if each.grad is not None]
    norm: Tensor = get_total_norm(found) if found else torch.zeros(())
    return norm


class Step:
    """Runs steps, and records on the device the first one with a value that is not finite.

    Args:
        fabric: device, precision and processes.
        settings: of the run.
        network: the network being trained.
        objective: computes the loss.
        teacher: the teacher, if any.
        average: moving average of the network's weights, if any.
    """

    def __init__(
        self,
        fabric: Fabric,
        settings: Settings,
        network: Segmenter,
        objective: Objective,
        teacher: Teacher | None,
        average: AveragedModel | None,
    ) -> None:
        self.fabric, self.settings, self.network = fabric, settings, network
        self.objective, self.average = objective, average
        self.extra = objective.learnt_with_student()
        self.profile = Profile(fabric.device)
        self.asking = TeacherPrefetch(fabric, settings, objective, teacher, self.profile)
        self._wrong = torch.zeros((), dtype=torch.long, device=fabric.device)
        self._names: tuple[str, ...] = ()
        self._values = torch.zeros(0, device=fabric.device)

    def __call__(
        self, step: int, asked: AnsweredBatch, student: Any, optimizer: Any, measured: bool
    ) -> Terms:
        """Run one step; return its loss terms and, if ``measured``, further values to log."""
        set_learning_rate(optimizer, self.settings.schedule.learning_rate_at(step))
        sums, outcome = self.gradients(step, asked, student, optimizer)
        with self.profile.part("optimiser"):
            return self._update(step, sums, outcome, student, optimizer, measured)

    def _update(
        self, step: int, sums: Terms, outcome: Outcome, student: Any, optimizer: Any, measured: bool
    ) -> Terms:
        """Clip the gradients, update weights and average, and train the objective's critic."""
        schedule, scaler = self.settings.schedule, self.scaler()
        norm: Tensor | None
        learning = [each for group in optimizer.param_groups for each in group["params"]]
        if schedule.clip is not None or schedule.clip_value is not None or measured:
            # Without a limit this only measures the norm, after unscaling 16-bit gradients.
            limit = math.inf if schedule.clip is None else schedule.clip
            norm = self.fabric.clip_gradients(
                student, optimizer, max_norm=limit, error_if_nonfinite=False
            )
        else:
            # With a scaler it may be infinite, which the scaler itself looks for.
            norm = None if scaler.is_enabled() else norm_of(learning)
        if schedule.clip_value is not None:
            nn.utils.clip_grad_value_(learning, schedule.clip_value)
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        opposing = self.objective.after_step(outcome)
        terms = {**sums, **opposing}
        size = {} if norm is None else {"gradient_norm": norm}
        # Scaled gradients may overflow: the scaler then skips the step and lowers the scale.
        self._watch(step + 1, terms if scaler.is_enabled() else {**terms, **size})
        if measured:
            terms |= self.objective.measures(outcome) | size
        return {name: term.detach() for name, term in terms.items()}

    def gradients(
        self, step: int, asked: AnsweredBatch, student: Any, optimizer: Any
    ) -> tuple[Terms, Outcome]:
        """Run forward and backward passes; return loss terms and the outcome of the last part."""
        # Seeds dropout, so that a resumed step draws the same as an uninterrupted one.
        torch.manual_seed(hash_seed(self.settings.seed, step, self.fabric.global_rank))
        optimizer.zero_grad(set_to_none=True)
        sums: Terms = {}
        progress, count = step / self.settings.schedule.steps, self.settings.schedule.accumulate
        for number, part in enumerate(asked.parts, start=1):
            with self.fabric.no_backward_sync(student, enabled=number < count):
                with self.profile.part("student"):
                    prediction = student(part.images)
                with self.profile.part("loss"), self.fabric.autocast():
                    outcome = self.objective(
                        prediction, part.labels, part.labelled, progress, part.answer, part.share
                    )
                terms = scale_terms(outcome.terms, 1 / count)
                with self.profile.part("backward"):
                    self.fabric.backward(torch.stack(list(terms.values())).sum())
            for name, term in terms.items():
                sums[name] = sums[name] + term.detach() if name in sums else term.detach()
        average_gradients(self.extra)
        return sums, outcome

    def scaler(self) -> torch.amp.GradScaler:
        """Return the gradient scaler of 16-bit training, or else a disabled one."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return scaler or torch.amp.GradScaler(enabled=False)

    def _watch(self, number: int, terms: Mapping[str, Tensor]) -> None:
        """Keep the number and the terms of the first step with a term that is not finite."""
        values = torch.stack([term.detach().float() for term in terms.values()])
        first = (self._wrong == 0) & ~values.isfinite().all()
        same = (*terms,) == self._names
        self._values = torch.where(first, values, self._values) if same else values
        self._names = (*terms,)
        self._wrong = torch.where(first, number, self._wrong)

    def wrong(self) -> tuple[int, list[str]] | None:
        """Return the first step, from 1, that was not finite, and its terms; waits for the device.

        Every process must call it and gets the same step; only a process where that step was not
        finite gets the names.
        """
        own = int(self._wrong)
        distance = processes.all_max(_NEVER - own if own else 0)
        if distance == 0:
            return None
        finite = self._values.isfinite().tolist()
        names = [name for name, right in zip(self._names, finite, strict=True) if not right]
        return _NEVER - distance, names if own == _NEVER - distance else []
