"""Cross-image distillation (CIRKD, mini-batch part): match similarities of a batch's pixels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fakd.errors import require_above_zero, require_at_least
from fakd.losses.alignment import features_of, require_features
from fakd.losses.blocks import normalise_channels, similarity_kl
from fakd.losses.grid import on_grid_of, to_float32
from fakd.types import DistillationLoss, LossInputs, Weight


def cross_image_similarity(
    student_features: Float[Tensor, "batch _student_channels rows cols"],
    teacher_features: Float[Tensor, "batch _teacher_channels _rows _cols"],
    temperature: float = 0.1,
    block: int | None = None,
) -> Float[Tensor, ""]:
    r"""Match the similarities of each pixel to all pixels of each image of the batch.

    .. math:: \frac{1}{B^2 P} \sum_{i,j} \sum_u \mathrm{KL}\big(
        \mathrm{softmax}_v(t_{iu} \cdot t_{jv} / \tau) \,\|\,
        \mathrm{softmax}_v(s_{iu} \cdot s_{jv} / \tau)\big)

    Features are normalised to unit length; the softmax runs over the P pixels v of image j, which
    may be image i itself. The gradient flows to both pixels of a similarity. The mini-batch part of
    CIRKD (Yang et al., 2022, arXiv 2204.06986), without its factor of a squared temperature. Only
    similarities are compared, so student and teacher may differ in channels. All pixels are used,
    labelled or not. The teacher gets no gradient; its features are resampled to the student's grid.

    Time is quadratic in ``batch * P``, memory only proportional to ``block * batch * P``: ``block``
    pixels are compared with the batch at once, by default as many as fit a few hundred MiB, which
    does not change the result. With a temperature :math:`\tau` below 1 the most similar pixels
    count more.

    >>> apart, alike = torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 1, 1, 2)
    >>> cross_image_similarity(alike, apart, temperature=1.0)
    tensor(0.1109)
    """
    with torch.autocast(student_features.device.type, enabled=False):
        student = _rows(student_features)
        teacher = _rows(on_grid_of(student_features, teacher_features.detach()))
        teacher = teacher.to(student.dtype)
        pixels = student.flatten(0, 1), teacher.flatten(0, 1)
        return similarity_kl(*pixels, student, teacher, temperature, block=block)


def _rows(features: Tensor) -> Tensor:
    """Rearrange features to [batch pixels channels], each pixel normalised to unit length."""
    return normalise_channels(to_float32(features)).flatten(2).mT.contiguous()


class CrossImageSimilarity(DistillationLoss):
    """CIRKD within a batch: the student learns which pixels, across all images, are alike.

    Needs no labels and has no trained parameters. Time is quadratic in the number of pixels in the
    batch. See `cross_image_similarity`.

    Args:
        temperature: Divides the similarities: the smaller, the more the nearest pixels count.
        pool: Side of the squares of features that are average-pooled first; 2 makes the loss 16
            times cheaper.
        weight: Weight relative to the task loss.
    """

    determines_classes = False
    image_by_image = False
    prepare = require_features

    def __init__(
        self, temperature: float = 0.1, pool: int | None = None, weight: Weight = 1.0
    ) -> None:
        super().__init__(weight)
        require_above_zero("CIRKD's authors use 0.1", temperature=temperature)
        if pool is not None:
            require_at_least(1, "None keeps all features", pool=pool)
        self.temperature, self.pool = temperature, pool

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the loss on pooled features."""
        student, teacher = features_of(inputs)
        if self.pool is not None:
            teacher = on_grid_of(student, teacher)
            student, teacher = _pool(student, self.pool), _pool(teacher, self.pool)
        return cross_image_similarity(student, teacher, self.temperature)


def _pool(features: Tensor, size: int) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return F.avg_pool2d(to_float32(features), size, ceil_mode=True)
