"""Which folders of a data set without description hold images and which masks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np

from fakd.data.decode import IMAGE_SUFFIXES, MASK_SUFFIXES, read_mask
from fakd.errors import InputError

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IMAGES = {"image", "images", "img", "imgs", "photo", "photos", "jpegimages", "jpg", "jpgs", "rgb"}
_MASKS = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "anno", "ann", "anns"),
    *("gt", "groundtruth", "truth", "seg", "segmentation", "segmentationclass", "target"),
    *("targets", "labelids", "segs", "classes"),
}
_FEW = 40
"""Values that a mask has at most, and a photo does not."""


@dataclass
class Group:
    """Image files of one folder that are one thing."""

    split: str | None
    is_mask: bool
    folder: str
    """Below the root, with slashes; empty for the root itself."""
    files: list[str] = field(default_factory=list)
    """Relative to the folder."""

    @property
    def suffix(self) -> str:
        """The suffix of all files, or ``.*``."""
        found = {PurePosixPath(file).suffix for file in self.files}
        return found.pop() if len(found) == 1 else ".*"

    @property
    def stems(self) -> list[str]:
        """The files without their suffixes."""
        return [file.rpartition(".")[0] for file in self.files]

    def pattern(self, before: str, after: str) -> str:
        """Write the path of these files with ``{name}`` in it."""
        place = f"{self.folder}/" if self.folder else ""
        return f"{place}{before}{{name}}{after}{self.suffix}"


def grouped(root: Path, files: Sequence[str]) -> list[Group]:
    """Group files by split and kind, as their folders and names tell; by content if none does."""
    groups: dict[tuple[str | None, bool, str], Group] = {}
    for file in files:
        suffix = PurePosixPath(file).suffix.lower()
        split, is_mask, folder = _place(file)
        if suffix not in (MASK_SUFFIXES if is_mask else IMAGE_SUFFIXES):
            continue
        key = split, is_mask, folder
        group = groups.setdefault(key, Group(split, is_mask, folder))
        group.files.append(file[len(folder) :].lstrip("/"))
    found = sorted(groups.values(), key=lambda group: -len(group.files))
    if not any(group.is_mask for group in found):
        _tell_by_content(root, found)
    return found


def _place(file: str) -> tuple[str | None, bool, str]:
    *folders, name = file.split("/")
    split, is_mask, depth = None, False, min(1, len(folders))
    for level, folder in enumerate(folders, start=1):
        token = folder.lower()
        words = set(re.split(r"[^a-z]+", token))
        if token in _SPLITS:
            split, depth = _SPLITS[token], level
        elif words & _MASKS:
            is_mask, depth = True, level
        elif words & _IMAGES:
            depth = level
    last = re.split(r"[-_.\s]", PurePosixPath(name).stem.lower())[1:]
    is_mask = is_mask or bool(set(last) & _MASKS)
    return split, is_mask, "/".join(folders[:depth])


def _tell_by_content(root: Path, groups: list[Group]) -> None:
    """Of two folders of like names, the one whose files have few values holds masks."""
    for one, other in combinations(groups, 2):
        if one.split != other.split or affixes(one, other) is None:
            continue
        for group in (one, other):
            group.is_mask = all(_is_flat(root / group.folder / file) for file in group.files[:3])


def _is_flat(path: Path) -> bool:
    if path.suffix.lower() not in MASK_SUFFIXES:
        return False
    try:
        pixels = read_mask(path)
    except InputError:
        return False
    values = pixels.reshape(-1) if pixels.ndim == 2 else pixels.reshape(-1, pixels.shape[2])
    return len(np.unique(values, axis=0)) <= _FEW


Affixes = tuple[tuple[str, str], tuple[str, str]]
"""What stands before and after the name in images, and in masks."""


def affixes(images: Group, masks: Group) -> Affixes | None:
    """Find what to leave out of file names for images and masks to have names in common."""
    best: Affixes | None = None
    most = 0
    stems = images.stems, masks.stems
    choices = [_choices(names) for names in stems]
    for first in choices[0]:
        for second in choices[1]:
            common = _names(stems[0], *first) & _names(stems[1], *second)
            if len(common) > most:
                best, most = (first, second), len(common)
    return best


def _choices(stems: Sequence[str]) -> list[tuple[str, str]]:
    before = _common(stems).rstrip("0123456789")
    if any("/" in stem for stem in stems):
        before = ""
    after = _common([stem[::-1] for stem in stems])[::-1].lstrip("0123456789")
    if len(set(stems)) == 1:
        before, after = _around_number(stems[0])
    choices = [("", ""), ("", after), (before, ""), (before, after)]
    return [choice for choice in dict.fromkeys(choices) if all(_names(stems, *choice))]


def _common(texts: Sequence[str]) -> str:
    """Return the longest beginning of all texts."""
    first, last = min(texts), max(texts)
    same = next(
        (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None
    )
    return first if same is None else first[:same]


def _around_number(stem: str) -> tuple[str, str]:
    """Split what stands around the name of a file that is alone in its folder."""
    before, line, after = stem.rpartition("_")
    return (f"{before}_", "") if after.isdigit() else ("", line + after)


def _names(stems: Sequence[str], before: str, after: str) -> set[str]:
    return {
        stem[len(before) : len(stem) - len(after)]
        for stem in stems
        if stem.startswith(before) and stem.endswith(after)
    }
