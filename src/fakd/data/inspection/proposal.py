"""A dataset.yaml for a folder that has none, from the names of its files and some masks."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from fakd.data.decode import read_mask
from fakd.data.description import Description, read_description
from fakd.data.inspection.facts import MaskValue
from fakd.data.inspection.groups import Affixes, Group, affixes, grouped
from fakd.data.inspection.survey import spread
from fakd.data.inspection.values import counted
from fakd.errors import InputError
from fakd.types import IGNORE

_EVERY = 5
"""One image in so many is proposed for validation where nothing says which."""
_MASKS_READ = 40
_NOISE = 2e-3
"""Share of pixels below which a value among many is an edge between others, not a class."""
_LISTS = {"train": "train.txt", "val": "val.txt"}


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
    groups = grouped(root, files)
    matched = {
        split: pair
        for split in ("train", "val", "test", None)
        if (pair := _matched(split, groups)) is not None
    }
    if not matched:
        raise InputError(_nothing(root, groups))
    whole = matched.get("train") or matched.get(None)
    held_out = matched.get("val") or matched.get("test")
    lines = _classes(root, matched[next(iter(matched))][1])
    chosen = None
    divided = whole is None or held_out is None or "train" not in matched
    if whole is None or held_out is None or divided:
        images, masks, around = whole or held_out or matched[next(iter(matched))]
        chosen = _split(images, around)
        lines += _section("train", images, masks, around, _LISTS["train"])
        lines += _section("val", images, masks, around, _LISTS["val"])
    elif _alike(*whole[:2]) or _alike(*held_out[:2]):
        chosen = {
            split: _names(images, around)
            for split, (images, _, around) in (("train", whole), ("val", held_out))
        }
        lines += _section("train", *whole, _LISTS["train"])
        lines += _section("val", *held_out, _LISTS["val"])
    elif not (_by_convention("train", *whole) and _by_convention("val", *held_out)):
        lines += [*_section("train", *whole), *_section("val", *held_out)]
    text = "".join(f"{line}\n" for line in lines)
    return Proposal(root, text, _checked(text, root), chosen, divided)


def _matched(split: str | None, groups: Sequence[Group]) -> tuple[Group, Group, Affixes] | None:
    """Find the largest folder of images and the masks that fit it best."""
    for images in (each for each in groups if each.split == split and not each.is_mask):
        for masks in (each for each in groups if each.split == split and each.is_mask):
            if (around := affixes(images, masks)) is not None:
                return images, masks, around
    return None


def _nothing(root: Path, groups: Sequence[Group]) -> str:
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


def _split(images: Group, around: Affixes) -> dict[str, list[str]]:
    names = _names(images, around)
    last = _EVERY - 1
    held_out = [name for index, name in enumerate(names) if index % _EVERY == last] or names[-1:]
    return {"train": [name for name in names if name not in set(held_out)], "val": held_out}


def _names(images: Group, around: Affixes) -> list[str]:
    before, after = around[0]
    return sorted(
        stem[len(before) : len(stem) - len(after)]
        for stem in images.stems
        if stem.startswith(before) and stem.endswith(after) and len(stem) > len(before + after)
    )


def _alike(images: Group, masks: Group) -> bool:
    """Tell whether a path of images would also match masks, so that names must be listed."""
    return (images.folder, images.suffix) == (masks.folder, masks.suffix)


def _by_convention(split: str, images: Group, masks: Group, around: Affixes) -> bool:
    folders = (images.folder, masks.folder) == (f"{split}/images", f"{split}/masks")
    return folders and around == (("", ""), ("", ""))


def _section(
    split: str, images: Group, masks: Group, around: Affixes, listed: str | None = None
) -> list[str]:
    lines = [
        f"{split}:",
        f"  images: {json.dumps(images.pattern(*around[0]))}",
        f"  masks: {json.dumps(masks.pattern(*around[1]))}",
    ]
    return [*lines, f"  list: {listed}"] if listed else lines


def _classes(root: Path, masks: Group) -> list[str]:
    found: Counter[MaskValue] = Counter()
    for index in spread(len(masks.files))[:_MASKS_READ]:
        path = root / masks.folder / masks.files[index]
        try:
            found.update(counted(read_mask(path), colours=False))
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
    ids = [value for value in ids if value != IGNORE]
    if len(ids) >= IGNORE:
        raise InputError(
            f"masks in {root / masks.folder} hold {len(ids)} ids, and there may be {IGNORE - 1} "
            "classes; they seem to count objects: give masks of class ids"
        )
    names = [f"class{value}" for value in ids]
    lines = [f"classes: [{', '.join(names)}]"]
    if ids != list(range(len(ids))):
        pairs = ", ".join(f"{value}: {name}" for value, name in zip(ids, names, strict=True))
        lines.append(f"ids: {{{pairs}}}")
    return lines


def _coloured(colours: Sequence[MaskValue]) -> list[str]:
    if len(colours) >= IGNORE:
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


def _checked(text: str, root: Path) -> Description:
    """Read the text as the file that it is proposed for."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dataset.yaml"
        path.write_text(text, encoding="utf-8")
        return replace(read_description(path), path=root / "dataset.yaml")
