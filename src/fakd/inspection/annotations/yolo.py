"""YOLO's outlines: a text file for each image, names in data.yaml."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from fakd.inspection.annotations.regions import Annotations, Drawing, Region, Size, area
from fakd.inspection.grouping import split_of


def yolo(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read ``labels/a.txt`` for ``images/a.jpg``, a class and corners in each line."""
    names: dict[int, str] = {}
    for file in files:
        if file.endswith((".yaml", ".yml")) and "/" not in file:
            content = yaml.safe_load((root / file).read_text(encoding="utf-8"))
            if isinstance(content, dict) and "names" in content:
                given = content["names"]
                pairs = given.items() if isinstance(given, dict) else enumerate(given)
                names = {int(number): str(name) for number, name in pairs}
    if not names:
        return None
    known, found, used = set(files), Annotations("YOLO", [], {}), set[str]()
    boxes = alone = 0
    for image in images:
        folder, middle, name = f"/{image}".rpartition("/images/")
        path = f"{folder}/labels/{name}" if middle else image
        file = str(PurePosixPath(path.lstrip("/")).with_suffix(".txt"))
        if file not in known:
            alone += 1
            continue
        lines = [line.split() for line in (root / file).read_text().splitlines() if line.strip()]
        outlines = [line for line in lines if len(line) > 6]
        boxes += len(lines) - len(outlines)
        used |= {names[int(line[0])] for line in outlines}
        parsed = [(names[int(line[0])], [*map(float, line[1:])]) for line in outlines]
        found.images[image] = partial(_drawing, parsed)
        if (split := split_of(image)) is not None:
            found.splits.setdefault(split, []).append(image)
    if not found.images:
        return None
    found.names = [name for name in names.values() if name in used]
    if boxes:
        found.remarks.append(f"{boxes} objects left out that have a box and no outline")
    if alone:
        found.remarks.append(
            f"{alone} images without a text file left out; give those without objects an empty one"
        )
    return found


def _drawing(parsed: Sequence[tuple[str, Sequence[float]]], size: Size) -> Drawing:
    """Draw larger objects first, for the lines of a file have no order."""
    regions = [
        Region(name, [(np.array(numbers).reshape(-1, 2) * size).tolist()])
        for name, numbers in parsed
    ]
    return Drawing(sorted(regions, key=lambda region: -area(region.outlines)))
