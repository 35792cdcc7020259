"""Disagreement of two networks per image: a ranking, pictures, and lists for labelling tools."""

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor
from torch.nn import functional as F

from fakd.files import write_text
from fakd.metrics import confusion_matrix, jensen_shannon
from fakd.report.figures import Palette, overlay, save_grid, shrink_size

RANKING, PATHS, LABEL_STUDIO, CVAT = "ranking.csv", "images.txt", "label-studio.json", "cvat.jsonl"
_LOOK = 8
"""Rows and columns of mean colours by which near copies of an image are recognised."""
_AT_ONCE = 2**16
"""Number of thumbnails compared at a time."""
_LONGEST = 480
"""Longer side of a drawn picture in pixels."""
FOUND = np.dtype(
    [(name, "f4") for name in ("score", "differing", "region_score")]
    + [(name, "i4") for name in ("teacher", "student", "left", "top", "width", "height")]
)
"""Record of an image; its score is NaN if it could not be read."""


class Difference(NamedTuple):
    """Difference between two outputs for one image."""

    divergence: Float[Tensor, "height width"]
    """The divergence of `jensen_shannon`."""
    teacher: Int[Tensor, "height width"]
    student: Int[Tensor, "height width"]
    classes: int

    @classmethod
    def of(
        cls,
        teacher: Float[Tensor, "1 classes height width"],
        student: Float[Tensor, "1 classes height width"],
        temperature: float,
    ) -> "Difference":
        """Compare logits."""
        divergence = jensen_shannon(teacher, student, temperature)[0]
        # `max` gives the same classes as `argmax`, which takes two to three times as long.
        theirs, ours = (logits[0].max(0).indices for logits in (teacher, student))
        return cls(divergence, theirs, ours, teacher.shape[1])

    def pairs(self) -> Int[Tensor, "classes classes"]:
        """Count the pixels of each pair of different classes, [teacher, student]."""
        return confusion_matrix(self.student, self.teacher, self.classes).fill_diagonal_(0)

    def found(self, pairs: Int[Tensor, "classes classes"]) -> tuple[float | int, ...]:
        """Summarise the image as a `FOUND` record.

        The region is the square with the largest mean divergence; its side is a quarter of the
        image's shorter side, and positions are a quarter of its side apart.
        """
        height, width = self.divergence.shape
        side = max(1, min(height, width) // 4)
        step = max(1, side // 4)
        means = F.avg_pool2d(self.divergence[None], side, step)[0]
        top, left = (step * each for each in divmod(int(means.argmax()), means.shape[1]))
        total = int(pairs.sum())
        teacher, student = divmod(int(pairs.argmax()), self.classes) if total else (-1, -1)
        shares = float(self.divergence.mean()), total / (height * width), float(means.max())
        return (*shares, teacher, student, left, top, side, side)


def thumbnail(image: UInt8[Tensor, "3 height width"]) -> UInt8[np.ndarray, " values"]:
    """Reduce an image to 8 x 8 mean colours."""
    small: np.ndarray = F.adaptive_avg_pool2d(image.float(), _LOOK).round().byte().numpy().ravel()
    return small


def rank(
    scores: Float[np.ndarray, " images"], count: int, looks: Num[np.ndarray, "images values"] | None
) -> list[int]:
    """Sort images by score, the largest first; those without a score are left out.

    With ``looks``, the first ``count`` are selected one by one, each with the largest product of
    its score and the distance of its look to the nearest one selected: the greedy choice of a
    core-set (Sener and Savarese, 2018, arXiv 1708.00489), weighted by score. A copy comes after all
    images that are not copies.
    """
    every = [int(each) for each in np.argsort(-scores, kind="stable") if scores[each] >= 0]
    if looks is None:
        return every
    chosen: list[int] = []
    worth = np.where(np.isnan(scores), -1.0, scores).astype(np.float64)
    nearest = np.ones(len(scores))
    for _ in range(min(count, len(every))):
        best = int(np.argmax(np.where(worth < 0, -1, worth * nearest)))
        chosen.append(best)
        worth[best] = -1
        for first in range(0, len(looks), _AT_ONCE):
            block = slice(first, first + _AT_ONCE)
            apart = (looks[block].astype(np.float32) - looks[best]) / 255
            nearest[block] = np.minimum(nearest[block], np.sqrt((apart**2).mean(1)))
    taken = set(chosen)
    return chosen + [each for each in every if each not in taken]


def write_ranking(
    path: Path, files: Sequence[str], order: Sequence[int], found: np.ndarray, names: Sequence[str]
) -> None:
    """Write a table of all images in order.

    Args:
        path: The .csv file.
        files: The path of each image.
        order: Indices of the images.
        found: `Difference.found` of each image.
        names: The class names.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["rank", "image", "score", "differing", "teacher", "student"]
    writer.writerow([*columns, "left", "top", "width", "height", "region_score"])
    for rank, index in enumerate(order, start=1):
        row = found[index]
        shares = (f"{row[name]:.6g}" for name in ("score", "differing", "region_score"))
        score, differing, region = shares
        pair = [names[row[who]] if row[who] >= 0 else "" for who in ("teacher", "student")]
        place = [int(row[name]) for name in ("left", "top", "width", "height")]
        writer.writerow([rank, files[index], score, differing, *pair, *place, region])
    write_text(path, text.getvalue())


def write_lists(
    folder: Path, root: Path, files: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> None:
    """Write lists for labelling tools: paths, Label Studio tasks, and a CVAT manifest.

    Args:
        folder: The output folder.
        root: The folder of the images.
        files: The images, relative to it.
        sizes: Height and width of each.
    """
    root = root.resolve()
    write_text(folder / PATHS, "".join(f"{root / file}\n" for file in files))
    places = [quote(f"{root.name}/{file}", errors="surrogateescape") for file in files]
    tasks = [{"data": {"image": f"/data/local-files/?d={place}"}} for place in places]
    write_text(folder / LABEL_STUDIO, json.dumps(tasks, indent=1) + "\n")
    lines: list[dict[str, Any]] = [{"version": "1.1"}, {"type": "images"}]
    for file, (height, width) in zip(files, sizes, strict=True):
        stem, dot, suffix = file.rpartition(".")
        lines.append({"name": stem, "extension": dot + suffix, "width": width, "height": height})
    write_text(folder / CVAT, "".join(f"{json.dumps(line)}\n" for line in lines))


def draw(
    path: Path,
    image: UInt8[Tensor, "3 height width"],
    title: str,
    difference: Difference,
    row: np.void,
    names: Sequence[str],
    palette: Palette,
) -> None:
    """Draw an image, both predictions and their difference, framing the most different region."""
    height, width = image.shape[1:]
    size = shrink_size((width, height), _LONGEST)[::-1]
    small = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    small = small.round().byte()
    maps = [
        F.interpolate(each[None, None].float(), size, mode="nearest-exact")[0, 0]
        for each in (difference.teacher, difference.student, difference.divergence)
    ]
    teacher, student = (each.long() for each in maps[:2])
    grey = small.float().mean(0, keepdim=True).expand(3, -1, -1) * 0.5
    red = torch.tensor([255.0, 32.0, 32.0]).view(3, 1, 1)
    heat = grey.lerp(red.expand_as(grey), maps[2]).round().byte()
    _frame(heat, [int(row[name]) for name in ("left", "top", "width", "height")], size[1] / width)
    shown = torch.unique(torch.stack([teacher, student])).tolist()
    said = title if len(title) <= _TITLE else f"…{title[1 - _TITLE :]}"
    titles = (said, "teacher", "student", f"difference {row['score']:.3f}")
    pictures = [overlay(small, each, palette) for each in (teacher, student)]
    legend = {names[each]: palette[each] for each in shown}
    save_grid(path, [[small, *pictures, heat]], titles, legend)


_TITLE = 28
"""Maximum number of characters of an image's name in its title."""


def _frame(picture: UInt8[Tensor, "3 height width"], place: Sequence[int], scale: float) -> None:
    """Draw a white frame around a region."""
    left, top = (int(each * scale) for each in place[:2])
    right, bottom = (int((a + b) * scale) - 1 for a, b in zip(place[:2], place[2:], strict=True))
    right, bottom = min(right, picture.shape[2] - 1), min(bottom, picture.shape[1] - 1)
    for rows, columns in (
        (slice(top, bottom + 1), [left, right]),
        ([top, bottom], slice(left, right + 1)),
    ):
        picture[:, rows, columns] = 255
