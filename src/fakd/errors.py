"""The exception for invalid input, and checks of settings."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """A flag, recipe, data set or checkpoint is invalid.

    The message is one line in the user's terms: what was expected, what was found, what to do. The
    command line prints it without a traceback and exits with code 2.
    """


def require_kinds(
    described: Callable[..., Any], values: Mapping[str, Any], group: str = ""
) -> None:
    """Refuse values that do not match the type hints of a function or class.

    Raises:
        InputError: names the first one, and its expected types.
    """
    for name, hint in get_type_hints(described).items():
        if name in values and not _fits(hint, values[name]):
            several = get_origin(hint) in (Literal, Union, UnionType)
            kinds = [*(get_args(hint) if several else [hint])]
            names = [
                str(each) if get_origin(each) else getattr(each, "__name__", str(each))
                for each in kinds
            ]
            wanted = re.sub(r"\b(collections\.abc|typing)\.", "", " or ".join(names))
            wanted = wanted.replace("NoneType", "None")
            made = next((each for each in names if each[0].isupper() and each != "NoneType"), "")
            remedy = f"; make one, such as {made}(...)" if made and str not in kinds else ""
            raise InputError(f"expected {group}{name} to be {wanted}, got {values[name]!r}{remedy}")


def _fits(hint: Any, value: Any) -> bool:
    """Tell whether a value matches a type; of containers only the members of tuples are checked."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(each, value) for each in members)
    if origin is Literal:
        return value in members
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = members[:1] * len(value) if Ellipsis in members else members
        return len(value) == len(each) and all(map(_fits, each, value))
    if hint in (int, float):
        kind = Integral if hint is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if hint is Any:
        return True
    if hint is Path:
        return isinstance(value, str | Path)
    if isinstance(origin, type):
        return isinstance(value, origin)
    return not isinstance(hint, type) or isinstance(value, hint)


def require_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is not among those of a ``Literal``.

    Raises:
        ValueError: names the setting, the valid values, and the value.
    """
    if value not in get_args(choices):
        raise ValueError(f"expected {name} to be one of {get_args(choices)}, got {value!r}")


def require_above_zero(remedy: str = "", **numbers: float | int) -> None:
    """Refuse numbers that are infinite, NaN, or not above 0.

    Raises:
        ValueError: names the first one, its value, and the remedy.
    """
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"expected {name} above 0, got {number}{remedy and f'; {remedy}'}")


def require_seed(seed: int) -> None:
    """Refuse a seed that a random number generator does not accept.

    Raises:
        InputError: it is below 0, or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed of 0 to {2**63 - 1}, got {seed}")


def require_at_least(least: float | int, remedy: str = "", **numbers: float | int) -> None:
    """Refuse numbers that are infinite, NaN, or below ``least``.

    Raises:
        ValueError: names the first one, its value, and the remedy.
    """
    for name, number in numbers.items():
        if not least <= number < math.inf:
            end = remedy and f"; {remedy}"
            raise ValueError(f"expected {name} of at least {least}, got {number}{end}")


def require_class_weights(name: str, given: Any, classes: int | None = None) -> None:
    """Refuse class weights that are negative, all 0, or not one per class.

    Raises:
        InputError: names the setting. None and ``auto`` pass.
    """
    if given is None or given == "auto":
        return
    if not (all(map(is_weight, given)) and any(given)):
        raise InputError(f"expected {name} of at least 0, not all 0, got {given}")
    if classes is not None and len(given) != classes:
        raise InputError(
            f"expected {name} with one number for each of {classes} classes, got {len(given)}"
        )


def list_some(items: Collection[object], most: int) -> str:
    """List the first ``most`` items, and the number of further ones.

    >>> list_some(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(str(item) for item in islice(items, most)) + more


def count_noun(number: int, one: str, several: str = "") -> str:
    """Write a number with its noun, singular or plural.

    >>> count_noun(2, "mask"), count_noun(1, "image is", "images are")
    ('2 masks', '1 image is')
    """
    return f"{number} {one if number == 1 else several or one + 's'}"


def require_each(
    settings: object, group: str, holds: Callable[[Any], bool], wanted: str, *names: str
) -> None:
    """Refuse given settings for which ``holds`` is false, and values outside of a ``Literal``."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        literals = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
        choices = [str(choice) for each in literals for choice in get_args(each)]
        if isinstance(value, str) and choices and value not in choices:
            listed = ", ".join(choices)
            raise InputError(f"expected {group}.{name} to be one of {listed}, got {value!r}")
    require_kinds(type(settings), vars(settings), f"{group}.")
    for name in names:
        value = getattr(settings, name)
        if value is not None and not holds(value):
            raise InputError(f"expected {group}.{name} {wanted}, got {value}")


def is_count(value: float | int) -> bool:
    """Tell whether a number is at least one."""
    return value >= 1


def is_weight(value: float | int) -> bool:
    """Tell whether a number is finite and at least zero."""
    return 0 <= value < math.inf


def is_positive(value: float | int) -> bool:
    """Tell whether a number is finite and above zero."""
    return 0 < value < math.inf


MORE_MEMORY = (
    "lower schedule.batch_size or augmentation.crop, set schedule.accumulate, or try "
    "hardware.precision bf16-mixed"
)
"""Remedies for too little memory."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error is PyTorch's out-of-memory error; on a CPU it has no class of its own.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    words = ("can't allocate memory", "not enough memory")
    return type(error).__name__ == "OutOfMemoryError" or any(each in str(error) for each in words)


def last_line(text: str) -> str:
    """Return the last line that is not blank, or an empty string."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
