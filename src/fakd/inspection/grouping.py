"""Recognition of images and masks in a folder, and of which belong together."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from fakd.data.layout import IMAGE_SUFFIXES, MASK_SUFFIXES
from fakd.data.masks import count_values, read_mask
from fakd.errors import InputError

SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
LISTS = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
_IMAGES = {"image", "images", "img", "imgs", "photo", "photos", "jpegimages", "jpg", "jpgs", "rgb"}
_MASKS = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "annot", "annots"),
    *("anno", "ann", "anns"),
    *("gt", "groundtruth", "truth", "seg", "segmentation", "segmentationclass", "target"),
    *("targets", "labelids", "labeltrainids", "trainids", "segs", "classes", "machine"),
    *("segmentationclasspng", "segmentationclassraw"),
}
_RUN_TOGETHER = rf"\b({'|'.join(SPLITS)})({'|'.join(sorted(_MASKS | _IMAGES))})\b"
_ASIDE = re.compile("segmentationobject|instance|panoptic|visuali|overlay|preview|depth|disparity")
"""Files that are often exported along with class masks: neither photos nor class masks."""
_COLOURED = {"color", "colour", "colors", "colours"}
"""Name suffixes of colour masks, which count as masks only if there are none of ids."""
_FEW = 40
"""Maximum number of values in a mask; a photo has more."""
Kind = Literal["image", "mask", "coloured", "aside"]


@dataclass
class Group:
    """Image files of one folder and one kind."""

    split: str | None
    kind: Kind
    folder: str
    """Relative to the root, with slashes; empty for the root itself."""
    files: list[str] = field(default_factory=list)
    """Relative to the folder."""

    @property
    def is_mask(self) -> bool:
        """Whether its files are class masks."""
        return self.kind == "mask"

    @property
    def suffix(self) -> str:
        """The suffix of all files, or ``.*``."""
        found = {PurePosixPath(file).suffix for file in self.files}
        return found.pop() if len(found) == 1 else ".*"

    @property
    def stems(self) -> list[str]:
        """The files without suffixes."""
        return [file.rpartition(".")[0] for file in self.files]

    def pattern(self, before: str, after: str) -> str:
        """Return the path pattern of these files, with ``{name}``."""
        place = f"{self.folder}/" if self.folder else ""
        return f"{place}{before}{{name}}{after}{self.suffix}"


def group_files(root: Path, files: Sequence[str]) -> list[Group]:
    """Group files by split and kind, by folder and file names; by content if names do not help."""
    groups: dict[tuple[str | None, Kind, str, str], Group] = {}
    for file in files:
        split, kind, folder, end = _classify_path(file)
        known = IMAGE_SUFFIXES if kind == "image" else MASK_SUFFIXES
        if PurePosixPath(file).suffix.lower() in known:
            group = groups.setdefault((split, kind, folder, end), Group(split, kind, folder))
            group.files.append(file[len(folder) :].lstrip("/"))
    found = sorted(groups.values(), key=lambda group: -len(group.files))
    if not any(group.is_mask for group in found):
        for group in found:
            group.kind = "mask" if group.kind == "coloured" else group.kind
    if not any(group.is_mask for group in found):
        _classify_by_content(root, found)
    return found


def split_of(path: str) -> str | None:
    """Derive the split from the words of a path.

    >>> split_of("annotations/instances_train2017.json"), split_of("photos/a.jpg")
    ('train', None)
    """
    return next((SPLITS[word] for word in _words(path.lower()) if word in SPLITS), None)


def _words(text: str) -> list[str]:
    """Split a lower-case text into words, including compounds like trainannot."""
    return re.sub(_RUN_TOGETHER, r"\1 \2", re.sub(r"[^a-z]+", " ", text)).split()


def _classify_path(file: str) -> tuple[str | None, Kind, str, str]:
    """Derive split, kind, folder, and the name suffix that indicates the kind."""
    *folders, name = file.split("/")
    split, depth = None, min(1, len(folders))
    kind: Kind = "image"
    for level, folder in enumerate(folders, start=1):
        token = folder.lower()
        words = set(_words(token))
        if token in SPLITS:
            split, depth = SPLITS[token], level
        elif _ASIDE.search(token):
            kind, depth = "aside", level
        elif words & (_MASKS | _IMAGES):
            # Such as train_labels or trainannot, next to train.
            split = next((SPLITS[word] for word in words if word in SPLITS), split)
            kind = "mask" if words & _MASKS else "image" if kind == "aside" else kind
            depth = level
    for word in reversed(re.split(r"[-_.\s]", PurePosixPath(name).stem.lower())[1:]):
        found: Kind | None = (
            "aside"
            if _ASIDE.search(word)
            else "coloured"
            if word in _COLOURED
            else "mask"
            if word in _MASKS
            else None
        )
        if found is not None:
            return split, found, "/".join(folders[:depth]), word
    return split, kind, "/".join(folders[:depth]), ""


def _classify_by_content(root: Path, groups: list[Group]) -> None:
    """Of two folders with matching names, take the one whose files have few values for masks."""
    for one, other in combinations(groups, 2):
        if "aside" in (one.kind, other.kind) or one.split != other.split:
            continue
        if _match(one, other) is None:
            continue
        for group in (one, other):
            group.kind = "mask" if is_flat(root, group) else group.kind


def is_flat(root: Path, group: Group) -> bool:
    """Return whether the first files of a group have too few values for photos."""
    try:
        return all(
            PurePosixPath(file).suffix.lower() in MASK_SUFFIXES
            and len(count_values(read_mask(root / group.folder / file))) <= _FEW
            for file in group.files[:3]
        )
    except InputError:
        return False


class Match(NamedTuple):
    """Images and masks with matching names, and what surrounds the name in each."""

    images: Group
    masks: Group
    around_image: tuple[str, str]
    around_mask: tuple[str, str]

    @property
    def paired(self) -> list[str]:
        """Names of images with a mask."""
        images = _strip(self.images.stems, *self.around_image)
        return sorted(images & _strip(self.masks.stems, *self.around_mask) - {""})

    @property
    def unpaired(self) -> list[str]:
        """Names of images without one that are not masks themselves."""
        images = _strip(self.images.stems, *self.around_image)
        return sorted(images - {*self.paired, ""})

    @property
    def patterns(self) -> tuple[str, str]:
        """The path patterns of images and masks, with ``{name}``."""
        return (
            self.images.pattern(*self.around_image),
            self.masks.pattern(*self.around_mask),
        )

    @property
    def alike(self) -> bool:
        """Whether the pattern of images would also match masks, so that names must be listed."""
        folders = self.images.folder, self.masks.folder
        return folders[0] == folders[1] and self.images.suffix == self.masks.suffix

    def by_convention(self, split: str) -> bool:
        """Return whether the files are in the default layout."""
        folders = (self.images.folder, self.masks.folder) == (f"{split}/images", f"{split}/masks")
        return folders and not any((*self.around_image, *self.around_mask))

    def section(self, split: str, listed: bool) -> list[str]:
        """Write the section of a split."""
        images, masks = (json.dumps(pattern) for pattern in self.patterns)
        lines = [f"{split}:", f"  images: {images}", f"  masks: {masks}"]
        return [*lines, f"  list: {LISTS[split]}"] if listed else lines


def _match(images: Group, masks: Group) -> Match | None:
    """Find the prefixes and suffixes to strip so that images and masks share most names."""
    best: Match | None = None
    most = 0
    for first, second in product(_choices(images.stems), _choices(masks.stems)):
        common = _strip(images.stems, *first) & _strip(masks.stems, *second)
        if len(common) > most:
            best, most = Match(images, masks, first, second), len(common)
    return best


def _choices(stems: Sequence[str]) -> list[tuple[str, str]]:
    before = _common(stems).rstrip("0123456789")
    if any("/" in stem for stem in stems):
        before = before[: before.rfind("/") + 1]
    after = _common([stem[::-1] for stem in stems])[::-1].lstrip("0123456789")
    if len(set(stems)) == 1:
        before, after = _around_number(stems[0])
    choices = [("", ""), ("", after), (before, ""), (before, after)]
    return [choice for choice in dict.fromkeys(choices) if all(_strip(stems, *choice))]


def _common(texts: Sequence[str]) -> str:
    """Return the longest common prefix."""
    first, last = min(texts), max(texts)
    same = next(
        (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), None
    )
    return first if same is None else first[:same]


def _around_number(stem: str) -> tuple[str, str]:
    """Return what surrounds the variable part of the name of a single file."""
    before, line, after = stem.rpartition("_")
    return (f"{before}_", "") if after.isdigit() else ("", line + after)


def _strip(stems: Sequence[str], before: str, after: str) -> set[str]:
    return {
        stem[len(before) : len(stem) - len(after)]
        for stem in stems
        if stem.startswith(before) and stem.endswith(after)
    }


def match_files(root: Path, split: str | None, groups: Sequence[Group]) -> Match | None:
    """Find the largest folder of images, preferably photos, and the masks that match it best."""
    own = [group for group in groups if group.split == split]
    pairs = product(
        (group for group in own if group.kind == "image"), (group for group in own if group.is_mask)
    )
    found = [match for pair in pairs if (match := _match(*pair)) is not None]
    if len({id(match.images) for match in found}) > 1:
        found.sort(key=lambda match: is_flat(root, match.images))
    return found[0] if found else None
