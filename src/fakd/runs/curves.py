"""Logged curves of a run: one CSV row per logged step, and the same values for TensorBoard."""

import csv
import time
from collections.abc import Mapping, Sequence
from io import SEEK_END, StringIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from fakd.files import write_text, writing
from fakd.runs.folder import CURVES, read_curves


class Curves:
    """Writes the curves of a run.

    Resuming at a step drops the rows written after it, so that a killed and resumed run has the
    same curves as an uninterrupted one.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._path = folder / CURVES
        self._columns: list[str] = []
        # Only the last row and its offset are kept in memory; the rest is in the file.
        self._last: dict[str, float] = {}
        self._begins = 0
        self._rewrite([row for row in read_curves(self._path) if row["step"] <= first_step])
        self._events = folder / f"events.out.tfevents.{time.time_ns()}"
        self._record(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._record(Event(step=first_step + 1, session_log=start))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step (from 1 on) to its row, replacing earlier ones of that name."""
        entries = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._record(Event(step=step, summary=Summary(value=entries)))
        again = self._last.get("step") == step
        row = {**(self._last if again else {}), "step": float(step), **values}
        if set(row) <= set(self._columns):
            text = self._text([row]).encode()
            with writing(self._path), self._path.open("r+b") as file:
                self._begins = file.seek(self._begins if again else file.seek(0, SEEK_END))
                file.write(text)
                file.truncate()
            self._last = row
        else:
            rows = read_curves(self._path)
            self._rewrite([*(rows[:-1] if again else rows), row])

    def _record(self, event: Any) -> None:
        event.wall_time = time.time()
        # Not by torch's writer: its thread would meet a full disk without anyone noticing.
        with writing(self._events), self._events.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        self._columns = list(dict.fromkeys(key for row in rows for key in row))
        before = self._text(rows[:-1], header=True)
        write_text(self._path, before + self._text(rows[-1:]))
        self._last, self._begins = rows[-1] if rows else {}, len(before.encode())

    def _text(self, rows: Sequence[Mapping[str, float]], header: bool = False) -> str:
        text = StringIO()
        writer = csv.DictWriter(text, self._columns)
        if header:
            writer.writeheader()
        writer.writerows(map(_written, rows))
        return text.getvalue()


def _written(row: Mapping[str, float]) -> dict[str, str]:
    return {**{name: f"{value:.6g}" for name, value in row.items()}, "step": f"{row['step']:.0f}"}
