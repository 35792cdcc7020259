"""Choose the largest student within a budget before training, or check a given one against it."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fakd.budget import RUNTIMES, read_budget
from fakd.console import open_console, remark
from fakd.data import SegmentationData
from fakd.errors import InputError
from fakd.models import open_network
from fakd.models.catalogue import count
from fakd.models.students import imagenet_location, installed, is_ready_made, with_imagenet
from fakd.processes import launched_processes
from fakd.report.measurements import input_size
from fakd.settings import Hardware, Inference
from fakd.sources import resolve
from fakd.timing import place_name, require_runtimes, time_network
from fakd.training.progress import StepProgress
from fakd.training.start import pick_device
from fakd.training.wiring import name_of
from fakd.types import Segmenter


@dataclass(frozen=True)
class Conditions:
    """Conditions of the measurements.

    Args:
        size: height and width of an image of the data.
        classes: number of classes of the data.
        inference: inference settings.
        device: device that is measured.
    """

    size: tuple[int, int]
    classes: int
    inference: Inference
    device: torch.device

    def __str__(self) -> str:
        height, width = self.size
        return f"one image of {height} x {width}, {place_name(self.device)}"


@dataclass(frozen=True)
class Fit:
    """A student within a budget, or a given one, and its costs."""

    budget: str
    """The limits, as the user wrote them."""
    student: str
    """Its name; see `fakd.sources.resolve`."""
    costs: Mapping[str, float]
    """Every quantity with a limit, and the parameters."""
    limits: Mapping[str, float]
    given: bool
    """Whether the user chose it."""
    looked_at: int
    """Number of students that were measured."""
    measured: str
    """Conditions of the measurement, as text."""

    @property
    def holds(self) -> bool:
        """Whether it is within the budget."""
        return _is_within(self.costs, self.limits)

    @property
    def sentence(self) -> str:
        """Report which student was chosen, or whether the given one is within the budget."""
        costs = f"{_format_costs(self.costs)} ({self.measured})"
        if not self.given:
            return (
                f"--fit {self.budget}: the largest ready-made student within it is "
                f"{self.student}, {costs}"
            )
        within = "within" if self.holds else "NOT within"
        return f"--fit {self.budget}: the given student is {within} it, {costs}"

    def as_dict(self) -> dict[str, Any]:
        """Convert it to plain JSON."""
        return {
            "budget": self.budget,
            "student": self.student,
            "given": self.given,
            "holds": self.holds,
            "costs": dict(self.costs),
            "looked_at": self.looked_at,
            "measured": self.measured,
        }


def propose(
    budget: str, conditions: Conditions, done: Callable[[int], None] = lambda _: None
) -> Fit:
    """Choose the student with the most parameters within a budget.

    Students are tried from the largest down, and only limited quantities are measured. The chosen
    name includes ImageNet weights if these are on this machine.

    Args:
        budget: see `fakd.budget.read_budget`.
        conditions: conditions of the measurements.
        done: called with the number of steps done.

    Raises:
        InputError: no student is within the budget.
    """
    limits = _limits(budget)
    sizes = {}
    for number, word in enumerate(words := installed(), start=1):
        network = open_network(word, conditions.classes)
        sizes[word] = sum(each.numel() for each in network.parameters())
        done(number)
    costs: dict[str, float] = {}
    problem = ""
    ordered = sorted(words, key=lambda word: -sizes[word])
    for number, word in enumerate(ordered, start=1):
        opened = partial(open_network, word, conditions.classes)
        costs, problem = _costs(opened, sizes[word], limits, conditions)
        done(len(words) + number)
        if _is_within(costs, limits):
            here = imagenet_location(resolve(word)) == "here"
            chosen = with_imagenet(word) if here else word
            return Fit(budget, chosen, costs, limits, False, number, str(conditions))
    raise InputError(
        f"--fit {budget}: none of the {len(words)} ready-made students is within it; the "
        f"smallest, {ordered[-1]}, has {_format_costs(costs)} ({conditions}){problem}; raise a "
        "limit, give a smaller --inference.scale, or give a --student"
    )


def check_against(budget: str, student: Segmenter, name: str, conditions: Conditions) -> Fit:
    """Measure a student that the user chose against a budget."""
    limits = _limits(budget)
    size = sum(each.numel() for each in student.parameters())
    opened = partial(copy.deepcopy, student)
    costs, problem = _costs(opened, size, limits, conditions, whole=True)
    if problem:
        raise InputError(f"--fit {budget}{problem}")
    return Fit(budget, name, costs, limits, True, 1, str(conditions))


def settle(
    budget: str,
    student: Any,
    data: SegmentationData,
    inference: Inference,
    hardware: Hardware,
    seed: int,
    before: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Choose a student for a run, or check the given one against the budget.

    Args:
        budget: see `fakd.budget.read_budget`.
        student: anything that `open_network` takes; None to choose one.
        data: training data.
        inference: inference settings.
        hardware: hardware settings.
        seed: seed of its initial weights.
        before: record of the run if it is resumed, which then keeps its student.

    Returns:
        The student, or its name, and the record to store in the run.

    Raises:
        InputError: nothing is within the budget, or there are several processes.
    """
    same = student is None and before is not None and before.get("budget") == budget
    if before is not None and same and is_ready_made(before.get("student")):
        torch.manual_seed(seed)
        return before["student"], dict(before)
    if max(hardware.devices, launched_processes()[1]) > 1 and student is None:
        raise InputError(
            "--fit cannot choose with several processes; choose with fakd students --measure, and "
            "give --student"
        )
    device = pick_device(hardware.accelerator, hardware.threads)
    _, height, width = data.val[0].image.shape
    conditions = Conditions((height, width), data.classes, inference, device)
    console = open_console()
    if student is None:
        with StepProgress(console, "choosing a student", 2 * len(installed())) as display:
            found = propose(budget, conditions, display.advance)
        student = found.student
    else:
        student = open_network(student, data.classes, trained=True)
        found = check_against(budget, student, name_of(student), conditions)
        if not found.holds:
            remark(console, found.sentence, "warning")
    # The student's initial weights are the same as if it had been given by name.
    torch.manual_seed(seed)
    return student, {**found.as_dict(), "sentence": found.sentence}


def _limits(budget: str) -> dict[str, float]:
    limits = read_budget(budget)
    require_runtimes([name for name in limits if name in RUNTIMES])
    return limits


def _costs(
    opened: Callable[[], Segmenter],
    parameters: int,
    limits: Mapping[str, float],
    conditions: Conditions,
    whole: bool = False,
) -> tuple[dict[str, float], str]:
    """Measure limited quantities, cheap ones first; stop at an exceeded limit unless ``whole``.

    Returns:
        The costs, infinite if the network does not run, and the reason.
    """
    costs, problem = {"parameters": float(parameters)}, ""

    def enough() -> bool:
        return not whole and any(costs[name] >= limits[name] for name in costs if name in limits)

    if "gflops" in limits and not enough():
        seen = input_size(conditions.size, conditions.inference)
        costs["gflops"] = count("", opened(), seen).flops / 1e9
    for runtime in limits:
        if runtime in ("parameters", "gflops") or enough():
            continue
        timing = next(
            time_network(
                opened(),
                conditions.size,
                conditions.device,
                runtimes=[runtime],
                inference=conditions.inference,
            )
        )
        costs[runtime] = math.inf if timing.median is None else timing.median
        problem = f"; it does not run in {runtime}: {timing.problem}" if timing.problem else ""
    return costs, problem


def _is_within(costs: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    return all(costs.get(name, math.inf) < limit for name, limit in limits.items())


def _format_costs(costs: Mapping[str, float]) -> str:
    units = {"parameters": ("M parameters", 1e6), "gflops": ("GFLOPs", 1.0)}
    parts = []
    for name, value in costs.items():
        unit, factor = units.get(name, (f"ms in {name}", 1.0))
        parts.append(f"{value / factor:.2f} {unit}")
    return ", ".join(parts)
