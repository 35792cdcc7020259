"""Scoring a network on the validation samples, each process taking its share."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress

import torch
from jaxtyping import Int
from lightning_fabric import Fabric
from torch import Tensor

from fakd import signals
from fakd.data import SegmentationData, Split, evaluation_samples
from fakd.errors import InputError
from fakd.inference import score
from fakd.metrics import Scores
from fakd.processes import largest, summed
from fakd.settings import Settings
from fakd.signals import Interrupted
from fakd.training.interruption import agreed
from fakd.types import Segmenter


def require_same_classes(network: Segmenter, data: SegmentationData) -> None:
    """Refuse a network for data with another number of classes.

    Raises:
        InputError: names both numbers.
    """
    if network.classes != data.classes:
        raise InputError(
            f"the network knows {network.classes} classes, {data.name} has {data.classes}; "
            "choose data with its classes, or build a network for these"
        )


def require_class_order(network: Segmenter, data: SegmentationData) -> None:
    """Refuse a network that calls its classes as the data do, but in another order.

    Raises:
        InputError: names the first class that is elsewhere.
    """
    theirs, ours = tuple(network.class_names or ()), data.class_names
    if theirs != ours and sorted(theirs) == sorted(ours):
        place = next(i for i, name in enumerate(ours) if name != theirs[i])
        raise InputError(
            f"the network has the classes of {data.name} in another order: {theirs[place]!r} and "
            f"not {ours[place]!r} in place {place}; list them there in that of the network"
        )


def validate_images(
    fabric: Fabric,
    network: Segmenter,
    split: Split,
    settings: Settings,
    computing: AbstractContextManager | None = None,
) -> tuple[Scores, Int[Tensor, "3 images classes"]]:
    """Score a network, and count each image's pixels by class: right, labelled, predicted.

    Every process gets the scores of the whole labelled split. Sums over images give the scores;
    resampled images give their uncertainty. ``computing`` says how precisely, if not as a run does.

    Raises:
        FloatingPointError: answers are infinite or NaN, to whichever process.
        Interrupted: a signal asks to stop; what was counted is lost.
    """
    share = range(fabric.global_rank, len(split), fabric.world_size)
    samples = evaluation_samples(split, settings.hardware.workers, share)
    places: list[int] = []
    counts = torch.zeros(3, len(split), network.classes, dtype=torch.long, device=fabric.device)

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for place, sample in zip(share, samples, strict=True):
            if signals.noted():
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
    if number := agreed():
        raise Interrupted(number)
    if largest(int(matrix is None)) or matrix is None:
        raise FloatingPointError("the network's answers are infinite or NaN")
    if not summed(matrix).any():
        raise InputError(
            "no validation pixel has a class, so there is nothing to score; label some"
        )
    return Scores.from_matrix(matrix), summed(counts)


def refuse_degenerate_teacher(scores: Scores, data: str) -> None:
    """Refuse a teacher that is no better than naming the most frequent class everywhere.

    Raises:
        InputError: it is not; usually its classes are ordered or its input normalised otherwise.
    """
    pixels = scores.pixels.tolist()
    blind = max(pixels) / sum(pixels) / sum(count > 0 for count in pixels)
    # Both are rounded: a mean of quotients and a quotient are equal but for their last bits.
    if not scores.miou > blind * (1 + 1e-9):
        raise InputError(
            f"the teacher scores {100 * scores.miou:.2f} mIoU on {data}, no better than naming one "
            "class everywhere; check its class order and normalisation, or give "
            "--check_teacher false"
        )
