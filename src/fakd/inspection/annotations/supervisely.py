"""Supervisely projects: polygons, rectangles and bitmaps of each image."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fakd.inspection.annotations.packed import decode_bitmap
from fakd.inspection.annotations.regions import (
    Annotations,
    Drawing,
    Region,
    Size,
    annotation_errors,
)

_SHAPES = ("polygon", "rectangle", "bitmap")


def supervisely(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read ``meta.json`` and, for ``*/img/a.jpg``, ``*/ann/a.jpg.json``."""
    metas = [file for file in files if file.rpartition("/")[2] == "meta.json"]
    known, found = set(files), Annotations("Supervisely", [], {})
    skipped: Counter[str] = Counter()
    if not metas:
        return None
    used = set()
    for image in images:
        folder, middle, name = f"/{image}".rpartition("/img/")
        file = f"{folder}/ann/{name}.json".lstrip("/")
        if not middle or file not in known:
            continue
        with found.skipping_malformed(file):
            content = json.loads((root / file).read_bytes())
            objects = [each for each in content["objects"] if each["geometryType"] in _SHAPES]
            titles = {each["classTitle"] for each in objects}
            size = int(content["size"]["width"]), int(content["size"]["height"])
            skipped["lines and points"] += len(content["objects"]) - len(objects)
            used |= titles
            found.add(image, file, partial(_drawing, objects, size))
    if not found.images and not found.failed:
        return None
    with annotation_errors(metas[0]):
        classes = [each["title"] for each in json.loads((root / metas[0]).read_bytes())["classes"]]
    found.names = [name for name in dict.fromkeys([*classes, *sorted(used)]) if name in used]
    found.remarks += [f"{number} {what} left out" for what, number in skipped.items() if number]
    return found


def _drawing(objects: Sequence[Any], size: Size, _: Size) -> Drawing:
    return Drawing([_region(each) for each in objects], size)


def _region(each: Any) -> Region:
    name = each["classTitle"]
    if each["geometryType"] == "bitmap":
        left, top = each["bitmap"]["origin"]
        return Region(name, bitmap=decode_bitmap(each["bitmap"]["data"]), corner=(left, top))
    outline = each["points"]["exterior"]
    if each["geometryType"] == "rectangle":
        (left, top), (right, bottom) = outline
        outline = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return Region(name, [outline], each["points"]["interior"])
