"""File names of any bytes and Unicode forms, and lists of them."""

import codecs
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from pathlib import Path

from fakd.errors import InputError, list_some

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")


def to_nfc(text: str) -> str:
    """Normalise a name to NFC, since systems and editors write an é in two ways."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def tidy(name: str) -> str:
    """Normalise the name of a class: spaces around and within it and Unicode forms do not differ.

    >>> tidy(" traffic  light")
    'traffic light'
    """
    return " ".join(to_nfc(name).split())


def none_ending_in(suffixes: Sequence[str], files: Iterable[str]) -> str:
    """Describe a folder without files of these kinds, and what it holds instead.

    >>> none_ending_in([".png"], ["a.avif", "b.AVIF"])
    'no file ending in .png, but 2 in .avif, which is not read; convert them to PNG'
    """
    kinds = Counter(posixpath.splitext(file)[1].lower() for file in files)
    kind, number = next(((kind, n) for kind, n in kinds.most_common() if kind), ("", 0))
    no_file = f"no file ending in {', '.join(suffixes)}"
    if not number:
        return f"{no_file}; add some"
    return f"{no_file}, but {number:,} in {kind}, which is not read; convert them to PNG"


def printable(text: str) -> str:
    """Replace bytes that are not UTF-8 by the replacement character."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def find_as_stored(path: Path) -> Path:
    """Find a path that may be stored in another Unicode form."""
    if path == path.parent or path.exists():
        return path
    parent = find_as_stored(path.parent)
    entries = parent.iterdir() if parent.is_dir() and not path.name.isascii() else ()
    alike = (each for each in entries if to_nfc(each.name) == to_nfc(path.name))
    return next(alike, parent / path.name)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a list, in UTF-8 or UTF-16 with a byte-order mark.

    Bytes that are not UTF-8 are kept, as in file names.

    Raises:
        InputError: the file cannot be read, or is not text.
    """
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16") if wide else content.decode("utf-8", "surrogateescape")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InputError(f"cannot read the list {path}: {reason}") from error
    if "\0" in text:
        raise InputError(f"cannot read the list {path}: it is not UTF-8 text; save it as UTF-8")
    # Concatenated lists contain byte-order marks in the middle.
    return [to_nfc(line) for line in re.split("\r\n|\r|\n", text.replace("\ufeff", ""))]


def read_names(path: Path, known: Container[str]) -> list[str]:
    """Read a list of names, one per line, as `read_lines` does.

    Spaces around a name and the suffix of an image are stripped unless the name with them is in
    ``known``.

    Raises:
        InputError: the file cannot be read, or is not text.
    """
    names = [line if line in known else line.strip() for line in read_lines(path)]
    # Other spellings of a path, such as ./a or b//a, name the same file.
    names = [name if name in known else posixpath.normpath(name) for name in names if name]
    return [*dict.fromkeys(n if n in known else _without_suffix(n, known) for n in names)]


def without_suffix(name: str) -> str:
    """Remove the suffix of an image."""
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _without_suffix(name: str, known: Container[str]) -> str:
    return stem if (stem := without_suffix(name)) in known else name


def meant_name(line: str, known: Container[str]) -> str | None:
    """Find the image that a line of any program's list means: its first column, without folders.

    >>> meant_name("img/a.jpg masks/a.png", ["a"])
    'a'
    """
    for column in (line.strip(), re.split(r"[\s,;]+", line.strip())[0]):
        path = column.strip("\"'").replace("\\", "/").split("/")
        names = (_without_suffix("/".join(path[start:]), known) for start in range(len(path)))
        if meant := next((name for name in names if name in known), None):
            return meant
    return None


def list_remedy(line: str, pattern: str, known: Container[str]) -> str | None:
    """Say how to write a line of a list that names no image, where it is clear what is meant."""
    if any("\udc80" <= letter <= "\udcff" for letter in line):
        return "save the list as UTF-8"
    meant = meant_name(line, known)
    return meant and f"a line holds the name in {pattern} alone: write {meant}"


def case_remedy(images: Iterable[object], masks: Iterable[object]) -> str | None:
    """Say so if images lack masks whose names differ in upper and lower case alone."""
    by_name = {Path(str(mask)).stem.lower(): mask for mask in masks}
    for name in (Path(str(image)).stem for image in images):
        if (mask := by_name.get(name.lower())) is not None:
            return f"{mask} differs from {name} in upper and lower case: rename one of the two"
    return None


def is_list(entry: str) -> bool:
    """Whether an entry is a file of names, rather than an image or a pattern."""
    return "*" not in entry and not entry.lower().endswith(IMAGE_SUFFIXES)


def list_file(file: str, root: Path, description: Path) -> Path:
    """Find a list in the data folder, or next to the description if the data are read-only."""
    path, beside = find_as_stored(root / file), description.parent / file
    return beside if beside.is_file() and not path.is_file() else path


def resolve_excluded(
    entries: Iterable[str],
    known: Collection[str],
    read: Callable[[str], Iterable[str]],
    others: bool = False,
) -> set[str]:
    """Collect the names to exclude; an entry is a pattern with ``*``, an image, or a list of names.

    Args:
        entries: The values of ``exclude`` in a description.
        known: The names of the images, without suffix.
        read: Reads the names in a list.
        others: Whether images and lists may also name images that are not ``known``.

    Raises:
        InputError: an entry matches no image.
    """
    out: set[str] = set()
    for entry in entries:
        name, wrong = to_nfc(entry), None
        if name.lower().endswith(IMAGE_SUFFIXES):
            name = posixpath.splitext(name)[0]
        if "*" in entry:
            pattern = re.compile(".*".join(map(re.escape, name.split("*"))))
            found = {each for each in known if pattern.fullmatch(each)}
            wrong = None if found else "matches no image"
        else:
            found = {*read(entry)} if is_list(entry) else {name}
            if not others and (unknown := sorted(found - {*known})):
                wrong = f"names {list_some(unknown, 2)}, but no image has that name"
        if wrong is not None:
            like = f"; names look like {min(known)}" if known else ""
            raise InputError(f"exclude: {entry} {wrong}{like}")
        out |= found
    return out


def first_missing_number(names: Sequence[str], wanted: int) -> str | None:
    """Find the first missing number, if names are numbered from 1."""
    parts = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    numbers = {int(part[2]) for part in parts if part}
    forms = {(part[1], len(part[2])) if part else None for part in parts}
    if len(forms) != 1 or (form := forms.pop()) is None or max(numbers) > wanted:
        return None
    prefix, digits = form
    number = next(number for number in range(1, wanted + 1) if number not in numbers)
    return f"{prefix}{number:0{digits}d}"


def describe_nearest_folder(path: Path, most: int = 6) -> str:
    """Describe the nearest existing parent folder."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        entries = sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".")
    except OSError:
        return f"{folder} cannot be read"
    return f"{folder} holds {list_some(entries, most) or 'nothing'}"
