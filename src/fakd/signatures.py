"""What the signature of a command says of its flags, and how their values become its arguments."""

import argparse
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import ArgumentParser

from fakd.errors import InputError
from fakd.files import expand_user


def settings_type(annotation: Any) -> Any:
    """Return the dataclass of a group of settings, or None."""
    union = get_origin(annotation) in (Union, UnionType)
    kinds = get_args(annotation) if union else (annotation,)
    return next((each for each in kinds if is_dataclass(each)), None)


def may_be_partial(parameter: inspect.Parameter) -> bool:
    """Tell whether settings that are not given are left out instead of having their defaults."""
    return not is_dataclass(parameter.annotation) and bool(settings_type(parameter.annotation))


def leave_out_defaults(parser: ArgumentParser, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Let a parser leave out what is not given of settings that may be partial."""
    partial = tuple(f"{key}." for key, each in parameters.items() if may_be_partial(each))
    for action in parser._actions:
        if partial and action.dest.startswith(partial):
            action.default = argparse.SUPPRESS


def switches(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    """Find the Boolean flags."""
    found = {key for key, each in parameters.items() if each.annotation is bool}
    for key, each in parameters.items():
        if group := settings_type(each.annotation):
            found |= {f"{key}.{one.name}" for one in fields(group) if one.type in (bool, "bool")}
    return found


def lists(parameters: Mapping[str, inspect.Parameter]) -> set[str]:
    """Find the flags that take several values."""
    found = {key: [each.annotation, *get_args(each.annotation)] for key, each in parameters.items()}
    return {key for key, kinds in found.items() if any(get_origin(each) is tuple for each in kinds)}


def argument_of(key: str, parameter: inspect.Parameter, given: Any) -> Any:
    """Convert a value of the parser: None becomes the default, and ``~`` is expanded in paths.

    Raises:
        InputError: the value is invalid, or missing.
    """
    if settings_type(parameter.annotation) and (given is not None or parameter.default is not None):
        if not hasattr(given, "as_dict"):
            raise InputError(f"{key}: expected settings by their names, got {given!r}")
        said = given.as_dict()
        for name, each in said.items():
            if isinstance(each, Mapping) and (wrong := [k for k in each if type(k) is not str]):
                raise InputError(
                    f"{key}.{name}: expected names, got {wrong[0]!r}; put it in quotes"
                )
        if may_be_partial(parameter):
            return said
        return parameter.annotation(
            **{name: each for name, each in said.items() if each is not None}
        )
    if given is None and is_required(parameter):
        raise InputError(f"{key}: expected a value, got none; give --{key}")
    if given is None and parameter.default is not parameter.empty:
        given = parameter.default
    return _path(key, given) if isinstance(given, Path) else given


def is_required(parameter: inspect.Parameter) -> bool:
    """Tell whether a flag must be given: it has no default and may not be None."""
    return parameter.default is parameter.empty and "None" not in str(parameter.annotation)


def _path(key: str, given: Path) -> Path:
    """Expand a path; refuse a loop of links."""
    path = expand_user(given)
    try:
        path.resolve().exists()
    except RuntimeError as error:
        reason = str(error).partition(" from ")[0].lower()
        raise InputError(f"{key}: {str(given)!r} is not a valid path: {reason}") from error
    return path
