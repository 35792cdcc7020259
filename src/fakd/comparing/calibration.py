"""Equal minutes instead of equal steps: how long a step of each method takes on this machine."""

import csv
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fakd.comparing.cell import Cell, Stop, ending, last_line, lock, never, process
from fakd.files import write_text
from fakd.runs.folder import CURVES

MEASURED = "calibration.json"
LAP, LAPS = 4, 3
"""Steps between two measurements, and measurements; the first warms up and does not count."""
ENDLESS = 10**9


def trial_of(cell: Cell) -> Cell:
    """Make the cell that times the steps of ``cell``'s method: the same command, cut short."""
    folder = cell.folder.with_name("calibration")
    schedule = {**cell.recipe["schedule"], "steps": ENDLESS}
    intervals = {"log": LAP, "save": ENDLESS, "evaluate": ENDLESS}
    recipe = {**cell.recipe, "schedule": schedule, "intervals": intervals, "run": str(folder)}
    if cell.command == "distill":
        recipe["check_teacher"] = False
    outcome = folder.with_name(MEASURED)
    label = f"{folder.parent.parent.name} {folder.parent.name}, timing its steps"
    return replace(cell, folder=folder, recipe=recipe, label=label, outcome=outcome)


def measure(trial: Cell, environment: Mapping[str, str], stop: Stop = never) -> None:
    """Time a few steps of a trial and leave the seconds of one in its outcome."""
    with lock(trial.beside(".lock")) as held:
        if held is None or trial.finished or trial.outcome is None:
            return
        trial.beside(".failed").unlink(missing_ok=True)
        shutil.rmtree(trial.folder, ignore_errors=True)
        laps: list[float] = []
        with process(trial, held, environment) as child:
            while child.poll() is None and len(laps) < LAPS and not stop():
                time.sleep(0.1)
                laps = _laps(trial)
            code = child.poll()
        if len(laps) >= LAPS:
            seconds = statistics.mean(laps[1:LAPS])
            content = {"seconds_per_step": seconds, "steps_timed": LAP * (LAPS - 1)}
            write_text(trial.outcome, json.dumps(content, indent=2) + "\n")
            shutil.rmtree(trial.folder, ignore_errors=True)
        elif code is not None:
            trial.record_failure(f"{ending(code)}: {last_line(trial.beside('.log'))}")


def within(cell: Cell, minutes: float, trial: Cell) -> Cell:
    """Give a cell the steps that its method, timed by a trial, makes in so many minutes."""
    measured = trial.folder.with_name(MEASURED).read_text()
    seconds: float = json.loads(measured)["seconds_per_step"]
    schedule = {**cell.recipe["schedule"], "steps": max(1, round(60 * minutes / seconds))}
    return replace(cell, recipe={**cell.recipe, "schedule": schedule})


def _laps(trial: Cell) -> list[float]:
    """Read the seconds per step of each lap from the curves of the trial."""
    batch: Any = trial.recipe["schedule"]["batch_size"]
    text = ""
    with suppress(OSError):
        text = (trial.folder / CURVES).read_text()
    # The last row may be half written.
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [batch / float(row["images/s"]) for row in csv.DictReader(whole) if row["images/s"]]
