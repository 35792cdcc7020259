"""Methods, networks and seeds of a grid: from the user's notation to full specs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fakd import models, specs
from fakd.answers.sources import parse_source
from fakd.errors import InputError
from fakd.losses import PRESETS
from fakd.runs.naming import ALONE, refuse_former_weights
from fakd.runs.recipe import describe
from fakd.settings import Settings, Task
from fakd.sources import resolve
from fakd.specs import Spec

_NESTED: Mapping[str, Any] = {
    each.name: each.type for each in fields(Settings) if is_dataclass(each.type)
} | {"task": Task}
_MOST_SEEDS = 1000
_PLAIN = ("ema", "check_teacher", "teacher", "student", "int8")


def resolve_methods(given: Mapping[str, Any] | Sequence[str] | str) -> dict[str, Spec]:
    """Resolve methods: names of presets, or a mapping from names to their settings.

    The student alone is always included, and first.

    Raises:
        InputError: there is no such preset, setting or loss.

    >>> resolve_methods("cwd+fa")["cwd-fa"]["distillation"]["class_path"]
    'fakd.losses.ChannelKL'
    """
    entries = dict(given) if isinstance(given, Mapping) else dict.fromkeys(as_names(given))
    named = {ALONE: None} | {canonical_name(str(name)): entry for name, entry in entries.items()}
    return {name: _method(name, entry) for name, entry in named.items()}


def as_names(given: Sequence[str] | str) -> list[str]:
    """Split names at commas, unless they are a list already.

    >>> as_names("cwd, cwd+fa")
    ['cwd', 'cwd+fa']
    """
    if not isinstance(given, str):
        return list(given)
    return [name.strip() for name in given.split(",") if name.strip()]


def resolve_seeds(given: int | Sequence[int] | str) -> list[int]:
    """Resolve seeds: a count from 0 on, a list, or text such as 3,4,5.

    Raises:
        InputError: they are not integers, or too many.

    >>> resolve_seeds(3), resolve_seeds("3,4")
    ([0, 1, 2], [3, 4])
    """
    if isinstance(given, int):
        if given > _MOST_SEEDS:
            raise InputError(
                f"expected --seeds of at most {_MOST_SEEDS}, as a count, got {given}; to name "
                "seeds give a list such as [3,4,5]"
            )
        return list(range(given))
    if not isinstance(given, str):
        return list(given)
    try:
        return [int(seed) for seed in given.split(",")]
    except ValueError:
        raise InputError(f"expected --seeds as a count or as 3,4,5, got {given!r}") from None


def canonical_name(name: str) -> str:
    """Read cwd+fa as cwd-fa; return other names unchanged."""
    written = name.replace("+", "-")
    return written if written in PRESETS else name


def _method(name: str, entry: Any) -> Spec:
    given = {} if entry is None else entry
    if not isinstance(given, Mapping):
        raise InputError(
            f"methods.{name}: expected a mapping such as {{distillation: cwd, ema: 0.999}}, "
            f"got {given!r}"
        )
    try:
        refuse_former_weights(given)
    except InputError as error:
        raise InputError(f"methods.{name}: {error}") from error
    special = {key: value for key, value in given.items() if key != "distillation"}
    _require_settings(f"methods.{name}", special)
    for key in ("teacher", "student"):
        if key in special:
            special[key] = network(special[key], f"methods.{name}.{key}")
    if name == ALONE:
        if given.get("distillation") is not None:
            raise InputError("methods.alone: it is the student without distillation; rename it")
        loss = None
    else:
        loss = _distillation(name, given.get("distillation", name))
    if loss is None and "int8" in special:
        raise InputError(f"methods.{name}.int8: not available for the student alone; leave it out")
    return {"distillation": loss, **special}


def _distillation(name: str, loss: Any) -> Spec | None:
    """Resolve a loss with all its arguments; mistakes are reported before the first run."""
    if loss is None:
        return None
    if isinstance(loss, str):
        if (preset := PRESETS.get(canonical_name(loss))) is None:
            known = [ALONE, *PRESETS]
            hint = specs.nearest(loss, known, f"; choose from {', '.join(known)}")
            raise InputError(
                f"--methods: there is no {loss}{hint} (your own is {{NAME: {{distillation: "
                "{class_path: ChannelKL, init_args: ...}}})"
            )
        return dict(describe(specs.build(preset)))
    where = f"methods.{name}.distillation"
    spec = specs.check_spec(loss, where, package="fakd.losses")
    try:
        return dict(describe(specs.build(spec)))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _require_settings(where: str, given: Mapping[str, Any]) -> None:
    """Refuse keys that are not settings of a run, and invalid values."""
    for key, value in given.items():
        _require_known(where, key, [*_NESTED, *_PLAIN])
        if key in _NESTED:
            if not isinstance(value, Mapping):
                raise InputError(f"{where}.{key}: expected a mapping of settings, got {value!r}")
            for name in value:
                _require_known(f"{where}.{key}", name, [each.name for each in fields(_NESTED[key])])
            if "epochs" in value:
                raise InputError(f"{where}.schedule: give a method's length in steps, not epochs")
            kind = _NESTED[key]
            spec = specs.make_spec(f"{kind.__module__}.{kind.__name__}", **value)
            kind(**specs.check_spec(spec, f"{where}.{key}")["init_args"])


def _require_known(where: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        hint = specs.nearest(str(name), known, f"; choose from {', '.join(known)}")
        raise InputError(f"{where}: there is no {name}{hint}")


def resolve_pairs(
    pairs: Mapping[str, Any] | None, teacher: Any = None, student: Any = None
) -> dict[str, Spec]:
    """Resolve pairs: the one given by flags, or those of a mapping.

    Raises:
        InputError: both or neither are given, or a pair lacks its teacher or student.
    """
    if pairs is not None and (teacher is not None or student is not None):
        raise InputError("expected --teacher and --student, or --pairs; got both, choose one")
    if pairs is None:
        if teacher is None or student is None:
            raise InputError(
                "expected --teacher and --student (such as --teacher runs/teacher --student "
                "pspnet), or pairs in the grid file"
            )
        spec = network(student, "student")
        return {_pair_name(spec): {"teacher": network(teacher, "teacher"), "student": spec}}
    for name, pair in pairs.items():
        if not isinstance(pair, Mapping) or set(pair) != {"teacher", "student"}:
            raise InputError(f"pairs.{name}: expected {{teacher: ..., student: ...}}, got {pair!r}")
    return {
        str(name): {
            key: network(pair[key], f"pairs.{name}.{key}") for key in ("teacher", "student")
        }
        for name, pair in pairs.items()
    }


def network(given: Any, where: str) -> Spec:
    """Resolve a network: a folder or file to load, a builder's bare name, or a spec.

    >>> network("runs/teacher", "teacher")["init_args"]["path"]
    'runs/teacher'
    """
    if where.endswith("teacher"):
        given = parse_source(given, partial(network, where=where)) or given
    if isinstance(given, Path) or (isinstance(given, str) and given not in models.__all__):
        given = resolve(str(given))
    given = {"class_path": given} if isinstance(given, str) else given
    given = specs.with_claims(given)
    spec = specs.check_spec(given, where, package="fakd.models", counted=True)
    return dict(specs.to_plain(spec))


def _pair_name(student: Spec) -> str:
    given = student["init_args"]
    kind = given.get("backbone") or given.get("encoder_name")
    parts = [re.split("[.:]", student["class_path"])[-1], kind]
    if "source" in given:
        parts = [Path(given["source"]).name]
    name = "-".join(str(part) for part in parts if part)
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)
