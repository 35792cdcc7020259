"""Print finished runs as a Markdown table.

Usage: python recipes/scores.py runs/camvid-cpu/teacher runs/camvid-cpu/scratch-*
"""

import csv
import json
import sys
from pathlib import Path

HEAD = (
    "| run | parameters | steps | mIoU | mAcc | aAcc | train s | mean λv/2T² at the end |\n"
    "|---|---|---|---|---|---|---|---|"
)


def row(run: Path) -> str:
    """Summarise one run; scores are those of its last step."""
    result = json.loads((run / "result.json").read_text())
    with (run / "metrics.csv").open(newline="") as file:
        sizes = [line["augmentation"] for line in csv.DictReader(file) if line.get("augmentation")]
    scores = " | ".join(f"{result['final'][name]:.2f}" for name in ("miou", "macc", "aacc"))
    return (
        f"| {run.name} | {result['parameters'] / 1e6:.2f} M | {result['steps']} | {scores} | "
        f"{result['train_seconds']:.0f} | {f'{float(sizes[-1]):.3f}' if sizes else ''} |"
    )


if __name__ == "__main__":
    print(HEAD)
    for name in sys.argv[1:]:
        print(row(Path(name)))
