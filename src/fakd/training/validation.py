"""Scoring of a network on the validation samples, divided over the processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress

import torch
from jaxtyping import Float, Int, Integer
from lightning_fabric import Fabric
from torch import Tensor

from fakd import signals
from fakd.data import SegmentationData, Split, evaluation_samples
from fakd.errors import InputError
from fakd.inference import score, to_unit
from fakd.metrics import Scores, confusion_matrix
from fakd.processes import all_max, all_sum
from fakd.settings import Settings
from fakd.signals import Interrupted
from fakd.training.interruption import agreed_signal
from fakd.types import Segmenter


def require_same_classes(network: Segmenter, data: SegmentationData) -> None:
    """Refuse a network whose number of classes is not the data's.

    Raises:
        InputError: names both numbers.
    """
    if network.classes != data.classes:
        raise InputError(
            f"the network has {network.classes} classes, {data.name} has {data.classes}; "
            "choose data with its classes, or build a network for these"
        )


def require_class_order(network: Segmenter, data: SegmentationData) -> None:
    """Refuse a network with the data's class names in another order.

    Raises:
        InputError: names the first class that differs.
    """
    theirs, ours = tuple(network.class_names or ()), data.class_names
    if theirs != ours and sorted(theirs) == sorted(ours):
        place = next(i for i, name in enumerate(ours) if name != theirs[i])
        raise InputError(
            f"the network has the classes of {data.name} in another order: {theirs[place]!r} and "
            f"not {ours[place]!r} has id {place}; list the data's classes in the network's "
            "order, or map a teacher's with fakd classes and --classes_from"
        )


def validate_images(
    fabric: Fabric,
    network: Segmenter,
    split: Split,
    settings: Settings,
    computing: AbstractContextManager | None = None,
) -> tuple[Scores, Int[Tensor, "3 images classes"]]:
    """Score a network, and count each image's pixels by class: correct, labelled, predicted.

    Every process gets the scores of the whole labelled split. The counts serve to resample images
    for confidence intervals. ``computing`` sets another precision than the run's.

    Raises:
        FloatingPointError: outputs are infinite or NaN, on any process.
        Interrupted: a signal asked to stop; the counts so far are lost.
    """
    share = range(fabric.global_rank, len(split), fabric.world_size)
    samples = evaluation_samples(split, settings.hardware.workers, share)
    places: list[int] = []
    counts = torch.zeros(3, len(split), network.classes, dtype=torch.long, device=fabric.device)

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for place, sample in zip(share, samples, strict=True):
            if signals.received_signal():
                return
            if sample.labels is not None:
                places.append(place)
                yield sample.image, sample.labels

    def count(number: int, matrix: Tensor) -> None:
        found = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        counts[:, places[number]] = torch.stack(found)

    matrix = None
    with computing or fabric.autocast(), closing(samples), suppress(FloatingPointError):
        matrix = score(network, pairs(), settings.inference, fabric.device, count)
    if number := agreed_signal():
        raise Interrupted(number)
    if all_max(int(matrix is None)) or matrix is None:
        raise FloatingPointError("the network's output is infinite or NaN")
    _require_labels(all_sum(matrix))
    return Scores.from_matrix(matrix), all_sum(counts)


def score_predictions(
    fabric: Fabric,
    predict: Callable[[Float[Tensor, "1 3 height width"], int], Integer[Tensor, "height width"]],
    classes: int,
    split: Split,
    settings: Settings,
) -> Scores:
    """Score what predicts classes from an image and its index, one image after the other.

    Every process gets the scores of the whole labelled split.

    Raises:
        InputError: no pixel of the split has a class.
        Interrupted: a signal asked to stop.
    """
    share = range(fabric.global_rank, len(split), fabric.world_size)
    matrix = torch.zeros(classes, classes, dtype=torch.long, device=fabric.device)
    with closing(evaluation_samples(split, settings.hardware.workers, share)) as samples:
        for index, sample in zip(share, samples, strict=True):
            if signals.received_signal():
                break
            if sample.labels is not None:
                found = predict(to_unit(sample.image[None].to(fabric.device)), index)
                matrix += confusion_matrix(found, sample.labels.to(fabric.device), classes)
    if number := agreed_signal():
        raise Interrupted(number)
    return Scores.from_matrix(_require_labels(all_sum(matrix)))


def _require_labels(matrix: Tensor) -> Tensor:
    if not matrix.any():
        raise InputError(
            "no validation pixel has a class, so there is nothing to score; label some"
        )
    return matrix


def refuse_degenerate_teacher(scores: Scores, data: str) -> None:
    """Refuse a teacher that is no better than predicting the most frequent class everywhere.

    Raises:
        InputError: it is not; usually its class order or its normalisation is wrong.
    """
    pixels = scores.pixels.tolist()
    blind = max(pixels) / sum(pixels) / sum(count > 0 for count in pixels)
    # Rounded differently: a mean of quotients and a quotient may differ in their last bits.
    if not scores.miou > blind * (1 + 1e-9):
        raise InputError(
            f"the teacher scores {100 * scores.miou:.2f} mIoU on {data}, no better than predicting "
            "one class everywhere; check its class order and normalisation, or give "
            "--check_teacher false"
        )
