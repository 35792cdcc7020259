"""COCO JSON: polygons and run-length encoding of instances, or panoptic maps."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool

from fakd.data.decoding import decode_rgb
from fakd.errors import InputError, count_noun
from fakd.inspection.annotations.regions import (
    Annotations,
    Drawing,
    Places,
    Region,
    Size,
    annotation_errors,
    area,
)
from fakd.inspection.grouping import split_of

_FILES = 20
"""With more JSON files than this, there is one per image, so the format is not COCO."""


def coco(root: Path, files: Sequence[str], images: Sequence[str]) -> Annotations | None:
    """Read ``instances_*.json`` and similar files, or panoptic maps if there are any."""
    jsons = [file for file in files if file.lower().endswith(".json")]
    if not 0 < len(jsons) <= _FILES:
        return None
    for word in ("panoptic", "instances", ""):
        named = [file for file in jsons if word in PurePosixPath(file).name.lower()]
        read = {file: _json(root / file) for file in named}
        if contents := {file: each for file, each in read.items() if _is_coco(each)}:
            if damaged := [file for file, each in read.items() if each is None]:
                raise InputError(
                    f"cannot read the annotations in {damaged[0]}, which is no JSON; export them "
                    "again, or remove the file"
                )
            return _annotations(root, contents, images)
    return None


def _json(path: Path) -> Any:
    """Read JSON; None if it is damaged, which the reader of that format reports."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def _is_coco(content: Any) -> bool:
    keys = {"images", "annotations", "categories"}
    return isinstance(content, dict) and keys <= content.keys()


def _annotations(root: Path, contents: Mapping[str, Any], images: Sequence[str]) -> Annotations:
    used: dict[int, str] = {}
    found, places = Annotations("COCO", [], {}), Places(images)
    missing = boxes = strays = 0
    for file, content in contents.items():
        with annotation_errors(file):
            names = _by_id(content["categories"], "name", file)
            listed = _by_id(content["images"], "file_name", file)
            sizes = {
                each["id"]: (each.get("width"), each.get("height")) for each in content["images"]
            }
            by_image, bad = defaultdict(list), dict[int, str]()
            for each in content["annotations"]:
                number = each["image_id"]
                strays += number not in listed
                if "segments_info" not in each and not any(each.get("segmentation") or ()):
                    boxes += 1
                elif unknown := [each for each in _categories(each) if each not in names]:
                    bad[number] = f"an object is of category {unknown[0]}, which is not listed"
                else:
                    by_image[number].append(each)
        panoptic = any("segments_info" in each for each in content["annotations"])
        split = split_of(file)
        for number, name in listed.items():
            if (path := places.find(name, file, split)) is None:
                missing += 1
            elif number in bad:
                found.failed.append(f"{file}, of {name}: {bad[number]}")
            else:
                own, (width, height) = by_image[number], sizes[number]
                size = (int(width), int(height)) if width and height else None
                used |= {i: names[i] for each in own for i in _categories(each)}
                read = partial(_instances, own, names, size)
                if panoptic:
                    found.beneath = None
                    maps = root / PurePosixPath(file).with_suffix("")
                    read = partial(_segments, own, maps, names, size)
                found.add(path, file, read, split)
    found.names = list(dict.fromkeys(used[number] for number in sorted(used)))
    if boxes:
        found.remarks.append(f"{count_noun(boxes, 'object')} left out, with a box but no outline")
    if missing:
        found.remarks.append(
            f"{count_noun(missing, 'annotated image is', 'annotated images are')} missing"
        )
    if strays:
        found.remarks.append(f"{count_noun(strays, 'object')} left out, not in any listed image")
    return found


def _by_id(entries: Sequence[Mapping[str, Any]], key: str, file: str) -> dict[int, str]:
    """Map the ids of entries to their names.

    Raises:
        InputError: two different names have the same id.
    """
    found: dict[int, str] = {}
    for each in entries:
        name = str(each[key])
        if found.setdefault(each["id"], name) != name:
            raise InputError(
                f"{file} gives {found[each['id']]} and {name} the same id {each['id']}; use "
                "different ids"
            )
    return found


def _categories(annotation: Mapping[str, Any]) -> list[int]:
    parts = annotation.get("segments_info", [annotation])
    return [part["category_id"] for part in parts]


def _instances(
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    size: Size | None,
    own: Size,
) -> Drawing:
    """Draw crowds first, without a class, then objects in descending size."""
    found: list[tuple[float, Region]] = []
    for each in annotations:
        shape, name = each["segmentation"], names[each["category_id"]]
        if isinstance(shape, dict):
            bitmap = run_lengths(shape)
            _require(bitmap, own)
            covered, region = float(bitmap.sum()), Region(name, bitmap=bitmap)
        else:
            outlines = [[*zip(part[::2], part[1::2], strict=True)] for part in shape if part]
            covered, region = area(outlines), Region(name, outlines)
        if each.get("iscrowd"):
            covered, region = np.inf, region._replace(name=None)
        found.append((covered, region))
    return Drawing([region for _, region in sorted(found, key=lambda pair: -pair[0])], size)


def _segments(
    annotations: Sequence[Mapping[str, Any]],
    maps: Path,
    names: Mapping[int, str],
    size: Size | None,
    own: Size,
) -> Drawing:
    regions = []
    for each in annotations:
        pixels = decode_rgb(maps / each["file_name"]).astype(np.int32)
        _require(pixels, own)
        numbers = pixels @ np.array([1, 256, 256**2])
        for part in each["segments_info"]:
            name = None if part.get("iscrowd") else names[part["category_id"]]
            regions.append(Region(name, bitmap=numbers == part["id"]))
    return Drawing(regions, size)


def _require(pixels: np.ndarray, size: Size) -> None:
    height, width = pixels.shape[:2]
    if (width, height) != size:
        own = "{}x{}".format(*size)
        raise InputError(f"the image is {own}, but an object was annotated at {width}x{height}")


def run_lengths(shape: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """Decode run lengths along columns, starting with 0, given as numbers or compressed text.

    In text, a length after the third is stored as the difference to the one before last. Its bits
    come in groups of five, lowest first, each as a character offset from "0"; the sixth bit marks
    continuation.
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
