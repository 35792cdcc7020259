"""Plain feature distillation: match the features themselves, by distance or by direction."""

from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fakd.losses.alignment import (
    Alignment,
    AlignmentKind,
    aligned_features,
    alignment_between,
    check_alignment,
    check_channels,
)
from fakd.losses.blocks import unit
from fakd.losses.grid import on_grid_of, precise
from fakd.types import DistillationLoss, LossInputs, Segmenter

DistanceKind = Literal["l2", "cosine"]


def feature_distance(
    student_features: Float[Tensor, "batch channels rows cols"],
    teacher_features: Float[Tensor, "batch _channels _rows _cols"],
    kind: DistanceKind = "l2",
) -> Float[Tensor, ""]:
    r"""Match the features of each pixel.

    .. math:: \frac{1}{N D} \sum_i \lVert s_i - t_i \rVert^2 \quad \text{or} \quad
        \frac{1}{N} \sum_i \big( 1 - \cos(s_i, t_i) \big)

    over the N pixels of all images. The first, l2, is that of FitNets (Romero et al., 2015, arXiv
    1412.6550) as a mean over channels too: it knows the features' scale, and grows with its
    square. The second, cosine, knows directions only; a vector of zeros has none, counts as 1 and
    gets no gradient. Student features of other channels must go through an `Alignment` first.
    Every pixel counts, labelled or not. The teacher gets no gradient; its features come to the
    student's grid.

    Args:
        student_features: Of the student, with the teacher's number of channels.
        teacher_features: Of the teacher, for the same images.
        kind: Which of the two.

    Raises:
        ValueError: the channels differ.

    >>> student, teacher = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(2, 1, 2, 1, 1)
    >>> feature_distance(student, teacher), feature_distance(student, teacher, "cosine")
    (tensor(0.5000), tensor(0.2929))
    """
    check_channels(student_features, teacher_features)
    with torch.autocast(student_features.device.type, enabled=False):
        student = precise(student_features)
        teacher = precise(on_grid_of(student_features, teacher_features.detach()))
        if kind == "l2":
            return F.mse_loss(student, teacher)
        return 1 - (unit(student) * unit(teacher)).sum(1).mean()


class FeatureDistance(DistillationLoss):
    """Plain feature distillation: the student learns to reproduce the teacher's features.

    Needs features of both networks, and trains an alignment with the student. No labels. See
    `feature_distance`.

    Args:
        kind: Match the features with their scale, by mean squared difference (l2), or only their
            direction at each pixel (cosine). The size of l2 depends on the teacher: choose its
            weight by the curve of the loss. That of cosine is 0 to 2 for any teacher.
        alignment: What brings the student's features to the teacher's channels: a 1x1 convolution
            without bias (conv) or with (conv-bias), one with batch norm and ReLU (conv-bn-relu),
            or nothing (none), if both have the same number of channels.
    """

    default_weight: ClassVar[float] = 1.0

    def __init__(self, kind: DistanceKind = "l2", alignment: AlignmentKind = "conv") -> None:
        super().__init__()
        if kind not in get_args(DistanceKind):
            raise ValueError(f"expected kind to be one of {get_args(DistanceKind)}, got {kind!r}")
        check_alignment(alignment)
        self.kind: DistanceKind = kind
        self.alignment: AlignmentKind = alignment
        self.align: Alignment | None = None

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Build the alignment."""
        self.align = alignment_between(student, teacher, self.alignment, "FeatureDistance")

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the distance of aligned features."""
        return feature_distance(*aligned_features(inputs, self.align), self.kind)
