"""The table of a pair's methods: scores, differences, time and cost of each."""

import math
from collections.abc import Iterable, Sequence
from statistics import mean, median

import numpy as np
from jaxtyping import Float
from rich.table import Table
from rich.text import Text

from fakd.comparing.verdict import (
    Compared,
    Comparison,
    format_interval,
    format_signed,
    method_phrase,
    seconds_per_step,
)
from fakd.report.examination import TEACHER, Examination
from fakd.report.table import Entry, Row, mean_and_spread, nonempty_columns, number, terminal
from fakd.runs.naming import title_of
from fakd.runs.published import Score, published_cell, teacher_score
from fakd.runs.reading import Failure, Methods, Run


def class_iou(
    runs: Sequence[Run],
) -> tuple[Float[np.ndarray, " classes"], Float[np.ndarray, " classes"]]:
    """Compute mean and deviation of each class's IoU over the seeds that have it, in percent.

    The deviation is the sample standard deviation. NaN if no seed has the class; the deviation also
    if only one has.
    """
    scores = np.ma.masked_invalid(np.stack([run.class_iou for run in runs]))
    return scores.mean(0).filled(math.nan), scores.std(0, ddof=1).filled(math.nan)


def scores_of(runs: Sequence[Run]) -> Row:
    """Return the scores of a method's runs."""
    return {
        "seeds": number(len(runs), "d"),
        "mIoU": mean_and_spread([run.miou for run in runs]),
        "mAcc": mean_and_spread([run.macc for run in runs]),
    }


def published(source: str, score: Score | None) -> Row:
    """Return published scores, with a remark as note."""
    miou, macc, remark = score or (None, None, "")
    return {f"{source} mIoU": number(miou, note=remark), f"{source} mAcc": number(macc)}


def teacher_miou(methods: Methods) -> float | None:
    """Return the teacher's mIoU as measured before training, if any run did so."""
    found = [run.result.get("teacher_miou") for runs in methods.values() for run in runs]
    scores = [float(each) for each in found if each is not None]
    return median(scores) if scores else None


def published_teacher(methods: Methods) -> Row:
    """Return the paper's score of a pair's teacher."""
    recipes = (runs[0].recipe for runs in methods.values())
    return published("paper", next(filter(None, map(teacher_score, recipes)), None))


def method_table(
    methods: Methods, compared: Compared, examined: Examination | None = None
) -> tuple[list[Row], dict[str, str]]:
    """List scores, differences, time and cost of every method, and of the teacher if known.

    Returns:
        The rows, and all columns in order with their descriptions.
    """
    paper = "FAKD (arXiv 2208.14143), 40,000 steps of 16 crops, for the same data and networks"
    cost, quality = _notes(examined) if examined else ({}, {})
    notes = {
        "method": "",
        "seeds": "finished runs",
        "mIoU": "mean and standard deviation over the seeds, last step, in percent",
        **cost,
        **{
            f"against {method_phrase(reference)}": _gain(found)
            for reference, found in compared.items()
        },
        "mAcc": "mean of the classes' accuracies, in percent",
        "paper mIoU": paper,
        "paper mAcc": paper,
        "train s": "mean",
        "s/step": "seconds per training step, median over the seeds",
        "peak memory": "during training, maximum over the seeds",
        **quality,
    }
    rows = _teacher(methods, examined)
    for method, runs in methods.items():
        differences = {
            f"against {method_phrase(reference)}": _difference(each, len(runs))
            for reference, found in compared.items()
            for each in found
            if each.method == method
        }
        rows.append(
            {
                "method": Entry(title_of(method)),
                **scores_of(runs),
                **published("paper", published_cell(runs[0].recipe, "paper")),
                **differences,
                "train s": number(mean(float(run.result["train_seconds"]) for run in runs), ",.0f"),
                "s/step": number(seconds_per_step(runs), ".3f"),
                "peak memory": _memory(runs),
                **_measurement_row(title_of(method), examined),
            }
        )
    return rows, notes


def terminal_table(methods: Methods, compared: Compared, failures: Iterable[Failure] = ()) -> Table:
    """List scores, differences and time for a terminal; failed runs below.

    Differences have intervals over seeds and images, over seeds only (s) or over images only (i).
    """
    rows, notes = method_table(methods, compared)
    shown = ("method", "seeds", "mIoU", "mAcc", "s/step")
    names = [name for name in notes if name in shown or name.startswith("against")]
    names = nonempty_columns(rows, names)
    # The teacher's row comes first, and has nothing to compare.
    table = terminal(rows[-len(methods) :], names)
    failed = [
        Text.assemble(
            (f"{title_of(each.method)}, seed {each.seed}, failed:", "red"), " ", each.reason
        )
        for each in failures
    ]
    if failed:
        table.caption, table.caption_justify = Text("\n").join(failed), "left"
    return table


def _teacher(methods: Methods, examined: Examination | None) -> list[Row]:
    score = number(teacher_miou(methods))
    if not score.text and examined and TEACHER in examined.qualities:
        seen = f"on {examined.images} of {examined.total} validation images"
        score = number(100 * examined.qualities[TEACHER].scores.miou, note=seen)
    measured = _measurement_row(TEACHER, examined)
    if not score.text and not measured:
        return []
    return [{"method": Entry(TEACHER), "mIoU": score, **published_teacher(methods), **measured}]


def _difference(comparison: Comparison, runs: int) -> Entry:
    difference = comparison.difference
    common = f"{difference.seeds} of {runs} seeds are common" if difference.seeds < runs else ""
    if (interval := comparison.interval or difference.over_images) is None:
        return Entry(format_signed(difference.mean), difference.mean, common or "one seed")
    note, mark = common, ""
    if difference.interval is None:
        note, mark = f"over images only: {common or 'one seed'}", " i"
    elif difference.over_images is None:
        note, mark = f"over seeds only{', ' if common else ''}{common}", " s"
    text = f"{format_signed(difference.mean)} ({format_interval(interval)}"
    return Entry(f"{text})", difference.mean, note, brief=f"{text}{mark})")


def _memory(runs: Sequence[Run]) -> Entry:
    most = max(run.result.get("peak_memory_bytes") or 0.0 for run in runs)
    return Entry(f"{most / 2**30:.2f} GiB", float(most)) if most else Entry()


def _gain(found: Sequence[Comparison]) -> str:
    levels = sorted({100 * each.design.level(each.difference.seeds) for each in found})
    level = " or ".join(f"{each:.4g}" for each in levels or [95])
    return f"difference in mIoU of the same seeds, with its {level} % interval"


def _notes(examined: Examination) -> tuple[dict[str, str], dict[str, str]]:
    """Return descriptions of the columns of cost and of quality."""
    part = f"{examined.images} of {examined.total} validation images, first seed"
    cost = next(iter(examined.costs.values()))
    size = "{} x {}".format(*cost.size)
    return {
        "parameters": "with the auxiliary head",
        "GFLOPs": f"one forward pass at {size}, two per multiply-accumulate",
        "latency": f"median of one forward pass at {size}, {cost.device}",
    }, {
        "boundary IoU": f"within 2 % of the diagonal from a contour, mean over classes; {part}",
        "calibration error": f"expected calibration error in percent, 15 bins; {part}",
    }


def _measurement_row(title: str, examined: Examination | None) -> Row:
    """Return the measurements of a network."""
    if examined is None or title not in examined.costs:
        return {}
    quality, cost = examined.qualities[title], examined.costs[title]
    quartiles = "quartiles {:.1f} to {:.1f} ms".format(*cost.quartiles)
    return {
        "boundary IoU": number(quality.mean_boundary_iou),
        "calibration error": number(quality.calibration_error),
        "parameters": Entry(f"{cost.parameters / 1e6:.2f} M", cost.parameters),
        "GFLOPs": number(cost.flops / 1e9),
        "latency": Entry(f"{cost.latency:.1f} ms", cost.latency, quartiles),
    }
