"""Facts on teacher and student and on how their outputs are matched, and a table of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from fakd.console import remark
from fakd.data import SegmentationData
from fakd.models.foreign.adapted import Adapted, Probe
from fakd.models.foreign.probe import evaluating
from fakd.models.normalize import Normalize
from fakd.settings import Settings
from fakd.training.objective import Distillation, Objective
from fakd.training.teacher import MappedTeacher, MixedTeacher, StoredTeacher, Teacher
from fakd.types import Segmenter

_WIDEST = 80
_BESIDE = 2
"""Networks side by side in one table."""


class Wiring(NamedTuple):
    """The networks of a run and what connects them, as JSON-serialisable values."""

    parts: list[dict[str, str]]
    """Facts by name: the teachers, then the student; ``role`` names which."""
    between: list[str]
    """Sentences on how their outputs are matched and compared."""


def wiring(
    network: Segmenter,
    objective: Objective,
    data: SegmentationData,
    settings: Settings,
    teacher: Teacher | None = None,
) -> Wiring:
    """Collect facts on the networks of a run; weights and random states are unchanged."""
    taught, size, task = teacher is not None, settings.augmentation.crop, objective.task
    weight = 0.0 if task is None else task.settings.auxiliary_weight
    beside = f"trained, with weight {weight:g}" if weight else "ignored"
    student, grid = _facts(network, data, size, beside)
    named: list[dict[str, str]] = [{"role": "student" if taught else "network", **student}]
    between: list[str] = []
    for role, facts, theirs in () if teacher is None else _teachers("teacher", teacher, data, size):
        named.insert(len(named) - 1, {"role": role, **facts})
        if theirs != grid:
            between.append(f"the {role}'s logits are resized from stride {theirs} to {grid}")
    if isinstance(teacher, MixedTeacher):
        shares = ", ".join(f"{each:g}" for each in teacher.weights)
        between.insert(0, f"the teachers' {teacher.by} is averaged, weights {shares}")
    if isinstance(objective, Distillation):
        between.append(_loss(objective))
    if extra := sum(each.numel() for each in objective.learnt_with_student()):
        between.append(f"{_count(extra)} parameters of the loss learn with the student")
    if task is None:
        between.append("there are no labels: the teacher's classes are used instead")
    return Wiring(named, between)


def _loss(objective: Distillation) -> str:
    said = f"{type(objective.loss).__name__} compares them"
    if (covariance := objective.covariance) is not None:
        seen = "logits" if covariance.kind == "logits" else "features"
        said += f", under feature augmentation by the student's {covariance.kind} covariance"
        said += "" if seen == "logits" else f" of {seen}"
    return said


def _teachers(
    role: str, teacher: Teacher, data: SegmentationData, size: tuple[int, int]
) -> list[tuple[str, dict[str, str], str]]:
    """List role, facts and stride of every teacher."""
    if isinstance(teacher, MixedTeacher):
        members = teacher.members.items()
        named = [(f"{role} {name}", each) for name, each in members]
        return [found for name, each in named for found in _teachers(name, each, data, size)]
    if isinstance(teacher, MappedTeacher):
        found = _teachers(role, teacher.inner, data, size)
        known, ours = teacher.inner.network.classes, data.classes
        mapped = f"{known}, summed into the data's {ours}"
        return [(name, {**facts, "classes": mapped}, grid) for name, facts, grid in found]
    if isinstance(teacher, StoredTeacher):
        channels = teacher.answers.channels
        facts = {
            "library": "stored answers",
            "network": Path(teacher.answers.title).name,
            "images": "those with a stored answer",
            "logits": f"stride {teacher.stride}",
            "features": f"{channels} channels" if channels else "not stored",
            "classes": _classes(teacher.network, data),
        }
        return [(role, facts, str(teacher.stride))]
    facts, grid = _facts(teacher.network, data, size, "ignored")
    return [(role, facts, grid)]


def _facts(
    network: Segmenter, data: SegmentationData, size: tuple[int, int], beside: str
) -> tuple[dict[str, str], str]:
    """Collect facts on a network; the second value is its stride."""
    foreign = isinstance(network, Adapted)
    probe = cast(Probe, network.probe) if foreign else None
    heads: Sequence[str] = probe.auxiliary if probe else ()
    stride, operations = probe.stride if probe else None, 0
    if stride is None:
        place = next(network.parameters(), torch.zeros(())).device
        with evaluating(network), FlopCounterMode(display=False) as counter:
            seen = network(torch.zeros(1, 3, *size, device=place))
        operations = counter.get_total_flops()
        stride = max(1, round(size[0] / seen.logits.shape[-2]))
        if not foreign and seen.auxiliary is not None:
            heads = (
                ["1"] if isinstance(seen.auxiliary, torch.Tensor) else [str(len(seen.auxiliary))]
            )
    count = sum(each.numel() for each in network.parameters())
    classifier = network.classifier
    through = f" into {probe.classifier} ({probe.kind})" if probe and probe.classifier else ""
    normalize = getattr(network, "normalize", None)
    normalised = "by itself"
    if isinstance(normalize, Normalize):
        mean, std = (
            " ".join(f"{each:.3g}" for each in part.flatten().tolist())
            for part in (normalize.mean, normalize.std)
        )
        told = f" ({probe.told_by})" if probe else ""
        normalised = f"mean {mean}, deviation {std}{told}"
    images = probe.sizes if probe else "any"
    if probe and probe.order != "rgb":
        images += f"; {probe.order}"
    undone = f", before its {probe.activation}" if probe and probe.activation != "none" else ""
    return {
        "library": probe.library if probe else _library(network),
        "network": probe.name if probe else name_of(network),
        "parameters": _count(count) if count else "not seen",
        **({"GFLOPs": f"{operations / 1e9:.2f} for {size[0]} x {size[1]}"} if operations else {}),
        "images": images,
        "normalised": normalised,
        "logits": f"stride {stride}{undone}",
        "features": f"{classifier.in_channels} channels{through}"
        if classifier is not None
        else f"not found: {network.opaque or 'it exposes only logits'}",
        "classes": _classes(network, data),
        "auxiliary": f"{', '.join(heads)}: {beside}" if heads else "none",
    }, str(stride)


def _library(network: Segmenter) -> str:
    root = type(network).__module__.partition(".")[0]
    return root if root == "fakd" else "own code"


def name_of(network: Segmenter) -> str:
    """Name a network by its builder and backbone."""
    config = network.config or {}
    built = str(config.get("class_path") or type(network).__name__).rpartition(".")[2]
    backbone = (config.get("init_args") or {}).get("backbone")
    return f"{built} on {backbone}" if isinstance(backbone, str) else built


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e4 else f"{number:,}"


def _classes(network: Segmenter, data: SegmentationData) -> str:
    if network.class_names is None:
        return f"{network.classes}, in the order of the data's"
    differing = len(differing_class_names(network, data))
    said = f"{differing} named unlike the data's" if differing else "named as the data's"
    return f"{network.classes}, {said}"


def differing_class_names(network: Segmenter, data: SegmentationData) -> list[tuple[str, str]]:
    """List pairs of class names, the network's and the data's, that differ at the same index."""
    pairs = zip(network.class_names or (), data.class_names, strict=False)
    return [(theirs, ours) for theirs, ours in pairs if theirs.lower() != ours.lower()]


def compare_class_names(
    console: Console, role: str, network: Segmenter, data: SegmentationData
) -> None:
    """Warn of a network whose classes are called, and so perhaps ordered, differently."""
    if differing := differing_class_names(network, data):
        theirs, ours = differing[0]
        remark(
            console,
            f"{len(differing)} class names of the {role} differ from those of {data.name}, the "
            f"first is {theirs!r} against {ours!r}; their order must agree",
            "warning",
        )


def rows_of(parts: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """Arrange facts in rows: the fact's name, then each network's value; first row: the roles.

    >>> rows_of([{"role": "teacher", "classes": "3"}, {"role": "student", "images": "any"}])
    [('', 'teacher', 'student'), ('classes', '3', ''), ('images', '', 'any')]
    """
    names = dict.fromkeys(name for each in parts for name in each if name != "role")
    heading = ("", *(each["role"] for each in parts))
    return [heading, *((name, *(each.get(name, "") for each in parts)) for name in names)]


def run_summary(data: SegmentationData, settings: Settings, device: torch.device) -> str:
    """Summarise a run in one line: data, number of images and classes, steps and device."""
    images, labelled = len(data.train), len(data.train.labelled_indices())
    few = "" if labelled == images else f" ({labelled:,} with labels)"
    schedule = settings.schedule
    return (
        f"{data.name}: {images:,} training images{few}, {len(data.val):,} for validation, "
        f"{data.classes} classes; {schedule.steps:,} steps of {schedule.batch_size} on {device}"
    )


def show_wiring(console: Console, wired: Wiring) -> None:
    """Print the networks side by side, at most 80 characters wide, and what connects them."""
    for first in range(0, len(wired.parts), _BESIDE):
        heading, *rows = rows_of(wired.parts[first : first + _BESIDE])
        table = Table(box=None, header_style="bold", width=min(_WIDEST, console.width))
        for number, name in enumerate(heading):
            table.add_column(name, overflow="fold", ratio=1 if number else None, no_wrap=not number)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for each in wired.between:
        console.print(Padding(each, (0, 0, 0, 1)), width=min(_WIDEST, console.width))
