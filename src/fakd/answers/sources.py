"""Where a teacher's answers come from, if not from one network: plain values, no tensors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fakd.answers.classes import ClassMap, read_class_map
from fakd.data.layout import check_keys
from fakd.errors import InputError, weighs
from fakd.files import expanded, read_yaml
from fakd.specs import Spec, written

MANIFEST = "manifest.json"
"""What says that a folder is a store of answers."""
SUFFIXES = (".npz", ".png")
"""What somebody else's answers may be."""
By = Literal["probability", "confidence"]


class Source(ABC):
    """Describes a teacher that is no network; `fakd.training.teacher` makes one of it."""

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What a recipe holds: what its constructor takes."""


class Stored(Source):
    """Answers in a folder: of `fakd answer`, or one .npz or .png file per image.

    Args:
        path: the folder.
        smoothing: share of a label that is spread evenly over all classes; of .png masks only.
    """

    def __init__(self, path: str | Path, smoothing: float = 0.0) -> None:
        if not 0 <= smoothing < 1:
            raise InputError(f"expected teacher.smoothing from 0 to below 1, got {smoothing}")
        self.path, self.smoothing = expanded(path), smoothing

    @property
    def arguments(self) -> dict[str, Any]:
        """Path and smoothing."""
        return {"path": self.path, "smoothing": self.smoothing}


class Mapped(Source):
    """A teacher of other classes.

    Args:
        teacher: a network, or another source.
        classes_from: a .yaml file that names the teacher's classes of each of the student's, or
            what it holds.
    """

    def __init__(self, teacher: Any, classes_from: dict | str) -> None:
        self.teacher = teacher
        self.classes: ClassMap = read_class_map(classes_from)

    @property
    def arguments(self) -> dict[str, Any]:
        """The teacher, and what the file holds."""
        return {"teacher": self.teacher, "classes_from": self.classes.content}


class Several(Source):
    """Several teachers of the same classes, whose probabilities are averaged.

    Args:
        teachers: networks or other sources.
        weights: one for each; all alike if not given.
        by: the same everywhere (probability), or at each pixel times how sure each teacher is
            (confidence): 1 less the entropy of its probabilities, as a share of the largest.
    """

    def __init__(
        self, teachers: list, weights: list | None = None, by: str = "probability"
    ) -> None:
        if by not in get_args(By):
            raise InputError(f"expected teacher.by to be one of {get_args(By)}, got {by!r}")
        if not teachers:
            raise InputError("expected teacher.teachers to name one or more, got none")
        weights = [1.0] * len(teachers) if weights is None else list(weights)
        if len(weights) != len(teachers):
            raise InputError(
                f"expected one teacher.weights for each of {len(teachers)} teachers, got {weights}"
            )
        if not all(map(_weighs, weights)) or not any(weights):
            raise InputError(f"expected teachers' weights of at least 0, one above, got {weights}")
        self.teachers, self.weights = list(teachers), [float(each) for each in weights]
        self.by: By = "confidence" if by == "confidence" else "probability"

    @property
    def arguments(self) -> dict[str, Any]:
        """The teachers, their weights, and what these are multiplied by."""
        return {"teachers": self.teachers, "weights": self.weights, "by": self.by}


def described(value: Any, meant: Callable[[str], Any]) -> Spec | None:
    """Say which source a teacher's short form stands for; None for a network's.

    Args:
        value: what follows ``--teacher`` or stands in a recipe: a folder of answers, a .yaml file
            of several teachers, what such a file holds, or a list of them.
        meant: says what a network's short form stands for.

    Raises:
        InputError: a file of several teachers is not what it should be.
    """
    if isinstance(value, str):
        path = expanded(value)
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return _several(read_yaml(path), path, meant)
        if not path.is_dir():
            return None
        return written(_name(Stored), path=value) if holds_answers(path) else None
    if isinstance(value, list):
        value = {"teachers": value}
    if isinstance(value, Mapping) and {"teachers", "source"} & set(value):
        return _several(value, Path("teacher"), meant)
    return None


def holds_answers(path: Path) -> bool:
    """Tell whether a folder holds answers, and not a run."""
    if (path / MANIFEST).is_file():
        return True
    if any(path.glob("*.safetensors")) or (path / "recipe.yaml").exists():
        return False
    return any(each.suffix in SUFFIXES for each in path.rglob("*"))


def _weighs(value: Any) -> bool:
    return isinstance(value, int | float) and weighs(value)


def _name(kind: type[Source]) -> str:
    return f"fakd.answers.{kind.__name__}"


def _several(content: Mapping[str, Any], where: Path, meant: Callable[[str], Any]) -> Spec:
    if "source" in content:
        return _one(content, where, meant)
    check_keys(content, ("teachers", "by"), where)
    entries = content.get("teachers")
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise InputError(f"{where}: teachers must be a list of {{source: ...}}, got {entries!r}")
    entries = [each if isinstance(each, Mapping) else {"source": each} for each in entries]
    teachers = [_one(each, where, meant) for each in entries]
    weights = [each.get("weight", 1.0) for each in entries]
    by = content.get("by", "probability")
    # Wrong values are refused here, before anything heavy is imported.
    Several(teachers, weights, by)
    return written(_name(Several), teachers=teachers, weights=weights, by=by)


def _one(entry: Mapping[str, Any], where: Path, meant: Callable[[str], Any]) -> Spec:
    if "class_path" in entry:
        return dict(entry)
    check_keys(entry, ("source", "weight", "classes_from", "smoothing"), where)
    if not isinstance(source := entry.get("source"), str):
        raise InputError(f"{where}: a teacher needs a source, such as runs/teacher, got {source!r}")
    spec = meant(source)
    spec = written(spec) if isinstance(spec, str) else spec
    if "smoothing" in entry:
        spec["init_args"]["smoothing"] = entry["smoothing"]
    if "classes_from" not in entry:
        return dict(spec)
    content = read_class_map(entry["classes_from"]).content
    return written(_name(Mapped), teacher=spec, classes_from=content)
