"""One confusion matrix over the whole set, and the scores read off it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

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
