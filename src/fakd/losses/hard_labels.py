"""Hard pseudo-labels: the teacher's class as the label, where its confidence is high enough."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fakd.losses.grid import on_grid_of, to_float32
from fakd.types import IGNORE, DistillationLoss, LossInputs, Weight


def hard_label_cross_entropy(
    student_logits: Float[Tensor, "batch classes rows cols"],
    teacher_logits: Float[Tensor, "batch classes _rows _cols"],
    threshold: float = 0.0,
) -> Float[Tensor, ""]:
    r"""Compute the cross-entropy with the teacher's most likely class as each pixel's label.

    .. math:: - \frac{1}{|S|} \sum_{i \in S} \log \mathrm{softmax}(s_i)_{\hat y_i}, \quad
        \hat y_i = \arg\max_c t_{ic}, \quad S = \{i : \max_c \mathrm{softmax}(t_i)_c \ge \tau\}

    Pseudo-labels (Lee, 2013) with the threshold of FixMatch (Sohn et al., 2020, arXiv 2001.07685).
    Pixels are used whether labelled or not; if S is empty the loss is 0. The teacher gets no
    gradient; its logits are resampled to the student's grid. ``threshold`` is :math:`\tau`.

    >>> hard_label_cross_entropy(torch.zeros(1, 2, 1, 1), torch.tensor([2.0, 0]).view(1, 2, 1, 1))
    tensor(0.6931)
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        teacher = to_float32(on_grid_of(student_logits, teacher_logits.detach()))
        chance, likely = teacher.softmax(1).max(1)
        labels = torch.where(chance >= threshold, likely, IGNORE)
        total = F.cross_entropy(
            to_float32(student_logits), labels, ignore_index=IGNORE, reduction="sum"
        )
        return total / (labels != IGNORE).sum().clamp(min=1)


class HardLabels(DistillationLoss):
    """Pseudo-labels: the student learns the teacher's class of each pixel as its label.

    The usual method for images without labels, and the baseline for every loss on the teacher's
    probabilities. See `hard_label_cross_entropy`.

    Args:
        threshold: Minimum probability of the teacher's class for a pixel to be used.
        weight: Weight relative to the task loss.
    """

    def __init__(self, threshold: float = 0.0, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        if not 0 <= threshold < 1:
            raise ValueError(f"expected threshold from 0 to below 1, got {threshold}")
        self.threshold = threshold
        # With a threshold, images in which the teacher is more confident count more.
        self.image_by_image = threshold == 0

    def forward(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute the cross-entropy."""
        logits = inputs.student.logits, inputs.teacher.logits
        return hard_label_cross_entropy(*logits, self.threshold)
