import math

import torch

from fakd.console import open_console
from fakd.metrics import Scores
from fakd.report.table import class_table, comparison_table


def shown(table):
    console = open_console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(table)
        return console.export_text()


def test_every_class_has_its_row_and_absent_ones_a_dash():
    scores = Scores(
        iou=torch.tensor([0.5, math.nan], dtype=torch.float64),
        accuracy=torch.tensor([0.75, math.nan], dtype=torch.float64),
        pixel_accuracy=0.75,
        pixels=torch.tensor([4, 0]),
    )
    lines = shown(class_table(scores, ("road", "train"))).splitlines()
    assert lines[1].split() == ["road", "50.00", "75.00", "100.00"]
    assert lines[2].split() == ["train", "-", "-", "0.00"]


def test_runs_are_compared_by_size_score_and_time():
    row = {"name": "student", "parameters": 668_152, "train_seconds": 61.4}
    row["final"] = {"miou": 21.529, "macc": 28.4}
    line = shown(comparison_table([row])).splitlines()[1]
    assert line.split() == ["student", "0.67", "M", "21.53", "28.40", "61"]
