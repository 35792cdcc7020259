"""Intra-class feature variation (IFVD): match each pixel's similarity to its class's mean."""

from typing import Literal

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from fakd.losses.alignment import features_of, require_features
from fakd.losses.grid import labels_on_grid_of, on_grid_of, to_float32
from fakd.types import DistillationLoss, LossInputs, Weight

Normalise = Literal["all", "valid"]


def intra_class_variation(
    student_features: Float[Tensor, "batch _student_channels rows cols"],
    teacher_features: Float[Tensor, "batch _teacher_channels _rows _cols"],
    labels: Integer[Tensor, "batch _height _width"],
    normalise: Normalise = "all",
    classes: int = 255,
) -> Float[Tensor, ""]:
    r"""Match the similarity of each pixel to the mean of its class in its image.

    .. math:: \frac{1}{N} \sum_i \big( \cos(s_i, \mu^s_i) - \cos(t_i, \mu^t_i) \big)^2, \quad
        \mu_i = \frac{\sum_{j: y_j = y_i} f_j}{|\{j: y_j = y_i\}| + 10^{-6}}

    j runs over the pixels of the same image; the gradient also flows through the mean, and norms
    are clamped to at least 1e-8. Wang et al., ECCV 2020, "Intra-class Feature Variation
    Distillation for Semantic Segmentation". Only similarities are compared, so student and teacher
    may differ in channels. The teacher gets no gradient. Teacher and labels are resampled to the
    student's grid.

    A pixel without a class, with a label outside 0 to ``classes - 1``, is compared with itself: it
    adds 0, or 1 where exactly one of the networks gives it a vector of zeros. The published code
    counts these pixels in N (all); excluding them (valid) keeps the loss from shrinking where many
    pixels are unlabelled, and gives 0 where all are.

    >>> student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.ones(2, 2)
    >>> labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    >>> intra_class_variation(student.view(1, 2, 1, 2), teacher.view(1, 2, 1, 2), labels)
    tensor(0.0858)
    """
    with torch.autocast(student_features.device.type, enabled=False):
        teacher_features = on_grid_of(student_features, teacher_features.detach())
        labels = labels_on_grid_of(student_features, labels)
        rows = labels.where((labels >= 0) & (labels < classes), classes).flatten(1)
        student = _typicality(to_float32(student_features).flatten(2), rows, classes)
        teacher = _typicality(to_float32(teacher_features).flatten(2), rows, classes)
        error = (student - teacher).square()
        if normalise == "all":
            return error.mean()
        valid = rows != classes
        return (error * valid).sum() / valid.sum().clamp(min=1)


def _typicality(
    features: Float[Tensor, "batch channels pixels"],
    rows: Int[Tensor, "batch pixels"],
    classes: int,
) -> Float[Tensor, "batch pixels"]:
    """Compute the cosine of each pixel with the mean of its class, or with itself if it has none.

    Matrix products with a membership matrix replace indexed sums: they are deterministic on a GPU
    too, and neither they nor their gradients need the means gathered per pixel. In addition to the
    features, this takes memory for ``batch * classes * pixels`` numbers.
    """
    members = features.new_zeros(len(rows), classes + 1, rows.shape[1])
    members.scatter_(1, rows[:, None], 1.0)
    means = members @ features.mT / (members.sum(2, keepdim=True) + 1e-6)
    directions = means / torch.linalg.vector_norm(means, dim=2, keepdim=True).clamp(min=1e-8)
    length = torch.linalg.vector_norm(features, dim=1)
    divisor = length.clamp(min=1e-8)
    own = (directions @ features).gather(1, rows[:, None])[:, 0] / divisor
    return torch.where(rows == classes, (length / divisor).square(), own)


class IntraClassVariation(DistillationLoss):
    """IFVD: the student learns how close each pixel is to its class's mean feature.

    Needs labels and the features of both networks, and has no trained parameters. Its authors
    combine it with a loss on logits; alone, it has been reported to do harm. See
    `intra_class_variation`.

    Args:
        normalise: Pixels that the loss averages over: all, as published, or only those with a class
            (valid), for data with many unlabelled pixels.
        weight: Weight relative to the task loss.
    """

    determines_classes = False
    prepare = require_features

    def __init__(self, normalise: Normalise = "all", weight: Weight = 20.0) -> None:
        super().__init__(weight)
        self.normalise = normalise

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the loss."""
        return intra_class_variation(
            *features_of(inputs), inputs.labels, self.normalise, inputs.student.logits.shape[1]
        )
