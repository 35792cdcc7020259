"""Opening what the runs of a report name: their data, their networks, their teacher."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from fakd import models, specs
from fakd.data import SegmentationData
from fakd.errors import InputError
from fakd.report.examination import TEACHER
from fakd.runs.naming import title_of
from fakd.runs.reading import Methods, Run
from fakd.settings import Inference
from fakd.types import Segmenter


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
    names = [field.name for field in fields(Inference) if field.name in given]
    return Inference(**_with_tuples({name: given[name] for name in names}))


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
            networks[TEACHER] = _open_teacher(taught)
        except InputError as error:
            problems.append(f"The teacher is not shown: {error}.")
    for method, runs in methods.items():
        try:
            networks[title_of(method)] = models.load(runs[0].weights)
        except InputError as error:
            problems.append(f"{title_of(method)} is not shown: {error}.")
    return {title: each.to(device).eval() for title, each in networks.items()}, problems


def _open_teacher(run: Run) -> Segmenter:
    spec, classes = run.recipe["teacher"], len(run.class_names)
    network = specs.build(spec, classes=classes, asked_by=run.folder, ours=specs.OPENERS)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"only a network that fakd.models opens can be, got {_path(spec)}")
    network = models.adapt(network)
    if network.classes != classes:
        raise InputError(f"expected one of {classes} classes, got one of {network.classes}")
    return network


def _with_tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Undo that YAML has made lists of tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arguments.items()
    }


def _path(spec: Any) -> str:
    return str(spec.get("class_path", "")) if isinstance(spec, Mapping) else str(spec)
