"""What a step minimises: the task alone, or the task and a teacher."""

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
from fakd.losses.grid import labels_on_grid_of, on_grid_of, precise
from fakd.losses.margin import RunningMargin
from fakd.training.task import TaskLoss
from fakd.types import IGNORE, ClassWeighing, DistillationLoss, LossInputs, Prediction, Segmenter

Terms = dict[str, Tensor]


class Outcome(NamedTuple):
    """What a step minimises, and what it was computed from."""

    terms: Terms
    """The weighted loss terms by name; their sum is minimised."""
    inputs: LossInputs | None = None
    """What the distillation loss looked at; None without one, or once it is over."""
    fading: Mapping[str, float] = MappingProxyType({})
    """The factors of losses that change over the run, by name."""


class Objective(nn.Module, ABC):
    """Turns a student's answer into the weighted terms whose sum is minimised.

    Nothing of a batch is remembered between two calls: what follows a step is given its `Outcome`.
    What it learns or accumulates (class statistics, an alignment layer, a critic, queues) is in its
    state dict and with that in the checkpoint.
    """

    task: TaskLoss | None
    """The task's own loss; None where the data have no labels."""
    image_by_image: bool = True
    """Whether a step may go in parts; see `DistillationLoss.image_by_image`."""

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
            student: its answer.
            labels: class ids; `IGNORE` where there is none.
            labelled: which samples have labels at all; on the CPU, so that asking costs no wait.
            progress: share of the training steps done.
            teacher: its answer to the same images; None where nobody asks for it.
            share: what the task's loss of a part counts; see `TaskLoss.shares`.
        """

    def class_weights(self) -> list[ClassWeighing]:
        """List the losses that weigh classes."""
        parts = (part for part in self.modules() if isinstance(part, ClassWeighing))
        return [part for part in parts if part.given_weights is not None]

    def fading(self, progress: float) -> Mapping[str, float]:
        """Name the factors that change over the run, and what they are now."""
        return {}

    def asks_teacher(self, progress: float) -> bool:
        """Tell whether the teacher's answer is of any more use."""
        return False

    def measures(self, outcome: Outcome) -> Terms:
        """Name further quantities worth a curve; asked for only when logged."""
        return {}

    def after_step(self, outcome: Outcome) -> Terms:
        """Train what opposes the student, such as a critic; returns its losses by name."""
        return {}

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the optimisers that `after_step` uses."""
        return ()

    def learnt_with_student(self) -> list[nn.Parameter]:
        """List the parameters that the student's optimiser trains: all that no other one has."""
        groups = [group for each in self.optimizers() for group in each.param_groups]
        apart = {id(parameter) for group in groups for parameter in group["params"]}
        return [parameter for parameter in self.parameters() if id(parameter) not in apart]


def scaled(terms: Terms, factor: float) -> Terms:
    """Multiply terms, unless by one."""
    return terms if factor == 1 else {name: factor * value for name, value in terms.items()}


class Supervised(Objective):
    """Cross-entropy alone: how teachers and undistilled students are trained."""

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
        return Outcome(scaled(self.task(student, labels), share))


class Distillation(Objective):
    """Cross-entropy plus a distillation loss against a teacher's answer.

    Args:
        teacher: whose answers will come; looked at for its classes and channels, and not kept.
        student: the network being trained, whose classifier the class statistics are seen through.
        loss: the distillation loss.
        task: the task's own loss; None leaves it out, for data without any labels. The class of
            an unlabelled sample's pixel is always the teacher's.
        confidence: how likely the teacher must find that class; where it does not, the pixel has
            none, in class statistics and in losses that go by class.

    Raises:
        InputError: the teacher knows another number of classes than the student, the loss needs
            the student's features and classifier and the student shows only logits, or nothing is
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
                f"the teacher knows {teacher.classes} classes, the student {student.classes}; "
                "distillation needs the same classes in the same order on both sides; where they "
                "differ, give --classes_from MAP.yaml"
            )
        if task is None and loss.over(math.nextafter(1.0, 0.0)):
            raise InputError(
                "a distillation weight that is 0 before the last step leaves nothing to learn from "
                "where no training image has labels; give it an end of 1, or a to above 0"
            )
        # In a tuple, as the student's classifier must not be saved here too.
        self._classifier = (student.classifier,)
        self.loss, self.image_by_image = loss, loss.image_by_image
        self.task = task
        if task is None and any(each.given_weights == "auto" for each in self.class_weights()):
            raise InputError(
                "class_weights auto follows from labels, and no training image has any; give one "
                "number for each class"
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
        terms = {} if self.task is None else scaled(self.task(student, labels), share)
        if not self.asks_teacher(progress):
            return Outcome(terms, fading=self.fading(progress))
        if teacher is None:
            raise ValueError("expected the teacher's answer to the same images, got None")
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
        """Take the likeliest class where it is likely enough."""
        with torch.autocast(logits.device.type, enabled=False):
            chance, likely = precise(logits).softmax(1).max(1)
        return torch.where(chance >= self.confidence, likely, IGNORE)

    def fading(self, progress: float) -> Mapping[str, float]:
        """Ask the loss for factors that change."""
        return self.loss.fading(progress)

    def asks_teacher(self, progress: float) -> bool:
        """Tell whether the loss is not over."""
        return not self.loss.over(progress)

    @torch.no_grad()
    def measures(self, outcome: Outcome) -> Terms:
        """Ask the loss for its measures."""
        measures = {} if outcome.inputs is None else self.loss.measures(outcome.inputs)
        return measures | {name: torch.tensor(now) for name, now in outcome.fading.items()}

    def after_step(self, outcome: Outcome) -> Terms:
        """Let the loss train its opponent on the batch that the student has just learnt from."""
        return {} if outcome.inputs is None else self.loss.after_step(outcome.inputs)

    def optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        """List the loss's own optimisers."""
        return self.loss.optimizers()


def to_student_grid(
    teacher: Prediction,
    labels: Integer[Tensor, "batch height width"],
    student_logits: Float[Tensor, "batch classes rows cols"],
) -> tuple[Prediction, Int[Tensor, "batch rows cols"]]:
    """Bring teacher logits and features (bilinear) and labels (nearest) to the student's grid."""
    features = teacher.features
    teacher = Prediction(
        logits=on_grid_of(student_logits, teacher.logits),
        features=None if features is None else on_grid_of(student_logits, features),
    )
    return teacher, labels_on_grid_of(student_logits, labels)


def _statistics_for(loss: DistillationLoss, student: Segmenter) -> ClassCovariance | None:
    if loss.covariance is None:
        return None
    if loss.covariance == "logits":
        return ClassCovariance(student.classes, student.classes, "logits", loss.momentum, IGNORE)
    if student.classifier is None:
        raise InputError(
            f"{type(loss).__name__} with strength above 0 needs the student's features and final "
            f"classifier, and {student.opaque or 'this student shows only its logits'}; use "
            "covariance='logits' (--distillation.covariance logits)"
        )
    channels = student.classifier.in_channels
    return ClassCovariance(student.classes, channels, loss.covariance, loss.momentum, IGNORE)
