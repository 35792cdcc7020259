"""YOLO's outlines: a text file for each image, names in data.yaml."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from fakd.errors import InputError
from fakd.inspection.annotations.regions import (
    Annotations,
    Drawing,
    Region,
    Size,
    area,
    understood,
)

_BOX = 6
"""Numbers of a class and a box, with a confidence; an outline has more."""
_MOST = 1.01
"""Where a corner lies at most, by rounding, as a share of the width or height."""


def yolo(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read ``labels/a.txt`` for ``images/a.jpg``, a class and corners in each line."""
    names: dict[int, str] = {}
    poses = False
    for file in files:
        if file.endswith((".yaml", ".yml")) and "/" not in file:
            with understood(file):
                content = yaml.safe_load((root / file).read_text(encoding="utf-8"))
                if isinstance(content, dict) and "names" in content:
                    poses |= "kpt_shape" in content
                    given = content["names"]
                    pairs = given.items() if isinstance(given, dict) else enumerate(given)
                    named = {int(number): str(name) for number, name in pairs}
                    if names and named != names:
                        raise InputError(
                            f"{file} names other classes than another file in {root}; take out "
                            "the one that is not of these annotations"
                        )
                    names = named
    if not names:
        return None
    known, found, used = set(files), Annotations("YOLO", [], {}), set[str]()
    boxes = alone = 0
    points: list[bool] = []
    for image in images:
        folder, middle, name = f"/{image}".rpartition("/images/")
        path = f"{folder}/labels/{name}" if middle else image
        file = str(PurePosixPath(path.lstrip("/")).with_suffix(".txt"))
        if file not in known:
            alone += 1
            continue
        with found.leaving_out(file):
            text = (root / file).read_text()
            lines = [[float(word) for word in line.split()] for line in text.splitlines() if line]
            lines = [line for line in lines if line]
            outlines = [] if poses else [line for line in lines if len(line) > _BOX]
            parsed = [(names[int(line[0])], line[1:]) for line in outlines]
            points += [_like_points(line) for line in outlines]
            boxes += len(lines) - len(outlines)
            used |= {name for name, _ in parsed}
            found.add(image, file, partial(_drawing, parsed))
    if not found.images and not found.failed:
        return None
    if points and all(points):
        poses, boxes, used = True, boxes + len(points), set()
    found.names = [name for name in names.values() if name in used]
    if boxes:
        what = "keypoints" if poses else "a box"
        found.remarks.append(f"{boxes} objects left out that have {what} and no outline")
    if alone:
        found.remarks.append(
            f"{alone} images without a text file left out; give those without objects an empty one"
        )
    return found


def _like_points(line: Sequence[float]) -> bool:
    """Tell whether a line may hold a box and points, each seen (2), hidden (1) or not there (0)."""
    return len(line) % 3 == 2 and {*line[7::3]} <= {0, 1, 2}


def _drawing(parsed: Sequence[tuple[str, Sequence[float]]], size: Size) -> Drawing:
    """Draw larger objects first, for the lines of a file have no order."""
    if strange := [each for _, numbers in parsed for each in numbers if not 0 <= each <= _MOST]:
        raise InputError(f"corners must be shares of width and height, got {strange[0]:g}")
    regions = [
        Region(name, [(np.array(numbers).reshape(-1, 2) * size).tolist()])
        for name, numbers in parsed
    ]
    return Drawing(sorted(regions, key=lambda region: -area(region.outlines)))
