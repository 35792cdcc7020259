"""Scores of a finished screening of relative strengths, as Markdown and as a figure.

There is no timing.

Usage: python benchmarks/shares.py runs/scenes/compare-relative-cwd --out docs/figures/shares.png
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from fakd.runs.reading import read_folders

KINDS = {
    ("diagonal", True): "diagonal",
    ("diagonal", False): "diagonal, no gradient into classifier",
    ("full", True): "full, own class spared",
    ("full", False): "full, own class spared, no gradient into classifier",
    ("logits", True): "logits",
}
"""By covariance, and whether the gradient reaches the classifier."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found, base = screened(arguments.folder)
    shares = sorted({share for _, share in found})
    print("| share of the margin | " + " | ".join(KINDS.values()) + " |")
    print("|---" * (len(KINDS) + 1) + "|")
    for share in shares:
        cells = [found.get((kind, share)) for kind in KINDS.values()]
        print(f"| {share:g} | " + " | ".join(map(cell, cells)) + " |")
    print("\nWithout augmentation " + ", ".join(f"{n} {v:.2f}" for n, v in base.items()))
    if arguments.out:
        draw(found, base, shares).savefig(arguments.out, dpi=110)


def screened(folder: Path) -> tuple[dict[tuple[str, float], tuple[float, float]], dict[str, float]]:
    """Read mIoU and last λ of every form by kind and share, and the mIoU of the other methods."""
    scores, strengths = defaultdict(list), defaultdict(list)
    base = defaultdict(list)
    for run in read_folders([folder]).runs:
        arguments: dict[str, Any] = (run.recipe.get("distillation") or {}).get("init_args", {})
        if not arguments.get("strength"):
            base[run.method].append(run.miou)
            continue
        kind = KINDS[arguments["covariance"], arguments["classifier_gradient"]]
        key = kind, arguments["strength"]
        scores[key].append(run.miou)
        strengths[key].append(run.curves["lambda"][-1][1])
    found = {key: (mean(scores[key]), mean(strengths[key])) for key in scores}
    return found, {name: mean(each) for name, each in base.items()}


def cell(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{found[0]:.2f} (λ {found[1]:.2g})"


def draw(found: dict, base: dict[str, float], shares: list[float]) -> Figure:
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    for kind, mark in zip(KINDS.values(), "osD^v", strict=True):
        line = [found[kind, share][0] for share in shares]
        axes.plot(range(len(shares)), line, marker=mark, label=kind)
    for (name, miou), style in zip(base.items(), ("--", ":", "-."), strict=False):
        axes.axhline(miou, color="black", linestyle=style, linewidth=1, label=name)
    axes.set_xticks(range(len(shares)), [f"{share:g}" for share in shares])
    axes.set_xlabel("strength, as a share of the margin between the two likeliest logits")
    axes.set_ylabel("mIoU (%)")
    axes.legend(fontsize=8, loc="lower left")
    return figure


if __name__ == "__main__":
    main()
