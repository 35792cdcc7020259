"""Pixel-wise distillation (PD), plain and augmented: match class probabilities at each pixel."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fakd.covariance import CovarianceKind
from fakd.losses.augmentation import (
    AugmentedKL,
    StrengthUnit,
    difference_bound,
    tilted_bound,
)
from fakd.losses.divergence import divergence
from fakd.losses.grid import labels_on_grid_of, on_grid_of, to_float32
from fakd.types import IGNORE, ClassWeights, LossInputs, Weight

PixelBound = Literal["marginal", "difference", "tilted"]
PixelReduction = Literal["pixel_mean", "element_mean", "sum_over_hw", "batch_mean"]


def pixel_kl(
    student_logits: Float[Tensor, "batch classes rows cols"],
    teacher_logits: Float[Tensor, "batch classes _rows _cols"],
    temperature: float = 1.0,
    logit_variance: Float[Tensor, "batch classes rows cols"] | None = None,
    reduction: PixelReduction = "pixel_mean",
    t_squared: bool = True,
    pixel_weights: Float[Tensor, "batch rows cols"] | None = None,
) -> Float[Tensor, ""]:
    r"""Match the class probabilities at each pixel.

    .. math:: \frac{T^2}{N} \sum_i w_i \Big[ \sum_c q_{ic} (\log q_{ic} - z_{ic} / T) + \log \sum_c
        \exp(z_{ic} / T + \frac{\lambda v_{ic}}{2 T^2}) \Big], \quad q_i = \mathrm{softmax}_c(t_i/T)

    Without variance this is the Kullback-Leibler divergence of the two softmaxes over classes
    (Eq. 1 of FAKD, arXiv 2208.14143; Hinton et al., 2015); with it, an upper bound of its mean
    over infinitely many feature augmentations (Eq. 8). All pixels are used, labelled or not. The
    teacher gets no gradient.

    Args:
        student_logits: Scores of the student.
        teacher_logits: Scores of the teacher, resampled to the student's grid if it differs.
        temperature: Divides both; the result is multiplied by its square.
        logit_variance: Variance of each student logit under augmentation, lambda included.
        reduction: Divisor of the sum over images and pixels: images times pixels (pixel_mean), that
            times classes (element_mean, IFVD), pixels of one image (sum_over_hw, SKDS), or images
            (batch_mean, MMRazor).
        t_squared: Multiply by the temperature's square; IFVD does not (False).
        pixel_weights: Weight of each pixel, :math:`w_i`; 1 if not given.

    >>> pixel_kl(torch.zeros(1, 2, 1, 1), torch.tensor([3.0, 1.0]).log().view(1, 2, 1, 1))
    tensor(0.1308)
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        teacher = on_grid_of(student_logits, teacher_logits.detach())
        pixels = divergence(student_logits, teacher, temperature, logit_variance, dim=1)
        mean = _reduce(pixels, student_logits.shape[1], reduction, pixel_weights)
        return mean * (temperature**2 if t_squared else 1.0)


def joint_pixel_kl(
    student_logits: Float[Tensor, "batch classes rows cols"],
    teacher_logits: Float[Tensor, "batch classes _rows _cols"],
    temperature: float,
    covariance: Float[Tensor, "labels classes classes"],
    class_rows: Int[Tensor, "batch rows cols"],
    bound: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    reduction: PixelReduction = "pixel_mean",
    t_squared: bool = True,
    pixel_weights: Float[Tensor, "batch rows cols"] | None = None,
) -> Float[Tensor, ""]:
    """Match the class probabilities of augmented pixels by a bound that uses covariances of logits.

    The same mean over augmentations as in `pixel_kl` with a variance, but bounded by ``bound``,
    either `difference_bound` or `tilted_bound`. ``covariance`` is that of all student logits under
    augmentation, for each class, lambda included; a pixel whose row in it (``class_rows``) is past
    the end is not augmented. All else as in `pixel_kl`.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        student = F.log_softmax(to_float32(student_logits) / temperature, dim=1)
        teacher = to_float32(on_grid_of(student_logits, teacher_logits.detach()))
        target = F.log_softmax(teacher / temperature, dim=1)
        scaled = to_float32(covariance) / temperature**2
        cross_entropy = bound(student, target.exp(), scaled, class_rows)
        pixels = (target.exp() * target).sum(1) + cross_entropy
        mean = _reduce(pixels, student.shape[1], reduction, pixel_weights)
        return mean * (temperature**2 if t_squared else 1.0)


def _reduce(
    pixels: Float[Tensor, "batch rows cols"],
    classes: int,
    reduction: PixelReduction,
    pixel_weights: Float[Tensor, "batch rows cols"] | None,
) -> Float[Tensor, ""]:
    if pixel_weights is not None:
        pixels = pixels * pixel_weights
    images, rows, cols = pixels.shape
    factors = {
        "pixel_mean": 1.0,
        "element_mean": 1.0 / classes,
        "sum_over_hw": float(images),
        "batch_mean": float(rows * cols),
    }
    return pixels.mean() * factors[reduction]


class PixelKL(AugmentedKL):
    """Pixel-wise distillation: the student learns the teacher's class probabilities at each pixel.

    With strength above 0 it is FAKD: the student must match the teacher for all augmentations of a
    pixel's feature within its class. See `pixel_kl`.

    Args:
        temperature: Softens teacher and student: above 1, unlikely classes count more.
        strength: Augmentation strength at the end of training, reached from 0 on a half cosine. 0
            is plain distillation (PD); the paper's best is 1, in the unit lambda.
        covariance: Class statistics for the augmentation: the variance of each feature channel
            (diagonal), the covariance of all channels (full), or the variance of the logits
            themselves (logits).
        bound: How the mean over all augmentations is bounded: each logit separately (marginal), by
            differences to the target class (difference, ISDA's form, which demands a margin), or
            more tightly at a higher cost (tilted). The last two need diagonal or full covariance
            and a 1x1 classifier.
        spare_own_class: Do not augment the logit of a pixel's own class.
        momentum: Weight of the past when the covariance is updated, such as 0.99, to track
            drifting features; by default all pixels seen have equal weight.
        strength_unit: Unit of strength: a factor of each class's variance (lambda, as in the
            paper), or the augmentation term as a share of the median difference between the
            student's two largest logits (margin), which means the same early and late in training
            and for every network; 0.1 is a tenth of it.
        classifier_gradient: Whether the augmentation term also trains the classifier and not only
            the features; with covariance logits it never does.
        reduction: Divisor of the sum over images and pixels: images times pixels (pixel_mean), that
            times classes (element_mean, IFVD), pixels of one image (sum_over_hw, SKDS), or images
            (batch_mean, MMRazor). Choose weight accordingly.
        t_squared: Multiply the loss by the temperature's square.
        class_weights: Weight of the pixels of each class, scaled to mean 1: one number per class,
            or auto for weights by rarity as in the task loss; all equal if not given. The class is
            the pixel's label or, if unlabelled, the teacher's most likely class.
        weight: Weight relative to the task loss.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        strength: float = 0.0,
        covariance: CovarianceKind = "diagonal",
        bound: PixelBound = "marginal",
        spare_own_class: bool = False,
        momentum: float | None = None,
        strength_unit: StrengthUnit = "lambda",
        classifier_gradient: bool = True,
        reduction: PixelReduction = "pixel_mean",
        t_squared: bool = True,
        class_weights: ClassWeights = None,
        weight: Weight = 1.0,
    ) -> None:
        augmented = temperature, strength, covariance, spare_own_class, momentum
        relative = strength_unit, classifier_gradient
        super().__init__(*augmented, *relative, class_weights, weight, bound)
        if covariance == "logits" and bound != "marginal":
            raise ValueError(
                f"bound {bound!r} needs covariances of logits, got covariance 'logits', which "
                "has their variances only; choose 'diagonal' or 'full', or bound 'marginal'"
            )
        self.bound, self.reduction, self.t_squared = bound, reduction, t_squared

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute PD or, with strength above 0, the chosen bound of its mean over augmentations."""
        logits, variance = (inputs.student.logits, inputs.teacher.logits), None
        scale, weights = (self.reduction, self.t_squared), self._pixel_weights(inputs)
        if self.strength > 0:
            statistics, strength = self.augmentation(inputs)
            if self.bound != "marginal":
                bound = difference_bound if self.bound == "difference" else tilted_bound
                joint = strength * statistics.covariances(self.spare_own_class), statistics.rows
                return joint_pixel_kl(*logits, self.temperature, *joint, bound, *scale, weights)
            variance = statistics.variance(self.spare_own_class, strength)
        return pixel_kl(*logits, self.temperature, variance, *scale, weights)

    def _pixel_weights(self, inputs: LossInputs) -> Float[Tensor, "batch rows cols"] | None:
        """Look up the weight of each pixel."""
        if self.class_weights is None:
            return None
        labels = labels_on_grid_of(inputs.student.logits, inputs.labels)
        likely = on_grid_of(inputs.student.logits, inputs.teacher.logits).argmax(1)
        return self.class_weights[torch.where(labels == IGNORE, likely, labels)]
