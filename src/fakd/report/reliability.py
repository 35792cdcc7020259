"""Calibration: whether a network is right as often as it is confident."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Pixels sorted into bins of equal width by the probability of their likeliest class."""

    pixels: Float[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    """Sum of those probabilities."""
    right: Float[Tensor, " bins"]
    """How many of them were classified right."""

    @classmethod
    def empty(cls) -> "Reliability":
        """Begin with no pixel."""
        return cls(*torch.zeros(3, BINS, dtype=torch.float64))

    def __add__(self, other: "Reliability") -> "Reliability":
        """Join the bins of other images."""
        return Reliability(
            self.pixels + other.pixels,
            self.confidence + other.confidence,
            self.right + other.right,
        )

    @property
    def error(self) -> float:
        r"""Expected calibration error, 0 to 1.

        .. math:: \text{ECE} = \sum_m \frac{n_m}{n} |\text{accuracy}_m - \text{confidence}_m|

        Guo et al., 2017 (arXiv 1706.04599), Eq. 3, over pixels. NaN without any.
        """
        return float((self.right - self.confidence).abs().sum() / self.pixels.sum())


def reliability(
    confidence: Float[Tensor, " pixels"], right: Bool[Tensor, " pixels"]
) -> Reliability:
    """Sort pixels into bins ((m - 1) / 15, m / 15] of confidence."""
    place = (confidence * BINS).ceil().long().sub_(1).clamp_(0, BINS - 1)
    weights = (None, confidence.double(), right.double())
    counts = [torch.bincount(place, each, minlength=BINS).double().cpu() for each in weights]
    return Reliability(*counts)
