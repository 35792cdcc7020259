"""Size of the feature augmentation of finished runs, and where it comes from.

For each run distilled with FAKD, the mean of v/2 over labelled pixels: with the class statistics at
the end of training, and with those of the finished student, which would differ if the former were
stale; with diagonal and full covariance; without dropout; for a pixel's own class and the others.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fakd import models
from fakd.covariance import ClassCovariance, CovarianceKind, class_rows
from fakd.data import Augmentation, training_batches
from fakd.inference import to_unit
from fakd.losses.grid import labels_on_grid_of
from fakd.report.examination import open_data_of
from fakd.runs.reading import Run, read_run
from fakd.types import Segmenter

SAVED = "objective.covariance."


def saved_statistics(run: Run, classes: int, channels: int) -> ClassCovariance:
    """Read the class statistics at the end of training."""
    with safe_open(run.folder / "last.safetensors", "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys() if key.startswith(SAVED)}  # noqa: SIM118
    value = kept.get(f"{SAVED}value")
    if value is None or value.shape[1] != channels:
        sys.exit(
            f"{run.folder} keeps no statistics of features; name runs of diagonal or full FAKD"
        )
    kind: CovarianceKind = "full" if value.ndim == 3 else "diagonal"
    statistics = ClassCovariance(classes, channels, kind)
    own = {key.removeprefix(SAVED): value for key, value in kept.items()}
    statistics.load_state_dict(own, strict=False)
    return statistics


def fresh_statistics(
    student: Segmenter, run: Run, batches: int, kinds: tuple[CovarianceKind, ...]
) -> tuple[dict[str, ClassCovariance], Tensor, float]:
    """Compute the class statistics of the finished student on training batches it has not seen.

    Returns:
        Statistics by kind, label weights by frequency, and the median margin between the largest
        and the second largest logit.
    """
    data, recipe = open_data_of(run), run.recipe
    given = recipe["augmentation"]
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    size = recipe["schedule"]["batch_size"]
    found: dict[str, ClassCovariance] = {}
    pixels, margins = torch.zeros(data.classes), []
    drawn = training_batches(
        data.train, Augmentation(**settings), size, run.seed + 1000, 0, batches
    )
    for batch in drawn:
        with torch.no_grad():
            seen = student(to_unit(batch.images))
        labels = labels_on_grid_of(seen.logits, batch.labels)
        for kind in kinds:
            if kind not in found:
                found[kind] = ClassCovariance(data.classes, seen.features.shape[1], kind)
            found[kind].update(seen.features, labels)
        rows = class_rows(labels, data.classes)
        pixels += torch.bincount(rows[rows < data.classes], minlength=data.classes)
        best = seen.logits.topk(2, dim=1).values
        margins.append((best[:, 0] - best[:, 1]).flatten())
    return found, pixels, float(torch.cat(margins).median())


def sizes(statistics: ClassCovariance, weight: Tensor, pixels: Tensor) -> dict[str, float]:
    """Average v/2 over labelled pixels: over all classes, for the own class, for the others."""
    labels = torch.arange(statistics.classes)[None, :, None]
    table = statistics.logit_variance(weight, labels)[0, :, :, 0].T / 2
    share = pixels / pixels.sum()
    own = table.diagonal()
    others = (table.sum(1) - own) / (statistics.classes - 1)
    return {
        "all": float(share @ table.mean(1)),
        "own class": float(share @ own),
        "other classes": float(share @ others),
    }


def examine(folder: Path, batches: int) -> dict[str, Any]:
    """Measure one run."""
    run = read_run(folder)
    torch.manual_seed(0)
    student = models.load(run.folder / "final.safetensors").train()
    weight = student.classifier.weight.detach()
    saved = saved_statistics(run, student.classes, weight.shape[1])
    kinds: tuple[CovarianceKind, ...] = ("diagonal", "full")
    fresh, pixels, margin = fresh_statistics(student, run, batches, kinds)
    for layer in student.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.0
    without, _, _ = fresh_statistics(student, run, batches, kinds)
    return {
        "run": str(folder),
        "saved kind": saved.kind,
        "as the training ended": sizes(saved, weight, pixels),
        "of the finished student": {kind: sizes(fresh[kind], weight, pixels) for kind in kinds},
        "without dropout": {kind: sizes(without[kind], weight, pixels) for kind in kinds},
        "median margin of the likeliest logit": margin,
    }


def main() -> None:
    """Measure the given runs and print the medians over them."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("runs", nargs="+", type=Path, help="finished runs, distilled with FAKD")
    flags.add_argument("--batches", type=int, default=40, help="training batches to use")
    flags.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/augmentation.json"
    )
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    found = [examine(run, given.batches) for run in given.runs]
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    for name, path in {
        "as the training ended": ("as the training ended",),
        "finished student, diagonal": ("of the finished student", "diagonal"),
        "finished student, full": ("of the finished student", "full"),
        "the same without dropout, diagonal": ("without dropout", "diagonal"),
        "the same without dropout, full": ("without dropout", "full"),
    }.items():
        rows = []
        for each in found:
            for key in path:
                each = each[key]
            rows.append(each)
        print(f"{name:36}", {key: round(median(row[key] for row in rows), 3) for key in rows[0]})
    margins = [each["median margin of the likeliest logit"] for each in found]
    print(f"median margin of the likeliest logit {median(margins):.2f}")


if __name__ == "__main__":
    main()
