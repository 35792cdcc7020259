"""Channel-wise distillation (CWD), and its augmented form: match where each class is seen."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fakd.covariance import CovarianceKind
from fakd.losses.augmentation import (
    augmentation_measures,
    check_settings,
    half_cosine,
    statistics_of,
)
from fakd.losses.grid import on_grid_of, precise
from fakd.types import DistillationLoss, LossInputs


def channel_kl(
    student_logits: Float[Tensor, "batch classes rows cols"],
    teacher_logits: Float[Tensor, "batch classes _rows _cols"],
    temperature: float = 1.0,
    logit_variance: Float[Tensor, "batch classes rows cols"] | None = None,
) -> Float[Tensor, ""]:
    r"""Match where each class is seen.

    .. math:: \frac{T^2}{C} \sum_c \Big[ \sum_i q_{ic} (\log q_{ic} - z_{ic} / T) + \log \sum_i
        \exp(z_{ic} / T + \frac{\lambda v_{ic}}{2 T^2}) \Big], \quad q_c = \mathrm{softmax}_i(t_c/T)

    The softmax runs over positions i, not classes. Without variance this is the Kullback-Leibler
    divergence of each class's map (Eq. 2 of FAKD, arXiv 2208.14143; Shu et al., 2021, arXiv
    2011.13256); with it, an upper bound of its mean over infinitely many feature augmentations
    (Eq. 7). Every pixel counts, labelled or not. The teacher gets no gradient.

    Args:
        student_logits: Scores of the student.
        teacher_logits: Scores of the teacher, brought to the student's grid if on another.
        temperature: Divides both; the result is scaled back by its square.
        logit_variance: Variance of each student logit under augmentation, lambda included.

    >>> channel_kl(torch.zeros(1, 1, 1, 2), torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2))
    tensor(0.1308)
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        student = _maps(student_logits) / temperature
        teacher = on_grid_of(student_logits, teacher_logits.detach())
        target = F.log_softmax(_maps(teacher) / temperature, dim=2)
        if logit_variance is None:
            prediction = F.log_softmax(student, dim=2)
        else:
            raised = _maps(logit_variance) / (2 * temperature**2)
            prediction = F.log_softmax(student + raised, dim=2) - raised
        return temperature**2 * (target.exp() * (target - prediction)).sum(2).mean()


def _maps(logits: Tensor) -> Tensor:
    return precise(logits).flatten(2)


class ChannelKL(DistillationLoss):
    """Channel-wise distillation: for each class, the student learns where the teacher sees it.

    With a strength above 0 it is FAKD: the student must agree with the teacher for every meaning
    that a pixel's feature could take on within its class. See `channel_kl`.

    Args:
        temperature: Softens teacher and student: above 1, faint places count more.
        strength: How far features are augmented at the end of training, rising from 0 on a half
            cosine. 0 is plain distillation (CWD); the paper's best is 1.
        covariance: What is known about a class: the variance of each feature channel (diagonal),
            how all vary together (full), or the variance of the logits themselves (logits).
        spare_own_class: Leave the logit of a pixel's own class unaugmented, so that the places of
            a class are not pushed down in its own map.
        momentum: Weight of the past when the covariance is updated, such as 0.99, so that it
            follows features that drift; by default all pixels seen count the same.
        weight: Factor beside the task's loss.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        strength: float = 0.0,
        covariance: CovarianceKind = "diagonal",
        spare_own_class: bool = False,
        momentum: float | None = None,
        weight: float = 5.0,
    ) -> None:
        super().__init__(weight)
        check_settings(temperature, strength, covariance, momentum, spare_own_class)
        self.temperature, self.strength = temperature, strength
        self.covariance = covariance if strength > 0 else None
        self.spare_own_class, self.momentum = spare_own_class, momentum

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute CWD or, with a strength, the bound of its mean over augmentations."""
        logits = inputs.student.logits, inputs.teacher.logits
        if self.strength == 0:
            return channel_kl(*logits, self.temperature)
        strength = self.strength * half_cosine(inputs.progress)
        variance = strength * statistics_of(inputs).variance(self.spare_own_class)
        return channel_kl(*logits, self.temperature, variance)

    def measures(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        """Report the augmentation's strength and the mean size of its term."""
        return augmentation_measures(inputs, self.temperature, self.strength, self.spare_own_class)
