"""The entries of a YAML file, each checked where it is taken out."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fakd.errors import InputError


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
