"""Implicit feature augmentation in closed form: strength schedule, magnitude and bounds."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fakd.covariance import CovarianceKind, LogitStatistics, check_momentum
from fakd.errors import require_above_zero, require_at_least
from fakd.losses.margin import margin_counts, median_of
from fakd.membership import Membership
from fakd.types import ClassWeighing, ClassWeights, DistillationLoss, LossInputs, Segmenter, Weight

StrengthUnit = Literal["lambda", "margin"]

_LEAST = 1e-12
"""Mean variance below which logits count as constant."""


def half_cosine(progress: float) -> float:
    r"""Compute the ramp :math:`(1 - \cos(\pi p)) / 2`, from 0 to 1 over ``progress``.

    It is slow at the start, when the feature statistics are still poor, and at the end.

    >>> half_cosine(0.0), half_cosine(1.0)
    (0.0, 1.0)
    """
    return (1 - math.cos(math.pi * progress)) / 2


def statistics_of(inputs: LossInputs) -> LogitStatistics:
    """Get the statistics that an augmented loss requires; raises a ValueError without them."""
    if inputs.statistics is None:
        raise ValueError(
            "a loss with strength above 0 expects inputs.statistics, got None; "
            "pass LogitStatistics(covariance, classifier weight, labels), or set strength to 0"
        )
    return inputs.statistics


class AugmentedKL(DistillationLoss, ClassWeighing):
    """Common base of PD and CWD: temperature, augmentation and class weights."""

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
        require_above_zero("1 leaves logits unchanged", temperature=temperature)
        require_at_least(0, "0 turns augmentation off, 1 is the paper's best", strength=strength)
        check_momentum(momentum)
        chosen = {
            "covariance": covariance != "diagonal",
            "momentum": momentum is not None,
            "spare_own_class": spare_own_class,
            "bound": bound != "marginal",
            "strength_unit": strength_unit != "lambda",
            "classifier_gradient": not classifier_gradient,
        }
        # If they were silently ignored, users would conclude that augmentation does not help.
        if strength == 0 and any(chosen.values()):
            names = ", ".join(name for name, given in chosen.items() if given)
            raise ValueError(
                f"expected strength above 0 with {names}, which configure the augmentation, "
                "got 0, which turns it off; set strength, the paper's best is 1"
            )
        if covariance == "logits" and not classifier_gradient:
            raise ValueError(
                "classifier_gradient=False has no effect with covariance 'logits', which gives the "
                "classifier no gradient; leave it out, or choose 'diagonal' or 'full'"
            )
        self.temperature, self.strength = temperature, strength
        self.margin, self.classifier_gradient = strength_unit == "margin", classifier_gradient
        self.covariance = covariance if strength > 0 else None
        self.spare_own_class, self.momentum = spare_own_class, momentum
        self.set_class_weights("class_weights", class_weights)

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Check that there is one weight per class; automatic weights start as 1."""
        name = f"class_weights of {type(self).__name__}"
        self.set_class_weights(name, self.given_weights, student.classes)

    def scaled(self, weights: Sequence[float]) -> Sequence[float]:
        """Scale weights to mean 1; equal weights become exactly 1."""
        total = math.fsum(weights)
        return [len(weights) * each / total for each in weights]

    def augmentation(self, inputs: LossInputs) -> tuple[LogitStatistics, float | Tensor]:
        r"""Return the statistics of the augmentation and :math:`\lambda` at this step.

        With r the ramp, :math:`\lambda` is ``strength * r``. In the unit margin it is chosen so
        that the mean of :math:`\lambda v_{ic} / (2 T^2)` is that share of M / T, with M the running
        median margin:

        .. math:: \lambda = strength \cdot r \cdot 2 T M / \bar v

        It is then a tensor without gradient, and 0 where :math:`\bar v` is 0.
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
        # Below this limit the quotient would overflow, so the term fades with the variance instead.
        share = strength * 2 * self.temperature * statistics.margin / mean.clamp(min=_LEAST)
        return statistics, torch.where(mean > 0, share, 0.0)

    def measures(self, inputs: LossInputs) -> dict[str, Float[Tensor, ""]]:
        r"""Measure the current strength of the augmentation, in both units.

        ``augmentation`` is the mean of :math:`\lambda v_{ic} / (2 T^2)` over classes and labelled
        pixels, on the scale of the loss: near 0, the augmentation has no effect. ``margin_share``
        is its ratio to the median margin divided by T: the running median in the unit margin, else
        that of this batch. Empty if strength is 0.
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

    For :math:`\tilde z_i \sim N(z_i, G_{y_i})`, apply Jensen's inequality to :math:`\log \sum_k
    e^{\tilde z_k - \tilde z_c}` for each class c of the target:

    .. math:: E[-\sum_c q_c \log \mathrm{softmax}(\tilde z)_c] \le \sum_c q_c \log \sum_k
        \exp(z_k - z_c + \tfrac12 D_{kc}), \quad D_{kc} = G_{kk} + G_{cc} - 2 G_{kc}

    The form of ISDA (Wang et al., 2019, arXiv 1909.12220) with soft labels. It computes ``pixels *
    classes^2`` exponentials, but needs memory for ``pixels * classes`` only: classes are computed
    one at a time, and recomputed in the backward pass. Grouping the pixels by class into matrix
    products would be cheaper, but underflows where logits lie far apart.

    Args:
        logits: Means of the noisy logits, already divided by the temperature.
        target: Probabilities of the teacher.
        covariance: Covariance of the logits for each class.
        class_rows: The row of ``covariance`` for each pixel; an index past the end means no noise.
    """
    variance = covariance.diagonal(dim1=1, dim2=2)
    membership = Membership(class_rows, len(covariance), covariance.dtype)
    total = torch.zeros_like(target[:, 0])
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    for c in range(logits.shape[1]):
        spread = variance + variance[:, c : c + 1] - 2 * covariance[:, :, c]
        arguments = logits, spread, membership, c
        total = total + target[:, c] * again(_partition_against, *arguments)
    return total


def _partition_against(logits: Tensor, spread: Tensor, membership: Membership, c: int) -> Tensor:
    return (logits - logits[:, c : c + 1] + membership.look_up(spread / 2)).logsumexp(1)


def tilted_bound(
    logits: Float[Tensor, "batch classes rows cols"],
    target: Float[Tensor, "batch classes rows cols"],
    covariance: Float[Tensor, "labels classes classes"],
    class_rows: Int[Tensor, "batch rows cols"],
    steps: int = 2,
) -> Float[Tensor, "batch rows cols"]:
    r"""Bound the mean cross-entropy of noisy logits more tightly than the marginal form.

    The softmax does not change when one vector is subtracted from all rows of the classifier. With
    :math:`u = \sum_k a_k w_k` subtracted, Jensen's inequality gives, for any a that sums to 1,

    .. math:: E \log \sum_k e^{\tilde z_k} \le \log \sum_k \exp(z_k + \tfrac12 G_{kk} - (G a)_k)
        + \tfrac12 a^\top G a

    and :math:`a = 0` is the marginal form. The best a is the softmax of the exponents, a fixed
    point iterated from :math:`\mathrm{softmax}(z)`. The iteration can overshoot where the noise is
    large, so each pixel keeps the best a of all iterations, 0 included. a is a constant in the
    gradient. ``steps`` is the number of iterations; see `difference_bound` for the other arguments.
    """
    membership = Membership(class_rows, len(covariance), covariance.dtype)
    raised = logits + membership.look_up(covariance.diagonal(dim1=1, dim2=2) / 2)
    with torch.no_grad():
        best, least = torch.zeros_like(raised), raised.logsumexp(1)
        tilt = logits.softmax(1)
        for _ in range(steps + 1):
            shift = _covariance_times(covariance, tilt, membership)
            bound = (raised - shift).logsumexp(1) + (tilt * shift).sum(1) / 2
            best = torch.where((bound < least)[:, None], tilt, best)
            least = torch.minimum(bound, least)
            tilt = (raised - shift).softmax(1)
    shift = _covariance_times(covariance, best, membership)
    partition = (raised - shift).logsumexp(1) + (best * shift).sum(1) / 2
    return partition - (target * logits).sum(1)


def _covariance_times(covariance: Tensor, tilt: Tensor, membership: Membership) -> Tensor:
    """Compute G a at each pixel, one class at a time, in memory for ``pixels * classes``."""
    product = torch.zeros_like(tilt)
    for c in range(tilt.shape[1]):
        product = product + membership.look_up(covariance[:, :, c]) * tilt[:, c : c + 1]
    return product
