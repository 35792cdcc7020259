"""What losses on features ask of the two networks."""

from jaxtyping import Float
from torch import Tensor

from fakd.errors import InputError
from fakd.types import LossInputs, Segmenter

Features = Float[Tensor, "batch _channels rows cols"]


def feature_channels(network: Segmenter, role: str, loss: str) -> int:
    """Count the channels of a network's features, the input of its final classifier.

    Raises:
        InputError: the network shows only its logits; names the loss and what to use instead.
    """
    if network.classifier is None:
        raise InputError(
            f"{loss} compares features, the input of the final classifier, and this {role} shows "
            "only its logits; use a loss on logits, such as ChannelKL or PixelKL"
        )
    return network.classifier.in_channels


def features_of(inputs: LossInputs) -> tuple[Features, Features]:
    """Get the features of student and teacher.

    Raises:
        ValueError: one of them shows only logits.
    """
    student, teacher = inputs.student.features, inputs.teacher.features
    if student is None or teacher is None:
        role = "student" if student is None else "teacher"
        raise ValueError(f"expected the {role}'s features, got None; use a loss on logits")
    return student, teacher
