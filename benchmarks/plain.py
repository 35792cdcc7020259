"""A straightforward distillation step in the style of public code: the baseline of `step.py`.

Eager float32: logits upsampled to the labels, softmax over whole maps, statistics by class and
image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fakd.settings import IGNORE
from fakd.types import Prediction

AUXILIARY = 0.4


def supervised(student: Prediction, labels: Tensor) -> Tensor:
    """Cross-entropy of the main head and of the auxiliary one."""
    return enlarged(student.logits, labels) + AUXILIARY * enlarged(student.auxiliary, labels)


def enlarged(logits: Tensor, labels: Tensor) -> Tensor:
    maps = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(maps, labels, ignore_index=IGNORE)


def pixel(student: Tensor, teacher: Tensor, variance: Tensor | float = 0.0) -> Tensor:
    """PD: softmax over classes."""
    target = F.softmax(teacher, 1)
    log_share = F.log_softmax(student + variance / 2, 1) - variance / 2
    return F.kl_div(log_share, target, reduction="none").sum(1).mean()


def channel(student: Tensor, teacher: Tensor, variance: Tensor | float = 0.0) -> Tensor:
    """CWD: softmax over positions."""
    shape = (-1, student.shape[2] * student.shape[3])
    raised = variance.reshape(shape) / 2 if isinstance(variance, Tensor) else variance
    target = F.softmax(teacher.reshape(shape), 1)
    log_share = F.log_softmax(student.reshape(shape) + raised, 1) - raised
    return F.kl_div(log_share, target, reduction="none").sum(1).mean()


class Statistics:
    """Running variance of each class, one image and class after another."""

    def __init__(self, classes: int, channels: int) -> None:
        self.count = torch.zeros(classes)
        self.mean, self.variance = torch.zeros(2, classes, channels)

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Update with the pixels of one class of one image at a time."""
        for image, own in zip(features, labels, strict=True):
            for k in own.unique().tolist():
                if k == IGNORE:
                    continue
                pixels = image[:, own == k]
                share = pixels.shape[1] / (self.count[k] + pixels.shape[1])
                shift = pixels.mean(1) - self.mean[k]
                spread = pixels.var(1, correction=0) + (1 - share) * shift.square()
                self.variance[k] = (1 - share) * self.variance[k] + share * spread
                self.mean[k] += share * shift
                self.count[k] += pixels.shape[1]

    def of_logits(self, weight: Tensor, labels: Tensor) -> Tensor:
        """Return the variance of every pixel's logits."""
        table = self.variance @ weight.flatten(1).square().T
        known = (labels != IGNORE)[..., None]
        return (table[labels.clamp(min=0)] * known).permute(0, 3, 1, 2)
