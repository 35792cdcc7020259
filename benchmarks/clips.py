"""Scores of finished comparisons by group of validation images, such as clips, as Markdown.

Several grids are folds: a gain is that of one seed in one fold, and intervals (Student's t, 95 %)
are over all of them. There is no timing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from fakd.comparing.statistics import holm, mean_iou, paired_difference
from fakd.runs.images import ImageCounts, Pixels, read_images
from fakd.runs.reading import read_folders

Scores = dict[str, dict[tuple[str, int], float]]
"""Scores by method, then by fold and seed."""


def scores_by_group(folders: Sequence[Path], reference: str) -> dict[str, Scores]:
    """Score each group of images for which the reference was run."""
    found: dict[str, Scores] = {}
    for run in read_folders(folders).runs:
        counted = read_images(run.folder / "images.npz", len(run.class_names))
        if counted is None:
            continue
        groups = counted.groups or ("all",) * len(counted.names)
        for group in dict.fromkeys(groups):
            score = score_of(counted, [each == group for each in groups])
            place = run.data, run.seed
            found.setdefault(group, {}).setdefault(run.method, {})[place] = score
    return {group: found[group] for group in sorted(found) if reference in found[group]}


def score_of(counted: ImageCounts, taken: Sequence[bool]) -> float:
    """Compute the mIoU in percent of selected images together."""
    sums = Pixels(*(each[np.array(taken)].sum(0) for each in counted.pixels))
    return float(mean_iou(sums))


def table(scores: Scores, reference: str) -> str:
    """Render a group: every method, and its gain over the reference."""
    lines = [
        f"| method | runs | mIoU, mean ± sd | against {reference}, 95 % | p, Holm |",
        "|---|---|---|---|---|",
    ]
    others = [method for method in scores if method != reference]
    gains = {}
    for method in others:
        both = sorted(scores[method].keys() & scores[reference].keys())
        if both:
            pairs = ([scores[each][place] for place in both] for each in (method, reference))
            gains[method] = paired_difference(*pairs)
    known = [method for method in gains if gains[method].interval is not None]
    corrected = dict(zip(known, holm([gains[each].p_value for each in known]), strict=True))
    for method in [reference, *others]:
        own = [*scores[method].values()]
        spread = f" ± {stdev(own):.2f}" if len(own) > 1 else ""
        line = f"| {method} | {len(own)} | {mean(own):.2f}{spread} |"
        gain = gains.get(method)
        if gain is None:
            lines.append(f"{line} | |")
            continue
        interval = gain.interval
        bounds = "" if interval is None else f" ({interval.low:+.2f} to {interval.high:+.2f})"
        p = f"{corrected[method]:.3f}" if method in corrected else ""
        lines.append(f"{line} {gain.mean:+.2f}{bounds} | {p} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each group."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("folders", nargs="+", type=Path, help="grids or runs")
    flags.add_argument("--reference", default="alone", help="the method others are compared with")
    given = flags.parse_args()
    for group, scores in scores_by_group(given.folders, given.reference).items():
        print(f"\n{group}\n\n{table(scores, given.reference)}")


if __name__ == "__main__":
    main()
