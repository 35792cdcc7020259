"""labelme's polygons next to images, and its older format with one folder per image."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import dist
from pathlib import Path
from typing import Any

import numpy as np

from fakd.data.masks import read_mask
from fakd.data.names import tidy
from fakd.errors import InputError
from fakd.inspection.annotations.packed import decode_bitmap
from fakd.inspection.annotations.regions import (
    Annotations,
    Drawing,
    Places,
    Region,
    Size,
    annotation_errors,
)

_CORNERS = 64
"""Number of corners of a polygon that approximates a circle."""
_AREAS = ("polygon", "rectangle", "rotation", "circle", "mask")
_NO_AREAS = ("point", "points", "line", "linestrip")


def labelme(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read the ``.json`` files next to images: polygons, rectangles, circles and bitmaps."""
    found, places = Annotations("labelme", [], {}), Places(images)
    times = Counter(image.rpartition(".")[0] for image in images)
    by_stem = {image.rpartition(".")[0]: image for image in images}
    stems = Places(by_stem)
    skipped: Counter[str] = Counter()
    labels = set()
    for file in files:
        stem = file[:-5] if file.lower().endswith(".json") else file
        image = None
        with found.skipping_malformed(file):
            if stem == file or not (content := _labelme(root / file)):
                continue
            shapes = [each for each in content["shapes"] if _drawable(each, file)]
            dropped = len(content["shapes"]) - len(shapes)
            named = {tidy(str(each["label"])) for each in shapes}
            width, height = content.get("imageWidth"), content.get("imageHeight")
            size = (int(width), int(height)) if width and height else None
            # In this order: the image next to the file with its name or imagePath, one elsewhere
            # with its name, one elsewhere with its imagePath.
            told = str(content.get("imagePath"))
            image = by_stem[stem] if times[stem] == 1 else places.beside(told, file)
            image = image or by_stem.get(stems.find(stem, file) or "") or places.find(told, file)
            if image is None:
                skipped["files without their image"] += 1
        if image is not None:
            skipped["points and lines"] += dropped
            labels |= named
            found.add(image, file, partial(_drawing, shapes, size))
    if not found.images and not found.failed:
        return None
    found.names = sorted(labels)
    found.remarks += [f"{number} {what} left out" for what, number in skipped.items() if number]
    return found


def _drawing(shapes: Sequence[Any], size: Size | None, _: Size) -> Drawing:
    return Drawing([_region(shape) for shape in shapes], size)


def _labelme(path: Path) -> Any:
    content = json.loads(path.read_bytes())
    return content if isinstance(content, dict) and "shapes" in content else None


def _kind(shape: Any) -> str:
    return shape.get("shape_type") or "polygon"


def _drawable(shape: Any, file: str) -> bool:
    if (kind := _kind(shape)) not in _AREAS:
        if kind not in _NO_AREAS:
            raise InputError(f"{file} has a shape of kind {kind}; draw it as a polygon")
        return False
    if shape["label"] is None or not tidy(str(shape["label"])):
        raise InputError(f"{file} has a shape without a label; give it one, or remove it")
    return True


def _region(shape: Any) -> Region:
    name, points = str(shape["label"]), shape["points"]
    match _kind(shape):
        case "mask":
            left, top = (int(each) for each in points[0])
            return Region(name, bitmap=decode_bitmap(shape["mask"]), corner=(left, top))
        case "rectangle" if len(points) == 2:
            (x, y), (other_x, other_y) = points
            points = [(x, y), (other_x, y), (other_x, other_y), (x, other_y)]
        case "circle":
            (x, y), radius = points[0], dist(*points)
            turns = np.arange(_CORNERS) * 2 * np.pi / _CORNERS
            points = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], 1).tolist()
    return Region(name, [points])


def labelme_folders(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read ``*_json/{img.png,label.png,label_names.txt}``, each with its own ids."""
    found, known = Annotations("labelme's folders", [], {}, beneath=None), {*images}
    labels: dict[str, None] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        if name != "label_names.txt" or f"{folder}/img.png" not in known:
            continue
        with annotation_errors(file):
            names = (root / file).read_text(encoding="utf-8").split("\n")
        names = [each.strip().strip("_") for each in names if each.strip()]
        labels |= dict.fromkeys(names)
        read = partial(_read_drawing, root / folder / "label.png", names)
        found.add(f"{folder}/img.png", file, read)
    first = [name for name in labels if name == "background"]
    found.names = first + sorted({*labels} - {"background"})
    return found if found.images else None


def _read_drawing(path: Path, names: Sequence[str], _: Size) -> Drawing:
    ids = read_mask(path)
    regions = [Region(name, bitmap=ids == number) for number, name in enumerate(names)]
    return Drawing(regions, ids.shape[1::-1])
