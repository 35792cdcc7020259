"""Feature augmentation without samples: its strength over training, its size, its bounds."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fakd.covariance import CovarianceKind, LogitStatistics, check_momentum, look_up
from fakd.errors import require_above_zero, require_at_least
from fakd.losses.margin import margin_counts, median_of
from fakd.types import ClassWeighing, ClassWeights, DistillationLoss, LossInputs, Segmenter, Weight

StrengthUnit = Literal["lambda", "margin"]

_LEAST = 1e-12
"""Mean variance below which logits do not vary to speak of."""


def half_cosine(progress: float) -> float:
    r"""Rise from 0 to 1 while ``progress`` does: :math:`(1 - \cos(\pi p)) / 2`.

    Slow at the start, where the statistics of the features are still poor, and at the end.

    >>> half_cosine(0.0), half_cosine(1.0)
    (0.0, 1.0)
    """
    return (1 - math.cos(math.pi * progress)) / 2


def statistics_of(inputs: LossInputs) -> LogitStatistics:
    """Get the statistics that an augmented loss cannot do without."""
    if inputs.statistics is None:
        raise ValueError(
            "a loss with strength above 0 expects inputs.statistics, got None; "
            "pass LogitStatistics(covariance, classifier weight, labels), or set strength to 0"
        )
    return inputs.statistics


class AugmentedKL(DistillationLoss, ClassWeighing):
    """What PD and CWD have in common: a temperature, augmentation, and weights of classes."""

    def __init__(
        self,
        temperature: float,
        strength: float,
        covariance: CovarianceKind,
        spare_own_class: bool,
        momentum: float | None,
        strength_unit: StrengthUnit,
        classifier_gradient: bool,
        class_weights: ClassWeights,
        weight: Weight,
        bound: str = "marginal",
    ) -> None:
        super().__init__(weight)
        require_above_zero("1 leaves logits alone", temperature=temperature)
        require_at_least(0, "0 is the loss without it, 1 the paper's best", strength=strength)
        check_momentum(momentum)
        chosen = {
            "covariance": covariance != "diagonal",
            "momentum": momentum is not None,
            "spare_own_class": spare_own_class,
            "bound": bound != "marginal",
            "strength_unit": strength_unit != "lambda",
            "classifier_gradient": not classifier_gradient,
        }
        # Silently doing nothing, they would be taken for augmentation that does not help.
        if strength == 0 and any(chosen.values()):
            names = ", ".join(name for name, given in chosen.items() if given)
            raise ValueError(
                f"expected strength above 0 beside {names}, which say how features are augmented, "
                "got 0, which augments nothing; set strength, the paper's best is 1"
            )
        if covariance == "logits" and not classifier_gradient:
            raise ValueError(
                "classifier_gradient=False changes nothing beside covariance 'logits', which sends "
                "no gradient there; leave it out, or choose 'diagonal' or 'full'"
            )
        self.temperature, self.strength = temperature, strength
        self.margin, self.classifier_gradient = strength_unit == "margin", classifier_gradient
        self.covariance = covariance if strength > 0 else None
        self.spare_own_class, self.momentum = spare_own_class, momentum
        self.set_class_weights("class_weights", class_weights)

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Check that there is one weight for each class; automatic ones begin as 1."""
        name = f"class_weights of {type(self).__name__}"
        self.set_class_weights(name, self.given_weights, student.classes)

    def scaled(self, weights: Sequence[float]) -> Sequence[float]:
        """Scale weights to mean 1, equal ones to 1 exactly."""
        total = math.fsum(weights)
        return [len(weights) * each / total for each in weights]

    def augmentation(self, inputs: LossInputs) -> tuple[LogitStatistics, float | Tensor]:
        r"""Give the statistics that features are augmented by, and :math:`\lambda` at this step.

        With r the ramp, it is ``strength * r`` or, in the unit margin, what makes the mean of
        :math:`\lambda v_{ic} / (2 T^2)` that share of the running median margin M over T:

        .. math:: \lambda = strength \cdot r \cdot 2 T M / \bar v

        A tensor then, without gradient, and 0 where :math:`\bar v` is.
        """
        statistics = statistics_of(inputs)
        if not self.classifier_gradient and statistics.weight is not None:
            statistics = replace(statistics, weight=statistics.weight.detach())
        strength = self.strength * half_cosine(inputs.progress)
        if not self.margin:
            return statistics, strength
        if statistics.margin is None:
            raise ValueError(
                "a loss with strength_unit 'margin' expects the running median margin in "
                "inputs.statistics, got None; pass LogitStatistics(..., margin=)"
            )
        mean = statistics.mean_variance(self.spare_own_class)
        # Below the limit the term fades with the variance, where the quotient would overflow.
        share = strength * 2 * self.temperature * statistics.margin / mean.clamp(min=_LEAST)
        return statistics, torch.where(mean > 0, share, 0.0)

    def measures(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        r"""Say how strong the augmentation is now, in both units.

        ``augmentation`` is the mean of :math:`\lambda v_{ic} / (2 T^2)` over classes and labelled
        pixels, to be read beside the loss: near 0, the method does nothing. ``margin_share`` is
        that as a share of the median margin over T: the running one in the unit margin, else that
        of this batch. Empty without strength.
        """
        if self.strength == 0:
            return {}
        with torch.no_grad():
            statistics, current = self.augmentation(inputs)
            term = statistics.variance(self.spare_own_class).mean(1)
            term = term * (current / (2 * self.temperature**2))
            labelled = statistics.rows < statistics.covariance.classes
            mean = torch.where(labelled, term, 0.0).sum() / labelled.sum().clamp(min=1)
            margin = statistics.margin
            if margin is None:
                margin = median_of(margin_counts(inputs.student.logits, labelled))
            share = torch.where(margin > 0, mean * self.temperature / margin, 0.0)
            current = torch.zeros_like(mean) + current
            return {"lambda": current, "augmentation": mean, "margin_share": share}


def difference_bound(
    logits: Float[Tensor, "batch classes rows cols"],
    target: Float[Tensor, "batch classes rows cols"],
    covariance: Float[Tensor, "labels classes classes"],
    class_rows: Int[Tensor, "batch rows cols"],
) -> Float[Tensor, "batch rows cols"]:
    r"""Bound the mean cross-entropy of noisy logits by the variances of their differences.

    For :math:`\tilde z_i \sim N(z_i, G_{y_i})`, Jensen for :math:`\log \sum_k
    e^{\tilde z_k - \tilde z_c}`, for each class c of the target:

    .. math:: E[-\sum_c q_c \log \mathrm{softmax}(\tilde z)_c] \le \sum_c q_c \log \sum_k
        \exp(z_k - z_c + \tfrac12 D_{kc}), \quad D_{kc} = G_{kk} + G_{cc} - 2 G_{kc}

    The form of ISDA (Wang et al., 2019, arXiv 1909.12220) with soft labels. Costs ``pixels *
    classes^2`` exponentials, but memory for ``pixels * classes`` only: one class at a time, and
    again in the backward pass. Grouping the pixels by class into products of matrices would be
    cheaper, but underflows where logits lie far apart.

    Args:
        logits: Means of the noisy logits, already divided by the temperature.
        target: Probabilities of the teacher.
        covariance: Of the logits, of each class.
        class_rows: The row of ``covariance`` for each pixel; past the end for no noise.
    """
    variance = covariance.diagonal(dim1=1, dim2=2)
    total = torch.zeros_like(target[:, 0])
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for c in range(logits.shape[1]):
        spread = variance + variance[:, c : c + 1] - 2 * covariance[:, :, c]
        arguments = logits, spread, class_rows, c
        total = total + target[:, c] * again(_partition_against, *arguments)
    return total


def _partition_against(logits: Tensor, spread: Tensor, class_rows: Tensor, c: int) -> Tensor:
    return (logits - logits[:, c : c + 1] + look_up(spread / 2, class_rows)).logsumexp(1)


def tilted_bound(
    logits: Float[Tensor, "batch classes rows cols"],
    target: Float[Tensor, "batch classes rows cols"],
    covariance: Float[Tensor, "labels classes classes"],
    class_rows: Int[Tensor, "batch rows cols"],
    steps: int = 2,
) -> Float[Tensor, "batch rows cols"]:
    r"""Bound the mean cross-entropy of noisy logits, tighter than the marginal form.

    The softmax does not change when one vector is taken from all rows of the classifier. With
    :math:`u = \sum_k a_k w_k`, Jensen for what is left gives, for any a that adds up to 1,

    .. math:: E \log \sum_k e^{\tilde z_k} \le \log \sum_k \exp(z_k + \tfrac12 G_{kk} - (G a)_k)
        + \tfrac12 a^\top G a

    and :math:`a = 0` is the marginal form. The best a is the softmax of the exponents, a fixed
    point sought from :math:`\mathrm{softmax}(z)`. It can overshoot where the noise is large, so
    each pixel keeps the best a it has met, 0 included. The gradient takes a as given. ``steps`` is
    how often the fixed-point equation is applied; for the others see `difference_bound`.
    """
    raised = logits + look_up(covariance.diagonal(dim1=1, dim2=2) / 2, class_rows)
    with torch.no_grad():
        best, least = torch.zeros_like(raised), raised.logsumexp(1)
        tilt = logits.softmax(1)
        for _ in range(steps + 1):
            shift = _covariance_times(covariance, tilt, class_rows)
            bound = (raised - shift).logsumexp(1) + (tilt * shift).sum(1) / 2
            best = torch.where((bound < least)[:, None], tilt, best)
            least = torch.minimum(bound, least)
            tilt = (raised - shift).softmax(1)
    shift = _covariance_times(covariance, best, class_rows)
    partition = (raised - shift).logsumexp(1) + (best * shift).sum(1) / 2
    return partition - (target * logits).sum(1)


def _covariance_times(covariance: Tensor, tilt: Tensor, class_rows: Tensor) -> Tensor:
    """Compute G a at each pixel, one class at a time: memory for ``pixels * classes`` only."""
    product = torch.zeros_like(tilt)
    for c in range(tilt.shape[1]):
        product = product + look_up(covariance[:, :, c], class_rows) * tilt[:, c : c + 1]
    return product
