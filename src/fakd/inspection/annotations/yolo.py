"""YOLO outlines: a text file per image, names in data.yaml or Label Studio's classes.txt."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from fakd.data.names import read_lines
from fakd.errors import InputError, count_noun
from fakd.inspection.annotations.regions import (
    Annotations,
    Drawing,
    Region,
    Size,
    annotation_errors,
    area,
)

_BOX = 6
"""Number of values of a class, a box and a confidence; an outline has more."""
_POINTS, _TURNED, _UPRIGHT, _OUTLINE = "keypoints", "a rotated box", "a box", "an outline"
_MOSTLY = 0.9
"""Minimum share of boxes among four-cornered outlines if all are meant as boxes; hand-drawn ones
vary."""
_SKEW = 0.1
"""How far, as a share of its length, a diagonal of a box may miss the centre of the other."""
_MOST = 1.01
"""Maximum coordinate of a corner as a share of width or height, with rounding."""


def yolo(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read ``labels/a.txt`` for ``images/a.jpg``, a class and corners in each line."""
    names: dict[int, str] = {}
    poses = False
    for file in files:
        if file.lower().endswith((".yaml", ".yml")) and "/" not in file:
            with annotation_errors(file):
                content = yaml.safe_load((root / file).read_text(encoding="utf-8"))
                if isinstance(content, dict) and "names" in content:
                    poses |= "kpt_shape" in content
                    given = content["names"]
                    if not isinstance(given, dict | list):
                        raise InputError(
                            f"{file}: names must be a list of classes, got {given!r}; write "
                            "names: [road, car]"
                        )
                    pairs = given.items() if isinstance(given, dict) else enumerate(given)
                    named = {int(number): str(name) for number, name in pairs}
                    if names and named != names:
                        raise InputError(
                            f"{file} names other classes than another file in {root}; remove the "
                            "one that does not belong to these annotations"
                        )
                    names = named
    if not names and "classes.txt" in files:
        # A blank line has a number too.
        listed = enumerate(read_lines(root / "classes.txt"))
        names = {number: name for number, name in listed if name}
    if not names:
        return None
    known, found, used = set(files), Annotations("YOLO", [], {}), set[str]()
    boxes = alone = 0
    kinds: Counter[str] = Counter()
    for image in images:
        folder, middle, name = f"/{image}".rpartition("/images/")
        path = f"{folder}/labels/{name}" if middle else image
        file = str(PurePosixPath(path.lstrip("/")).with_suffix(".txt"))
        if file not in known:
            alone += 1
            continue
        with found.skipping_malformed(file):
            words = map(str.split, read_lines(root / file))
            lines = [[float(word) for word in line] for line in words if line]
            outlines = [] if poses else [line for line in lines if len(line) > _BOX]
            if unknown := [int(line[0]) for line in outlines if int(line[0]) not in names]:
                raise InputError(f"{file} has class {unknown[0]}, which the names do not list")
            parsed = [(names[int(line[0])], line[1:]) for line in outlines]
            kinds.update(map(_kind, outlines))
            boxes += len(lines) - len(outlines)
            used |= {name for name, _ in parsed}
            found.add(image, file, partial(_drawing, parsed))
    if not found.images and not found.failed:
        return None
    what = _POINTS if poses else _UPRIGHT
    if kinds and not kinds.keys() - {_POINTS}:
        what = _POINTS
    elif kinds[_TURNED] and kinds[_TURNED] + kinds[_UPRIGHT] >= _MOSTLY * kinds.total():
        what = _TURNED
    if what != _UPRIGHT and not poses:
        boxes, used = boxes + kinds.total(), set()
    found.names = [name for name in names.values() if name in used]
    if boxes:
        found.remarks.append(f"{count_noun(boxes, 'object')} left out, with {what} but no outline")
    elif used and kinds[_UPRIGHT] == kinds.total():
        found.remarks.append(
            "each outline is an upright rectangle; if they are boxes around objects, the masks are "
            "wrong at their edges"
        )
    if alone:
        found.remarks.append(
            f"{count_noun(alone, 'image')} without a text file left out; add an empty file for "
            "images without objects"
        )
    return found


def _kind(line: Sequence[float]) -> str:
    """Classify a line with more values than a box.

    Keypoints follow a box, each visible (2), hidden (1) or missing (0). A rotated box is four
    corners whose diagonals bisect each other, whatever the sides of the image.
    """
    if len(line) % 3 == 2 and {*line[7::3]} <= {0, 1, 2}:
        return _POINTS
    if len(line) != 9:
        return _OUTLINE
    first, second, third, fourth = np.array(line[1:]).reshape(4, 2)
    apart = np.abs(first + third - second - fourth) / 2
    if (apart > _SKEW * np.maximum(np.abs(third - first), np.abs(fourth - second))).any():
        return _OUTLINE
    sides = np.abs([second - first, third - second])
    upright = (sides.min(1) <= _SKEW * sides.max(1)).all()
    return _UPRIGHT if upright else _TURNED


def _drawing(parsed: Sequence[tuple[str, Sequence[float]]], size: Size) -> Drawing:
    """Draw larger objects first, since the lines of a file have no order."""
    if strange := [each for _, numbers in parsed for each in numbers if not 0 <= each <= _MOST]:
        raise InputError(f"corners must be shares of width and height, got {strange[0]:g}")
    regions = [
        Region(name, [(np.array(numbers).reshape(-1, 2) * size).tolist()])
        for name, numbers in parsed
    ]
    return Drawing(sorted(regions, key=lambda region: -area(region.outlines)))
