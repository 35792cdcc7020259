"""Boundary IoU: how well outlines are found, which counts the same for small and large objects."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from fakd.types import IGNORE

SHARE = 0.02
"""Width of the boundary region as a share of the image's diagonal."""


def boundary_width(height: int, width: int) -> int:
    """Tell how many pixels from a contour still belong to its region; at least 1.

    >>> boundary_width(720, 960)
    24
    """
    return max(1, round(SHARE * math.hypot(height, width)))


def boundary_counts(
    prediction: Integer[Tensor, "height width"],
    labels: Integer[Tensor, "height width"],
    classes: int,
) -> Int[Tensor, "3 classes"]:
    r"""Count the pixels of each class in its boundary region: found, labelled, and predicted.

    .. math:: \text{Boundary IoU} =
        \frac{|(G_d \cap G) \cap (P_d \cap P)|}{|(G_d \cap G) \cup (P_d \cap P)|}

    G and P are labelled and predicted pixels of a class, and those in the region are within d of
    the contour, d being 2 % of the diagonal. Counts of several images add up to those of the set:
    IoU = found / (labelled + predicted - found). Cheng et al., 2021 (arXiv 2103.16562), Eq. 2. As
    there, distances are those of repeated 3x3 erosion and the image's border is a contour. Ignored
    pixels are left out and make no contour.
    """
    known = labels != IGNORE
    width = boundary_width(*labels.shape)
    truth = near_contour(labels, known, width) & known
    said = near_contour(prediction, known, width) & known
    found = truth & said & (prediction == labels)
    groups = (labels[found], labels[truth], prediction[said])
    return torch.stack([torch.bincount(each.long(), minlength=classes) for each in groups])


def near_contour(
    classes: Integer[Tensor, "height width"], known: Bool[Tensor, "height width"], width: int
) -> Bool[Tensor, "height width"]:
    """Find the pixels within ``width`` of one of another class or of the image's border.

    The class's eroded mask is where the largest and the smallest class id around are its own, so
    that two searches serve all classes.
    """
    # Signed, so that one maximum serves for the smallest too; 16 bits, for speed.
    ids, lowest = classes.short(), torch.iinfo(torch.short).min
    largest = _largest(ids.masked_fill(~known, lowest), width, border=lowest)
    smallest = -_largest((-ids).masked_fill(~known, lowest), width, border=1)
    return (largest != ids) | (smallest != ids)


def _largest(ids: Tensor, width: int, border: int) -> Tensor:
    """Find the largest value within ``width`` of each place, rows and columns one after another.

    Windows are joined to ones of twice the size, which costs the logarithm of their width.
    """
    ids = F.pad(ids, [width] * 4, value=border)
    for dim in (0, 1):
        reach, side = 1, 2 * width + 1
        while reach < side:
            step = min(reach, side - reach)
            kept = ids.shape[dim] - step
            ids = torch.maximum(ids.narrow(dim, 0, kept), ids.narrow(dim, step, kept))
            reach += step
    return ids
