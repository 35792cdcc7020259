"""Reads dataset.yaml: classes, the encoding of masks, and the file layout."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakd.data.dataset import Colour, default_palette
from fakd.data.groups import read_group
from fakd.data.layout import (
    ENCODING_KEYS,
    MOST_CLASSES,
    Encoding,
    Levels,
    Part,
    Pattern,
    as_list,
    as_text,
    check_keys,
    mask_id,
    read_encoding,
    read_file_names,
    read_layout,
    read_levels,
)
from fakd.data.names import tidy
from fakd.errors import InputError
from fakd.files import read_yaml

_SETTINGS = {
    "protocol": {"base": 2, "window": 1, "stride": 1},
    "augmentation": {"base": 2},
}
"""Published settings of a data set, and how many numbers each takes."""
_KEYS = (
    *("name", "root", "source", "classes", "palette", *ENCODING_KEYS, "masks", "ignore_colors"),
    *("range", "bands"),
    *(
        "train",
        "val",
        "test",
        "unlabelled",
        "exclude",
        "labelled",
        "group",
        "worthwhile",
        *_SETTINGS,
    ),
)


SHARDS, TABLE, LIST = ".tar", "hf:", ".txt"
"""Suffix of tar shards, prefix of a table of datasets, and suffix of a list, as image sources."""
VIDEOS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
FRAMES = re.compile(r"(?P<file>.+)\?every=(?P<every>[1-9]\d*)")
"""A video, of which every nth frame is taken."""
Labelled = int | float | str
"""How many training images keep their labels: a number, a share, a number per class (`PER_CLASS`),
or a file of their names."""
PER_CLASS = re.compile(r"\s*([1-9]\d*) per class\s*")


@dataclass(frozen=True)
class Description:
    """A checked dataset.yaml."""

    path: Path
    name: str | None
    root: Path | None
    source: str | None
    """Where to get the files, for messages about missing ones."""
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    has_palette: bool
    """Whether the file gives the colours, so that RGB masks can be read with them."""
    encoding: Encoding
    masks: str | None
    """``ids``, ``colors``, or None to detect it for each mask."""
    ignored_colours: tuple[Colour, ...]
    levels: Levels
    train: tuple[Part, ...]
    val: tuple[Part, ...]
    test: tuple[Part, ...]
    unlabelled: tuple[Pattern, ...]
    """Locations of additional training images without labels."""
    exclude: tuple[str, ...]
    """Training images to exclude, as read by `fakd.data.names.resolve_excluded`."""
    labelled: Labelled | None
    """Which training images keep their labels; None for all."""
    protocol: Mapping[str, Any] | None
    """Published evaluation settings, with the keys of `fakd.inference.Inference`."""
    augmentation: Mapping[str, Any] | None
    """Published training settings, with the keys of `fakd.data.Augmentation`."""
    group: Callable[[str], str] | None = None
    """Maps an image's name to its group of dependent images, such as a clip."""
    worthwhile: float = 1.0
    """The smallest difference in mIoU that matters."""


def read_description(path: Path) -> Description:
    """Read and validate a dataset.yaml.

    Raises:
        InputError: a key or value is invalid; the message names it and the file.
    """
    return description_of(read_yaml(path), path)


def description_of(content: Mapping[str, Any], path: Path) -> Description:
    """Validate the content of a dataset.yaml; ``path`` is for messages.

    Raises:
        InputError: a key or value is invalid; the message names it and the file.
    """
    check_keys(content, _KEYS, path)
    if content.get("classes") is None:
        raise InputError(f"{path} has no classes; add 'classes: [{_proposed_classes(content)}]'")
    names, coloured, class_ids = _classes(content["classes"], path)
    masks = content.get("masks")
    if masks not in (None, "ids", "colors"):
        raise InputError(f"{path}: masks must be 'ids' or 'colors', got {masks!r}")
    palette = _palette(content.get("palette"), coloured, names, path)
    if masks == "colors" and palette is None:
        raise InputError(f"{path}: 'masks: colors' needs the colour of each class; add palette:")
    # Some published palettes give two classes one colour, which is ambiguous in colour masks only.
    if masks != "ids" and palette is not None and (twice := _repeated(palette)):
        raise InputError(
            f"{path}: two classes have the colour {list(twice)}; change one, or write masks: ids "
            "if masks hold class ids"
        )
    if class_ids and "ids" in content:
        raise InputError(f"{path}: ids are given in both classes and ids; keep one of them")
    ignored_colours = tuple(
        _colour(value, "ignore_colors", path)
        for value in as_list(content.get("ignore_colors", []), "ignore_colors", path)
    )
    if both := [colour for colour in ignored_colours if colour in (palette or ())]:
        raise InputError(
            f"{path}: the colour {list(both[0])} belongs to a class and is listed in "
            "ignore_colors; keep one of them"
        )
    root = as_text(content, "root", path)
    return Description(
        path=path,
        name=as_text(content, "name", path),
        root=None if root is None else path.parent / Path(root).expanduser(),
        source=as_text(content, "source", path),
        class_names=names,
        palette=palette or default_palette(len(names)),
        has_palette=palette is not None,
        encoding=read_encoding(content, names, path, class_ids),
        masks=masks,
        ignored_colours=ignored_colours,
        levels=read_levels(content, path),
        train=read_layout(content, "train", names, path, class_ids),
        val=read_layout(content, "val", names, path, class_ids),
        test=read_layout(content, "test", names, path, class_ids),
        unlabelled=read_unlabelled(content, path),
        exclude=read_file_names(content.get("exclude", []), "exclude", path),
        labelled=read_labelled(content, path),
        protocol=_settings(content, "protocol", path),
        augmentation=_settings(content, "augmentation", path),
        group=read_group(content.get("group"), path),
        worthwhile=_worthwhile(content.get("worthwhile", 1.0), path),
    )


def _settings(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any] | None:
    values = content.get(key)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise InputError(f"{path}: {key} must hold settings, got {values!r}")
    check_keys(values, tuple(_SETTINGS[key]), path)
    for name, value in values.items():
        length = _SETTINGS[key][name]
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) != length or not all(type(n) is int and n > 0 for n in numbers):
            wanted = "a number" if length == 1 else "two numbers"
            raise InputError(f"{path}: {key}: {name} must be {wanted} of pixels, got {value!r}")
    return values


def _worthwhile(value: object, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 100:
        raise InputError(f"{path}: worthwhile must be mIoU between 0 and 100, got {value!r}")
    return float(value)


def _colour(value: object, key: str, path: Path) -> Colour:
    match value:
        case [int(red), int(green), int(blue)] if all(0 <= v <= 255 for v in (red, green, blue)):
            return red, green, blue
    raise InputError(f"{path}: a colour in {key} must be [r, g, b] of 0 to 255, got {value!r}")


def _proposed_classes(content: Mapping[str, Any]) -> str:
    # Not taken without asking: a slip in one of the names would be a class of its own.
    ids = content.get("ids")
    named = (
        [name for name in ids.values() if isinstance(name, str)] if isinstance(ids, dict) else []
    )
    return ", ".join(dict.fromkeys(named)) or "road, car"


def _classes(value: object, path: Path) -> tuple[tuple[str, ...], list[Colour], tuple[int, ...]]:
    names: list[str] = []
    colours: list[Colour] = []
    ids: list[int] = []
    for entry in as_list(value, "classes", path):
        if isinstance(entry, dict):
            check_keys(entry, ("name", "color", "id"), path)
            if "color" in entry:
                colours.append(_colour(entry["color"], "classes", path))
            if "id" in entry:
                ids.append(mask_id(entry["id"], "id", path))
            entry = entry.get("name")
        # YAML reads an unquoted no, yes, on, off or 1 as another type than text.
        if not isinstance(entry, str) or not entry:
            raise InputError(f"{path}: a class needs a name, got {entry!r}; put it in quotes")
        names.append(entry)
    if not 0 < len(names) <= MOST_CLASSES:
        raise InputError(f"{path}: expected 1 to {MOST_CLASSES} classes, got {len(names)}")
    seen = Counter(map(tidy, names))
    if repeated := sorted(name for name, times in seen.items() if times > 1):
        raise InputError(f"{path}: classes name {repeated[0]!r} twice; rename one")
    for key, given in (("a color", colours), ("an id", ids)):
        if given and len(given) != len(names):
            raise InputError(
                f"{path}: {len(given)} of {len(names)} classes have {key}; give all or none"
            )
    if len(set(ids)) < len(ids):
        raise InputError(f"{path}: two classes have the same id; change one")
    return tuple(names), colours, tuple(ids)


def _palette(
    value: object, coloured: list[Colour], names: tuple[str, ...], path: Path
) -> tuple[Colour, ...] | None:
    if value is None:
        palette = coloured
    elif coloured:
        raise InputError(f"{path}: colours are given in both classes and palette; keep one of them")
    else:
        palette = [_colour(entry, "palette", path) for entry in as_list(value, "palette", path)]
        if len(palette) != len(names):
            raise InputError(
                f"{path}: palette has {len(palette)} colours for {len(names)} classes; "
                "give one per class, in order"
            )
    return tuple(palette) or None


def _repeated(palette: tuple[Colour, ...]) -> Colour | None:
    return next((colour for colour, times in Counter(palette).items() if times > 1), None)


def read_unlabelled(content: Mapping[str, Any], path: Path) -> tuple[Pattern, ...]:
    """Read where images without labels are: folders, patterns, lists, shards, tables or videos.

    Raises:
        InputError: a value is none of these; the message names the file.
    """
    given = content.get("unlabelled", [])
    if not isinstance(given, str | list):
        raise InputError(f"{path}: unlabelled must name a folder or a list of them, got {given!r}")
    entries = [given] if isinstance(given, str) else as_list(given, "unlabelled", path)
    return tuple(_unlabelled_pattern(entry, path) for entry in entries)


def read_labelled(content: Mapping[str, Any], path: Path) -> Labelled | None:
    """Read which training images keep their labels.

    Raises:
        InputError: the value is not a number, share or file.
    """
    given = content.get("labelled")
    return check_labelled(as_text(content, "labelled", path) if isinstance(given, str) else given)


def check_labelled(given: object) -> Labelled | None:
    """Validate a number or share of images, or a list.

    Raises:
        InputError: the value is none of these; the message lists what is allowed.
    """
    if given is None or isinstance(given, str):
        return given
    if type(given) is int and given >= 1:
        return given
    if type(given) is float and 0 < given < 1:
        return given
    raise InputError(
        "labelled must be a number of images, a share of them between 0 and 1, a number per class "
        f"such as '10 per class', or a file of names, got {given!r}"
    )


def _unlabelled_pattern(entry: object, path: Path) -> Pattern:
    if not isinstance(entry, str) or not entry:
        raise InputError(f"{path}: unlabelled must be a list of folders, got {entry!r}")
    if entry.lower().endswith(VIDEOS):
        raise InputError(f"{path}: say which frames to take, for example {entry}?every=10")
    if entry.endswith((SHARDS, LIST)) or entry.startswith(TABLE) or FRAMES.fullmatch(entry):
        return Pattern(entry)
    return Pattern(entry if "{name}" in entry else f"{entry.rstrip('/')}/{{name}}.*")
