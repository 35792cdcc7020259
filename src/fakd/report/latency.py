"""Latency of networks: a table and a chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakd.report.figures import COLOURS, EDGE, figure, save
from fakd.report.table import Entry, Row, number

_MARKS = {"torch": "o", "compile": "s", "onnx": "^", "openvino": "D"}
"""Markers in addition to colours, so that runtimes can be distinguished without colour."""


def latency_row(timing: Any, times_only: bool = False) -> Row:
    """Return the row of one network in one runtime (`fakd.timing.Timing`)."""
    count = timing.parameters
    times = {
        "ms": number(timing.median, ".1f"),
        "p90 ms": number(timing.p90, ".1f"),
        "memory MB": number(timing.memory, ",.0f"),
    }
    if times_only:
        return times
    return {
        "network": Entry(timing.network),
        "runtime": Entry(timing.runtime),
        "parameters": Entry() if count is None else Entry(f"{count / 1e6:.2f} M", count),
        **times,
        "mIoU": number(timing.miou),
        "problem": Entry(timing.problem),
    }


def save_latency(path: Path, timings: Sequence[Any]) -> bool:
    """Draw mIoU against latency, or parameters if scores are missing; markers show runtimes.

    Returns:
        Whether there was anything to draw; otherwise no file is written.
    """
    scored = all(each.miou is not None for each in timings if each.median is not None)
    points = [
        (each, each.miou if scored else each.parameters / 1e6)
        for each in timings
        if each.median is not None and (each.miou if scored else each.parameters) is not None
    ]
    if not points:
        return False
    with figure(7.5, 4.6) as drawn:
        axis = drawn.subplots()
        for place, runtime in enumerate(dict.fromkeys(each.runtime for each, _ in points)):
            own = [(each.median, value) for each, value in points if each.runtime == runtime]
            colour, mark = COLOURS[1 + place % (len(COLOURS) - 1)], _MARKS.get(runtime, "o")
            axis.plot(*zip(*own, strict=True), mark, markersize=7, color=colour, label=runtime)
        beside: dict[str, Any] = {"xytext": (5, 5), "textcoords": "offset points"}
        for name in dict.fromkeys(each.network for each, _ in points):
            own = sorted((each.median, value) for each, value in points if each.network == name)
            axis.plot(*zip(*own, strict=True), color=EDGE, linewidth=1, zorder=1)
            axis.annotate(_short(name), own[0], fontsize=6, **beside)
        first = points[0][0]
        size = "{} x {}".format(*first.size)
        axis.set_xlabel(f"median ms for an image of {size}, {first.device}")
        axis.set_ylabel("mIoU (%)" if scored else "million parameters")
        axis.grid(color=EDGE, linewidth=0.6)
        axis.margins(0.15)
        axis.set_xlim(left=0)
        axis.legend(fontsize=8)
        save(drawn, path)
    return True


def _short(word: str) -> str:
    """Shorten a specifier by dropping what all have in common.

    >>> _short("timm:lcnet_050?channels=48&output_stride=16"), _short("runs/a/student")
    ('lcnet_050 48 16', 'student')
    """
    name, _, query = word.partition("?")
    values = [each.partition("=")[2] for each in query.split("&") if each]
    return " ".join([name.rpartition("/")[2].rpartition(":")[2], *values])[:48]
