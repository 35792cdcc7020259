"""The paper's figures about classes: gain against difficulty, IoU of each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fakd.comparing.verdict import augmented_pairs, find_method
from fakd.errors import InputError
from fakd.report.charts import COLOURS, INK, figure, save
from fakd.report.methods import class_iou
from fakd.runs.naming import ALONE, title_of
from fakd.runs.reading import Run, by_pair

BARS_PER_ROW = 20
LABELLED_CLASSES = 40
# Where a point's name may stand: across and up from it, and the side of the text that is nearer.
_SPOTS = (
    (1, 0, "left"),
    (-1, 0, "right"),
    (0, 1, "center"),
    (0, -1, "center"),
    (0.8, 0.8, "left"),
    (-0.8, 0.8, "right"),
    (0.8, -0.8, "left"),
    (-0.8, -0.8, "right"),
)


def write_figures(runs: Sequence[Run], out: Path) -> list[Path]:
    """Draw Figures 2 and 4 of every pair whose runs they need.

    Figure 2 needs the student alone and a loss with and without augmentation; Figure 4 the student
    alone and CWD or CWD+FA.

    Raises:
        InputError: there are no runs, or two of the same method and seed.
    """
    if not runs:
        raise InputError("expected finished runs to draw figures of, got none; wait for one")
    groups = by_pair(runs)
    written = []
    for (data, pair), methods in groups.items():
        tail = file_tail(data, pair)
        alone = find_method(methods, ALONE)
        if alone is None:
            continue
        for base, plain, augmented in augmented_pairs(methods):
            path = out / f"figure-2-{base}-{tail}.png"
            draw_gain(path, methods[alone], plain, augmented)
            written.append(path)
        others = [find_method(methods, each) for each in ("cwd", "cwd-fa")]
        shown = [alone, *(each for each in others if each)]
        if len(shown) > 1:
            path = out / f"figure-4-{tail}.png"
            draw_classes(path, {title_of(each): methods[each] for each in shown})
            written.append(path)
    return written


def file_tail(data: str, pair: str) -> str:
    """Name the pictures of a pair.

    >>> file_tail("my data", "a/b")
    'my-data-a-b'
    """
    return "-".join(part.replace("/", "-").replace(" ", "-") for part in (data, pair))


def draw_gain(
    path: Path, alone: Sequence[Run], plain: Sequence[Run], augmented: Sequence[Run]
) -> None:
    """Draw what augmentation adds to each class against how hard the class is (Figure 2).

    Difficulty is the IoU of the student alone. A point's area is the class's share of the labelled
    pixels; the line is a least-squares fit in which all classes count the same, r its correlation.
    """
    difficulty, gain = class_iou(alone)[0], class_iou(augmented)[0] - class_iou(plain)[0]
    known = np.isfinite(difficulty) & np.isfinite(gain)
    names = [name for name, shown in zip(alone[0].class_names, known, strict=True) if shown]
    difficulty, gain = difficulty[known], gain[known]
    share = alone[0].class_pixels[known] / max(alone[0].class_pixels.sum(), 1)
    method, base = title_of(augmented[0].method), title_of(plain[0].method)
    with figure(6.4, 4.4) as drawn:
        axis = drawn.subplots()
        axis.axhline(0, color=INK, linewidth=0.8)
        area = 25 + 900 * share
        points = axis.scatter(difficulty, gain, s=area, color=COLOURS[5], alpha=0.55, linewidths=0)
        if (fit := regression(difficulty, gain)) is not None:
            slope, offset, correlation = fit
            ends = np.array([difficulty.min(), difficulty.max()])
            label = f"r = {correlation:+.2f}, {slope * 10:+.2f} per 10 IoU"
            axis.plot(ends, slope * ends + offset, color=COLOURS[2], linewidth=1.5, label=label)
            axis.legend(fontsize=8, frameon=False, loc="best")
        axis.set_xlabel("IoU of the student alone (%): hard classes left")
        axis.set_ylabel(f"IoU gain of {method} over {base}")
        axis.set_title(f"{method}: gain by class difficulty, {_seeds(alone, plain, augmented)}")
        axis.grid(alpha=0.25)
        axis.margins(0.09, 0.14)
        if len(names) <= LABELLED_CLASSES:
            _label_points(axis, points, names)
        save(drawn, path)


def regression(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"]
) -> tuple[float, float, float] | None:
    """Fit a line: slope, value at 0 and Pearson's r; None where x or y does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(offset), float(np.corrcoef(x, y)[0, 1])


def draw_classes(path: Path, methods: Mapping[str, Sequence[Run]]) -> None:
    """Draw the IoU of every class as bars side by side, rare classes first (Figure 4).

    Lines on the bars are the standard deviation over seeds.

    Args:
        path: picture to write.
        methods: runs by the name to show, in order of their bars.
    """
    first = next(iter(methods.values()))[0]
    order = np.argsort(first.class_pixels, kind="stable")
    order = order[first.class_pixels[order] > 0]
    shares = 100 * first.class_pixels / max(first.class_pixels.sum(), 1)
    rows = [order[i : i + BARS_PER_ROW] for i in range(0, len(order), BARS_PER_ROW)]
    size = max(5.0, 1.2 + 0.5 * min(len(order), BARS_PER_ROW)), 3.4 * len(rows)
    width = 0.84 / len(methods)
    with figure(*size) as drawn:
        axes = drawn.subplots(len(rows), 1, squeeze=False, sharey=True)[:, 0]
        for axis, ids in zip(axes, rows, strict=True):
            bars = []
            for index, runs in enumerate(methods.values()):
                places = np.arange(len(ids)) + (index - (len(methods) - 1) / 2) * width
                style = {"color": COLOURS[index % len(COLOURS)], "error_kw": {"elinewidth": 0.8}}
                heights, spread = (np.nan_to_num(each[ids]) for each in class_iou(runs))
                error = spread if len(runs) > 1 else None
                bars.append(axis.bar(places, heights, width, yerr=error, **style))
            labels = [f"{first.class_names[i]} ({shares[i]:.2g} %)" for i in ids]
            axis.set_xticks(np.arange(len(ids)), labels, rotation=40, ha="right", fontsize=8)
            axis.set_xlim(-0.6, min(len(order), BARS_PER_ROW) - 0.4)
            axis.set_ylabel("IoU (%)")
            axis.grid(axis="y", alpha=0.25)
        # Only now: a limit set on one row would keep the others, which share it, from growing.
        axes[0].set_ylim(bottom=0)
        title = f"IoU of each class (share of pixels), rare first, {_seeds(*methods.values())}"
        drawn.suptitle(title, fontsize=10)
        place = {"loc": "outside lower center", "ncols": len(methods), "frameon": False}
        drawn.legend(bars, list(methods), **place)
        save(drawn, path)


def _seeds(*methods: Sequence[Run]) -> str:
    counts = {len(runs) for runs in methods}
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low > 1 else ''}"


def _label_points(axis: Any, points: Any, names: Sequence[str]) -> None:
    """Name each point beside it; a name that would cover another one or a point is left out."""
    from matplotlib.transforms import Bbox

    axis.figure.draw_without_rendering()
    # The places found now must stay where they are.
    axis.figure.set_layout_engine("none")
    centres = axis.transData.transform(points.get_offsets())
    radii = np.sqrt(points.get_sizes() / np.pi)
    sides = radii * axis.figure.dpi / 72
    taken = [
        Bbox.from_extents(*(centre - side), *(centre + side))
        for centre, side in zip(centres, sides, strict=True)
    ]
    if legend := axis.get_legend():
        taken.append(legend.get_window_extent())
    inside = axis.get_window_extent()
    for index, name in enumerate(names):
        for across, up, side in _SPOTS:
            text = axis.annotate(
                name,
                points.get_offsets()[index],
                (across * (radii[index] + 2), up * (radii[index] + 6)),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=7,
            )
            box = text.get_window_extent()
            corners = ((box.x0, box.y0), (box.x1, box.y1))
            free = not any(box.overlaps(other) for other in taken)
            if free and all(inside.contains(*corner) for corner in corners):
                taken.append(box)
                break
            text.remove()
