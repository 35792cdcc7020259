"""Budget of a student: parse ``latency<15ms,parameters<2M`` to limits by quantity."""

import re
from collections.abc import Mapping
from typing import Any

from fakd.errors import InputError
from fakd.imports import nearest

RUNTIMES = ("torch", "compile", "onnx", "openvino")
"""Runtimes in which networks are timed."""
_UNITS: Mapping[str, float] = {"": 1, "ms": 1, "s": 1e3, "k": 1e3, "m": 1e6, "g": 1}
_ALLOWED = {"parameters": ("", "k", "m"), "gflops": ("", "g")}
_TIME = ("", "ms", "s")
_ONE = re.compile(r"\s*([a-z]+)\s*<=?\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_EXAMPLE = "such as latency<15ms, parameters<2M, gflops<5, or several with commas between"


def read_budget(text: str) -> dict[str, float]:
    """Parse limits: milliseconds by runtime, parameters, and GFLOPs.

    ``latency`` is that in ``torch``; the other runtimes are given by name.

    Raises:
        InputError: the text is no budget, has an unknown quantity or unit, or a quantity twice.

    >>> read_budget("latency<15ms, parameters<2.5M")
    {'torch': 15.0, 'parameters': 2500000.0}
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = _ONE.fullmatch(part)
        if match is None:
            raise InputError(f"--fit: expected limits {_EXAMPLE}, got {part.strip() or text!r}")
        name, unit = match[1].lower(), match[3].lower()
        quantity = "torch" if name == "latency" else name
        units = _TIME if quantity in RUNTIMES else _ALLOWED.get(quantity)
        if units is None:
            known = ("latency", *_ALLOWED, *RUNTIMES)
            listed = f"; choose from {', '.join(known)}"
            raise InputError(f"--fit: there is no {name}{nearest(name, known, listed)}")
        if unit not in units:
            wanted = " or ".join(each for each in units if each) or "no unit"
            raise InputError(f"--fit: expected {name} in {wanted}, got {part.strip()!r}")
        try:
            limit = float(match[2]) * _UNITS[unit]
        except ValueError as error:
            raise InputError(
                f"--fit: {match[2]} is not a number; give limits {_EXAMPLE}"
            ) from error
        if not limit > 0:
            raise InputError(f"--fit: expected {name} above 0, got {part.strip()!r}")
        if quantity in found:
            raise InputError(f"--fit: {quantity} has two limits in {text!r}; keep one")
        found[quantity] = limit
    return found


def require_student_or_budget(student: Any, fit: str | None) -> None:
    """Check that a student or a valid budget is given, before anything is opened.

    Raises:
        InputError: there is neither a student nor a budget, or the budget cannot be parsed.
    """
    if fit is not None:
        read_budget(fit)
    elif student is None:
        raise InputError(
            "student: expected a network, got none; give --student, or a budget such as "
            "--fit 'latency<15ms'"
        )
