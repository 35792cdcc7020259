"""Feature distillation: by squared distance, by cosine, or by where each channel is active."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fakd.errors import require_above_zero
from fakd.losses.alignment import (
    Alignment,
    AlignmentKind,
    aligned_features,
    check_channels,
    feature_channels,
    features_of,
)
from fakd.losses.blocks import normalise_channels
from fakd.losses.channel import channel_kl
from fakd.losses.grid import on_grid_of, to_float32
from fakd.types import DistillationLoss, LossInputs, Segmenter, Weight

DistanceKind = Literal["l2", "cosine"]


def feature_distance(
    student_features: Float[Tensor, "batch channels rows cols"],
    teacher_features: Float[Tensor, "batch _channels _rows _cols"],
    kind: DistanceKind = "l2",
) -> Float[Tensor, ""]:
    r"""Match the features of each pixel.

    .. math:: \frac{1}{N D} \sum_i \lVert s_i - t_i \rVert^2 \quad \text{or} \quad
        \frac{1}{N} \sum_i \big( 1 - \cos(s_i, t_i) \big)

    over the N pixels of all images and D channels. The first, l2, is that of FitNets (Romero et
    al., 2015, arXiv 1412.6550), averaged over channels too: it depends on the features' scale, and
    grows with its square. The second, cosine, compares directions only; a vector of zeros has none,
    so its loss is 1 and its gradient 0. If the channels differ, map the student's features with an
    `Alignment` first. All pixels are used, labelled or not. The teacher gets no gradient; its
    features are resampled to the student's grid.

    Raises:
        ValueError: the channels differ.

    >>> student, teacher = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(2, 1, 2, 1, 1)
    >>> feature_distance(student, teacher), feature_distance(student, teacher, "cosine")
    (tensor(0.5000), tensor(0.2929))
    """
    check_channels(student_features, teacher_features)
    with torch.autocast(student_features.device.type, enabled=False):
        student = to_float32(student_features)
        teacher = to_float32(on_grid_of(student_features, teacher_features.detach()))
        if kind == "l2":
            return F.mse_loss(student, teacher)
        return 1 - (normalise_channels(student) * normalise_channels(teacher)).sum(1).mean()


def _build_alignment(
    loss: "FeatureDistance | FeatureChannelKL", student: Segmenter, teacher: Segmenter
) -> None:
    """Build the alignment."""
    loss.align = Alignment(*feature_channels(loss, student, teacher), loss.alignment)


class FeatureDistance(DistillationLoss):
    """Plain feature distillation: the student learns to reproduce the teacher's features.

    Needs the features of both networks but no labels, and trains an alignment layer with the
    student. See `feature_distance`.

    Args:
        kind: Squared difference (l2), whose magnitude depends on the teacher's features, or cosine
            distance at each pixel (cosine), 0 to 2 for any teacher.
        alignment: Layer that maps the student's features to the teacher's channels: a 1x1
            convolution without bias (conv) or with (conv-bias), one with batch norm and ReLU
            (conv-bn-relu), or no layer (none).
        weight: Weight relative to the task loss.
    """

    determines_classes = False
    prepare = _build_alignment

    def __init__(
        self,
        kind: DistanceKind = "l2",
        alignment: AlignmentKind = "conv",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.kind, self.alignment = kind, alignment
        self.align: Alignment | None = None

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the distance of aligned features."""
        return feature_distance(*aligned_features(inputs, self.align), self.kind)


Divisor = Literal["teacher", "student"]


def feature_channel_kl(
    student_features: Float[Tensor, "batch channels rows cols"],
    teacher_features: Float[Tensor, "batch _channels _rows _cols"],
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Match where each channel of the teacher's features is active.

    .. math:: \frac{T^2}{K} \sum_k \mathrm{KL}\big( \mathrm{softmax}_i(t_k / T) \,\|\,
        \mathrm{softmax}_i(s_k / T) \big)

    `channel_kl` with the K feature channels in place of classes; the softmax runs over positions i
    (Shu et al., 2021, arXiv 2011.13256). If the channels differ, map the student's features with an
    `Alignment` first. All pixels are used, labelled or not. The teacher gets no gradient; its
    features are resampled to the student's grid.

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

    Needs the features of both networks but no labels, and trains an alignment layer with the
    student. See `feature_channel_kl`.

    Args:
        temperature: Softens teacher and student: above 1, weakly active positions count more.
        alignment: Layer that maps the student's features to the teacher's channels: a 1x1
            convolution without bias (conv, CIRKD) or with (conv-bias, the CWD authors' code for
            mmsegmentation), one with batch norm and ReLU (conv-bn-relu, their code for Cityscapes),
            or no layer (none).
        divisor: Number of channels that the sum over channels is divided by: the teacher's, equal
            to that after alignment, or the student's before it, as in CIRKD's code and the CWD
            authors' code for mmsegmentation.
        weight: Weight relative to the task loss.
    """

    determines_classes = False
    prepare = _build_alignment

    def __init__(
        self,
        temperature: float = 4.0,
        alignment: AlignmentKind = "conv",
        divisor: Divisor = "teacher",
        weight: Weight = 50.0,
    ) -> None:
        super().__init__(weight)
        require_above_zero("published settings use 1 to 10", temperature=temperature)
        self.temperature, self.alignment, self.divisor = temperature, alignment, divisor
        self.align: Alignment | None = None

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the loss on aligned features."""
        aligned, teacher = aligned_features(inputs, self.align)
        loss = feature_channel_kl(aligned, teacher, self.temperature)
        if self.divisor == "teacher":
            return loss
        return loss * (teacher.shape[1] / features_of(inputs)[0].shape[1])
