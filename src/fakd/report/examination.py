"""Measurements of a report's networks: opens data and networks, and compares them on images.

All networks get the same images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fakd import models, specs
from fakd.answers.store import Store
from fakd.data import Sample, SegmentationData, Split, evaluation_samples
from fakd.errors import InputError
from fakd.files import expand_user
from fakd.report.figures import shrink_size
from fakd.report.measurements import Cost, Quality, cost_of, input_size
from fakd.runs.naming import title_of
from fakd.runs.reading import Methods, Run
from fakd.settings import Inference
from fakd.training.start import fingerprint
from fakd.types import IGNORE, Segmenter

TEACHER = "teacher"
SHOTS = 8
LONGEST = 720
"""Maximum longer side in pixels of a stored picture."""


class Example(NamedTuple):
    """One image with its ground truth and every network's prediction, reduced to `LONGEST`."""

    name: str
    disagreement: float
    """Share of the labelled pixels on which student and teacher differ, averaged over students."""
    photo: Image.Image
    maps: dict[str, np.ndarray]
    """Class ids by title, the ground truth first."""


@dataclass(frozen=True)
class Examination:
    """Measurements of the networks of one pair."""

    costs: Mapping[str, Cost]
    qualities: Mapping[str, Quality]
    shots: Sequence[Example]
    """Images with the largest disagreement, largest first."""
    images: int
    total: int
    """Total number of validation images."""


def open_data_of(run: Run) -> SegmentationData:
    """Open the data set of a run's recipe.

    Raises:
        InputError: it is missing, its classes have changed, or it was opened by code outside this
            package.
    """
    spec = run.recipe.get("data")
    # A run folder may be foreign, so no other class is instantiated.
    known = specs.is_spec(spec) and spec["class_path"] in specs.OPENERS
    data = specs.build(spec, asked_by=run.folder, ours=specs.OPENERS) if known else spec
    if not isinstance(data, SegmentationData):
        raise InputError(f"only data opened by fakd.data can be shown, got {_path(spec)}")
    if data.class_names != run.class_names:
        raise InputError(
            f"expected the classes of {run.folder} in {data.name}, got others; restore the data, "
            "or train again"
        )
    if not data.val.labelled:
        raise InputError(f"the val images of {data.name} have no masks to measure with")
    return data


def inference_of(run: Run) -> Inference:
    """Read the inference settings of a run; settings its version lacked keep their defaults."""
    return Inference.from_stored(run.recipe.get("inference") or {})


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
    """Open the teacher of a run, also if the run used its stored answers.

    Raises:
        InputError: the teacher was not one network, cannot be opened, or its weights have changed.
    """
    spec, classes, asked = run.recipe["teacher"], len(run.class_names), None
    if _path(spec) == "fakd.answers.Stored":
        content = Store.open(expand_user(spec["init_args"]["path"])).content
        spec, asked = content["origin"]["teacher"], content["teacher"]["fingerprint"]
    elif _path(spec).startswith("fakd.answers."):
        raise InputError("its answers come from several sources, not from one network")
    network = specs.build(spec, classes=classes, asked_by=run.folder, ours=specs.OPENERS)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"only a network opened by fakd.models can be, got {_path(spec)}")
    network = models.adapt(network)
    if network.classes != classes:
        raise InputError(f"expected a network with {classes} classes, got {network.classes}")
    if asked not in (None, fingerprint(network)):
        raise InputError(f"{_path(spec)} has other weights now than when its answers were stored")
    return network


def _path(spec: Any) -> str:
    return str(spec.get("class_path", "")) if isinstance(spec, Mapping) else str(spec)


def evenly_spaced(total: int, most: int) -> list[int]:
    """Choose evenly spaced indices of a split, or all if there are fewer.

    >>> evenly_spaced(10, 3), evenly_spaced(2, 5)
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
    """Run every network on images, and keep those on which students and teacher disagree most.

    Networks must be in evaluation mode; identically built ones cost the same and are timed once. At
    most ``images`` evenly spaced images of the labelled split are used; ``advance`` is called with
    the number done.
    """
    qualities = {title: Quality(network, inference) for title, network in networks.items()}
    chosen = evenly_spaced(len(split), images)
    shots: list[Example] = []
    size = (0, 0)
    for done, sample in enumerate(evaluation_samples(split, indices=chosen), start=1):
        if sample.labels is None:
            continue
        size = (sample.image.shape[1], sample.image.shape[2])
        said = {title: each.add(sample.image, sample.labels) for title, each in qualities.items()}
        share = disagreement(said, sample.labels)
        if len(shots) < SHOTS or share > shots[-1].disagreement:
            shots.append(_example(sample, share, {"truth": sample.labels, **said}))
            shots = sorted(shots, key=lambda shot: -shot.disagreement)[:SHOTS]
        advance(done)
    costs: dict[str, Cost] = {}
    for title, network in networks.items():
        alike = (costs[other] for other in costs if networks[other].config == network.config)
        known = next(alike, None) if network.config else None
        costs[title] = known or cost_of(network, input_size(size, inference))
    return Examination(costs, qualities, shots, len(chosen), len(split))


def disagreement(said: Mapping[str, Tensor], labels: Tensor) -> float:
    """Return the share of labelled pixels on which students differ from the teacher, on average.

    Without a teacher, they are compared with the labels.
    """
    known = labels != IGNORE
    expected = said.get(TEACHER, labels)[known]
    students = [classes[known] for title, classes in said.items() if title != TEACHER]
    if not students or not known.any():
        return 0.0
    return sum(float((each != expected).float().mean()) for each in students) / len(students)


def _example(sample: Sample, share: float, maps: Mapping[str, Tensor]) -> Example:
    photo = Image.fromarray(sample.image.permute(1, 2, 0).contiguous().numpy())
    size = shrink_size(photo.size, LONGEST)
    whole = {title: Image.fromarray(classes.int().numpy()) for title, classes in maps.items()}
    nearest = Image.Resampling.NEAREST
    reduced = {title: np.asarray(each.resize(size, nearest)) for title, each in whole.items()}
    return Example(sample.name, share, photo.resize(size, Image.Resampling.LANCZOS), reduced)
