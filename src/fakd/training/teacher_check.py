"""Quick evaluation of a teacher, and a search for wrong normalisation or class order."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Integer
from torch import Tensor

from fakd.data import Sample, SegmentationData
from fakd.inference import to_unit
from fakd.inspection import Finding, Severity, spread_evenly
from fakd.metrics import Scores, confusion_matrix
from fakd.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from fakd.settings import Settings
from fakd.training.teacher import MappedTeacher, NetworkTeacher, Teacher
from fakd.types import Segmenter

IMAGES = 8
"""Number of validation images that a teacher is evaluated on."""
_Way = tuple[tuple[float, ...], tuple[float, ...]]
_FED: Mapping[str, _Way] = {
    "ImageNet's way": (IMAGENET_MEAN, IMAGENET_STD),
    "to [-1, 1]": ((0.5,) * 3, (0.5,) * 3),
    "to [0, 1]": ((0.0,) * 3, (1.0,) * 3),
    "to [0, 255]": ((0.0,) * 3, (1 / 255,) * 3),
    "Caffe's way": (IMAGENET_MEAN, (1 / 255,) * 3),
}
"""Mean and standard deviation of the normalisations that published networks use."""
_BETTER = 0.02
"""Gain of mIoU that another normalisation needs, on few images, to be more than chance."""
_MOVED = 0.05
"""Gain of mIoU that another order of the teacher's classes needs."""


class TeacherScores(NamedTuple):
    """A teacher's predictions for a few validation images."""

    matrices: list[Int[Tensor, "classes classes"]]
    """The confusion matrix of each image."""
    samples: list[Sample]
    answers: list[Integer[Tensor, "height width"]]
    seconds: float

    @property
    def scores(self) -> Scores:
        """Scores over all images."""
        return Scores.from_matrix(self.first())

    def first(self, images: int | None = None) -> Int[Tensor, "classes classes"]:
        """Sum the confusion matrices of the first ``images`` images; of all by default."""
        return torch.stack(self.matrices[:images]).sum(0)


def score_teacher(
    teacher: Teacher, data: SegmentationData, settings: Settings, seconds: float, most: int = IMAGES
) -> TeacherScores:
    """Run a teacher on a few evenly spread validation images, until the time is up."""
    classes, began = teacher.network.classes, time.monotonic()
    asked = TeacherScores([], [], [], 0.0)
    for index in spread_evenly(len(data.val))[:IMAGES]:
        sample = data.val[index]
        if sample.labels is None:
            continue
        image = to_unit(sample.image[None].to(teacher.device))
        found = teacher.predict(image, index, settings.inference).argmax(1)[0].cpu()
        asked.matrices.append(confusion_matrix(found, sample.labels, classes))
        asked.samples.append(sample)
        asked.answers.append(found)
        if len(asked.samples) == most or time.monotonic() - began > seconds:
            break
    return asked._replace(seconds=time.monotonic() - began)


def is_uninformative(matrix: Int[Tensor, "classes classes"], miou: float) -> bool:
    """Tell whether an mIoU is no better than predicting the most frequent class everywhere."""
    pixels = matrix.sum(1)
    return miou <= float(pixels.max() / pixels.sum() / (pixels > 0).sum()) * (1 + 1e-9)


def best_class_order(matrix: Int[Tensor, "classes classes"]) -> tuple[float, list[int]]:
    """Find the order of the teacher's classes that matches the labels best.

    Classes are assigned one to one so that the sum of their IoUs is largest (Kuhn, 1955).

    Returns:
        The mIoU in that order, over the classes in the labels, and the teacher's class of each.
    """
    from scipy.optimize import linear_sum_assignment

    counts = matrix.double()
    union = counts.sum(1, keepdim=True) + counts.sum(0, keepdim=True) - counts
    iou = counts / union.clamp(min=1)
    _, order = linear_sum_assignment(iou.numpy(), maximize=True)
    shown = counts.sum(1) > 0
    return float(iou[range(len(iou)), order][shown].mean()), [int(each) for each in order]


def find_better_inputs(
    teacher: Teacher,
    data: SegmentationData,
    settings: Settings,
    asked: TeacherScores,
    seconds: float,
) -> tuple[list[Finding], list[Finding]]:
    """Look for a normalisation, channel order or class order in which the teacher scores higher."""
    found, matrix = _try_normalizations(teacher, data, settings, asked, seconds)
    return found, _judge_class_order(teacher.network, data, matrix)


def _judge_class_order(
    network: Segmenter, data: SegmentationData, matrix: Int[Tensor, "classes classes"]
) -> list[Finding]:
    """Judge by the labels whether a teacher has the data's classes in another order."""
    best, order = best_class_order(matrix)
    here, pixels = Scores.from_matrix(matrix).miou, matrix.sum(1)
    moved = [i for i, theirs in enumerate(order) if theirs != i and pixels[i]]
    gained = best > max(here + _MOVED, 1.25 * here) and not is_uninformative(matrix, best / 1.25)
    if not gained or len(moved) < 2:
        return []
    theirs = network.class_names or tuple(f"its class {number}" for number in range(len(order)))
    largest = sorted(moved, key=lambda i: -int(pixels[i]))[:3]
    pairs = ", ".join(f"{data.class_names[i]} is {theirs[order[i]]}" for i in largest)
    return [
        Finding(
            Severity.STOPS,
            f"the teacher's classes are in another order: it scores {100 * here:.1f} mIoU, and "
            f"{100 * best:.1f} if {len(moved)} classes are permuted ({pairs}); map them: fakd "
            "classes TEACHER DATA --out map.yaml, then --classes_from map.yaml",
        )
    ]


def _try_normalizations(
    teacher: Teacher,
    data: SegmentationData,
    settings: Settings,
    asked: TeacherScores,
    seconds: float,
) -> tuple[list[Finding], Int[Tensor, "classes classes"]]:
    """Try other common normalisations; return findings, and the confusion matrix of the best.

    Each is tried with the network's channel order, then, best first and as time allows, with the
    other one. All are compared on the same images, each with its best order of classes.
    """
    inner = teacher.inner if isinstance(teacher, MappedTeacher) else teacher
    network: Any = inner.network
    normalize = getattr(network, "normalize", None)
    if not isinstance(inner, NetworkTeacher) or not isinstance(normalize, Normalize):
        return [], asked.first()
    own: _Way = (tuple(normalize.mean.flatten().tolist()), tuple(normalize.std.flatten().tolist()))
    if len(own[0]) != 3:
        return [], asked.first()
    each, until = asked.seconds / len(asked.samples), time.monotonic() + seconds
    images = min(len(asked.samples), max(2, int(seconds / each / (2 * len(_FED) + 1))))
    before = getattr(network, "order", "rgb")
    tried = {("", before): asked.first(images)}

    def trial(name: str, order: str) -> None:
        if time.monotonic() < until:
            with _changed_inputs(network, _FED.get(name, own), order):
                found = score_teacher(teacher, data, settings, seconds, images)
            tried[name, order] = found.first()

    def best() -> tuple[str, str]:
        # One that predicts the same class everywhere may score higher by chance.
        values = {way: best_class_order(matrix)[0] for way, matrix in tried.items()}
        seeing = [way for way in tried if not is_uninformative(tried[way], values[way])]
        return max(seeing, key=lambda way: values[way], default=("", before))

    for name, how in _FED.items():
        if not torch.allclose(torch.tensor(own), torch.tensor(how), atol=3e-3):
            trial(name, before)
    if hasattr(network, "order"):
        ways = sorted(tried, key=lambda way: best_class_order(tried[way])[0], reverse=True)
        for name, _ in ways:
            trial(name, "rgb" if before == "bgr" else "bgr")
    name, order = best()
    here, there = (best_class_order(tried[way])[0] for way in (("", before), (name, order)))
    if not there > max(here + _BETTER, 1.1 * here):
        return [], asked.first()
    mean, std = ([float(f"{x:.4g}") for x in part] for part in _FED.get(name, own))
    done = [f"normalised {name}"] if name else []
    flags = [f"--teacher.mean '{mean}' --teacher.std '{std}'"] if name else []
    if order != before:
        done.append("with red and blue swapped")
        flags.append(f"--teacher.order {order}")
    finding = Finding(
        Severity.STOPS if there > 1.5 * here else Severity.HARMS,
        f"the teacher scores {100 * here:.1f} mIoU on {images} images as they are fed to it, and "
        f"{100 * there:.1f} if they are {' and '.join(done)}; give {' '.join(flags)}",
    )
    return [finding], tried[name, order]


@contextmanager
def _changed_inputs(network: Any, way: _Way, order: str) -> Iterator[None]:
    """Temporarily change a network's normalisation and channel order."""
    normalize = network.normalize
    before = normalize.mean, normalize.std, getattr(network, "order", None)
    mean, std = (torch.tensor(each).view(-1, 1, 1).to(before[0]) for each in way)
    normalize.mean, normalize.std = mean, std
    if before[2] is not None:
        network.order = order
    try:
        yield
    finally:
        normalize.mean, normalize.std = before[:2]
        if before[2] is not None:
            network.order = before[2]
