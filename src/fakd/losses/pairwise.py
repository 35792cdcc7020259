"""Pair-wise distillation (SKDS): match the similarities between regions of an image."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fakd.losses.alignment import features_of, require_features
from fakd.losses.blocks import normalise_channels
from fakd.losses.grid import on_grid_of, to_float32
from fakd.types import DistillationLoss, LossInputs, Weight


def pairwise_similarity(
    student_features: Float[Tensor, "batch _student_channels rows cols"],
    teacher_features: Float[Tensor, "batch _teacher_channels _rows _cols"],
    kernel: Sequence[int] = (2, 2),
    detach_norm: bool = False,
) -> Float[Tensor, ""]:
    r"""Match the similarities between all pairs of regions of an image.

    .. math:: \frac{1}{N M^2} \sum_{n,m,m'} \Big( \frac{t_{nm} \cdot t_{nm'}}{\|t_{nm}\|
        \|t_{nm'}\|} - \frac{s_{nm} \cdot s_{nm'}}{\|s_{nm}\| \|s_{nm'}\|} \Big)^2

    The M regions are blocks of the feature map, each max-pooled to one vector; at the bottom and
    right edges they may be smaller. The pair-wise part of SKDS (Liu et al., 2019, arXiv
    1903.04197), whose paper describes average pooling and whose public code takes the maximum.
    Only similarities are compared, so student and teacher may differ in channels. All pixels are
    used, labelled or not. The teacher gets no gradient; its features are resampled to the
    student's grid.

    ``kernel`` is the rows and columns of a block; memory for two maps of ``batch * M^2``.
    ``detach_norm`` treats the norm of a vector as a constant in the gradient, as the authors' code
    does, so that the gradient also changes the length of the student's vectors.

    >>> apart, alike = torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 1, 1, 2)
    >>> pairwise_similarity(alike, apart, kernel=(1, 1))
    tensor(0.5000)
    """
    with torch.autocast(student_features.device.type, enabled=False):
        student = _similarities(student_features, kernel, detach_norm)
        teacher = on_grid_of(student_features, teacher_features.detach())
        teacher = _similarities(teacher, kernel, detach_norm)
        return F.mse_loss(student, teacher.to(student.dtype))


def _similarities(
    features: Float[Tensor, "batch channels rows cols"], kernel: Sequence[int], detach_norm: bool
) -> Float[Tensor, "batch regions regions"]:
    regions = F.max_pool2d(to_float32(features), tuple(kernel), ceil_mode=True).flatten(2)
    if detach_norm:
        norm = torch.linalg.vector_norm(regions.detach(), dim=1, keepdim=True)
        regions = regions / (norm + 1e-8)
    else:
        regions = normalise_channels(regions)
    return regions.mT @ regions


class PairwiseSimilarity(DistillationLoss):
    """SKDS's pair-wise part: the student learns which regions of an image look alike.

    Needs no labels and has no trained parameters. See `pairwise_similarity`.

    Args:
        kernel: Rows and columns of the blocks of features that form one region: 2 x 2 on a
            64 x 64 map gives 1024 regions and takes 4 MiB for each image and network.
        scale: Size of a block as a share of the map, instead of kernel, as SKDS's authors use it:
            0.5 gives two blocks along each side, or three if the side does not divide evenly.
        detach_norm: Treat the norm of feature vectors as a constant in the gradient, as SKDS's
            authors do.
        weight: Weight relative to the task loss.
    """

    determines_classes = False
    prepare = require_features

    def __init__(
        self,
        kernel: Sequence[int] = (2, 2),
        scale: float | None = None,
        detach_norm: bool = False,
        weight: Weight = 10.0,
    ) -> None:
        super().__init__(weight)
        if len(kernel) != 2 or min(kernel) < 1:
            raise ValueError(
                f"expected kernel to be two numbers of at least 1, got {kernel}; "
                "(2, 2) is what CIRKD's authors use"
            )
        if scale is not None and not 0 < scale <= 1:
            raise ValueError(
                f"expected scale above 0 and at most 1, got {scale}; 0.5 is what SKDS's authors "
                "use; with None, kernel sets the size of a block"
            )
        self.kernel, self.scale, self.detach_norm = tuple(kernel), scale, detach_norm

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the loss with blocks of the given size, or share of the map."""
        student, teacher = features_of(inputs)
        kernel = self.kernel
        if self.scale is not None:
            # The teacher's map is resampled to the student's size before they are compared.
            kernel = tuple(max(1, math.floor(self.scale * size)) for size in student.shape[2:])
        return pairwise_similarity(student, teacher, kernel, self.detach_norm)
