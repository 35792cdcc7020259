"""Trained layer that maps the student's features to the teacher's channels, and feature checks."""

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fakd.errors import InputError, require_choice
from fakd.losses.grid import to_float32
from fakd.types import DistillationLoss, LossInputs, Segmenter

Features = Float[Tensor, "batch _channels _rows _cols"]


def feature_channels(
    loss: DistillationLoss, student: Segmenter, teacher: Segmenter
) -> tuple[int, int]:
    """Count the channels of both networks' features, the input of their final classifiers.

    Raises:
        InputError: a network provides only logits; names the loss and an alternative.
    """
    for role, network in (("student", student), ("teacher", teacher)):
        if network.classifier is None:
            raise InputError(
                f"{type(loss).__name__} compares features, the input of the final classifier, but "
                f"this {role} provides only logits; use a loss on logits, such as ChannelKL or "
                "PixelKL"
            )
    return student.classifier.in_channels, teacher.classifier.in_channels  # type: ignore[union-attr]


def require_features(loss: DistillationLoss, student: Segmenter, teacher: Segmenter) -> None:
    """Check that both networks provide features: ``prepare`` for losses that build no layer."""
    feature_channels(loss, student, teacher)


def features_of(inputs: LossInputs) -> tuple[Features, Features]:
    """Get the features of student and teacher; raises a ValueError if one has only logits."""
    student, teacher = inputs.student.features, inputs.teacher.features
    if student is None or teacher is None:
        role = "student" if student is None else "teacher"
        raise ValueError(f"expected the {role}'s features, got None; use a loss on logits")
    return student, teacher


AlignmentKind = Literal["conv", "conv-bias", "conv-bn-relu", "none"]


class Alignment(nn.Module):
    """Maps the student's features to the teacher's number of channels, even if they are equal.

    A 1x1 convolution: without bias as in CIRKD (conv), with bias as in the CWD authors' code for
    mmsegmentation (conv-bias), or without bias and followed by batch norm and ReLU as in their code
    for Cityscapes (conv-bn-relu; their leaky ReLU before the ReLU has no effect). Runs in at least
    float32, outside autocast.

    Raises:
        InputError: the kind is none, which leaves the features unchanged, and channels differ.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, kind: AlignmentKind = "conv"
    ) -> None:
        super().__init__()
        require_choice("kind", kind, AlignmentKind)
        self.layers = nn.Sequential()
        if kind == "none":
            if student_channels != teacher_channels:
                raise InputError(
                    "alignment 'none' expects as many channels in the student's features as in "
                    f"the teacher's, got {student_channels} and {teacher_channels}; "
                    "choose alignment 'conv'"
                )
            return
        self.layers.append(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=kind == "conv-bias")
        )
        if kind == "conv-bn-relu":
            self.layers.extend([nn.BatchNorm2d(teacher_channels), nn.ReLU()])

    def forward(
        self, features: Float[Tensor, "batch student_channels rows cols"]
    ) -> Float[Tensor, "batch teacher_channels rows cols"]:
        """Map each pixel's features."""
        with torch.autocast(features.device.type, enabled=False):
            return cast(Tensor, self.layers(to_float32(features)))


def check_channels(
    student: Float[Tensor, "batch _channels _rows _cols"],
    teacher: Float[Tensor, "batch _channels _rows _cols"],
) -> None:
    """Check that student and teacher features have equally many channels."""
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"expected student features with the teacher's {teacher.shape[1]} channels, got "
            f"{student.shape[1]}; pass Alignment({student.shape[1]}, {teacher.shape[1]})(features)"
        )


def aligned_features(inputs: LossInputs, align: Alignment | None) -> tuple[Features, Features]:
    """Get the student's aligned features and the teacher's features."""
    if align is None:
        raise ValueError(
            "expected a prepared loss, got one without an alignment; "
            "call loss.prepare(student, teacher) first"
        )
    student, teacher = features_of(inputs)
    return align(student), teacher
