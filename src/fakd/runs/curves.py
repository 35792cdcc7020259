"""What a run logs: one CSV row per logged step, and the same values for TensorBoard."""

import csv
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from fakd.files import write_text, writing
from fakd.runs.folder import CURVES, read_curves


class Curves:
    """Writes the curves of a run.

    Continuing at a step drops the rows that were written after it, so that a killed run leaves the
    same curves as an uninterrupted one.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._path = folder / CURVES
        self._columns: list[str] = []
        # No more than one row: what a long run has logged is in the file.
        self._last_step: float | None = None
        self._rewrite([row for row in read_curves(self._path) if row["step"] <= first_step])
        self._events = folder / f"events.out.tfevents.{time.time_ns()}"
        self._record(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._record(Event(step=first_step + 1, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step (from 1 on) to its row; what is measured again counts anew."""
        row = {"step": float(step), **values}
        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._record(Event(step=step, summary=Summary(value=entries)))
        again = row["step"] == self._last_step
        if not again and set(row) <= set(self._columns):
            with writing(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(_written(row))
            self._last_step = row["step"]
        else:
            rows = read_curves(self._path)
            if again and rows:
                row = {**rows.pop(), **row}
            self._rewrite([*rows, row])

    def _record(self, event: Any) -> None:
        event.wall_time = time.time()
        # Not by torch's writer: a thread of its own would meet a full disk, and nobody else.
        with writing(self._events), self._events.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        self._last_step = rows[-1]["step"] if rows else None
        self._columns = list(dict.fromkeys(key for row in rows for key in row))
        text = StringIO()
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(map(_written, rows))
        write_text(self._path, text.getvalue())


def _written(row: Mapping[str, float]) -> dict[str, str]:
    return {**{name: f"{value:.6g}" for name, value in row.items()}, "step": f"{row['step']:.0f}"}
