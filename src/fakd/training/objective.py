"""The objective of a step: the task loss alone, or with a distillation loss."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor, nn

from fakd.covariance import ClassCovariance, LogitStatistics
from fakd.errors import InputError
from fakd.losses import ChannelKL, PixelKL
from fakd.losses.grid import labels_on_grid_of, on_grid_of, to_float32
from fakd.losses.margin import RunningMargin
from fakd.training.task import TaskLoss
from fakd.types import (
    IGNORE,
    RULED_OUT,
    ClassWeighing,
    DistillationLoss,
    LossInputs,
    Prediction,
    Segmenter,
)

Terms = dict[str, Tensor]


class Outcome(NamedTuple):
    """The loss terms of a step, and the inputs of the distillation loss."""

    terms: Terms
    """The weighted loss terms by name; their sum is minimised."""
    inputs: LossInputs | None = None
    """Inputs of the distillation loss; None without one, or once it has faded to 0."""
    fading: Mapping[str, float] = MappingProxyType({})
    """Current weights of losses that change over the run, by name."""


class Objective(nn.Module, ABC):
    """Computes from a student's prediction the weighted terms whose sum is minimised.

    It keeps no tensors of a batch between calls: whatever follows a step receives its `Outcome`.
    What it learns or accumulates (class statistics, an alignment layer, a critic, queues) is in its
    state dict, and so in the checkpoint.
    """

    task: TaskLoss | None
    """The task loss; None if the data have no labels."""
    image_by_image: bool = True
    """Whether a batch may be split into parts; see `DistillationLoss.image_by_image`."""

    @abstractmethod
    def forward(
        self,
        student: Prediction,
        labels: Integer[Tensor, "batch height width"],
        labelled: Bool[Tensor, " batch"],
        progress: float,
        teacher: Prediction | None = None,
        share: float = 1.0,
    ) -> Outcome:
        """Compute the terms of one batch, or of a part of it.

        Args:
            student: its prediction.
            labels: class ids; `IGNORE` where there is none.
            labelled: which samples have labels; on the CPU, so that reading it needs no wait.
            progress: share of the training steps done.
            teacher: its prediction for the same images; None if it is not needed.
            share: weight of a part's task loss; see `TaskLoss.shares`.
        """

    def class_weights(self) -> list[ClassWeighing]:
        """List the losses with class weights."""
        parts = (part for part in self.modules() if isinstance(part, ClassWeighing))
        return [part for part in parts if part.given_weights is not None]

    def fading(self, progress: float) -> Mapping[str, float]:
        """Return the weights that change over the run, by name, at this progress."""
        return {}

    def asks_teacher(self, progress: float) -> bool:
        """Tell whether the teacher's prediction is needed at this progress."""
        return False

    def measures(self, outcome: Outcome) -> Terms:
        """Compute further quantities to log; called only for logged steps."""
        return {}

    def after_step(self, outcome: Outcome) -> Terms:
        """Train an adversary of the student, such as a critic; return its losses by name."""
        return {}

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the optimisers that `after_step` uses."""
        return ()

    def learnt_with_student(self) -> list[nn.Parameter]:
        """List the parameters that the student's optimiser trains: all not in `optimizers`."""
        groups = [group for each in self.optimizers() for group in each.param_groups]
        apart = {id(parameter) for group in groups for parameter in group["params"]}
        return [parameter for parameter in self.parameters() if id(parameter) not in apart]


def scale_terms(terms: Terms, factor: float) -> Terms:
    """Multiply all terms by a factor."""
    return terms if factor == 1 else {name: factor * value for name, value in terms.items()}


class Supervised(Objective):
    """The task loss alone, for teachers and students without distillation."""

    task: TaskLoss

    def __init__(self, task: TaskLoss) -> None:
        super().__init__()
        self.task = task

    def forward(
        self,
        student: Prediction,
        labels: Integer[Tensor, "batch height width"],
        labelled: Bool[Tensor, " batch"],
        progress: float,
        teacher: Prediction | None = None,
        share: float = 1.0,
    ) -> Outcome:
        """Compute the task's terms."""
        return Outcome(scale_terms(self.task(student, labels), share))


class Distillation(Objective):
    """The task loss plus a distillation loss against a teacher's prediction.

    Args:
        teacher: only its number of classes and channels are read; it is not stored.
        student: the network being trained; its classifier maps class statistics to logits.
        loss: the distillation loss.
        task: the task loss; None for data without any labels. Pixels of unlabelled samples get
            the teacher's class.
        confidence: minimum probability of that class; below it the pixel has no class in class
            statistics and class-wise losses.

    Raises:
        InputError: teacher and student have different numbers of classes, the loss needs the
            student's features and classifier and the student exposes only logits, or nothing is
            left to learn from once the loss has faded to 0.
    """

    def __init__(
        self,
        teacher: Segmenter,
        student: Segmenter,
        loss: DistillationLoss,
        task: TaskLoss | None = None,
        confidence: float = 0.0,
    ) -> None:
        super().__init__()
        self.confidence = confidence
        if teacher.classes != student.classes:
            raise InputError(
                f"the teacher has {teacher.classes} classes, the student {student.classes}; "
                "distillation needs the same classes in the same order; if they differ, give "
                "--classes_from MAP.yaml"
            )
        if task is None and loss.over(math.nextafter(1.0, 0.0)):
            raise InputError(
                "a distillation weight that reaches 0 before the last step leaves nothing to learn "
                "from, as no training image has labels; give it 'end: 1', or a 'to:' above 0"
            )
        # In a tuple, so that it is not registered as a submodule and saved twice.
        self._classifier = (student.classifier,)
        self.loss, self.image_by_image = loss, loss.image_by_image
        self.task = task
        if task is None and any(each.given_weights == "auto" for each in self.class_weights()):
            raise InputError(
                "class_weights auto is computed from labels, and no training image has any; give "
                "one number for each class"
            )
        self.covariance = _statistics_for(loss, student)
        self.margin = RunningMargin() if loss.margin else None
        loss.prepare(student, teacher)

    def forward(
        self,
        student: Prediction,
        labels: Integer[Tensor, "batch height width"],
        labelled: Bool[Tensor, " batch"],
        progress: float,
        teacher: Prediction | None = None,
        share: float = 1.0,
    ) -> Outcome:
        """Compute the task's terms and the weighted distillation loss."""
        terms = {} if self.task is None else scale_terms(self.task(student, labels), share)
        if not self.asks_teacher(progress):
            return Outcome(terms, fading=self.fading(progress))
        if teacher is None:
            raise ValueError("expected the teacher's prediction for the same images, got None")
        teacher, labels_here = to_student_grid(teacher, labels, student.logits)
        if not labelled.all():
            named = labelled.to(labels_here.device, non_blocking=True)[:, None, None]
            labels_here = torch.where(named, labels_here, self._class_of(teacher.logits))
        statistics = None
        if self.covariance is not None:
            seen = student.logits if self.covariance.kind == "logits" else student.features
            self.covariance.update(seen, labels_here)  # type: ignore[arg-type]
            weight, margin = (
                None if self._classifier[0] is None else self._classifier[0].weight,
                None,
            )
            if self.margin is not None:
                self.margin.update(student.logits, labels_here != IGNORE, progress)
                margin = self.margin.median()
            statistics = LogitStatistics(self.covariance, weight, labels_here, margin)
        inputs = LossInputs(student, teacher, labels_here, statistics, progress)
        factor, parts = self.loss.weight_at(progress), self.loss.terms(inputs)
        terms |= {name: factor * value for name, value in parts.items()}
        return Outcome(terms, inputs, self.fading(progress))

    def _class_of(
        self, logits: Float[Tensor, "batch classes rows cols"]
    ) -> Int[Tensor, "batch rows cols"]:
        """Take the most probable class where it reaches the minimum confidence."""
        with torch.autocast(logits.device.type, enabled=False):
            chance, likely = to_float32(logits).softmax(1).max(1)
        return torch.where(chance >= self.confidence, likely, IGNORE)

    def fading(self, progress: float) -> Mapping[str, float]:
        """Return the loss's changing weights."""
        return self.loss.fading(progress)

    def asks_teacher(self, progress: float) -> bool:
        """Tell whether the loss has not yet faded to 0."""
        return not self.loss.over(progress)

    @torch.no_grad()
    def measures(self, outcome: Outcome) -> Terms:
        """Return the loss's measures and changing weights."""
        measures = {} if outcome.inputs is None else self.loss.measures(outcome.inputs)
        return measures | {name: torch.tensor(now) for name, now in outcome.fading.items()}

    def after_step(self, outcome: Outcome) -> Terms:
        """Let the loss train its critic on the same batch."""
        return {} if outcome.inputs is None else self.loss.after_step(outcome.inputs)

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the loss's own optimisers."""
        return self.loss.optimizers()


def to_student_grid(
    teacher: Prediction,
    labels: Integer[Tensor, "batch height width"],
    student_logits: Float[Tensor, "batch classes rows cols"],
) -> tuple[Prediction, Int[Tensor, "batch rows cols"]]:
    """Resize teacher logits (bilinear) and labels (nearest) to the grid of the student's logits.

    The logits become finite: minus infinity, for a class that is ruled out, becomes `RULED_OUT`.
    Features keep their grid; most losses never look at them, and those that do resample them.
    """
    least = max(RULED_OUT, torch.finfo(teacher.logits.dtype).min)
    logits = on_grid_of(student_logits, teacher.logits.clamp_min(least))
    return teacher._replace(logits=logits), labels_on_grid_of(student_logits, labels)


def default_loss(labelled: bool) -> DistillationLoss:
    """Build the loss of `fakd distill` if none is given: CWD, or PD if no image has labels."""
    return ChannelKL() if labelled else PixelKL()


def doubts_without_labels(loss: DistillationLoss) -> list[str]:
    """Warn of a loss that, without labels, leaves it to chance which class a pixel is."""
    if loss.determines_classes:
        return []
    return [
        "no training image has labels, and this distillation does not say which class a pixel is "
        "(CWD, for one, stays the same if a class's logits all rise), so the student's classes are "
        "arbitrary; use --distillation pd, or give masks for some images"
    ]


def _statistics_for(loss: DistillationLoss, student: Segmenter) -> ClassCovariance | None:
    if loss.covariance is None:
        return None
    if loss.covariance == "logits":
        return ClassCovariance(student.classes, student.classes, "logits", loss.momentum, IGNORE)
    if student.classifier is None:
        raise InputError(
            f"{type(loss).__name__} with strength above 0 needs the student's features and final "
            f"classifier, and {student.opaque or 'this student exposes only its logits'}; use "
            "covariance='logits' (--distillation.covariance logits)"
        )
    channels = student.classifier.in_channels
    return ClassCovariance(student.classes, channels, loss.covariance, loss.momentum, IGNORE)
