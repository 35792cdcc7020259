"""The paper's tables from finished runs, next to published scores, and its figures of classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fakd.comparing.verdict import augmented_pairs, compare_runs, find_method, seconds_per_step
from fakd.errors import InputError
from fakd.files import write_text
from fakd.report.figures import COLOURS, INK, figure, save
from fakd.report.methods import class_iou, published, published_teacher, scores_of, teacher_miou
from fakd.report.table import Entry, Row, as_csv, markdown, mean_and_spread, number
from fakd.runs.naming import ALONE, title_of
from fakd.runs.published import (
    BENCHMARKS,
    base_and_strength,
    benchmark_of,
    pair_of,
    published_cell,
)
from fakd.runs.reading import Methods, Run, by_pair

Groups = Mapping[tuple[str, str], Methods]
NOTE = (
    "Scores in percent, mean ± sample standard deviation over seeds; mAcc is the mean of the "
    "classes' accuracies. Paper: FAKD (arXiv 2208.14143), 40,000 steps of 16 crops; BPKD: the "
    "README of AkideLiu/BPKD, same networks, 80,000 steps. Published scores are shown only for "
    "runs with the same data and networks."
)
BARS_PER_ROW = 20
LABELLED_CLASSES = 40
# Possible positions of a point's name: across and up from it.
_SPOTS = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))


def write_tables(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write every table for which there are rows, as Markdown and CSV.

    Tables 1 to 3 contain pairs x methods, one file per data set; Table 4 losses with and without
    augmentation; Table 5 augmentation strengths; ``runs`` every single run.

    Returns:
        The files, in the order of the tables.

    Raises:
        InputError: there are no runs, or two with the same method and seed.
    """
    groups = _group_runs(runs)
    every = [run for methods in groups.values() for same in methods.values() for run in same]
    tables = {
        **_main_tables(groups),
        "table-4": ("Table 4: with and without feature augmentation", _augmentation_rows(groups)),
        "table-5": ("Table 5: strength of the augmentation", _strength_rows(groups)),
        "runs": ("Runs", [_run_row(run) for run in every]),
    }
    written = []
    for name, (title, rows) in tables.items():
        if rows:
            write_text(out / f"{name}.md", f"# {title}\n\n{NOTE}\n\n{markdown(rows)}")
            write_text(out / f"{name}.csv", as_csv(rows))
            written += [out / f"{name}.md", out / f"{name}.csv"]
    return written


def _group_runs(runs: Sequence[Run]) -> Groups:
    if not runs:
        raise InputError(
            "expected finished runs for tables and figures, got none; wait until one finishes"
        )
    return by_pair(runs)


def _main_tables(groups: Groups) -> dict[str, tuple[str, list[Row]]]:
    tables: dict[str, tuple[str, list[Row]]] = {}
    for (data, pair), methods in groups.items():
        benchmark = benchmark_of(next(iter(methods.values()))[0].recipe)
        number_of, title = BENCHMARKS.get(benchmark or "", ("Tables 1 to 3", data))
        stem = number_of.lower().replace(" ", "-")
        file = "".join(letter if letter.isalnum() else "-" for letter in data.lower())
        _, rows = tables.setdefault(f"{stem}-{benchmark or file}", (f"{number_of}: {title}", []))
        if (miou := teacher_miou(methods)) is not None:
            rows.append(
                {
                    **{"pair": Entry(pair), "method": Entry("teacher"), "seeds": Entry()},
                    **{"mIoU": mean_and_spread([miou]), "mAcc": Entry()},
                    **published_teacher(methods),
                }
            )
        rows += [_row(pair, same) for same in methods.values()]
    return tables


def _row(pair: str, runs: Sequence[Run]) -> Row:
    paper, bpkd = (published_cell(runs[0].recipe, source) for source in ("paper", "bpkd"))
    return {
        "pair": Entry(pair),
        "method": Entry(title_of(runs[0].method)),
        **scores_of(runs),
        **published("paper", paper),
        **published("BPKD", bpkd),
        **({"remark": Entry(paper.remark)} if paper else {}),
    }


def _augmentation_rows(groups: Groups) -> list[Row]:
    """List each loss without and with augmentation, if both were run."""
    rows: list[Row] = []
    for (data, pair), methods in groups.items():
        for _, plain, augmented in augmented_pairs(methods):
            gain: dict[str, Entry] = {}
            if (comparison := compare_runs(augmented, plain)) is not None:
                gain["gain of FA"] = number(comparison.difference.mean)
                if interval := comparison.difference.interval:
                    gain["95 % from"], gain["95 % to"] = map(number, interval)
                gain["time"] = number(comparison.time_ratio)
            rows.append({"data": Entry(data), **_row(pair, plain)})
            rows.append({"data": Entry(data), **_row(pair, augmented), **gain})
    return rows


def _strength_rows(groups: Groups) -> list[Row]:
    """List CWD by strength, if there are at least two strengths besides plain CWD."""
    rows: list[Row] = []
    for (data, pair), methods in groups.items():
        known = [(*base_and_strength(runs[0].recipe), runs) for runs in methods.values()]
        found = [(strength, runs) for base, strength, runs in known if base == "cwd"]
        if sum(strength > 0 for strength, _ in found) >= 2:
            rows += [
                {"data": Entry(data), "strength": number(strength, ".1f"), **_row(pair, runs)}
                for strength, runs in sorted(found, key=lambda each: each[0])
            ]
    return rows


def _run_row(run: Run) -> Row:
    final = run.result["final"]
    pair = pair_of(run.recipe) if benchmark_of(run.recipe) else None
    return {
        "data": Entry(run.data),
        "pair": Entry(run.pair),
        "method": Entry(title_of(run.method)),
        "seed": number(run.seed, ","),
        "parameters": number(run.result["parameters"], ","),
        "steps": number(run.result["steps"], ","),
        "mIoU": number(final["miou"]),
        "mAcc": number(final["macc"]),
        "aAcc": number(final["aacc"]),
        "seconds": number(float(run.result["train_seconds"]), ".1f"),
        "seconds per step": number(seconds_per_step([run]), ".3f"),
        "mean λv/2T² at the end": number(last_augmentation(run), ".3f"),
        "paper's pair": Entry(pair or ""),
    }


def last_augmentation(run: Run) -> float | None:
    """Return the last logged augmentation term, mean λv/2T²; None if there is none."""
    logged = [run.curves[name][-1] for name in run.curves if name.endswith("augmentation")]
    return max(logged)[1] if logged else None


def write_figures(runs: Sequence[Run], out: Path) -> list[Path]:
    """Draw Figures 2 and 4 of every pair that has the necessary runs.

    Figure 2 needs the student alone and a loss with and without augmentation; Figure 4 the student
    alone and CWD or CWD+FA.

    Raises:
        InputError: there are no runs, or two with the same method and seed.
    """
    written = []
    for (data, pair), methods in _group_runs(runs).items():
        if (alone := find_method(methods, ALONE)) is None:
            continue
        tail = file_tail(data, pair)
        for base, plain, augmented in augmented_pairs(methods):
            written.append(out / f"figure-2-{base}-{tail}.png")
            draw_gain(written[-1], methods[alone], plain, augmented)
        others = filter(None, (find_method(methods, each) for each in ("cwd", "cwd-fa")))
        shown = {title_of(each): methods[each] for each in (alone, *others)}
        if len(shown) > 1:
            written.append(out / f"figure-4-{tail}.png")
            draw_classes(written[-1], shown)
    return written


def file_tail(data: str, pair: str) -> str:
    """Return the file name stem of a pair's pictures.

    >>> file_tail("my data", "a/b")
    'my-data-a-b'
    """
    return f"{data}-{pair}".replace("/", "-").replace(" ", "-")


def draw_gain(
    path: Path, alone: Sequence[Run], plain: Sequence[Run], augmented: Sequence[Run]
) -> None:
    """Draw the gain of augmentation per class against the class's difficulty (Figure 2).

    Difficulty is the IoU of the student alone. A point's area is the class's share of the labelled
    pixels; the line is an unweighted least-squares fit over classes, r its correlation.
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
    """Fit a line: slope, intercept and Pearson's r; None if x or y does not vary."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(offset), float(np.corrcoef(x, y)[0, 1])


def draw_classes(path: Path, methods: Mapping[str, Sequence[Run]]) -> None:
    """Draw the IoU of every class as grouped bars, rare classes first (Figure 4).

    Methods are runs by display name; error bars are the standard deviation over seeds.
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
        # Set last: a limit on one row would stop autoscaling of the others, which share it.
        axes[0].set_ylim(bottom=0)
        title = f"IoU of each class (share of pixels), rare first, {_seeds(*methods.values())}"
        drawn.suptitle(title, fontsize=10)
        place = {"loc": "outside lower center", "ncols": len(methods), "frameon": False}
        drawn.legend(bars, list(methods), **place)
        save(drawn, path)


def _seeds(*methods: Sequence[Run]) -> str:
    counts = [len(runs) for runs in methods]
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low > 1 else ''}"


def _label_points(axis: Any, points: Any, names: Sequence[str]) -> None:
    """Label each point, unless the label would cover another label or a point."""
    from matplotlib.transforms import Bbox

    axis.figure.draw_without_rendering()
    # Keep the layout, so that the positions stay valid.
    axis.figure.set_layout_engine("none")
    radii = np.sqrt(points.get_sizes() / np.pi)
    centres = axis.transData.transform(points.get_offsets())
    sides = radii[:, None] * axis.figure.dpi / 72
    taken = [*map(Bbox, np.stack([centres - sides, centres + sides], axis=1))]
    if legend := axis.get_legend():
        taken.append(legend.get_window_extent())
    inside = axis.get_window_extent()
    for name, place, radius in zip(names, points.get_offsets(), radii, strict=True):
        for across, up in _SPOTS:
            text = axis.annotate(
                name,
                place,
                (across * (radius + 2), up * (radius + 6)),
                textcoords="offset points",
                ha="left" if across > 0 else "right" if across else "center",
                va="center",
                fontsize=7,
            )
            box = text.get_window_extent()
            if not box.count_overlaps(taken) and inside.count_contains(box.get_points()) == 2:
                taken.append(box)
                break
            text.remove()
