"""Sources of teacher answers other than one network: plain values, no tensors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fakd.answers.classes import ClassMap, read_class_map
from fakd.data.layout import check_keys
from fakd.errors import InputError, is_weight
from fakd.files import expand_user, read_yaml
from fakd.specs import Spec, make_spec

MANIFEST = "manifest.json"
"""File that marks a folder as a store of answers."""
SUFFIXES = (".npz", ".png")
"""Suffixes of answers written by other programs."""
By = Literal["probability", "confidence"]


class Source(ABC):
    """Describes a teacher that is not a network; `fakd.training.teacher` builds it."""

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The arguments of its constructor, as stored in a recipe."""


class Stored(Source):
    """Answers in a folder: from `fakd answer`, or one .npz or .png file per image.

    Args:
        path: The folder.
        smoothing: Share of a label that is spread evenly over all classes; for .png masks only.
    """

    def __init__(self, path: str | Path, smoothing: float = 0.0) -> None:
        if not 0 <= smoothing < 1:
            raise InputError(f"expected teacher.smoothing from 0 to below 1, got {smoothing}")
        self.path, self.smoothing = expand_user(path), smoothing

    @property
    def arguments(self) -> dict[str, Any]:
        """Path and smoothing."""
        return {"path": self.path, "smoothing": self.smoothing}


class Mapped(Source):
    """A teacher with other classes.

    Args:
        teacher: A network, or another source.
        classes_from: A .yaml file with the teacher classes of each student class, or its content.
    """

    def __init__(self, teacher: Any, classes_from: dict | str) -> None:
        self.teacher = teacher
        self.classes: ClassMap = read_class_map(classes_from)

    @property
    def arguments(self) -> dict[str, Any]:
        """The teacher, and the content of the file."""
        return {"teacher": self.teacher, "classes_from": self.classes.content}


class Several(Source):
    """Several teachers with the same classes, whose probabilities are averaged.

    Args:
        teachers: Networks or other sources.
        weights: One per teacher; equal by default.
        by: The same weights everywhere (probability), or multiplied at each pixel by each teacher's
            confidence (confidence): 1 minus the entropy of its probabilities relative to the
            maximum.
    """

    def __init__(
        self, teachers: list, weights: list | None = None, by: str = "probability"
    ) -> None:
        if by not in get_args(By):
            raise InputError(f"expected teacher.by to be one of {get_args(By)}, got {by!r}")
        if not teachers:
            raise InputError("expected teacher.teachers to list at least one teacher, got none")
        weights = [1.0] * len(teachers) if weights is None else list(weights)
        if len(weights) != len(teachers):
            raise InputError(
                f"expected one teacher.weights for each of {len(teachers)} teachers, got {weights}"
            )
        if not all(map(_is_weight, weights)) or not any(weights):
            raise InputError(
                f"expected teacher.weights of at least 0, one of them above 0, got {weights}"
            )
        self.teachers, self.weights = list(teachers), [float(each) for each in weights]
        self.by: By = "confidence" if by == "confidence" else "probability"

    @property
    def arguments(self) -> dict[str, Any]:
        """The teachers, their weights, and how these are applied."""
        return {"teachers": self.teachers, "weights": self.weights, "by": self.by}


def parse_source(value: Any, meant: Callable[[str], Any]) -> Spec | None:
    """Return the source that a teacher's short form stands for; None for a network.

    Args:
        value: The value of ``--teacher`` or its recipe entry: a folder of answers, a .yaml file of
            several teachers, its content, or a list of teachers.
        meant: Resolves a network's short form.

    Raises:
        InputError: a file of several teachers is invalid.
    """
    if isinstance(value, str):
        path = expand_user(value)
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return _parse_list(read_yaml(path), path, meant)
        if not path.is_dir():
            return None
        return make_spec(_name(Stored), path=value) if holds_answers(path) else None
    if isinstance(value, list):
        value = {"teachers": value}
    if isinstance(value, Mapping) and {"teachers", "source"} & set(value):
        return _parse_list(value, Path("teacher"), meant)
    return None


def holds_answers(path: Path) -> bool:
    """Return whether a folder holds answers rather than a run."""
    if (path / MANIFEST).is_file():
        return True
    if any(path.glob("*.safetensors")) or (path / "recipe.yaml").exists():
        return False
    return any(each.suffix in SUFFIXES for each in path.rglob("*"))


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and is_weight(value)


def _name(kind: type[Source]) -> str:
    return f"fakd.answers.{kind.__name__}"


def _parse_list(content: Mapping[str, Any], where: Path, meant: Callable[[str], Any]) -> Spec:
    if "source" in content:
        return _parse_entry(content, where, meant)
    check_keys(content, ("teachers", "by"), where)
    entries = content.get("teachers")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise InputError(f"{where}: teachers must be a list of {{source: ...}}, got {entries!r}")
    entries = [each if isinstance(each, Mapping) else {"source": each} for each in entries]
    teachers = [_parse_entry(each, where, meant) for each in entries]
    weights = [each.get("weight", 1.0) for each in entries]
    by = content.get("by", "probability")
    # Wrong values are refused here, before heavy imports.
    Several(teachers, weights, by)
    return make_spec(_name(Several), teachers=teachers, weights=weights, by=by)


def _parse_entry(entry: Mapping[str, Any], where: Path, meant: Callable[[str], Any]) -> Spec:
    if "class_path" in entry:
        return dict(entry)
    check_keys(entry, ("source", "weight", "classes_from", "smoothing"), where)
    if not isinstance(source := entry.get("source"), str):
        raise InputError(f"{where}: a teacher needs a source, such as runs/teacher, got {source!r}")
    spec = meant(source)
    spec = make_spec(spec) if isinstance(spec, str) else spec
    if "smoothing" in entry:
        spec["init_args"]["smoothing"] = entry["smoothing"]
    if "classes_from" not in entry:
        return dict(spec)
    content = read_class_map(entry["classes_from"]).content
    return make_spec(_name(Mapped), teacher=spec, classes_from=content)
