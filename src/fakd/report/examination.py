"""What the runs of a report name, opened, and the same images shown to all networks.

They are measured, and compared with each other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fakd import models, specs
from fakd.answers.store import Store
from fakd.data import Sample, SegmentationData, Split, evaluation_samples
from fakd.errors import InputError
from fakd.files import expanded
from fakd.report.figures import shrunk
from fakd.report.measurements import Cost, Quality, cost_of, input_size
from fakd.runs.naming import title_of
from fakd.runs.reading import Methods, Run
from fakd.settings import Inference
from fakd.training.start import fingerprint
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


def open_data_of(run: Run) -> SegmentationData:
    """Open the data set that a run's recipe names.

    Raises:
        InputError: it is not there any more, has changed its classes, or was opened by other code
            than this package's.
    """
    spec = run.recipe.get("data")
    # A run folder may come from somebody else, and has nothing else built.
    known = specs.is_spec(spec) and spec["class_path"] in specs.OPENERS
    data = specs.build(spec, asked_by=run.folder, ours=specs.OPENERS) if known else spec
    if not isinstance(data, SegmentationData):
        raise InputError(f"only data that fakd.data opens can be shown, got {_path(spec)}")
    if data.class_names != run.class_names:
        raise InputError(
            f"expected the classes of {run.folder} in {data.name}, got others; put the data back "
            "as they were, or train again"
        )
    if not data.val.labelled:
        raise InputError(f"the val images of {data.name} have no masks to measure with")
    return data


def inference_of(run: Run) -> Inference:
    """Read how a run showed its images to the network; what its version did not know is unset."""
    given = run.recipe.get("inference") or {}
    known = {each.name: given[each.name] for each in fields(Inference) if each.name in given}
    return Inference(**_with_tuples(known))


def open_networks(methods: Methods, device: torch.device) -> tuple[dict[str, Segmenter], list[str]]:
    """Load the teacher and the first seed of every method.

    Returns:
        Networks by title, the teacher first, and why any of them is missing.
    """
    networks: dict[str, Segmenter] = {}
    problems = []
    taught = next((runs[0] for runs in methods.values() if runs[0].recipe.get("teacher")), None)
    if taught is not None:
        try:
            networks[TEACHER] = open_teacher_of(taught)
        except InputError as error:
            problems.append(f"The teacher is not shown: {error}.")
    for method, runs in methods.items():
        try:
            networks[title_of(method)] = models.load(runs[0].weights)
        except InputError as error:
            problems.append(f"{title_of(method)} is not shown: {error}.")
    return {title: each.to(device).eval() for title, each in networks.items()}, problems


def open_teacher_of(run: Run) -> Segmenter:
    """Open the network that a run was taught by, itself or by what it had answered before.

    Raises:
        InputError: it was no network, cannot be opened, or has other weights now.
    """
    spec, classes, asked = run.recipe["teacher"], len(run.class_names), None
    if _path(spec) == "fakd.answers.Stored":
        content = Store.open(expanded(spec["init_args"]["path"])).content
        spec, asked = content["origin"]["teacher"], content["teacher"]["fingerprint"]
    elif _path(spec).startswith("fakd.answers."):
        raise InputError("its answers come from several places, not from one network")
    network = specs.build(spec, classes=classes, asked_by=run.folder, ours=specs.OPENERS)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"only a network that fakd.models opens can be, got {_path(spec)}")
    network = models.adapt(network)
    if network.classes != classes:
        raise InputError(f"expected one of {classes} classes, got one of {network.classes}")
    if asked not in (None, fingerprint(network)):
        raise InputError(f"{_path(spec)} has other weights now than when its answers were stored")
    return network


def _with_tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Undo that YAML has made lists of tuples."""
    return {
        key: tuple(given) if isinstance(given, list) else given for key, given in arguments.items()
    }


def _path(spec: Any) -> str:
    return str(spec.get("class_path", "")) if isinstance(spec, Mapping) else str(spec)


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

    Networks are in evaluation mode; those that are built alike cost the same and are timed once.
    The images are at most so many, evenly over the labelled split; ``advance`` is told how many
    are done.
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
            shots.append(_shot(sample, share, {"truth": sample.labels, **said}))
            shots = sorted(shots, key=lambda shot: -shot.disagreement)[:SHOTS]
        advance(done)
    costs: dict[str, Cost] = {}
    for title, network in networks.items():
        alike = (costs[other] for other in costs if networks[other].config == network.config)
        known = next(alike, None) if network.config else None
        costs[title] = known or cost_of(network, input_size(size, inference))
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


def _shot(sample: Sample, share: float, maps: Mapping[str, Tensor]) -> Shot:
    photo = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
    size = shrunk(photo.size, LONGEST)
    whole = {title: Image.fromarray(classes.int().numpy()) for title, classes in maps.items()}
    nearest = Image.Resampling.NEAREST
    reduced = {title: np.asarray(each.resize(size, nearest)) for title, each in whole.items()}
    return Shot(sample.name, share, photo.resize(size, Image.Resampling.LANCZOS), reduced)
