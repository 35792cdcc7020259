"""Channel-wise distillation on features: match where each channel of the teacher is active."""

import math
from typing import ClassVar, Literal, get_args

import torch
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
from fakd.losses.channel import channel_kl
from fakd.losses.features import features_of
from fakd.losses.grid import on_grid_of
from fakd.types import DistillationLoss, LossInputs, Segmenter

Divisor = Literal["teacher", "student"]


def feature_channel_kl(
    student_features: Float[Tensor, "batch channels rows cols"],
    teacher_features: Float[Tensor, "batch _channels _rows _cols"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Match where each channel of the teacher's features is active.

    .. math:: \frac{T^2}{K} \sum_k \mathrm{KL}\big( \mathrm{softmax}_i(t_k / T) \,\|\,
        \mathrm{softmax}_i(s_k / T) \big)

    `channel_kl` with the K channels of a feature in the place of classes; the softmax runs over
    positions i (Shu et al., 2021, arXiv 2011.13256). Student features of other channels must go
    through an `Alignment` first. Every pixel counts, labelled or not. The teacher gets no
    gradient; its features come to the student's grid.

    Args:
        student_features: Of the student, with the teacher's number of channels.
        teacher_features: Of the teacher, for the same images.
        temperature: Divides both; the result is scaled back by its square.

    Raises:
        ValueError: the channels differ.

    >>> teacher = torch.tensor([3.0, 1.0]).log().view(1, 1, 1, 2)
    >>> feature_channel_kl(torch.zeros(1, 1, 1, 2), teacher)
    tensor(0.1308)
    """
    check_channels(student_features, teacher_features)
    with torch.autocast(student_features.device.type, enabled=False):
        teacher_features = on_grid_of(student_features, teacher_features.detach())
    return channel_kl(student_features, teacher_features, temperature)


class FeatureChannelKL(DistillationLoss):
    """Channel-wise distillation on features: the student learns where each channel is active.

    Needs features of both networks, and trains an alignment with the student. No labels. See
    `feature_channel_kl`.

    Args:
        temperature: Softens teacher and student: above 1, faint places count more.
        alignment: What brings the student's features to the teacher's channels: a 1x1 convolution
            without bias (conv, CIRKD) or with (conv-bias, the CWD authors' code for
            mmsegmentation), one with batch norm and ReLU (conv-bn-relu, their code for
            Cityscapes), or nothing (none), if both have the same number of channels.
        divisor: Whose number of channels the sum over channels is divided by: the teacher's, which
            is that after alignment, or the student's before it, as in the code of CIRKD and in
            the CWD authors' for mmsegmentation. With the latter the loss is larger by the ratio
            of the two.
    """

    default_weight: ClassVar[float] = 50.0

    def __init__(
        self,
        temperature: float = 4.0,
        alignment: AlignmentKind = "conv",
        divisor: Divisor = "teacher",
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"expected temperature above 0, got {temperature}; published settings use 1 to 10"
            )
        check_alignment(alignment)
        if divisor not in get_args(Divisor):
            raise ValueError(f"expected divisor to be one of {get_args(Divisor)}, got {divisor!r}")
        self.temperature, self.divisor = temperature, divisor
        self.alignment: AlignmentKind = alignment
        self.align: Alignment | None = None

    def prepare(self, student: Segmenter, teacher: Segmenter) -> None:
        """Build the alignment."""
        self.align = alignment_between(student, teacher, self.alignment, "FeatureChannelKL")

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the loss on aligned features."""
        aligned, teacher = aligned_features(inputs, self.align)
        loss = feature_channel_kl(aligned, teacher, self.temperature)
        if self.divisor == "teacher":
            return loss
        return loss * (teacher.shape[1] / features_of(inputs)[0].shape[1])
