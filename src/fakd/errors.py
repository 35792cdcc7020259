"""The one exception that means: you asked for something impossible; checks of settings."""

import math
from collections.abc import Callable, Collection
from itertools import islice
from typing import Any, Literal, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """A flag, recipe, data set or checkpoint cannot be used as it is.

    The message is one line in the user's words: what was expected, what came, what to do. The
    command line prints it without a traceback and exits with code 2.
    """


def require_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of a ``Literal``'s.

    Raises:
        ValueError: names the setting, those there are, and the value.
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


def require_at_least(least: float | int, remedy: str = "", **numbers: float | int) -> None:
    """Refuse numbers that are infinite, NaN, or below the least.

    Raises:
        ValueError: names the first one, its value, and the remedy.
    """
    for name, number in numbers.items():
        if not least <= number < math.inf:
            end = remedy and f"; {remedy}"
            raise ValueError(f"expected {name} of at least {least}, got {number}{end}")


def require_class_weights(name: str, given: Any, classes: int | None = None) -> None:
    """Refuse factors of classes that are below 0, all 0, or not as many as there are classes.

    Raises:
        InputError: names the setting. None and ``auto`` pass.
    """
    if given is None or given == "auto":
        return
    if not (all(map(weighs, given)) and any(given)):
        raise InputError(f"expected {name} of at least 0, and one above, got {given}")
    if classes is not None and len(given) != classes:
        raise InputError(
            f"expected {name} with one number for each of {classes} classes, got {len(given)}"
        )


def some(items: Collection[object], most: int) -> str:
    """Name the first of some things, and say how many more there are.

    >>> some(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(str(item) for item in islice(items, most)) + more


def require_each(
    settings: object, group: str, holds: Callable[[Any], bool], wanted: str, *names: str
) -> None:
    """Refuse settings that are given and do not hold, and any that is none of its ``Literal``."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        literals = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
        choices = [str(choice) for each in literals for choice in get_args(each)]
        if isinstance(value, str) and choices and value not in choices:
            listed = ", ".join(choices)
            raise InputError(f"expected {group}.{name} to be one of {listed}, got {value!r}")
    for name in names:
        value = getattr(settings, name)
        if value is not None and not holds(value):
            raise InputError(f"expected {group}.{name} {wanted}, got {value}")


def counts(value: float | int) -> bool:
    """Tell whether a number is at least one."""
    return value >= 1


def weighs(value: float | int) -> bool:
    """Tell whether a number is a finite factor."""
    return 0 <= value < math.inf


def positive(value: float | int) -> bool:
    """Tell whether a number is finite and above zero."""
    return 0 < value < math.inf


MORE_MEMORY = (
    "lower schedule.batch_size or augmentation.crop, give schedule.accumulate, or try "
    "hardware.precision bf16-mixed"
)
"""What to do where memory does not suffice."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether PyTorch found too little memory, on a GPU or, without a class of its own, else.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    words = ("can't allocate memory", "not enough memory")
    return type(error).__name__ == "OutOfMemoryError" or any(each in str(error) for each in words)


def last_line(text: str) -> str:
    """Read the last line that says something; nothing where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
