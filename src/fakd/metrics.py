"""One confusion matrix over the whole set, the scores read off it, and how answers differ."""

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
    """Count pixels by (true class, predicted class); ignored pixels are left out.

    Matrices of several images add up to the matrix of the set, and those of several processes to
    the matrix of all of them.
    """
    # Ignored pixels fill the first row; masking them out before costs more than all the rest.
    index = torch.add(prediction.flatten().int(), labels.flatten().int(), alpha=classes)
    index -= IGNORE * classes
    counts = torch.bincount(index, minlength=(classes + 1) * classes)
    if len(counts) > (classes + 1) * classes:
        raise ValueError(
            f"expected labels from 0 to {classes - 1} or {IGNORE} for none, got "
            f"{int(labels.max())}; leave pixels of other classes out as {IGNORE}"
        )
    return counts[classes:].view(classes, classes)


_ROWS = 64
"""Rows of a map whose divergence is computed at a time, to hold few copies of all classes."""


def jensen_shannon(
    one: Float[Tensor, "batch classes rows cols"],
    other: Float[Tensor, "batch classes rows cols"],
    temperature: float = 1.0,
) -> Float[Tensor, "batch rows cols"]:
    r"""Compute how much the class probabilities of two answers differ: 0 for not at all, up to 1.

    The Jensen-Shannon divergence in bits (Lin, 1991, "Divergence measures based on the Shannon
    entropy"), :math:`H\left(\frac{p + q}{2}\right) - \frac{H(p) + H(q)}{2}`, with p and q the
    softmax of the logits divided by the temperature. It is symmetric, and finite where a class is
    impossible to one of them.

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
    """Scores of a set of images, as fractions of 1; NaN where a class gives no answer.

    A class that no label shows is left out of the mean: predicted on a few stray pixels only, its
    IoU of 0 would tell nothing. mmsegmentation counts it; published sets label every class.
    """

    iou: Float[Tensor, " classes"]
    """Intersection over union of every class, over the whole set."""
    accuracy: Float[Tensor, " classes"]
    """Share of every class's pixels that were found."""
    pixel_accuracy: float
    """Share of all labelled pixels that are right: aAcc."""
    pixels: Int[Tensor, " classes"]
    """Labelled pixels of every class."""

    @classmethod
    def from_matrix(cls, matrix: Int[Tensor, "classes classes"]) -> "Scores":
        """Read the scores off a confusion matrix (rows: truth, columns: prediction)."""
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
        """Mean IoU over the classes that labels show: mIoU."""
        return float(self.iou[self.pixels > 0].mean())

    @property
    def macc(self) -> float:
        """Mean of the per-class accuracies: mAcc (the FAKD paper calls it "pixel accuracy")."""
        return float(self.accuracy.nanmean())

    def as_dict(self, class_names: tuple[str, ...]) -> dict[str, object]:
        """Turn the scores into plain JSON, in percent; None where there is no answer."""

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
