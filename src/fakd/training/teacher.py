"""Where the answers come from that a student learns from; it stands between batch and objective."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from fakd.data import Batch, Split
from fakd.errors import InputError
from fakd.metrics import Scores
from fakd.settings import Hardware, Settings
from fakd.training.validation import validate
from fakd.types import Prediction, Segmenter


def require_apart(teacher: Segmenter, student: Segmenter) -> None:
    """Refuse a student that would learn with the teacher's own weights, which stay as they are.

    Raises:
        InputError: they are one object, or share weights or buffers.
    """
    if teacher is student:
        raise InputError(
            "teacher and student are one network; give the student as a copy, copy.deepcopy(...), "
            "or the teacher as the folder of its run"
        )
    names = {
        entry.untyped_storage().data_ptr(): name
        for name, entry in teacher.state_dict().items()
        if entry.numel()
    }
    for name, entry in student.state_dict().items():
        if entry.numel() and (theirs := names.get(entry.untyped_storage().data_ptr())):
            raise InputError(
                f"teacher and student share weights: {theirs} is the student's {name}; build the "
                "student anew, or give it as a copy, copy.deepcopy(...)"
            )


class Teacher(ABC):
    """Answers for batches, without gradient and without ever changing.

    It owns device, precision and memory layout of whatever it asks, and is no module, so that no
    checkpoint holds it and nothing switches it to training mode. What it is asked about comes as
    pixels and as `Batch`: a network looks at the pixels, a store of earlier answers looks up the
    samples and cuts their maps by the geometry of their views.
    """

    network: Segmenter
    """What a loss may look at before the first step: classes, and the features' channels."""

    @abstractmethod
    def answer(self, images: Float[Tensor, "batch 3 height width"], batch: Batch) -> Prediction:
        """Answer for the images of a batch, in [0, 1] and on the device, on any grid."""

    @abstractmethod
    def validate(self, split: Split, settings: Settings) -> Scores:
        """Score the answers on a labelled split; every process gets the scores of the whole."""


class NetworkTeacher(Teacher):
    """A network that is asked anew for every batch.

    Args:
        network: is frozen, put into evaluation mode and moved to the device of ``fabric``.
        fabric: says where and how precisely to compute.
        hardware: says in which memory layout.
    """

    def __init__(self, network: Segmenter, fabric: Fabric, hardware: Hardware) -> None:
        self.network = network.eval().requires_grad_(False).to(fabric.device)
        if hardware.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self._fabric = fabric

    def answer(self, images: Float[Tensor, "batch 3 height width"], batch: Batch) -> Prediction:
        """Run the network."""
        with torch.no_grad(), self._fabric.autocast():
            prediction: Prediction = self.network(images)
        return prediction

    def validate(self, split: Split, settings: Settings) -> Scores:
        """Score the network as any other."""
        return validate(self._fabric, self.network, split, settings)
