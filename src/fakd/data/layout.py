"""Validated entries of a dataset.yaml: mask ids and file layout."""

import difflib
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fakd.data.names import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from fakd.data.names import to_nfc
from fakd.errors import InputError
from fakd.settings import IGNORE

ENCODING_KEYS = ("ids", "ignore", "others")
MOST_CLASSES = 2**15 - 1
"""Labels are 16-bit integers."""
NO_CLASS = (255, 2**16 - 1)
"""Mask ids of 8 and 16 bits that have no class unless assigned to one."""
NEAREST = -3
"""Unknown ids up to 255 and unknown colours get the class of the nearest described one."""
MASK_SUFFIXES = IMAGE_SUFFIXES
_PICTURES = (
    *(*IMAGE_SUFFIXES, ".jfif", ".jp2", ".heic", ".heif", ".avif", ".ppm", ".pgm", ".tga"),
    *(".dng", ".npy"),
)
"""Suffixes of image formats, including those that are not read."""
_NAME = "{name}"
_PART_KEYS = ("images", "masks", "list", "exclude", "count")


def check_keys(content: Mapping[Any, Any], known: tuple[str, ...], path: Path) -> None:
    """Refuse an unknown key, and suggest the closest known one."""
    for key in content:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
        raise InputError(f"{path}: unknown key {key!r}; {hint}")


def as_list(value: object, key: str, path: Path) -> list[Any]:
    """Return a value that must be a list; the error names its key."""
    if not isinstance(value, list):
        raise InputError(f"{path}: {key} must be a list, got {value!r}; write {key}: [...]")
    return value


def as_text(content: Mapping[Any, Any], key: str, path: Path) -> str | None:
    """Return optional text; the error names its key."""
    value = content.get(key)
    if key in content and not isinstance(value, str):
        raise InputError(f"{path}: {key} must be text, got {value!r}; put it in quotes")
    return value


@dataclass(frozen=True)
class Levels:
    """How values of image files are interpreted.

    Args:
        range: The values of black and white; by default determined by the data type.
        bands: The bands of red, green and blue, or the grey one, counted from 1; by default all.
    """

    range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None


def read_levels(content: Mapping[Any, Any], path: Path) -> Levels:
    """Read the keys ``range`` and ``bands`` of a description.

    Raises:
        InputError: a value is invalid; the message names it.
    """
    bounds, bands = content.get("range"), content.get("bands")
    match bounds:
        case None:
            pass
        case [int() | float() as low, int() | float() as high] if -math.inf < low < high < math.inf:
            bounds = float(low), float(high)
        case _:
            raise InputError(
                f"{path}: range must be the values of black and white, got {bounds!r}; for "
                "example, range: [0, 4095]"
            )
    if bands is not None:
        bands = tuple(as_list(bands, "bands", path))
        if len(bands) not in (1, 3) or not all(type(band) is int and band > 0 for band in bands):
            raise InputError(
                f"{path}: bands must name one band or three, counted from 1, got {[*bands]}; for "
                "example, bands: [3, 2, 1]"
            )
    return Levels(bounds, bands)


@dataclass(frozen=True)
class Encoding:
    """The mapping from mask ids to classes."""

    ids: dict[int, int]
    """Mask id to class; `IGNORE` for ids without a class."""
    others: int | None = None
    """The class of every other id; None if it is an error, `NEAREST` for that of the nearest id."""
    assumed: tuple[int, ...] = ()
    """Ids that have no class only by default."""


def read_encoding(
    content: Mapping[Any, Any],
    names: tuple[str, ...],
    path: Path,
    class_ids: tuple[int, ...] = (),
) -> Encoding:
    """Read the keys ``ids``, ``ignore`` and ``others`` of a description or of one kind of masks.

    Args:
        content: The mapping with the keys.
        names: The class names.
        path: The file, for messages.
        class_ids: The mask id of each class if there is no ``ids``; 0, 1, ... by default.

    Raises:
        InputError: a value is invalid; the message names it.
    """
    listed = content.get("ids")
    if listed is None:
        ids = {raw: number for number, raw in enumerate(class_ids or range(len(names)))}
    elif not isinstance(listed, dict):
        raise InputError(f"{path}: ids must map mask ids to classes, got {listed!r}")
    else:
        ids = {mask_id(raw, "ids", path): _class(to, names, path) for raw, to in listed.items()}
    ignored = [
        mask_id(raw, "ignore", path) for raw in as_list(content.get("ignore", []), "ignore", path)
    ]
    if both := [raw for raw in ignored if raw in ids]:
        where, remedy = "ids" if listed is not None else "classes", "keep one of them"
        if listed is None and not class_ids:
            name = names[ids[both[0]]]
            remedy = (
                f"it is {name!r} by its position in the list: give the classes ids, as in {{name: "
                f"{name}, id: {both[0] + 1}}}, or add ids:, or remove it from ignore"
            )
        raise InputError(f"{path}: id {both[0]} is in both {where} and ignore; {remedy}")
    assumed = tuple(raw for raw in NO_CLASS if raw not in ids and raw not in ignored)
    ids = dict.fromkeys((*assumed, *ignored), IGNORE) | ids
    others = content.get("others")
    if others in ("ignore", "nearest"):
        others = IGNORE if others == "ignore" else NEAREST
    elif others is not None:
        others = _class(others, names, path, "others maps")
    return Encoding(ids, others, assumed)


def mask_id(value: object, key: str, path: Path) -> int:
    """Validate an id that a mask of 8 or 16 bits can hold."""
    if type(value) is not int or not 0 <= value < 2**16:
        raise InputError(f"{path}: {key} must name mask ids of 0 to 65535, got {value!r}")
    return value


def _class(value: object, names: tuple[str, ...], path: Path, where: str = "ids map") -> int:
    if value in names:
        return names.index(str(value))
    if type(value) is int and 0 <= value < len(names):
        return value
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "add the class, or list the id under ignore"
    raise InputError(f"{path}: {where} to {value!r}, which is not a class; {hint}")


@dataclass(frozen=True)
class Pattern:
    """A path relative to the root that contains ``{name}``; a final ``.*`` is any known suffix."""

    text: str

    @property
    def folder(self) -> str:
        """The folder that contains all matches, directly or in subfolders."""
        return self.text.partition(_NAME)[0].rpartition("/")[0]

    def may_overlap(self, other: "Pattern") -> bool:
        """Return whether both may match the same file, because one folder contains the other."""
        one, two = (f"{each.folder}/".removeprefix("/") for each in (self, other))
        return one.startswith(two) or two.startswith(one)

    def path(self, name: str) -> str:
        """Insert a name."""
        return self.text.replace(_NAME, name)

    def names(self, files: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, str]:
        """Map names to the matching files, which are given relative to `folder`.

        Raises:
            InputError: two files differ only in suffix or Unicode form.
        """
        found: dict[str, str] = {}
        for name, file in self._matches(files, suffixes):
            if name in found:
                where = f" in {self.folder}" if self.folder else ""
                forms = " in two Unicode forms" if to_nfc(file) == to_nfc(found[name]) else ""
                raise InputError(
                    f"{found[name]} and {file}{where} have the same name{forms}; keep one of them"
                )
            found[name] = file
        return found

    def other_suffixes(self, files: Iterable[str], names: Container[str]) -> dict[str, str]:
        """Map additional names to images that match except for their suffix."""
        stem = self.text.removesuffix(PurePosixPath(self.text).suffix)
        found = Pattern(f"{stem}.*")._matches(files, _PICTURES)
        return {name: file for name, file in found if name not in names}

    def _matches(
        self, files: Iterable[str], suffixes: tuple[str, ...]
    ) -> Iterator[tuple[str, str]]:
        pattern = to_nfc(self.text.removeprefix(self.folder).lstrip("/"))
        before, _, after = pattern.partition(_NAME)
        any_suffix = after.endswith(".*")
        after = after.removesuffix(".*")
        for file in files:
            stem = to_nfc(file)
            if any_suffix:
                stem, _, suffix = stem.rpartition(".")
                if f".{suffix.lower()}" not in suffixes:
                    continue
            if not (stem.startswith(before) and stem.endswith(after)):
                continue
            if name := stem[len(before) : len(stem) - len(after)]:
                yield name, file


@dataclass(frozen=True)
class Masks:
    """One location of masks, and the meaning of their ids there."""

    pattern: Pattern
    encoding: Encoding | None = None
    """None for the description's encoding."""


@dataclass(frozen=True)
class Part:
    """Images of a split that share one location and one way of labelling."""

    images: Pattern
    masks: tuple[Masks, ...] = ()
    """Alternative locations of masks; empty for unlabelled images."""
    lists: tuple[tuple[str, ...], ...] = ()
    """Groups of files with one name per line, of which the first complete group is used; empty for
    every image."""
    excluded: tuple[str, ...] = ()
    """What to exclude: files of names, images, or patterns of names."""
    count: int | None = None
    """The expected number of images."""
    may_lack_masks: bool = False
    """Whether the images are unlabelled if the folder of masks is missing."""


def default_layout(split: str) -> tuple[Part, ...]:
    """Return the default layout, ``{split}/images`` and ``{split}/masks`` with equal names."""
    masks = Masks(Pattern(f"{split}/masks/{{name}}.*"))
    may_lack = split == "train"
    images = Pattern(f"{split}/images/{{name}}.*")
    return (Part(images, (masks,), may_lack_masks=may_lack),)


def read_layout(
    content: Mapping[Any, Any],
    split: str,
    names: tuple[str, ...],
    path: Path,
    class_ids: tuple[int, ...] = (),
) -> tuple[Part, ...]:
    """Read the section of a split: one part or a list of parts.

    A mask location with ``ignore`` or ``others`` but without ``ids`` uses the ids of the whole
    description; see `read_encoding`.

    Raises:
        InputError: a key or value is invalid; the message names it and the file.
    """
    section = content.get(split)
    # The default test folders apply only if train and val use theirs.
    if section is None and split == "test" and content.keys() & {"train", "val"}:
        return ()
    if section is None:
        return default_layout(split)
    parts = section if isinstance(section, list) else [section]
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise InputError(
            f"{path}: {split} must say where files are, got {section!r}; write, for example, "
            f"{split}: {{images: 'images/{{name}}.jpg', masks: 'masks/{{name}}.png'}}"
        )

    def masks(entry: object) -> Masks:
        if not isinstance(entry, dict):
            return Masks(_pattern(entry, "masks", path))
        check_keys(entry, ("files", *ENCODING_KEYS), path)
        own = None
        if entry.keys() & set(ENCODING_KEYS):
            own = read_encoding({"ids": content.get("ids"), **entry}, names, path, class_ids)
        return Masks(_pattern(entry.get("files"), "masks: files", path), own)

    return tuple(_part(part, split, masks, path) for part in parts)


def _part(
    entry: dict[Any, Any], split: str, read_masks: Callable[[object], Masks], path: Path
) -> Part:
    check_keys(entry, _PART_KEYS, path)
    if "images" not in entry:
        raise InputError(
            f"{path}: {split} has no key images; add, for example, images: 'images/{{name}}.jpg'"
        )
    masks = entry.get("masks", [])
    count = entry.get("count")
    if count is not None and (type(count) is not int or count < 1):
        raise InputError(f"{path}: count must be a number of images, got {count!r}")
    if split != "train" and not masks:
        raise InputError(f"{path}: {split} needs masks to evaluate against; add masks:")
    return Part(
        images=_pattern(entry["images"], "images", path),
        masks=tuple(map(read_masks, masks if isinstance(masks, list) else [masks])),
        lists=_lists(entry.get("list"), path),
        excluded=read_file_names(entry.get("exclude", []), "exclude", path),
        count=count,
    )


def _pattern(value: object, key: str, path: Path) -> Pattern:
    if not isinstance(value, str) or value.count(_NAME) != 1:
        raise InputError(
            f"{path}: {key} must be a path that contains {{name}} once, got {value!r}; for example "
            "'images/{name}.jpg'"
        )
    if value.endswith(".*") or Path(value).suffix:
        return Pattern(value)
    raise InputError(
        f"{path}: {key} must end in a suffix, got {value!r}; add .png, or .* for any of "
        f"{', '.join(IMAGE_SUFFIXES)}"
    )


def _lists(value: object, path: Path) -> tuple[tuple[str, ...], ...]:
    if value is None:
        return ()
    if isinstance(value, list) and any(isinstance(group, list) for group in value):
        return tuple(read_file_names(group, "list", path) for group in value)
    return (read_file_names(value, "list", path),)


def read_file_names(value: object, key: str, path: Path) -> tuple[str, ...]:
    """Read one or several file names.

    Raises:
        InputError: the value is neither; the message names the key.
    """
    files = [value] if isinstance(value, str) else as_list(value, key, path)
    if not all(isinstance(file, str) for file in files) or (key == "list" and not files):
        raise InputError(f"{path}: {key} must name files, got {value!r}; write {key}: names.txt")
    return tuple(files)
