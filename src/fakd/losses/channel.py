"""Channel-wise distillation (CWD), plain and augmented: match where each class is seen."""

import torch
from jaxtyping import Float
from torch import Tensor

from fakd.covariance import CovarianceKind
from fakd.losses.augmentation import AugmentedKL, StrengthUnit
from fakd.losses.divergence import divergence
from fakd.losses.grid import on_grid_of
from fakd.types import ClassWeights, LossInputs, Weight


def channel_kl(
    student_logits: Float[Tensor, "batch classes rows cols"],
    teacher_logits: Float[Tensor, "batch classes _rows _cols"],
    temperature: float = 1.0,
    logit_variance: Float[Tensor, "batch classes rows cols"] | None = None,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    r"""Match where each class is seen.

    .. math:: \frac{T^2}{C} \sum_c w_c \Big[ \sum_i q_{ic} (\log q_{ic} - z_{ic} / T) + \log \sum_i
        \exp(z_{ic} / T + \frac{\lambda v_{ic}}{2 T^2}) \Big], \quad q_c = \mathrm{softmax}_i(t_c/T)

    The softmax runs over positions i, not classes. Without variance this is the Kullback-Leibler
    divergence of each class's map (Eq. 2 of FAKD, arXiv 2208.14143; Shu et al., 2021, arXiv
    2011.13256); with it, an upper bound of its mean over infinitely many feature augmentations
    (Eq. 7). All pixels are used, labelled or not. The teacher gets no gradient.

    Args:
        student_logits: Scores of the student.
        teacher_logits: Scores of the teacher, resampled to the student's grid if it differs.
        temperature: Divides both; the result is multiplied by its square.
        logit_variance: Variance of each student logit under augmentation, lambda included.
        class_weights: Weight of each class, :math:`w_c`; 1 if not given.

    >>> channel_kl(torch.zeros(1, 1, 1, 2), torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2))
    tensor(0.1308)
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        teacher = on_grid_of(student_logits, teacher_logits.detach()).flatten(2)
        variance = None if logit_variance is None else logit_variance.flatten(2)
        maps = divergence(student_logits.flatten(2), teacher, temperature, variance, dim=2)
        if class_weights is not None:
            maps = maps * class_weights
        return temperature**2 * maps.mean()


class ChannelKL(AugmentedKL):
    """Channel-wise distillation: for each class, the student learns where the teacher sees it.

    With strength above 0 it is FAKD: the student must match the teacher for all augmentations of a
    pixel's feature within its class. See `channel_kl`.

    Args:
        temperature: Softens teacher and student: above 1, weakly active positions count more.
        strength: Augmentation strength at the end of training, reached from 0 on a half cosine. 0
            is plain distillation (CWD); the paper's best is 1, in the unit lambda.
        covariance: Class statistics for the augmentation: the variance of each feature channel
            (diagonal), the covariance of all channels (full), or the variance of the logits
            themselves (logits).
        spare_own_class: Do not augment the logit of a pixel's own class, so that the pixels of
            a class are not pushed down in its own map.
        momentum: Weight of the past when the covariance is updated, such as 0.99, to track
            drifting features; by default all pixels seen have equal weight.
        strength_unit: Unit of strength: a factor of each class's variance (lambda, as in the
            paper), or the augmentation term as a share of the median difference between the
            student's two largest logits (margin), which means the same early and late in training
            and for every network; 0.1 is a tenth of it.
        classifier_gradient: Whether the augmentation term also trains the classifier and not only
            the features; with covariance logits it never does.
        class_weights: Weight of each class's map, scaled to mean 1: one number per class, or auto
            for weights by rarity as in the task loss; all equal if not given.
        weight: Weight relative to the task loss.
    """

    determines_classes = False

    def __init__(
        self,
        temperature: float = 1.0,
        strength: float = 0.0,
        covariance: CovarianceKind = "diagonal",
        spare_own_class: bool = False,
        momentum: float | None = None,
        strength_unit: StrengthUnit = "lambda",
        classifier_gradient: bool = True,
        class_weights: ClassWeights = None,
        weight: Weight = 5.0,
    ) -> None:
        augmented = temperature, strength, covariance, spare_own_class, momentum
        relative = strength_unit, classifier_gradient
        super().__init__(*augmented, *relative, class_weights, weight)

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute CWD or, with strength above 0, the bound of its mean over augmentations."""
        logits, variance = (inputs.student.logits, inputs.teacher.logits), None
        if self.strength > 0:
            statistics, strength = self.augmentation(inputs)
            variance = statistics.variance(self.spare_own_class, strength)
        return channel_kl(*logits, self.temperature, variance, self.class_weights)
