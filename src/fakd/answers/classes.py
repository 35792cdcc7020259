"""Class maps: which teacher classes make up each student class, from a YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from fakd.data.layout import check_keys
from fakd.errors import InputError, list_some
from fakd.files import expand_user, read_yaml
from fakd.specs import nearest

IGNORED = "ignore"
_WORTH = 0.05
"""IoU below which two classes are considered unrelated."""


@dataclass(frozen=True)
class ClassMap:
    """A class map as written; names are resolved once both class lists are known."""

    origin: str
    groups: Mapping[str, list[str | int]]
    """The teacher classes of each student class, by name or number."""
    rest: str
    """The student class of all other teacher classes; ``ignore`` for none."""
    teacher: tuple[str, ...] | None
    """The teacher's class names, if the teacher has none itself."""

    @property
    def content(self) -> dict[str, Any]:
        """The content of the file."""
        named = {} if self.teacher is None else {"teacher": list(self.teacher)}
        groups = {name: list(group) for name, group in self.groups.items()}
        return {"classes": groups, "rest": self.rest, **named}

    def table(
        self, ours: Sequence[str], theirs: Sequence[str] | None, count: int
    ) -> list[list[int]]:
        """Resolve the teacher classes of each student class to numbers.

        Args:
            ours: The student's class names.
            theirs: The teacher's class names, if it has any.
            count: The teacher's number of classes.

        Raises:
            InputError: a name is not a class of the student or teacher, a student class is missing,
                or the number of listed names differs from the teacher's number of classes.
        """
        theirs = self.teacher or theirs
        if theirs is not None and len(theirs) != count:
            raise InputError(
                f"{self.origin}: teacher: lists {len(theirs)} names, but the teacher has {count} "
                "classes"
            )
        wanted = [*self.groups, *([] if self.rest == IGNORED else [self.rest])]
        for name in wanted:
            if name not in ours:
                hint = nearest(name, ours, f"; the data have {list_some(ours, 12)}")
                raise InputError(f"{self.origin}: the data have no class {name!r}{hint}")
        if left := [name for name in ours if name not in wanted]:
            raise InputError(
                f"{self.origin} does not mention {list_some(left, 5)}; add, for example, "
                f"'{left[0]}: [...]' with its teacher classes, or [] for none"
            )
        numbers = {
            name: [self._number(each, theirs, count) for each in group]
            for name, group in self.groups.items()
        }
        taken = {number for group in numbers.values() for number in group}
        rest = [number for number in range(count) if number not in taken]
        result = [numbers.get(name, []) + (rest if name == self.rest else []) for name in ours]
        if not any(result):
            raise InputError(f"{self.origin} uses no class of the teacher; name some")
        return result

    def _number(self, given: str | int, theirs: Sequence[str] | None, count: int) -> int:
        if isinstance(given, int):
            if 0 <= given < count:
                return given
            raise InputError(
                f"{self.origin}: the teacher has classes 0 to {count - 1}, not {given}"
            )
        if theirs is None:
            raise InputError(
                f"{self.origin}: the teacher's classes have no names, so {given!r} is unknown; "
                "give numbers, or list the names as teacher: [...]"
            )
        if (times := list(theirs).count(given)) == 1:
            return list(theirs).index(given)
        if times:
            raise InputError(
                f"{self.origin}: two of the teacher's classes are named {given!r}; give numbers"
            )
        hint = nearest(given, theirs, f"; it has {list_some(theirs, 12)}")
        raise InputError(f"{self.origin}: the teacher has no class {given!r}{hint}")


def read_class_map(given: Mapping[str, Any] | str | Path) -> ClassMap:
    """Read a class map from a .yaml file, or from its content.

    Raises:
        InputError: a key or value is invalid; the message names it and the file.
    """
    path = expand_user("classes_from" if isinstance(given, Mapping) else given)
    content = dict(given) if isinstance(given, Mapping) else read_yaml(path)
    check_keys(content, ("classes", "rest", "teacher"), path)
    groups = content.get("classes")
    if not isinstance(groups, dict) or not groups:
        raise InputError(
            f"{path}: classes must give the teacher classes of each of your classes, such as "
            f"{{road: [road, lane]}}, got {groups!r}"
        )
    rest, names = content.get("rest", IGNORED), content.get("teacher")
    if not isinstance(rest, str):
        raise InputError(f"{path}: rest must be ignore or one of your classes, got {rest!r}")
    if names is not None:
        if not isinstance(names, list):
            raise InputError(f"{path}: teacher must be a list of names, got {names!r}")
        names = tuple(_name(each, path) for each in names)
    read: dict[str, list[str | int]] = {}
    for name, group in groups.items():
        group = group if isinstance(group, list) else [group]
        read[_name(name, path)] = [
            each if type(each) is int else _name(each, path) for each in group
        ]
        if len(set(group)) < len(group):
            raise InputError(f"{path}: {name} names a teacher class twice")
    return ClassMap(str(path), read, rest, names)


def propose(
    ours: Sequence[str], theirs: Sequence[str], counts: Sequence[Sequence[int]] | None
) -> dict[str, list[str]]:
    """Propose the teacher classes of each student class.

    A teacher class is assigned by the first of these that applies: a student class with the same
    name, singular or plural; the student class with which it has mutually the highest IoU, if that
    is at least 0.05; the student class of at least half of the labelled pixels at which it is
    predicted. Without labels, a student class with a similar name. Otherwise it is not assigned.

    Args:
        ours: The student's class names.
        theirs: The teacher's class names.
        counts: Pixels by label and by the teacher's prediction; None without labels.

    >>> propose(["car", "road"], ["Cars", "street", "sky"], [[9, 1, 0], [0, 5, 2]])
    {'car': ['Cars'], 'road': ['street', 'sky']}
    """
    plain = {_plain(name): number for number, name in reversed(list(enumerate(ours)))}
    owners = [plain.get(_plain(name)) for name in theirs]
    if counts is None:
        close = [get_close_matches(_plain(name), plain, 1, 0.8) for name in theirs]
        found = [plain[each[0]] if each else None for each in close]
    else:
        found = _by_labels(np.array(counts, dtype=float))
    groups: dict[str, list[str]] = {name: [] for name in ours}
    for name, by_name, otherwise in zip(theirs, owners, found, strict=True):
        owner = otherwise if by_name is None else by_name
        if owner is not None:
            groups[ours[owner]].append(name)
    return groups


def _by_labels(counts: Float64[np.ndarray, "ours theirs"]) -> list[int | None]:
    rows, columns = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    # Most pixels predicted as a rare class often belong to another class that borders on it.
    iou = counts / np.maximum(rows + columns - counts, 1)
    result: list[int | None] = []
    for number, column in enumerate(counts.T):
        best, most = int(iou[:, number].argmax()), int(column.argmax())
        mutual = int(iou[best].argmax()) == number and iou[best, number] >= _WORTH
        agreed = column.any() and 2 * column[most] >= column.sum()
        result.append(best if mutual else most if agreed else None)
    return result


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum()).removesuffix("s")


def _name(value: Any, path: Path) -> str:
    # YAML reads an unquoted no, yes, on or off as another type than text.
    if isinstance(value, str) and value:
        return value
    raise InputError(f"{path}: a class needs a name, got {value!r}; put it in quotes")
