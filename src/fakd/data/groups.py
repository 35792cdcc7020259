"""Groups of images that are not independent, such as the frames of a clip."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from fakd.data.names import read_lines, without_suffix
from fakd.errors import InputError, count_noun, list_some

FOLDER = "folder"
_CLIP = r"(.*?)[/_-]?\d+$"
"""Clip and frame number: ``0016E5_07959``."""
_PLACE = r"(.*?)(?:[/_-]\d+){2,}$"
"""Place, clip number and frame number: ``frankfurt_000000_000294``."""
_FRAME = re.compile(r"frame|(clip|video|seq|mvi)[^/_-]*[_-]?\d", re.IGNORECASE)
_DATE = re.compile(r"(?<!\d)(19|20)\d\d(\d{4})?(?!\d)")


def read_group(value: object, path: Path) -> Callable[[str], str] | None:
    """Read the key ``group`` of a description.

    It is ``folder`` for an image's folder, a regular expression with one capturing group that is
    matched from the beginning of the name, or a file with a name and its group in each line. Images
    that the file or the expression does not cover are groups of their own.

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
        return ListedGroups(path.parent / value, path)
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise InputError(f"{path}: group {value!r} is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise InputError(
            f"{path}: group must have one part in parentheses, which names the group, got {value!r}"
        )
    return lambda name: found[1] if (found := pattern.match(name)) and found[1] else name


class ListedGroups:
    """Groups as a file lists them: a name, with or without suffix, and its group in each line.

    Raises:
        InputError: the file is missing, or a line is not a name and its group.
    """

    def __init__(self, file: Path, path: Path) -> None:
        if not file.is_file():
            raise InputError(f"{path}: group names {file}, which does not exist")
        self.file, self.groups = file, dict[str, str]()
        for line in read_lines(file):
            entry = re.split(r"[\s,;]+", line.strip().replace("\\", "/"))
            if entry != [""]:
                if len(entry) != 2:
                    raise InputError(
                        f"{file}: expected a name and its group in each line, got {entry}"
                    )
                self.groups |= {entry[0]: entry[1], without_suffix(entry[0]): entry[1]}

    def __call__(self, name: str) -> str:
        """Return the group of an image; its own name if it is not listed."""
        return self.groups.get(name, name)


def describe_ungrouped(group: Callable[[str], str] | None, names: Sequence[str]) -> str | None:
    """Describe images that a group was meant for, but that are in none."""
    if group is None or len(names) < 2:
        return None
    number, alone = count_noun(len(names), "image"), "so they count as independent"
    if isinstance(group, ListedGroups):
        if missing := [name for name in names if name not in group.groups]:
            return (
                f"{len(missing)} of {number} are in no group of {group.file} "
                f"({list_some(missing, 2)}), {alone}"
            )
    elif len({group(name) for name in names}) == len(names):
        return f"group: puts no two of {number} ({names[0]}, ...) together, {alone}; change it"
    return None


def proposed_group(names: Sequence[str]) -> str | None:
    r"""Propose a pattern if names look like frames of clips, otherwise None.

    There must be at least eight images, nine in ten of which share a prefix with another and
    continue with a number. Cameras name photos like that too. So the prefix must also mention a
    frame or a numbered clip; or contain a number that is not a date, while the frames of one clip
    are more than 1 apart or those of several clips have overlapping numbers.

    >>> proposed_group([f"0016E5_{frame:05}" for frame in range(7959, 7999, 2)])
    '(.*?)[/_-]?\\d+$'
    >>> proposed_group([f"IMG_{photo:04}" for photo in range(5, 500, 5)])
    """
    return next((pattern for pattern in (_CLIP, _PLACE) if _are_frames(names, pattern)), None)


def _are_frames(names: Sequence[str], pattern: str) -> bool:
    clips: dict[str, list[int]] = {}
    told = numbered = 0
    for name in names:
        found, before = re.match(pattern, name), name.rstrip("0123456789")
        if found and found[1] and not _DATE.search(before):
            frame = re.sub(r"\D", "", name[found.end(1) :])
            clips.setdefault(found[1], []).append(int(frame))
            told += bool(_FRAME.search(before))
            numbered += any(letter.isdigit() for letter in before)
    enough = 0.9 * len(names)
    shared = sum(len(frames) for frames in clips.values() if len(frames) > 1)
    if len(names) < 8 or shared < enough or len(clips) > max(1, len(names) // 4):
        return False
    if told >= enough:
        return True
    steps = Counter(
        second - first for frames in clips.values() for first, second in pairwise(sorted(frames))
    )
    step, times = steps.most_common(1)[0]
    steady = pattern == _CLIP and step > 1 and times >= 0.9 * steps.total()
    spans = {clip: (min(frames), max(frames)) for clip, frames in clips.items()}
    again = sum(
        any(low <= frame <= high for other, (low, high) in spans.items() if other != clip)
        for clip, frames in clips.items()
        for frame in frames
    )
    return numbered >= enough and (steady or 2 * again >= len(names))
