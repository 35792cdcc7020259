"""Groups of images that are not independent, such as the frames of a clip."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from fakd.errors import InputError

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
        return _groups_from_list(path.parent / value, path)
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise InputError(f"{path}: group {value!r} is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise InputError(
            f"{path}: group must have one part in parentheses, which names the group, got {value!r}"
        )
    return lambda name: found[1] if (found := pattern.match(name)) and found[1] else name


def _groups_from_list(file: Path, path: Path) -> Callable[[str], str]:
    if not file.is_file():
        raise InputError(f"{path}: group names {file}, which does not exist")
    lines = file.read_text(encoding="utf-8").replace(",", " ").splitlines()
    entries = [line.split() for line in lines if line.strip()]
    if wrong := next((entry for entry in entries if len(entry) != 2), None):
        raise InputError(f"{file}: expected a name and its group in each line, got {wrong}")
    groups = dict(entries)
    return lambda name: groups.get(name, name)


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
