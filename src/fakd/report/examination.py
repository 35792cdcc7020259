"""Showing the same images to all networks of a report: measured, and compared with each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from fakd.data import Split, evaluation_samples
from fakd.report.measurements import Cost, Quality, cost_of, input_size
from fakd.settings import Inference
from fakd.types import IGNORE, Segmenter

TEACHER = "teacher"
SHOTS = 8
LONGEST = 720
"""Pixels that the longer side of a kept picture has at most."""


class Shot(NamedTuple):
    """One image with its truth and what every network says, reduced to `LONGEST`."""

    name: str
    disagreement: float
    """Share of the labelled pixels on which student and teacher differ, mean over students."""
    photo: Image.Image
    maps: dict[str, np.ndarray]
    """Class ids by the layer's title, the truth first."""


@dataclass(frozen=True)
class Examination:
    """What was found out about the networks of one pair."""

    costs: Mapping[str, Cost]
    qualities: Mapping[str, Quality]
    shots: Sequence[Shot]
    """Those with the largest disagreement, largest first."""
    images: int
    total: int
    """Validation images there are."""


def spaced(total: int, most: int) -> list[int]:
    """Choose indices evenly over a split, all of them if there are no more than wanted.

    >>> spaced(10, 3), spaced(2, 5)
    ([1, 5, 8], [0, 1])
    """
    count = min(total, most)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def examine(
    networks: Mapping[str, Segmenter],
    split: Split,
    inference: Inference,
    images: int,
    advance: Callable[[int], None],
) -> Examination:
    """Show images to every network and keep those that divide students and teacher most.

    Networks that are built alike cost the same and are timed once.

    Args:
        networks: by title, in evaluation mode; `TEACHER` is the one the others are compared with,
            without which they are compared with the labels.
        split: labelled images.
        inference: how images are shown to the networks.
        images: how many at most, evenly over the split.
        advance: told how many images are done.
    """
    qualities = {title: Quality(network, inference) for title, network in networks.items()}
    chosen = spaced(len(split), images)
    shots: list[Shot] = []
    size = (0, 0)
    for done, sample in enumerate(evaluation_samples(split, indices=chosen), start=1):
        if sample.labels is None:
            continue
        size = (sample.image.shape[1], sample.image.shape[2])
        said = {title: each.add(sample.image, sample.labels) for title, each in qualities.items()}
        share = disagreement(said, sample.labels)
        if len(shots) < SHOTS or share > shots[-1].disagreement:
            maps = {"truth": sample.labels.long(), **said}
            shots.append(_shot(sample.name, share, sample.image, maps))
            shots = sorted(shots, key=lambda shot: -shot.disagreement)[:SHOTS]
        advance(done)
    costs: dict[str, Cost] = {}
    for title, network in networks.items():
        twins = (other for other in costs if networks[other].config == network.config)
        twin = next(twins, None) if network.config else None
        costs[title] = costs[twin] if twin else cost_of(network, input_size(size, inference))
    return Examination(costs, qualities, shots, len(chosen), len(split))


def disagreement(said: Mapping[str, Tensor], labels: Tensor) -> float:
    """Measure on what share of the labelled pixels students differ from the teacher, on average.

    Without a teacher it is the labels that they differ from.
    """
    known = labels != IGNORE
    expected = said.get(TEACHER, labels)[known]
    students = [classes[known] for title, classes in said.items() if title != TEACHER]
    if not students or not known.any():
        return 0.0
    return sum(float((each != expected).float().mean()) for each in students) / len(students)


def _shot(name: str, share: float, image: Tensor, maps: Mapping[str, Tensor]) -> Shot:
    photo = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = min(1.0, LONGEST / max(photo.size))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    reduced = {
        title: np.asarray(
            Image.fromarray(classes.int().numpy()).resize(size, Image.Resampling.NEAREST)
        )
        for title, classes in maps.items()
    }
    return Shot(name, share, photo.resize(size, Image.Resampling.LANCZOS), reduced)
