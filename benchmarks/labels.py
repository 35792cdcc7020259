"""Scores against the share of labelled images, as Markdown and as a figure. There is no timing.

Each folder is a comparison of the same methods with another `--data.labelled`:

    python benchmarks/labels.py runs/labels-* --out docs/figures/labels.png
"""

import argparse
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from clips import Scores, scores_by_group, table
from fakd.runs.reading import read_folders

ByLabels = Mapping[float, Scores]
NAMES = {
    "alone": "student alone, the labelled images only",
    "hard": "hard pseudo-labels",
    "pd": "PD",
    "cwd": "CWD",
    "cwd-fa": "CWD+FA",
}


def main() -> None:
    """Print a table for each group and number of labels, and draw the curves."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("folders", nargs="+", type=Path)
    flags.add_argument("--groups", nargs="+", default=[], help="to draw: GROUP or GROUP=TITLE")
    flags.add_argument("--images", type=int, help="how many training images there are in all")
    flags.add_argument("--out", type=Path)
    given = flags.parse_args()
    found: dict[str, dict[float, Scores]] = {}
    for folder in given.folders:
        for group, scores in scores_by_group([folder], "alone").items():
            found.setdefault(group, {})[labelled(folder, given.images)] = scores
    for group, by_labels in found.items():
        for count in sorted(by_labels):
            print(f"\n{group}, {count:g} labelled\n\n{table(by_labels[count], 'alone')}")
    if given.out:
        titles = dict(each.split("=", 1) if "=" in each else (each, each) for each in given.groups)
        shown = {titles.get(group, group): found[group] for group in titles or found}
        draw(shown).savefig(given.out, dpi=110)


def labelled(folder: Path, images: int | None) -> float:
    """Number of labelled images of a comparison; a share is multiplied by `images`."""
    first = read_folders([folder]).runs[0].recipe["data"]["init_args"].get("labelled")
    amount = 1.0 if first is None else float(first)
    return ceil(amount * images) if images and amount <= 1 else amount


def draw(groups: Mapping[str, ByLabels]) -> Figure:
    """Draw one panel for each group, one line for each method, one dot for each seed."""
    figure = Figure(figsize=(4.6 * len(groups), 4), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (group, by_labels) in zip(panels, groups.items(), strict=True):
        counts = sorted(by_labels)
        for (method, name), mark in zip(NAMES.items(), "os^vD", strict=True):
            seen = [count for count in counts if method in by_labels[count]]
            means = [mean(by_labels[count][method].values()) for count in seen]
            (line,) = axes.plot(seen, means, marker=mark, label=name)
            for count in seen:
                seeds = [*by_labels[count][method].values()]
                axes.plot([count] * len(seeds), seeds, ".", color=line.get_color(), alpha=0.4)
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{count:g}" for count in counts])
        axes.minorticks_off()
        axes.set_title(group, fontsize=10)
        axes.set_xlabel("labelled images")
    panels[0].set_ylabel("mIoU (%)")
    panels[-1].legend(fontsize=8, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
