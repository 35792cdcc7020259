"""Confusion matrix over a whole set, its scores, and divergence of predictions."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.special import entr

from fakd.types import IGNORE


def confusion_matrix(
    prediction: Integer[Tensor, "*pixels"], labels: Integer[Tensor, "*pixels"], classes: int
) -> Int[Tensor, "classes classes"]:
    """Count pixels by (true class, predicted class), without ignored pixels.

    Matrices of several images or processes add up to the matrix of all of them.
    """
    # Ignored pixels are counted in the first row; masking them out would cost more than the rest.
    index = torch.add(prediction.flatten().int(), labels.flatten().int(), alpha=classes)
    index -= IGNORE * classes
    counts = torch.bincount(index, minlength=(classes + 1) * classes)
    if len(counts) > (classes + 1) * classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1} or {IGNORE} for none, got "
            f"{int(labels.max())}; set pixels of other classes to {IGNORE}"
        )
    return counts[classes:].view(classes, classes)


_ROWS = 64
"""Rows of a map whose divergence is computed at a time, to limit memory."""


def jensen_shannon(
    one: Float[Tensor, "batch classes rows cols"],
    other: Float[Tensor, "batch classes rows cols"],
    temperature: float = 1.0,
) -> Float[Tensor, "batch rows cols"]:
    r"""Compute the divergence of the class probabilities of two predictions, from 0 (equal) to 1.

    The Jensen-Shannon divergence in bits (Lin, 1991, "Divergence measures based on the Shannon
    entropy"), :math:`H\left(\frac{p + q}{2}\right) - \frac{H(p) + H(q)}{2}`, with p and q the
    softmax of the logits divided by the temperature. It is symmetric, and finite even where one of
    them gives a class the probability 0.

    >>> sure = torch.tensor([30.0, 0.0]).view(1, 2, 1, 1)
    >>> jensen_shannon(sure, sure.flip(1)).item(), jensen_shannon(sure, sure).item()
    (1.0, 0.0)
    """
    found = []
    for first in range(0, one.shape[2], _ROWS):
        rows = (slice(None), slice(None), slice(first, first + _ROWS))
        p, q = (torch.softmax(each[rows].float() / temperature, 1) for each in (one, other))
        entropy = entr((p + q) / 2).sum(1) - (entr(p).sum(1) + entr(q).sum(1)) / 2
        found.append((entropy / math.log(2)).clamp(0, 1))
    return torch.cat(found, 1)


@dataclass(frozen=True)
class Scores:
    """Scores of a set of images, as fractions of 1; NaN where a class's score is undefined.

    A class without labelled pixels is excluded from the mean: a few stray predictions would make
    its IoU 0, which is not informative. mmsegmentation includes it; in published sets every class
    is labelled.
    """

    iou: Float[Tensor, " classes"]
    """Intersection over union of every class, over the whole set."""
    accuracy: Float[Tensor, " classes"]
    """Share of every class's pixels that are predicted correctly."""
    pixel_accuracy: float
    """Share of all labelled pixels that are predicted correctly: aAcc."""
    pixels: Int[Tensor, " classes"]
    """Labelled pixels of every class."""

    @classmethod
    def from_matrix(cls, matrix: Int[Tensor, "classes classes"]) -> "Scores":
        """Compute the scores from a confusion matrix (rows: ground truth, columns: prediction)."""
        matrix = matrix.cpu().double()
        hit, truth, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        return cls(
            iou=hit / (truth + said - hit),
            accuracy=hit / truth,
            pixel_accuracy=float(hit.sum() / matrix.sum()),
            pixels=truth.long(),
        )

    @property
    def miou(self) -> float:
        """Mean IoU over the classes with labelled pixels: mIoU."""
        return float(self.iou[self.pixels > 0].mean())

    @property
    def macc(self) -> float:
        """Mean of the per-class accuracies: mAcc (the FAKD paper calls it "pixel accuracy")."""
        return float(self.accuracy.nanmean())

    def as_dict(self, class_names: tuple[str, ...]) -> dict[str, object]:
        """Convert the scores to plain JSON, in percent; None where a score is undefined."""

        def percent(value: float) -> float | None:
            return None if value != value else round(100 * value, 4)

        return {
            "miou": percent(self.miou),
            "macc": percent(self.macc),
            "aacc": percent(self.pixel_accuracy),
            "classes": {
                name: {
                    "iou": percent(float(self.iou[i])),
                    "accuracy": percent(float(self.accuracy[i])),
                    "pixels": int(self.pixels[i]),
                }
                for i, name in enumerate(class_names)
            },
        }
