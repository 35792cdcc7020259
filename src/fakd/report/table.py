"""Tables: rows of entries, rendered for a terminal, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from rich.table import Table

from fakd.errors import InputError
from fakd.imports import nearest
from fakd.metrics import Scores


class Entry(NamedTuple):
    """One entry of a table."""

    text: str = ""
    value: float | int | None = None
    """Its value for sorting and CSV; None for plain text."""
    note: str = ""
    """Small print below it."""
    spread: float | None = None
    """Standard deviation of the value, NaN if there is only one value."""
    brief: str = ""
    """Replaces text and note in a terminal, if given."""


Row = Mapping[str, Entry]
"""Entries by column."""


def number(value: float | int | None, form: str = ".2f", note: str = "") -> Entry:
    """Format a number; an empty entry if there is none.

    >>> number(0.5).text, number(1200, ",").text, number(None)
    ('0.50', '1,200', Entry(text='', value=None, note='', spread=None, brief=''))
    """
    if value is None or math.isnan(value):
        return Entry()
    return Entry(format(value, form), value, note)


def mean_and_spread(values: Sequence[float]) -> Entry:
    """Format the mean and, for several values, the sample standard deviation.

    >>> mean_and_spread([30.0, 32.0]).text, mean_and_spread([30.0]).text
    ('31.00 ± 1.41', '30.00')
    """
    spread = stdev(values) if len(values) > 1 else math.nan
    tail = f" ± {spread:.2f}" if len(values) > 1 else ""
    return Entry(f"{mean(values):.2f}{tail}", mean(values), spread=spread)


def columns(rows: Iterable[Row]) -> list[str]:
    """List the columns in order of first occurrence."""
    return list(dict.fromkeys(name for row in rows for name in row))


def nonempty_columns(rows: Sequence[Row], names: Iterable[str]) -> list[str]:
    """Leave out empty columns."""
    return [name for name in names if any(row.get(name, Entry()).text for row in rows)]


def sort_rows(rows: Sequence[Row], order: str) -> list[Row]:
    """Sort rows by a column, case-insensitively; descending if its name is preceded by -.

    Raises:
        InputError: there is no such column.
    """
    named = {name.lower(): name for name in columns(rows)}
    wanted = order.removeprefix("-").lower()
    if wanted not in named:
        listed = f"; choose one of {', '.join(named)}"
        raise InputError(f"--sort: there is no column {wanted}{nearest(wanted, named, listed)}")

    def rank(row: Row) -> tuple[bool, float, str]:
        entry = row.get(named[wanted], Entry())
        number = float(entry.value or 0)
        return bool(entry.text) is order.startswith("-"), number, entry.text

    return sorted(rows, key=rank, reverse=order.startswith("-"))


def terminal(rows: Sequence[Row], names: Sequence[str] | None = None, empty: str = "") -> Table:
    """Render the named columns, or all, for a terminal; ``empty`` replaces missing values."""
    names = columns(rows) if names is None else names
    table = Table(box=None, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if table.columns else "left")
    for row in rows:
        entries = (row.get(name, Entry()) for name in names)
        table.add_row(*(each.brief or each.text or empty for each in entries))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """Render rows as a Markdown table, without empty columns.

    >>> print(markdown([{"method": Entry("CWD"), "mIoU": number(35.0), "mAcc": Entry()}]), end="")
    | method | mIoU |
    |---|---:|
    | CWD | 35.00 |
    """
    names = nonempty_columns(rows, columns(rows))
    numeric = [any(row.get(name, Entry()).value is not None for row in rows) for name in names]
    rule = "".join("---:|" if right else "---|" for right in numeric)
    texts = ([row.get(name, Entry()).text.replace("|", "\\|") for name in names] for row in rows)
    head, *body = (f"| {' | '.join(line)} |\n" for line in (names, *texts))
    return "".join([head, f"|{rule}\n", *body])


def as_csv(rows: Sequence[Row]) -> str:
    """Render rows as CSV: values to four digits, each spread in its own column."""
    # Every spread follows its value, even if the first row has none.
    spreads = {name for row in rows for name in row if row[name].spread is not None}
    fields = [
        each for name in columns(rows) for each in (name, f"{name} sd")[: 1 + (name in spreads)]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain: dict[str, Any] = {}
        for name, entry in row.items():
            plain[name] = entry.text if entry.value is None else round(entry.value, 4)
            if entry.spread is not None and not math.isnan(entry.spread):
                plain[f"{name} sd"] = round(entry.spread, 4)
        writer.writerow(plain)
    return text.getvalue()


def class_table(scores: Scores, class_names: tuple[str, ...]) -> Table:
    """List IoU and accuracy of every class, in percent, with its share of the labelled pixels."""
    total = max(1, int(scores.pixels.sum()))
    rows = [
        {
            "class": Entry(name),
            "IoU": number(100 * float(scores.iou[i])),
            "accuracy": number(100 * float(scores.accuracy[i])),
            "pixels %": number(100 * int(scores.pixels[i]) / total),
        }
        for i, name in enumerate(class_names)
    ]
    return terminal(rows, empty="-")


def comparison_table(results: Sequence[Mapping[str, Any]], classes: Sequence[str] = ()) -> Table:
    """Compare networks: one row each with name, parameters, scores and training seconds.

    Each has ``name`` and the entries of a run's ``result.json``; ``train_seconds`` only if it was
    trained here. ``classes`` are those whose IoU is shown next to mIoU.
    """
    rows = [
        {
            "network": Entry(each["name"]),
            "parameters": Entry(f"{each['parameters'] / 1e6:.2f} M"),
            "mIoU": number(each["final"]["miou"]),
            "mAcc": number(each["final"]["macc"]),
            **{name: number(each["final"]["classes"][name]["iou"], ".1f") for name in classes},
            "train s": number(each.get("train_seconds"), ".0f"),
        }
        for each in results
    ]
    return terminal(rows, empty="-")


def network_table(networks: Sequence[Any]) -> Table:
    """List networks: parameters, FLOPs, feature width, stride (`fakd.models.list_networks`)."""
    rows = [
        {
            "network": Entry(each.name),
            "parameters": number(each.parameters, ","),
            "GFLOPs": number(each.flops / 1e9),
            "width": number(each.channels, "d"),
            "stride": number(each.stride, "d"),
        }
        for each in networks
    ]
    return terminal(rows)


def student_row(student: Any) -> Row:
    """Return the row of a built-in student (`fakd.models.list_students`)."""
    row = student.row
    return {
        "student": Entry(row.name),
        "parameters": Entry(f"{row.parameters / 1e6:.2f} M", row.parameters),
        "GFLOPs": number(row.flops / 1e9),
        "width": number(row.channels, "d"),
        "stride": number(row.stride, "d"),
        "kept MB": number(student.activations / 1e6, ".0f"),
        "ImageNet": Entry(student.imagenet),
    }


def published_table(checkpoints: Sequence[Any]) -> Table:
    """List published checkpoints with their scores (`fakd.models.PUBLISHED`)."""
    rows = [
        {
            "file": Entry(each.file),
            "mIoU": number(each.miou),
            "multi-scale": number(each.miou_augmented),
            "paper mIoU": number(each.paper and each.paper[0]),
            "paper mAcc": number(each.paper and each.paper[1]),
        }
        for each in checkpoints
    ]
    table = terminal(rows, empty="-")
    table.columns[0].no_wrap = True
    return table
