"""COCO's JSON: polygons and run lengths of instances, or panoptic maps."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool

from fakd.data.decoding import decoded
from fakd.inspection.annotations.regions import Annotations, Drawing, Region, Size, area
from fakd.inspection.grouping import split_of

_FILES = 20
"""More JSON files than that are one for each image."""


def coco(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read ``instances_*.json`` and the like, or panoptic maps where there are such."""
    jsons = [file for file in files if file.endswith(".json")]
    if not 0 < len(jsons) <= _FILES:
        return None
    for word in ("panoptic", "instances", ""):
        named = [file for file in jsons if word in PurePosixPath(file).name.lower()]
        contents = {file: json.loads((root / file).read_bytes()) for file in named}
        contents = {file: each for file, each in contents.items() if _is_coco(each)}
        if contents:
            return _annotations(root, contents, images)
    return None


def _is_coco(content: Any) -> bool:
    keys = {"images", "annotations", "categories"}
    return isinstance(content, dict) and keys <= content.keys()


def _annotations(root: Path, contents: Mapping[str, Any], images: Sequence[str]) -> Annotations:
    used: dict[int, str] = {}
    found = Annotations("COCO", [], {})
    missing = boxes = 0
    by_base = defaultdict(list)
    for path in images:
        by_base[PurePosixPath(path).name].append(path)
    for file, content in contents.items():
        names = {each["id"]: str(each["name"]) for each in content["categories"]}
        by_image = defaultdict(list)
        for each in content["annotations"]:
            if "segments_info" in each or each.get("segmentation"):
                by_image[each["image_id"]].append(each)
                used |= {i: names[i] for i in _categories(each)}
            else:
                boxes += 1
        panoptic = any("segments_info" in each for each in content["annotations"])
        split = split_of(file)
        for image in content["images"]:
            name = PurePosixPath(image["file_name"])
            beside = str(PurePosixPath(file).parent / name)
            if not (places := by_base[name.name]):
                missing += 1
                continue
            # Beside the annotations, else under the whole name, else in the folder of the split.
            path = min(
                places,
                key=lambda place: (
                    place != beside,
                    not place.endswith(str(name)),
                    split_of(place) != split,
                ),
            )
            size = int(image["width"]), int(image["height"])
            own = by_image[image["id"]]
            if panoptic:
                found.beneath = None
                maps = root / PurePosixPath(file).with_suffix("")
                found.images[path] = partial(_segments, own, maps, names, size)
            else:
                found.images[path] = partial(_instances, own, names, size)
            if split is not None:
                found.splits.setdefault(split, []).append(path)
    found.names = list(dict.fromkeys(used[number] for number in sorted(used)))
    if boxes:
        found.remarks.append(f"{boxes} objects left out that have a box and no outline")
    if missing:
        found.remarks.append(f"{missing} images of the annotations are not here and left out")
    return found


def _categories(annotation: Mapping[str, Any]) -> list[int]:
    parts = annotation.get("segments_info", [annotation])
    return [part["category_id"] for part in parts]


def _instances(
    annotations: Sequence[Mapping[str, Any]], names: Mapping[int, str], size: Size, _: Size
) -> Drawing:
    """Take crowds, which have no class, then objects, the larger ones first."""
    found: list[tuple[float, Region]] = []
    for each in annotations:
        shape, name = each["segmentation"], names[each["category_id"]]
        if isinstance(shape, dict):
            bitmap = run_lengths(shape)
            covered, region = float(bitmap.sum()), Region(name, bitmap=bitmap)
        else:
            outlines = [[*zip(part[::2], part[1::2], strict=True)] for part in shape]
            covered, region = area(outlines), Region(name, outlines)
        if each.get("iscrowd"):
            covered, region = np.inf, region._replace(name=None)
        found.append((covered, region))
    return Drawing([region for _, region in sorted(found, key=lambda pair: -pair[0])], size)


def _segments(
    annotations: Sequence[Mapping[str, Any]],
    maps: Path,
    names: Mapping[int, str],
    size: Size,
    _: Size,
) -> Drawing:
    regions = []
    for each in annotations:
        pixels = decoded(maps / each["file_name"]).astype(np.int32)
        numbers = pixels @ np.array([1, 256, 256**2])
        for part in each["segments_info"]:
            name = None if part.get("iscrowd") else names[part["category_id"]]
            regions.append(Region(name, bitmap=numbers == part["id"]))
    return Drawing(regions, size)


def run_lengths(shape: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """Decode the lengths of runs down the columns, of 0 first, as numbers or packed as text.

    Packed, a length after the third is told by its difference to the one before last. Its bits come
    in groups of five, the lowest first, each a character from "0" on; its sixth bit says: go on.
    """
    height, width = shape["size"]
    lengths = shape["counts"]
    if not isinstance(lengths, list):
        text = lengths if isinstance(lengths, str) else lengths.decode()
        lengths, value, shift = [], 0, 0
        for character in text:
            bits = ord(character) - 48
            value |= (bits & 31) << shift
            shift += 5
            if bits & 32:
                continue
            value -= (bits >> 4 & 1) << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    values = np.arange(len(lengths)) % 2 == 1
    pixels: np.ndarray = np.repeat(values, lengths).reshape(width, height).T
    return pixels
