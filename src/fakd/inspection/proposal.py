"""Proposes a dataset.yaml for a folder without one, from file names and mask values."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

from fakd.data.dataset import Colour
from fakd.data.description import Description, description_of
from fakd.data.masks import MaskReader, MaskValue
from fakd.data.names import meant_name, read_lines
from fakd.errors import InputError, count_noun, list_some
from fakd.inspection.classes import Occurrence, describe, read_names
from fakd.inspection.grouping import LISTS, SPLITS, Group, Match, group_files, match_files

_EVERY = 5
"""Every nth image is proposed for validation if no split is given."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
"""Suffixes of archives, which the user must unpack."""


@dataclass
class Proposal:
    """A proposed dataset.yaml; the classes follow once masks have been read."""

    root: Path
    below: Sequence[str]
    """The files below the root."""
    masks: Path
    """A folder of masks, for messages."""
    layout: list[str]
    """Lines about file locations."""
    chosen: dict[str, list[str]] | None
    """Names of each split, if they must be saved as lists."""
    divided: bool
    """Whether the split was chosen here rather than given."""
    left_out: list[str]
    """Messages about images without a mask."""
    remarks: list[str]
    """Other notes."""
    classes: list[str] = field(default_factory=lambda: ["classes: ['?']"])
    """Lines about mask values; initially a placeholder, so that values can be counted."""

    @property
    def text(self) -> str:
        """The dataset.yaml."""
        return "".join(f"{line}\n" for line in (*self.classes, *self.layout))

    def description(self, path: Path) -> Description:
        """Parse the description; ``path`` is for messages."""
        return description_of(yaml.safe_load(self.text), path)

    def derive_classes(
        self,
        found: Mapping[MaskValue, Occurrence],
        lossy: bool,
        is_void: Callable[[MaskValue], bool],
    ) -> None:
        """Derive the classes from the mask values and a file that names them.

        Args:
            found: The values of the masks.
            lossy: Whether compression has changed them.
            is_void: Whether a value lies along the borders of the others.

        Raises:
            InputError: the masks are empty, or their values cannot be classes.
        """
        named = read_names(self.root, self.below)
        self.classes, remarks = describe(found, named, self.masks, lossy, is_void)
        self.remarks += remarks

    def derive_greys(self, shown: Mapping[int, Colour], reader: MaskReader) -> None:
        """Read indices as ids if palettes show them as greys that would be ids of other classes.

        Args:
            shown: The colours of indices.
            reader: Reads masks with the classes so far.
        """
        greys = {index: grey for index, (grey, *rest) in shown.items() if {*rest} == {grey}}
        for index, grey in greys.items():
            if reader.meaning(grey) not in (None, reader.meaning(index)):
                self.classes.append("masks: ids")
                self.remarks.append(
                    f"palettes show index {index} as grey {grey}, and indices are read as ids; "
                    "if the greys are the ids, use the grey masks from before PNG optimisation"
                )
                return

    def files(self, folder: Path) -> dict[str, str]:
        """Return name and content of the files to save: the description and its lists."""
        text = self.text
        if folder.resolve() != self.root.resolve():
            text = f"root: {json.dumps(str(self.root.resolve()))}\n{text}"
            for name in LISTS.values():
                path = json.dumps(str(folder.resolve() / name))
                text = text.replace(f"list: {name}\n", f"list: {path}\n")
        return {"dataset.yaml": text, **lists_text(self.chosen or {})}


def lists_text(chosen: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the content of the lists of names of the splits, by file."""
    return {LISTS[split]: "".join(f"{name}\n" for name in names) for split, names in chosen.items()}


def propose(root: Path, files: Sequence[str]) -> Proposal:
    """Recognise the locations of images and masks in a folder.

    Raises:
        InputError: no matching images and masks are found; the message gives the way out.
    """
    groups = group_files(root, files)
    found = {split: match_files(root, split, groups) for split in ("train", "val", "test", None)}
    train, held_out = found["train"], found["val"] or found["test"]
    one = train or held_out or found[None]
    if one is None:
        raise InputError(_nothing_found_text(root, files, groups))
    layout: list[str] = []
    chosen = None
    divided = False
    if train is not None and held_out is not None:
        splits = {"train": train, "val": held_out}
        if found["val"] and found["test"]:
            splits["test"] = found["test"]
        used = [*splits.values()]
        listed = any(match.alike or match.unpaired for match in used)
        if listed:
            chosen = {split: match.paired for split, match in splits.items()}
        if listed or not all(match.by_convention(split) for split, match in splits.items()):
            layout = [
                line for split, match in splits.items() for line in match.section(split, listed)
            ]
    else:
        one = train or found[None] or one
        used = [one]
        chosen = _read_lists(root, files, one.paired)
        divided = chosen is None
        chosen = chosen or divide(one.paired)
        layout = [line for split in chosen for line in one.section(split, True)]
    left_out = [text for match in used if (text := _unmatched_text(match))]
    rest = [
        group
        for group in groups
        if group.kind == "image"
        and not any(group is match.images for match in found.values() if match)
    ]
    remarks = [
        f"{count_noun(len(group.files), 'image')} in {group.folder or '.'} without masks, not "
        "used; "
        f"add unlabelled: {group.folder or '.'} for fakd distill, where the teacher labels them"
        for group in rest
    ]
    test = found["test"]
    if test is not None and test not in used:
        remarks.append(f"{count_noun(len(test.paired), 'image')} of test in neither train nor val")
    masks = root / one.masks.folder
    return Proposal(root, files, masks, layout, chosen, divided, left_out, remarks)


def _unmatched_text(match: Match) -> str:
    if not (alone := match.unpaired):
        return ""
    path = match.patterns[0].replace("{name}", alone[0])
    what = f"{count_noun(len(alone), 'image')} without a mask"
    return f"{what} ({path}), not in the lists; add the masks under the names of the images"


def _nothing_found_text(root: Path, files: Sequence[str], groups: Sequence[Group]) -> str:
    kinds = {"image": "images", "mask": "masks"}
    found = [
        f"{len(group.files)} {kinds.get(group.kind, 'visualised masks')} in {group.folder or '.'}"
        for group in groups[:4]
    ]
    there = {group.kind for group in groups}
    others = [file for file in files if file.lower().endswith((".xml", ".json"))]
    remedy = "name each mask like its image (photos/a.jpg, masks/a.png)"
    if archives := [file for file in files if PurePosixPath(file).suffix.lower() in ARCHIVES]:
        found, remedy = [list_some(archives, 2)], "unpack"
    elif not found:
        found = ["none"]
    elif {"image", "mask"} <= there:
        found[-1] += ", whose names have nothing in common"
    elif "mask" in there:
        found[-1] += " and no photos"
        remedy = "add the photos, under the names of the masks, in a separate folder"
    else:
        found[-1] += " and no masks of classes"
        if others:
            found[-1] += f", nor outlines in a format that is read ({list_some(others, 2)})"
        remedy = (
            "export semantic masks, one per image with its name, or outlines as COCO, labelme, "
            "Supervisely or YOLO; or use the images next to data "
            f"that have masks: fakd distill --data.unlabelled {root}"
        )
    return (
        f"expected images and PNG masks of equal names in {root}, but found {', '.join(found)}; "
        f"{remedy}"
    )


def _read_lists(
    root: Path, files: Sequence[str], names: Collection[str]
) -> dict[str, list[str]] | None:
    """Read the splits from lists among the files, such as ImageSets/Segmentation/val.txt."""
    by_name = {name.rpartition("/")[2]: name for name in names} | {name: name for name in names}
    found: dict[str, list[str]] = {}
    for file in files:
        path = PurePosixPath(file)
        split = SPLITS.get(re.sub(r"[-_]?(list|set|images|files|split)$", "", path.stem.lower()))
        if split is None or path.suffix.lower() not in (".txt", ".csv", ".lst"):
            continue
        with suppress(InputError):
            meant = (meant_name(line, by_name) for line in read_lines(root / file))
            own = sorted({by_name[name] for name in meant if name is not None})
            if len(own) > len(found.get(split, ())):
                found[split] = own
    val, test = found.get("val") or [], found.get("test") or []
    if not val or {*test} & {*val, *found.get("train", ())}:
        val, test = val or test, []
    train = found.get("train") or sorted({*names} - {*val, *test})
    val = val or sorted({*names} - {*train})
    if not found or not train or not val:
        return None
    return {"train": train, "val": val} | ({"test": test} if test else {})


def divide(names: Sequence[str]) -> dict[str, list[str]]:
    """Hold out every fifth name, or the last if there are fewer."""
    held_out = list(names[_EVERY - 1 :: _EVERY] or names[-1:])
    return {"train": [name for name in names if name not in set(held_out)], "val": held_out}
