"""The answer of a report: the verdict with its intervals, and the table of the methods."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from fakd.comparing.comparison import Comparison, seconds_per_step
from fakd.comparing.statistics import Difference
from fakd.comparing.verdict import WORTH, mean_and_spread, sentence
from fakd.report.examination import TEACHER, Examination
from fakd.report.measurements import Cost, Quality
from fakd.report.paper.scores import Score, published_cell, teacher_score
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Run

Methods = Mapping[str, Sequence[Run]]
_TONES = ("helped", "hurt", "flat", "unsure")


class Sentence(NamedTuple):
    """One verdict; its tone is helped, hurt, flat or unsure."""

    text: str
    tone: str


class Cell(NamedTuple):
    """One entry of a table."""

    text: str
    value: float | None = None
    """What it is sorted by; None comes last."""
    note: str = ""


class Column(NamedTuple):
    """One column of a table, by row."""

    title: str
    note: str
    cells: list[Cell]


def verdict(found: Sequence[Comparison]) -> list[Sentence]:
    """Say of each method whether it helped: what is decided first, the largest gain first."""
    ranked = sorted(found, key=lambda each: -each.difference.mean)
    said = [Sentence(sentence(each), tone(each.difference)) for each in ranked]
    return sorted(said, key=lambda each: _TONES.index(each.tone))


def tone(difference: Difference) -> str:
    """Tell what a difference amounts to, as `fakd.comparing.verdict.sentence` words it."""
    interval = difference.interval
    if interval is None:
        return "unsure"
    if interval.high < 0:
        return "hurt"
    if interval.high < WORTH:
        return "flat"
    return "helped" if interval.low > 0 else "unsure"


def method_table(
    methods: Methods, found: Mapping[str, Sequence[Comparison]], examined: Examination | None
) -> list[Column]:
    """List scores, differences, time and cost of every method, and of the teacher where known."""
    scored = _teacher_score(methods, examined)
    teacher = [TEACHER] if scored or (examined and TEACHER in examined.costs) else []
    names = [*teacher, *map(title_of, methods)]

    def column(title: str, note: str, cell: Callable[[Sequence[Run]], Cell], first: Cell) -> Column:
        rest = [cell(runs) for runs in methods.values()]
        return Column(title, note, [first, *rest] if teacher else rest)

    empty = Cell("")
    columns = [
        Column("method", "", [Cell(name) for name in names]),
        column("seeds", "finished runs", lambda runs: _number(len(runs)), empty),
        column(
            "mIoU",
            "mean and standard deviation over the seeds, last step, in percent",
            lambda runs: _spread([run.miou for run in runs]),
            scored or empty,
        ),
        column(
            "mAcc",
            "mean of the classes' accuracies, in percent",
            lambda runs: _spread([run.macc for run in runs]),
            empty,
        ),
        *_paper(methods, teacher),
        *(_against(reference, each, methods, teacher) for reference, each in found.items()),
        column("train s", "mean", _seconds, empty),
        column(
            "s/step",
            "seconds of a training step, median over the seeds",
            lambda runs: _number(seconds_per_step(runs), ".3f"),
            empty,
        ),
        column("peak memory", "of the training, largest of the seeds", _memory, empty),
        *(_examined(names, examined) if examined else []),
    ]
    return [each for each in columns if any(cell.text for cell in each.cells)]


def _teacher_score(methods: Methods, examined: Examination | None) -> Cell | None:
    """Take the score that trainings began with, else that of the images shown now."""
    taught = [run.result.get("teacher_miou") for runs in methods.values() for run in runs]
    scores = [float(each) for each in taught if each is not None]
    if scores:
        return _number(mean(scores), ".2f")
    if examined is None or TEACHER not in examined.qualities:
        return None
    cell = _number(100 * examined.qualities[TEACHER].scores.miou, ".2f")
    return cell._replace(note=f"on {examined.images} of {examined.total} validation images")


def _paper(methods: Methods, teacher: Sequence[str]) -> list[Column]:
    recipes = [runs[0].recipe for runs in methods.values()]
    nothing = Score(math.nan, math.nan)
    scores = [published_cell(recipe, "paper") or nothing for recipe in recipes]
    if teacher:
        scores = [next(filter(None, map(teacher_score, recipes)), nothing), *scores]
    note = "FAKD (arXiv 2208.14143), 40,000 steps of 16 crops, where data and networks are its"
    mious = [_number(each.miou, ".2f")._replace(note=each.remark) for each in scores]
    maccs = [_number(each.macc, ".2f") for each in scores]
    return [Column("paper mIoU", note, mious), Column("paper mAcc", note, maccs)]


def _against(
    reference: str, found: Sequence[Comparison], methods: Methods, teacher: Sequence[str]
) -> Column:
    cells = {each.method: _difference(each.difference) for each in found}
    title = "against the student alone" if reference == ALONE else f"against {title_of(reference)}"
    note = "difference in mIoU of the same seeds, with its 95 % interval over seeds and images"
    rest = [cells.get(method, Cell("")) for method in methods]
    return Column(title, note, [*(Cell("") for _ in teacher), *rest])


def _difference(difference: Difference) -> Cell:
    interval = difference.interval or difference.over_images
    text = f"{_signed(difference.mean)}"
    if interval is None:
        return Cell(text, difference.mean, "one seed")
    text += f" ({_signed(interval.low)} to {_signed(interval.high)})"
    if difference.interval is None:
        return Cell(text, difference.mean, "over images only: one seed")
    return Cell(text, difference.mean, "" if difference.over_images else "over seeds only")


def _examined(names: Sequence[str], examined: Examination) -> list[Column]:
    part = f"{examined.images} of {examined.total} validation images, first seed"

    def quality(value: Callable[[Quality], float]) -> list[Cell]:
        found = (examined.qualities.get(name) for name in names)
        return [_number(value(each), ".2f") if each else Cell("") for each in found]

    def cost(value: Callable[[Cost], Cell]) -> list[Cell]:
        found = (examined.costs.get(name) for name in names)
        return [value(each) if each else Cell("") for each in found]

    any_cost = next(iter(examined.costs.values()))
    size = "{} x {}".format(*any_cost.size)
    return [
        Column(
            "boundary IoU",
            f"within 2 % of the diagonal from an outline, mean over the classes; {part}",
            quality(lambda each: each.mean_boundary_iou),
        ),
        Column(
            "calibration error",
            f"expected calibration error in percent, 15 bins; {part}",
            quality(lambda each: each.calibration_error),
        ),
        Column(
            "parameters",
            "with the auxiliary head",
            cost(lambda each: Cell(f"{each.parameters / 1e6:.2f} M", float(each.parameters))),
        ),
        Column(
            "GFLOPs",
            f"one forward pass at {size}, two per multiply-accumulate",
            cost(lambda each: _number(each.flops / 1e9, ".2f")),
        ),
        Column(
            "latency",
            f"median of one forward pass at {size}, {any_cost.device}",
            cost(_latency),
        ),
    ]


def _latency(cost: Cost) -> Cell:
    low, high = cost.quartiles
    return Cell(f"{cost.latency:.1f} ms", cost.latency, f"quartiles {low:.1f} to {high:.1f} ms")


def _number(value: float | int, form: str = "g") -> Cell:
    return Cell("") if math.isnan(value) else Cell(format(value, form), float(value))


def _spread(values: Sequence[float]) -> Cell:
    return Cell(mean_and_spread(values), mean(values))


def _seconds(runs: Sequence[Run]) -> Cell:
    value = mean(float(run.result["train_seconds"]) for run in runs)
    return Cell(f"{value:,.0f}", value)


def _memory(runs: Sequence[Run]) -> Cell:
    found = [run.result.get("peak_memory_bytes") for run in runs]
    known = [float(each) for each in found if each is not None]
    return Cell(f"{max(known) / 2**30:.2f} GiB", max(known)) if known else Cell("")


def _signed(value: float) -> str:
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(value, 2) + 0.0:+.2f}"
