"""Variation of the gains of `fakd demo` over seeds: medians and ranges, as Markdown.

Usage: python benchmarks/demo.py [--seeds 5] [--run runs/demo-seeds]        (resumes if interrupted)
"""

import argparse
from pathlib import Path
from statistics import median
from typing import Any

from fakd.commands.demo import SMALL, STEPS, teach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--run", type=Path, default=Path("runs/demo-seeds"))
    arguments = parser.parse_args()
    runs = [
        teach(arguments.run / f"seed-{seed}", seed, STEPS, "reuse")
        for seed in range(arguments.seeds)
    ]
    print(table(runs))


def table(runs: list[list[dict[str, Any]]]) -> str:
    """Write a row for each network: median over the seeds, with minimum and maximum."""
    columns = {"mIoU": lambda final: final["miou"]}
    columns |= {name: lambda final, name=name: final["classes"][name]["iou"] for name in SMALL}
    lines = [
        "| network | " + " | ".join([*columns, "mIoU above alone"]) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    alone = [rows[1]["final"]["miou"] for rows in runs]
    for number, row in enumerate(runs[0]):
        finals = [rows[number]["final"] for rows in runs]
        gains = [final["miou"] - base for final, base in zip(finals, alone, strict=True)]
        cells = [spread([of(final) for final in finals]) for of in columns.values()]
        last = spread(gains) if number > 1 else ""
        lines.append(f"| {row['name']} | " + " | ".join([*cells, last]) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
