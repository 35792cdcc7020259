"""Classes of a folder without a description: from files that name them, or from the masks."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import yaml

from fakd.data.dataset import Colour, default_palette
from fakd.data.layout import NO_CLASS
from fakd.data.masks import MaskValue
from fakd.data.names import read_lines
from fakd.errors import InputError, list_some

_NOISE = 2e-3
"""If there are many values, one below this share of its masks' pixels is probably an edge."""
_LEVEL = 1e-2
"""Share above which a value is a class in spite of edges."""
_APART = 40
"""RGB distance within which a value is attributed to compression of a more frequent one."""
_MOST = 254
"""Maximum number of proposed classes; more values are seldom classes."""
_NAMES = (
    *("labelmap.txt", "class_names.txt", "_classes.csv", "class_dict.csv", "classes.csv"),
    *("label_colors.txt", "classes.txt", "labels.txt", "codes.txt"),
)
_NO_CLASS = re.compile(
    r"void|ignored?|ignore regions?|unlabell?ed|unlabell?ed area|unknown|don'?t ?care|unannotated"
)
_VOID = (224, 224, 192)
"""The colour that VOC draws around objects."""
_HEADER = re.compile(r"\b(id|index|value|name|class|label|colou?r|r|red)\b", re.IGNORECASE)
_AND = r"\s*[,;:\s]\s*"
_RGB = r"(?P<colour>\d+\s*[,;\s]\s*\d+\s*[,;\s]\s*\d+)"
# CVAT's name:r,g,b:parts:actions, CamVid's r g b name, Roboflow's id, name, and other orders.
_LINES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?P<id>\d+){_AND}(?P<name>\D.*?){_AND}{_RGB}",
        rf"(?P<name>.*?\D){_AND}(?P<id>\d+)\s*[,;\s]\s*{_RGB}",
        rf"(?P<name>.+?){_AND}{_RGB}\s*(:.*)?",
        rf"{_RGB}{_AND}(?P<name>\D.*)",
        rf"(?P<name>.+?){_AND}#(?P<hexadecimal>[0-9a-fA-F]{{6}})",
        rf"(?P<id>\d+){_AND}(?P<name>.+)",
        rf"(?P<name>.+?){_AND}(?P<id>\d+)",
        r"(?P<name>.+)",
    )
)


def is_void_name(name: str) -> bool:
    """Return whether a class name stands for pixels without a class.

    >>> is_void_name("Void"), is_void_name("__ignore__"), is_void_name("background")
    (True, True, False)
    """
    return _NO_CLASS.fullmatch(name.strip("_ ").lower().replace("_", " ")) is not None


class ClassNames(NamedTuple):
    """Classes named by a file next to the masks."""

    file: str
    names: dict[int, str]
    """By id."""
    colours: dict[int, Colour]
    """By id, if the file gives them."""
    by_place: bool = False
    """Whether ids are line numbers, because the file gives no others."""


class Occurrence(NamedTuple):
    """How often a value occurs in masks."""

    pixels: int
    area: int
    """Total pixels of the masks that contain it."""


def read_names(root: Path, files: Sequence[str]) -> ClassNames | None:
    """Read the file that names the classes; of several, the one closest to the root.

    Raises:
        InputError: another file with that name, such as the other split's, gives different classes.
    """
    found = [file for file in files if PurePosixPath(file).name.lower() in _NAMES]
    rank = {name: place for place, name in enumerate(_NAMES)}
    found.sort(key=lambda file: (file.count("/"), rank[PurePosixPath(file).name.lower()]))
    first: ClassNames | None = None
    for file in found:
        if first is not None and PurePosixPath(file).name != PurePosixPath(first.file).name:
            continue
        lines = [line.replace('"', "").strip() for line in read_lines(root / file)]
        if any("\udc80" <= letter <= "\udcff" for line in lines for letter in line):
            raise InputError(f"{root / file} is not UTF-8 text; save it as UTF-8")
        named = _parse_names(file, [line for line in lines if line and line[0] != "#"])
        if first is not None and named is not None and named[1:] != first[1:]:
            raise InputError(
                f"{root / file} names other classes than {root / first.file}; export both with "
                "the same classes, or give each its own dataset.yaml"
            )
        first = first or named
    return first


def _parse_names(file: str, lines: Sequence[str]) -> ClassNames | None:
    for form in _LINES:
        found = [form.fullmatch(line) for line in lines]
        found = found[1:] if found and found[0] is None and _HEADER.search(lines[0]) else found
        if file.endswith(".csv") and form is _LINES[-1]:
            found = found[1:]
        if not found or None in found:
            continue
        parts = [each.groupdict() for each in found if each is not None]
        # labelme gives the first line the number -1.
        parts = parts[1:] if parts[0]["name"] == "__ignore__" else parts
        ids = [int(part.get("id") or place) for place, part in enumerate(parts)]
        names = {raw: part["name"].strip("_ ") for raw, part in zip(ids, parts, strict=True)}
        # "lane 1" and "lane 2" are names; ids and what they name differ.
        if "id" in form.groupindex and not len({*names.values()}) == len(names) == len(parts):
            continue
        colours: dict[int, Colour] = {}
        for raw, part in zip(ids, parts, strict=True):
            if code := part.get("hexadecimal"):
                colours[raw] = int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)
            elif "colour" in part:
                red, green, blue = (int(each) for each in re.findall(r"\d+", part["colour"]))
                colours[raw] = red, green, blue
        return ClassNames(file, names, colours, by_place=form is _LINES[-1])
    return None


def describe(
    found: Mapping[MaskValue, Occurrence],
    named: ClassNames | None,
    masks: Path,
    lossy: bool,
    is_void: Callable[[MaskValue], bool],
) -> tuple[list[str], list[str]]:
    """Write the class lines of a description.

    Args:
        found: The values of the masks.
        named: Classes that a file names.
        masks: The folder of masks, for messages.
        lossy: Whether compression has changed the masks.
        is_void: Whether a value lies along the borders of the others.

    Returns:
        Lines of a dataset.yaml, and notes about them.

    Raises:
        InputError: the masks are empty, or have more values than there can be classes.
    """
    if not found:
        raise InputError(f"no mask in {masks} can be decoded; save them as PNG")
    coloured = any(isinstance(value, tuple) for value in found)
    found = _as_colours(found) if coloured else found
    often = [value for value, (pixels, area) in found.items() if pixels >= _NOISE * area]
    # If values are anywhere from 0 to 255, and more are rare than frequent, these are not rare
    # classes.
    quarters = {value // 64 for value in found if isinstance(value, int)}
    anywhere = coloured or quarters >= set(range(4))
    noisy = lossy or (anywhere and len(found) > 2 * len(often) + 2)
    values = _levels(found) if noisy else sorted(found)
    if len(values) > max(_MOST, len(named.names) if named else 0):
        raise InputError(
            f"masks in {masks} hold {len(values)} {'colours' if coloured else 'ids'}, probably "
            "one per object; use masks of classes, or write a dataset.yaml with their classes"
        )
    key, ignore = ("colour", "ignore_colors") if coloured else ("id", "ignore")
    ids = [value for value in values if isinstance(value, int) and value not in NO_CLASS]
    # Void is usually black in colours, and the last of ids.
    dark: MaskValue = (0, 0, 0) if coloured else max(ids, default=0)
    nameless = not noisy and dark in values and dark not in _name_values(values, named, coloured)
    void = [dark] if nameless and is_void(dark) else []
    if named is not None and named.by_place and [len(named.names)] == [*void, max(ids, default=0)]:
        named = named._replace(names={raw + 1: name for raw, name in named.names.items()})
    names = _name_values(values, named, coloured)
    nothing: Sequence[MaskValue] = () if coloured or noisy or 255 in names else NO_CLASS
    nothing = [value for value in nothing if value in values]
    unnamed = [value for value in values if value not in (*names, *nothing, *void)]

    pixels = sum(counts.pixels for counts in found.values())
    what = {
        value: f"{key} {_format_value(value)} ({found[value].pixels / pixels:.1%} of the pixels)"
        for value in values
    }
    end = "is ignored; list it under classes if it is a class"
    remarks = [
        f"{what[value]} has no name and lies along borders of the others like void, so it {end}"
        for value in void
    ]
    remarks += [f"id {value} is ignored; change that if it is a class" for value in nothing]
    if names and named is not None:
        remarks.append(f"class names are from {named.file}")
        for value in unnamed:
            if value in (0, (0, 0, 0)):
                names = {value: "background"} | names
                remarks.append(
                    f"{what[value]} becomes background, since {named.file} does not name it"
                )
            else:
                remarks.append(f"{what[value]} has no name in {named.file}, so it {end}")
                nothing.append(value)
    elif unnamed:
        names |= {value: f"class{at if coloured else value}" for at, value in enumerate(unnamed)}
        remarks.append(
            f"{key} {list_some([*map(_format_value, unnamed)], 3)} has no name: write the class "
            f"names into dataset.yaml, and list void or unlabelled under {ignore}:"
        )
    none = [value for value, name in names.items() if is_void_name(name)]
    remarks += [
        f"{names.pop(value)} ({key} {_format_value(value)}) is ignored because of its name; "
        "list it under classes if it is a class"
        for value in none
    ]
    none += [*void, *nothing]
    stored = {value: [*value] if isinstance(value, tuple) else value for value in (*names, *none)}
    if coloured:
        entries = [{"name": name, "color": stored[value]} for value, name in names.items()]
        lines = ["classes:", *(f"  - {_flow_yaml(entry)}" for entry in entries), "masks: colors"]
    else:
        lines = [f"classes: {_flow_yaml([*names.values()])}"]
        if [*names] != list(range(len(names))):
            lines.append(f"ids: {_flow_yaml(names)}")
    if none:
        lines.append(f"{ignore}: {_flow_yaml([stored[value] for value in none])}")
    return [*lines, "others: nearest"] if noisy else lines, remarks


def _as_colours(found: Mapping[MaskValue, Occurrence]) -> dict[MaskValue, Occurrence]:
    """Convert ids of purely grey masks to colours, if other masks hold colours."""
    colours: dict[MaskValue, Occurrence] = {}
    for value, counts in found.items():
        colour = value if isinstance(value, tuple) else (value, value, value)
        before = colours.get(colour, Occurrence(0, 0))
        colours[colour] = Occurrence(*(sum(pair) for pair in zip(before, counts, strict=True)))
    return colours


def _levels(found: Mapping[MaskValue, Occurrence]) -> list[MaskValue]:
    """Choose the frequent values that differ enough not to be edges or compression."""
    chosen: list[MaskValue] = []
    for value in sorted(found, key=lambda value: -found[value].pixels):
        distances = (np.linalg.norm(np.subtract(value, other)) for other in chosen)
        if found[value].pixels >= _LEVEL * found[value].area and all(d > _APART for d in distances):
            chosen.append(value)
    return sorted(chosen)


def _name_values(
    values: Sequence[MaskValue], named: ClassNames | None, coloured: bool
) -> dict[MaskValue, str]:
    """Name the values that can be named: from a file, or 0 and 255 by themselves."""
    if 255 in values and {*values} <= {0, 255}:
        both = named is not None and [*named.names] == [0, 1]
        off, on = named.names.values() if named and both else ("background", "foreground")
        return {0: off, 255: on}
    if named is None:
        return {_VOID: "void"} if _VOID in values else {}
    keys: Mapping[int, MaskValue] = named.colours if coloured else {raw: raw for raw in named.names}
    if coloured and not keys:
        # The palette of labelme and VOC, where black is 0.
        keys = dict(enumerate([(0, 0, 0), *default_palette(max(named.names))]))
    names = {keys[raw]: name for raw, name in named.names.items() if raw in keys}
    # A file that covers less than half of the values is probably about something else.
    return names if 2 * sum(value in names for value in values) >= len(values) else {}


def _format_value(value: MaskValue) -> str:
    return str([*value]) if isinstance(value, tuple) else str(value)


def _flow_yaml(value: object) -> str:
    """Write a value in one line of YAML."""
    return yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    ).strip()
