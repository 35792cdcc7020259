"""Groups of images that are not independent of one another, such as the frames of a clip."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from fakd.errors import InputError

FOLDER = "folder"


def read_group(value: object, path: Path) -> Callable[[str], str] | None:
    """Check the key ``group`` of a description.

    It is ``folder`` for the folder of an image, a regular expression whose one group is searched in
    the name from its beginning, or a file with a name and its group in each line. Images that it
    does not name are each a group of their own.

    Raises:
        InputError: it is none of these.
    """
    if value is None:
        return None
    if value == FOLDER:
        return lambda name: PurePosixPath(name).parent.as_posix()
    if not isinstance(value, str):
        raise InputError(
            f"{path}: group must be folder, a pattern such as '(.*)_\\d+', or a file, got {value!r}"
        )
    if value.endswith((".txt", ".csv")):
        return _listed(path.parent / value, path)
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise InputError(f"{path}: group {value!r} is no regular expression: {error}") from error
    if pattern.groups != 1:
        raise InputError(
            f"{path}: group must have one part in parentheses, which names the group, got {value!r}"
        )
    return lambda name: found[1] if (found := pattern.match(name)) and found[1] else name


def _listed(file: Path, path: Path) -> Callable[[str], str]:
    if not file.is_file():
        raise InputError(f"{path}: group names {file}, which is no file")
    lines = file.read_text(encoding="utf-8").replace(",", " ").splitlines()
    entries = [line.split() for line in lines if line.strip()]
    if wrong := next((entry for entry in entries if len(entry) != 2), None):
        raise InputError(f"{file}: expected a name and its group in each line, got {wrong}")
    groups = dict(entries)
    return lambda name: groups.get(name, name)


def proposed_group(names: Sequence[str]) -> str | None:
    r"""Propose a pattern where names look like frames of clips; None where they do not.

    At least eight images, of which nine in ten share their beginning with another and go on in a
    number.

    >>> proposed_group([f"0016E5_{frame:05}" for frame in range(7959, 7999, 2)])
    '(.+)[_-][^_/-]*\\d+$'
    """
    pattern = r"(.+)[_-][^_/-]*\d+$"
    found = [re.match(pattern, name) for name in names]
    sizes = Counter(match[1] for match in found if match)
    shared = sum(size for size in sizes.values() if size > 1)
    few = len(sizes) <= max(1, len(names) // 4)
    return pattern if len(names) >= 8 and few and shared >= 0.9 * len(names) else None
