"""The entries of a description, each checked where it is taken out; what the ids of masks mean."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fakd.errors import InputError
from fakd.settings import IGNORE

ENCODING_KEYS = ("ids", "ignore", "others")
MOST_CLASSES = 2**15 - 1
"""Labels are whole numbers of 16 bits."""
NO_CLASS = (255, 2**16 - 1)
"""Mask ids of 8 and of 16 bits that mean no class where none has them."""


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold keys and values.

    Raises:
        InputError: the file cannot be read, is no YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not valid YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold 'classes: [...]', got {type(content).__name__}")
    return content


def check_keys(content: Mapping[Any, Any], known: tuple[str, ...], path: Path) -> None:
    """Refuse a key that means nothing, naming the one that was probably meant."""
    for key in content:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}"
        raise InputError(f"{path}: unknown key {key!r}; {hint}")


def as_list(value: object, key: str, path: Path) -> list[Any]:
    """Take a list, or say which key should hold one."""
    if not isinstance(value, list):
        raise InputError(f"{path}: {key} must be a list, got {value!r}; write {key}: [...]")
    return value


def as_text(content: Mapping[Any, Any], key: str, path: Path) -> str | None:
    """Take text that may be left out, or say which key should hold it."""
    value = content.get(key)
    if key in content and not isinstance(value, str):
        raise InputError(f"{path}: {key} must be text, got {value!r}; put it in quotes")
    return value


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
    ids = dict.fromkeys(NO_CLASS, IGNORE)
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
