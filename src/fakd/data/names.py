"""File names of any bytes and Unicode forms, and lists of them."""

import codecs
import posixpath
import re
import unicodedata
from collections.abc import Container, Sequence
from pathlib import Path

from fakd.errors import InputError, some


def composed(text: str) -> str:
    """Normalise a name to NFC, since systems and editors write an é in two ways."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def printable(text: str) -> str:
    """Replace bytes that are not UTF-8 by the replacement character."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def as_stored(path: Path) -> Path:
    """Find a path that may be stored in another Unicode form."""
    if path == path.parent or path.exists():
        return path
    parent = as_stored(path.parent)
    entries = parent.iterdir() if parent.is_dir() and not path.name.isascii() else ()
    alike = (each for each in entries if composed(each.name) == composed(path.name))
    return next(alike, parent / path.name)


def read_names(path: Path, known: Container[str]) -> list[str]:
    """Read a list of names, one per line, in UTF-8 or UTF-16 with a byte-order mark.

    Bytes that are not UTF-8 are kept, as in file names. Spaces around a name are stripped unless
    the name with them is in ``known``.

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
        raise InputError(f"cannot read the list {path}: it is not UTF-8 text")
    # Concatenated lists contain byte-order marks in the middle.
    lines = [composed(line) for line in re.split("[\r\n]+", text.replace("\ufeff", ""))]
    names = [line if line in known else line.strip() for line in lines]
    # Other spellings of a path, such as ./a or b//a, name the same file.
    names = [name if name in known else posixpath.normpath(name) for name in names if name]
    return [*dict.fromkeys(names)]


def gap(names: Sequence[str], wanted: int) -> str | None:
    """Find the first missing number, if names are numbered from 1."""
    parts = [re.fullmatch(r"(.*?)(\d+)", name) for name in names]
    numbers = {int(part[2]) for part in parts if part}
    forms = {(part[1], len(part[2])) if part else None for part in parts}
    if len(forms) != 1 or (form := forms.pop()) is None or max(numbers) > wanted:
        return None
    prefix, digits = form
    number = next(number for number in range(1, wanted + 1) if number not in numbers)
    return f"{prefix}{number:0{digits}d}"


def what_is_there(path: Path, most: int = 6) -> str:
    """Describe the nearest existing parent folder."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        entries = sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".")
    except OSError:
        return f"{folder} cannot be read"
    return f"{folder} holds {some(entries, most) or 'nothing'}"
