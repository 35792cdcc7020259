"""A dataset.yaml for a folder that has none, from the names of its files and some masks."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import yaml

from fakd.data.description import Description, description_of
from fakd.data.layout import IMAGE_SUFFIXES, MASK_SUFFIXES, NO_CLASS
from fakd.data.masks import MaskValue, counted, read_mask
from fakd.errors import InputError
from fakd.inspection.survey import spread

_EVERY = 5
"""One image in so many is proposed for validation where nothing says which."""
_MASKS_READ = 40
_NOISE = 2e-3
"""Share of pixels below which a value among many is an edge between others, not a class."""
_MOST = 254
"""Classes that are proposed; more values than that are seldom classes."""
_LISTS = {"train": "train.txt", "val": "val.txt"}
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
class _Group:
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


def _grouped(root: Path, files: Sequence[str]) -> list[_Group]:
    """Group files by split and kind, as their folders and names tell; by content if none does."""
    groups: dict[tuple[str | None, bool, str], _Group] = {}
    for file in files:
        suffix = PurePosixPath(file).suffix.lower()
        split, is_mask, folder = _place(file)
        if suffix not in (MASK_SUFFIXES if is_mask else IMAGE_SUFFIXES):
            continue
        key = split, is_mask, folder
        group = groups.setdefault(key, _Group(split, is_mask, folder))
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


def _tell_by_content(root: Path, groups: list[_Group]) -> None:
    """Of two folders of like names, the one whose files have few values holds masks."""
    for one, other in combinations(groups, 2):
        if one.split != other.split or _match(one, other) is None:
            continue
        for group in (one, other):
            group.is_mask = all(_is_flat(root / group.folder / file) for file in group.files[:3])


def _is_flat(path: Path) -> bool:
    if path.suffix.lower() not in MASK_SUFFIXES:
        return False
    try:
        return len(counted(read_mask(path))) <= _FEW
    except InputError:
        return False


class _Match(NamedTuple):
    """Images and masks of like names, and what stands before and after the name in each."""

    images: _Group
    masks: _Group
    around_image: tuple[str, str]
    around_mask: tuple[str, str]

    @property
    def names(self) -> list[str]:
        """What images and masks can be told by."""
        return sorted(_stripped(self.images.stems, *self.around_image) - {""})

    @property
    def patterns(self) -> tuple[str, str]:
        """The paths of images and masks with ``{name}`` in them."""
        return (
            self.images.pattern(*self.around_image),
            self.masks.pattern(*self.around_mask),
        )

    @property
    def alike(self) -> bool:
        """Whether a path of images would also match masks, so that names must be listed."""
        folders = self.images.folder, self.masks.folder
        return folders[0] == folders[1] and self.images.suffix == self.masks.suffix

    def by_convention(self, split: str) -> bool:
        """Tell whether the files lie where they are looked for without being told."""
        folders = (self.images.folder, self.masks.folder) == (f"{split}/images", f"{split}/masks")
        return folders and not any((*self.around_image, *self.around_mask))

    def section(self, split: str, listed: bool) -> list[str]:
        """Write the section of a split."""
        images, masks = (json.dumps(pattern) for pattern in self.patterns)
        lines = [f"{split}:", f"  images: {images}", f"  masks: {masks}"]
        return [*lines, f"  list: {_LISTS[split]}"] if listed else lines


def _match(images: _Group, masks: _Group) -> _Match | None:
    """Find what to leave out of file names for images and masks to have names in common."""
    best: _Match | None = None
    most = 0
    for first, second in product(_choices(images.stems), _choices(masks.stems)):
        common = _stripped(images.stems, *first) & _stripped(masks.stems, *second)
        if len(common) > most:
            best, most = _Match(images, masks, first, second), len(common)
    return best


def _choices(stems: Sequence[str]) -> list[tuple[str, str]]:
    before = _common(stems).rstrip("0123456789")
    if any("/" in stem for stem in stems):
        before = ""
    after = _common([stem[::-1] for stem in stems])[::-1].lstrip("0123456789")
    if len(set(stems)) == 1:
        before, after = _around_number(stems[0])
    choices = [("", ""), ("", after), (before, ""), (before, after)]
    return [choice for choice in dict.fromkeys(choices) if all(_stripped(stems, *choice))]


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


def _stripped(stems: Sequence[str], before: str, after: str) -> set[str]:
    return {
        stem[len(before) : len(stem) - len(after)]
        for stem in stems
        if stem.startswith(before) and stem.endswith(after)
    }


@dataclass(frozen=True)
class Proposal:
    """What could be saved as dataset.yaml."""

    root: Path
    text: str
    description: Description
    chosen: dict[str, list[str]] | None
    """Names of each split, where they are for the user to save as lists."""
    divided: bool
    """Whether the splits are of our choosing."""

    def files(self, folder: Path) -> dict[str, str]:
        """Name and content of what to save in a folder: the description and its lists."""
        outside = folder.resolve() != self.root.resolve()
        text = self.text
        if outside:
            text = f"root: {json.dumps(str(self.root.resolve()))}\n{text}"
            for name in _LISTS.values():
                path = json.dumps(str(folder.resolve() / name))
                text = text.replace(f"list: {name}\n", f"list: {path}\n")
        lists = {_LISTS[split]: names for split, names in (self.chosen or {}).items()}
        contents = {name: "".join(f"{line}\n" for line in names) for name, names in lists.items()}
        return {"dataset.yaml": text, **contents}


def propose(root: Path, files: Sequence[str]) -> Proposal:
    """Write a description for a folder.

    Raises:
        InputError: no images and masks that belong together can be told; says what to do.
    """
    groups = _grouped(root, files)
    found = {split: _matched(split, groups) for split in ("train", "val", "test", None)}
    train, held_out = found["train"], found["val"] or found["test"]
    one = train or held_out or found[None]
    if one is None:
        raise InputError(_nothing(root, groups))
    lines = _classes(root, one.masks)
    chosen = None
    if divided := train is None or held_out is None:
        one = train or found[None] or one
        chosen = _divided(one.names)
        lines += one.section("train", True) + one.section("val", True)
    elif train is not None and held_out is not None:
        listed = train.alike or held_out.alike
        if listed:
            chosen = {"train": train.names, "val": held_out.names}
        if listed or not (train.by_convention("train") and held_out.by_convention("val")):
            lines += train.section("train", listed) + held_out.section("val", listed)
    text = "".join(f"{line}\n" for line in lines)
    described = description_of(yaml.safe_load(text), root / "dataset.yaml")
    return Proposal(root, text, described, chosen, divided)


def _matched(split: str | None, groups: Sequence[_Group]) -> _Match | None:
    """Find the largest folder of images and the masks that fit it best."""
    own = [group for group in groups if group.split == split]
    pairs = product((g for g in own if not g.is_mask), (g for g in own if g.is_mask))
    return next((match for pair in pairs if (match := _match(*pair)) is not None), None)


def _nothing(root: Path, groups: Sequence[_Group]) -> str:
    found = [
        f"{len(group.files)} {'masks' if group.is_mask else 'images'} in {group.folder or '.'}"
        for group in groups[:4]
    ]
    came = (
        f"found {', '.join(found)}, whose names have nothing in common" if found else "found none"
    )
    return (
        f"expected images and PNG masks of like names below {root}, but {came}; name each mask as "
        "its image (photos/a.jpg, masks/a.png)"
    )


def _divided(names: Sequence[str]) -> dict[str, list[str]]:
    """Hold every fifth out, or the last of fewer."""
    held_out = list(names[_EVERY - 1 :: _EVERY] or names[-1:])
    return {"train": [name for name in names if name not in set(held_out)], "val": held_out}


def _classes(root: Path, masks: _Group) -> list[str]:
    found: Counter[MaskValue] = Counter()
    for index in spread(len(masks.files))[:_MASKS_READ]:
        path = root / masks.folder / masks.files[index]
        try:
            found.update(counted(read_mask(path)))
        except InputError:
            continue
    total = max(1, sum(found.values()))
    often = {value for value, count in found.items() if count >= _NOISE * total}
    # More rare values than frequent ones are not rare classes.
    values = often if len(found) > 2 * len(often) + 2 else set(found)
    colours = sorted(value for value in values if isinstance(value, tuple))
    if colours:
        return _coloured(colours)
    ids = sorted(value for value in values if isinstance(value, int))
    if not ids:
        raise InputError(f"no mask in {root / masks.folder} can be decoded; save them as PNG")
    jpegs = all(file.lower().endswith((".jpg", ".jpeg")) for file in masks.files)
    if 255 in ids and (len(ids) <= 2 or jpegs):
        return ["classes: [background, foreground]", "ids: {0: background, 255: foreground}"]
    ids = [value for value in ids if value not in NO_CLASS]
    if len(ids) > _MOST:
        raise InputError(
            f"masks in {root / masks.folder} hold {len(ids)} ids and seem to count objects; give "
            "masks of class ids, or write a dataset.yaml with their classes"
        )
    names = [f"class{value}" for value in ids]
    lines = [f"classes: [{', '.join(names)}]"]
    if ids != list(range(len(ids))):
        pairs = ", ".join(f"{value}: {name}" for value, name in zip(ids, names, strict=True))
        lines.append(f"ids: {{{pairs}}}")
    return lines


def _coloured(colours: Sequence[MaskValue]) -> list[str]:
    if len(colours) > _MOST:
        raise InputError(
            f"the masks hold {len(colours)} frequent colours; save them as PNG with one colour per "
            "class, without smooth edges"
        )
    entries = [
        f"  - {{name: class{number}, color: {list(colour)}}}"
        for number, colour in enumerate(colours)
        if isinstance(colour, tuple)
    ]
    return ["classes:", *entries, "masks: colors"]
