"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from fakd.metrics import Scores


def class_table(scores: Scores, class_names: tuple[str, ...]) -> Table:
    """List IoU and accuracy of every class, in percent, with its share of the labelled pixels."""
    table = Table(box=None, header_style="bold")
    table.add_column("class")
    for heading in ("IoU", "accuracy", "pixels %"):
        table.add_column(heading, justify="right")
    total = max(1, int(scores.pixels.sum()))
    for i, name in enumerate(class_names):
        share = 100 * int(scores.pixels[i]) / total
        values = (100 * float(scores.iou[i]), 100 * float(scores.accuracy[i]))
        table.add_row(name, *(_number(value) for value in values), f"{share:.2f}")
    return table


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Compare finished runs: one row each with name, parameters, mIoU, mAcc and training seconds.

    Every row has ``name`` and the entries of a run's ``result.json``.
    """
    table = Table(box=None, header_style="bold")
    table.add_column("network")
    for heading in ("parameters", "mIoU", "mAcc", "train s"):
        table.add_column(heading, justify="right")
    for row in rows:
        final = row["final"]
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f} M",
            _number(final["miou"]),
            _number(final["macc"]),
            f"{row['train_seconds']:.0f}",
        )
    return table


def network_table(rows: Sequence[Any]) -> Table:
    """List networks: parameters, FLOPs, feature width, stride (`fakd.models.list_networks`)."""
    table = Table(box=None, header_style="bold")
    table.add_column("network")
    for heading in ("parameters", "GFLOPs", "width", "stride"):
        table.add_column(heading, justify="right")
    for row in rows:
        flops = f"{row.flops / 1e9:.2f}"
        table.add_row(row.name, f"{row.parameters:,}", flops, str(row.channels), str(row.stride))
    return table


def published_table(rows: Sequence[Any]) -> Table:
    """List published checkpoints with their scores (`fakd.models.PUBLISHED`)."""
    table = Table(box=None, header_style="bold")
    table.add_column("file", no_wrap=True)
    for heading in ("mIoU", "multi-scale", "paper mIoU", "paper mAcc"):
        table.add_column(heading, justify="right")
    for row in rows:
        paper = row.paper or (None, None)
        scores = (row.miou, row.miou_augmented, *paper)
        table.add_row(row.file, *(_number(score) for score in scores))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.2f}"
