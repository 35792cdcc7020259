"""Which class a mask means by an id."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fakd.data.fields import as_list
from fakd.errors import InputError
from fakd.types import IGNORE

ENCODING_KEYS = ("ids", "ignore", "others")


@dataclass(frozen=True)
class Encoding:
    """How mask ids map to classes."""

    ids: dict[int, int]
    """Mask id to class, `IGNORE` for ids that mean none."""
    others: int | None = None
    """What any other id means; None if it is a mistake."""


def read_encoding(
    content: Mapping[Any, Any],
    names: tuple[str, ...],
    path: Path,
    class_ids: tuple[int, ...] = (),
) -> Encoding:
    """Check the keys ``ids``, ``ignore`` and ``others`` of a description or of one kind of masks.

    Args:
        content: What holds the keys.
        names: The classes.
        path: The file, for messages.
        class_ids: What masks say for each class if ``ids`` does not tell; 0, 1, ... by default.

    Raises:
        InputError: a value is not what it should be; the message names it.
    """
    ids = {IGNORE: IGNORE}
    listed = content.get("ids")
    if listed is None:
        ids |= {raw: number for number, raw in enumerate(class_ids or range(len(names)))}
    elif not isinstance(listed, dict):
        raise InputError(f"{path}: ids must map mask ids to classes, got {listed!r}")
    else:
        ids |= {mask_id(raw, "ids", path): _class(to, names, path) for raw, to in listed.items()}
    for raw in as_list(content.get("ignore", []), "ignore", path):
        if listed is not None and raw in listed:
            raise InputError(f"{path}: id {raw} stands in both ids and ignore; keep one of them")
        if raw in class_ids:
            raise InputError(f"{path}: id {raw} stands in both classes and ignore; keep one")
        ids[mask_id(raw, "ignore", path)] = IGNORE
    others = content.get("others")
    if others == "ignore":
        return Encoding(ids, IGNORE)
    return Encoding(ids, None if others is None else _class(others, names, path, "others maps"))


def mask_id(value: object, key: str, path: Path) -> int:
    """Take an id that a mask of 8 or 16 bits can hold."""
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
    raise InputError(f"{path}: {where} to {value!r}, which is no class; {hint}")
