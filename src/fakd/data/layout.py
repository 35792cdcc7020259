"""Where the files of a data set lie: the ``train`` and ``val`` sections of its description."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakd.data.entries import ENCODING_KEYS, Encoding, as_list, check_keys, read_encoding
from fakd.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".jpg", ".jpeg")
_NAME = "{name}"
_PART_KEYS = ("images", "masks", "list", "except", "count")


@dataclass(frozen=True)
class Pattern:
    """A path below the root with ``{name}`` in it; ``.*`` at its end is any known suffix."""

    text: str

    @property
    def folder(self) -> str:
        """The folder that holds every match, in subfolders or not."""
        return self.text.partition(_NAME)[0].rpartition("/")[0]

    def path(self, name: str) -> str:
        """Put a name in."""
        return self.text.replace(_NAME, name)

    def names(self, files: Iterable[str], suffixes: tuple[str, ...]) -> dict[str, str]:
        """Map names to those files, given relative to `folder`, that match.

        Raises:
            InputError: two files differ in nothing but their suffix.
        """
        before, _, after = self.text.removeprefix(self.folder).lstrip("/").partition(_NAME)
        any_suffix = after.endswith(".*")
        after = after.removesuffix(".*")
        found: dict[str, str] = {}
        for file in files:
            stem = file
            if any_suffix:
                stem, _, suffix = file.rpartition(".")
                if f".{suffix.lower()}" not in suffixes:
                    continue
            if not (stem.startswith(before) and stem.endswith(after)):
                continue
            name = stem[len(before) : len(stem) - len(after)]
            if name in found:
                where = f" in {self.folder}" if self.folder else ""
                raise InputError(
                    f"{found[name]} and {file}{where} have the same name; keep one of them"
                )
            if name:
                found[name] = file
        return found


@dataclass(frozen=True)
class Masks:
    """One place where masks may lie, and what their ids mean there."""

    pattern: Pattern
    encoding: Encoding | None = None
    """None for that of the description."""


@dataclass(frozen=True)
class Part:
    """Images of a split that lie, and are labelled, in one way."""

    images: Pattern
    masks: tuple[Masks, ...] = ()
    """The first that is there for the split holds; none for images without labels."""
    lists: tuple[tuple[str, ...], ...] = ()
    """Files with one name a line; the first group that is all there holds. None: every image."""
    excluded: tuple[str, ...] = ()
    """Files that name what is left out."""
    count: int | None = None
    """How many images there should be."""
    may_lack_masks: bool = False
    """Whether the images are unlabelled where the folder of masks is missing."""


def default_layout(split: str) -> tuple[Part, ...]:
    """Lay a split out as ``{split}/images`` and, named alike, ``{split}/masks``."""
    masks = Masks(Pattern(f"{split}/masks/{{name}}.*"))
    may_lack = split == "train"
    images = Pattern(f"{split}/images/{{name}}.*")
    return (Part(images, (masks,), may_lack_masks=may_lack),)


def read_layout(
    content: Mapping[Any, Any], split: str, names: tuple[str, ...], path: Path
) -> tuple[Part, ...]:
    """Check the section of a split: one part or a list of them.

    Raises:
        InputError: a key or value is not what it should be; the message names both.
    """
    section = content.get(split)
    if section is None:
        return default_layout(split)
    parts = section if isinstance(section, list) else [section]
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise InputError(
            f"{path}: {split} must say where files lie, got {section!r}; write, for example, "
            f"{split}: {{images: 'images/{{name}}.jpg', masks: 'masks/{{name}}.png'}}"
        )
    return tuple(_part(part, split, names, path) for part in parts)


def _part(entry: dict[Any, Any], split: str, names: tuple[str, ...], path: Path) -> Part:
    check_keys(entry, _PART_KEYS, path)
    if "images" not in entry:
        raise InputError(f"{path}: {split} lacks images; add, for example, 'images/{{name}}.jpg'")
    masks = entry.get("masks", [])
    count = entry.get("count")
    if count is not None and (type(count) is not int or count < 1):
        raise InputError(f"{path}: count must be a number of images, got {count!r}")
    if split == "val" and not masks:
        raise InputError(f"{path}: val needs masks to evaluate against; add masks: to it")
    return Part(
        images=_pattern(entry["images"], "images", path),
        masks=tuple(
            _masks(place, names, path) for place in (masks if isinstance(masks, list) else [masks])
        ),
        lists=_lists(entry.get("list"), path),
        excluded=_files(entry.get("except", []), "except", path),
        count=count,
    )


def _masks(entry: object, names: tuple[str, ...], path: Path) -> Masks:
    if not isinstance(entry, dict):
        return Masks(_pattern(entry, "masks", path))
    check_keys(entry, ("files", *ENCODING_KEYS), path)
    own = read_encoding(entry, names, path) if entry.keys() & set(ENCODING_KEYS) else None
    return Masks(_pattern(entry.get("files"), "masks: files", path), own)


def _pattern(value: object, key: str, path: Path) -> Pattern:
    if not isinstance(value, str) or value.count(_NAME) != 1:
        raise InputError(
            f"{path}: {key} must be a path with {{name}} in it once, got {value!r}; for example "
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
        return tuple(_files(group, "list", path) for group in value)
    return (_files(value, "list", path),)


def _files(value: object, key: str, path: Path) -> tuple[str, ...]:
    files = [value] if isinstance(value, str) else as_list(value, key, path)
    if not all(isinstance(file, str) for file in files) or (key == "list" and not files):
        raise InputError(f"{path}: {key} must name files, got {value!r}; write {key}: names.txt")
    return tuple(files)
