"""Sources of the teacher's predictions, given a batch; the objective consumes them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from fakd import models, specs
from fakd.answers.combining import map_classes, mix_logits
from fakd.answers.maps import Answers, Lookup
from fakd.answers.sources import By, Mapped, Several, Source, Stored, parse_source
from fakd.answers.store import open_answers
from fakd.data import Batch, SegmentationData, Split
from fakd.data.batches import Lookup as FindMaps
from fakd.errors import InputError
from fakd.inference import predict_logits
from fakd.losses.grid import labels_on_grid_of, on_grid_of
from fakd.metrics import Scores
from fakd.settings import Hardware, Inference, Settings
from fakd.sources import resolve
from fakd.training.compiling import compile_network
from fakd.training.folding import fold_batch_norms
from fakd.training.start import fingerprint
from fakd.training.validation import score_predictions, validate_images
from fakd.types import Prediction, Segmenter

Image = Float[Tensor, "1 3 height width"]
Whole = Float[Tensor, "1 classes height width"]
_COARSENED = 4
"""Stride, in pixels, at which maps stored at full resolution are read. Such maps are mostly
upsampled ones and are sixteen times as large. Other maps keep the grid of their network."""


def require_distinct(teacher: Segmenter, student: Segmenter) -> None:
    """Refuse a student that shares weights with the teacher, whose weights are frozen.

    Raises:
        InputError: they are one object, or share weights or buffers.
    """
    if teacher is student:
        raise InputError(
            "teacher and student are the same object; pass a copy of the student, "
            "copy.deepcopy(...), or the teacher as the folder of its run"
        )
    names = {
        entry.untyped_storage().data_ptr(): name
        for name, entry in teacher.state_dict().items()
        if entry.numel()
    }
    for name, entry in student.state_dict().items():
        if entry.numel() and (theirs := names.get(entry.untyped_storage().data_ptr())):
            raise InputError(
                f"teacher and student share weights: {theirs} is the student's {name}; build the "
                "student separately, or pass a copy, copy.deepcopy(...)"
            )


class Teacher(ABC):
    """Predicts for batches, without gradients and without changing state.

    It handles device, precision and memory layout of its networks, and is not a module, so that no
    checkpoint contains it and nothing switches it to training mode. It receives both pixels and
    `Batch`: a network uses the pixels, stored answers use what their `lookup` added to the batch.
    """

    network: Segmenter
    """What a loss may inspect before the first step: classes, and channels of the features."""
    lookup: FindMaps | None = None
    """Computes `Batch.answers`, in the data loader's processes."""
    maps: int = 0
    """Number of maps per sample in `Batch.answers`."""
    members: Mapping[str, "Teacher"] = MappingProxyType({})
    """The teachers that it combines, by name, if there are several."""
    remarks: tuple[str, ...] = ()
    """What the user should know before training."""
    scored: bool = True
    """Whether it can predict for the validation images."""
    _fabric: Fabric

    @abstractmethod
    def answer(self, images: Float[Tensor, "batch 3 height width"], batch: Batch) -> Prediction:
        """Predict for the images of a batch, in [0, 1] and on the device; the grid is free."""

    @abstractmethod
    def predict(self, image: Image, index: int, inference: Inference, part: str = "val") -> Whole:
        """Compute the logits of a whole image of a split, at full resolution."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a string that identifies the teacher."""

    @property
    def device(self) -> torch.device:
        """Device of the predictions."""
        return self._fabric.device

    def validate(self, split: Split, settings: Settings) -> Scores:
        """Score the teacher on a labelled split; every process gets the scores of the whole.

        Raises:
            Interrupted: a signal asked to stop.
        """

        def classes(image: Image, index: int) -> Tensor:
            return self.predict(image, index, settings.inference).argmax(1)[0]

        return score_predictions(self._fabric, classes, self.network.classes, split, settings)


def scores_of(
    teacher: Teacher, split: Split, settings: Settings, title: str, console: Console
) -> tuple[Scores, dict[str, float]]:
    """Score a teacher; return and print its scores and the mIoU of each member."""
    members = {name: each.validate(split, settings).miou for name, each in teacher.members.items()}
    scores = teacher.validate(split, settings)
    for name, miou in [*members.items(), ("", scores.miou)]:
        said = f"teacher {name}" if name else "teacher"
        console.print(f"{title}: {said}  val mIoU {100 * miou:.2f}")
    return scores, members


class NetworkTeacher(Teacher):
    """A network that is run on every batch.

    Args:
        network: is frozen, put into evaluation mode and moved to the device of ``fabric``.
        fabric: device and precision.
        hardware: memory layout, the teacher's own precision, and whether to compile.
    """

    def __init__(self, network: Segmenter, fabric: Fabric, hardware: Hardware) -> None:
        # Before it is moved: an exported program is identified by its output.
        self._fingerprint = fingerprint(network)
        self.network = network.eval().requires_grad_(False).to(fabric.device)
        if hardware.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self._fabric, self._precision = fabric, hardware.teacher_precision
        self._compile, self._asked = hardware.compile, self.network

    def answer(self, images: Float[Tensor, "batch 3 height width"], batch: Batch) -> Prediction:
        """Run the network."""
        with torch.no_grad(), self.computing():
            if self._compile:
                self._asked = compile_network(fold_batch_norms(self.network, images[:1]))
                self._compile = False
            prediction: Prediction = self._asked(images)
        return prediction

    def predict(self, image: Image, index: int, inference: Inference, part: str = "val") -> Whole:
        """Run the network on the image."""
        with self.computing():
            return predict_logits(self.network, image, inference)

    def computing(self) -> AbstractContextManager:
        """Enter the teacher's precision or, if it has none of its own, the run's."""
        if self._precision is None:
            return self._fabric.autocast()
        kind = torch.float16 if self._precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, kind, enabled=self._precision != "fp32")

    def fingerprint(self) -> str:
        """Hash the network's weights."""
        return self._fingerprint

    def validate(self, split: Split, settings: Settings) -> Scores:
        """Score the network like any other, in the teacher's precision."""
        found = validate_images(self._fabric, self.network, split, settings, self.computing())
        return found[0]


class AbsentNetwork(Segmenter):
    """Placeholder for the network of a teacher that has none to run: facts without weights."""

    def __init__(self, classes: int, names: tuple[str, ...] | None, channels: int | None) -> None:
        super().__init__()
        self.classes, self.class_names = classes, names
        self._final = None if channels is None else nn.Conv2d(channels, classes, 1, device="meta")

    @property
    def classifier(self) -> nn.Conv2d | None:
        """A classifier on the meta device: shape without weights."""
        return self._final

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Prediction:
        """Refuse: there is no network to run."""
        raise InputError("stored answers exist only for the images they are of; give the network")


class StoredTeacher(Teacher):
    """Stored answers to whole images, augmented geometrically like each image.

    Args:
        answers: an opened folder.
        data: all training images need a stored answer; validation images may have one.
        fabric: device of the predictions.
    """

    def __init__(self, answers: Answers, data: SegmentationData, fabric: Fabric) -> None:
        self.answers, self._fabric = answers, fabric
        self.network = AbsentNetwork(answers.classes, answers.class_names, answers.channels)
        self.maps = 1 if answers.channels is None else 2
        self._places = {"train": answers.find("train", data.train)}
        places = self._places["train"]
        height, width = data.train[0].image.shape[1:]
        rows, cols = answers.read("train", places[0], (height, width)).logits.shape[1:]
        own = max(1, round(min(height / rows, width / cols)))
        self.stride = own if own > 1 else _COARSENED
        self.lookup = Lookup(answers, "train", places, self.stride)
        unscored: tuple[str, ...] = ()
        try:
            self._places["val"] = answers.find("val", data.val)
        except InputError as error:
            self.scored, unscored = False, (f"the teacher is not scored: {error}",)
        self.remarks = (*answers.remarks, *unscored)

    def answer(self, images: Float[Tensor, "batch 3 height width"], batch: Batch) -> Prediction:
        """Return the answers that the data loader looked up."""
        if not batch.answers:
            raise InputError("expected a batch with answers, as the teacher's lookup adds them")
        return Prediction(*(each.to(images.device, non_blocking=True) for each in batch.answers))

    def predict(self, image: Image, index: int, inference: Inference, part: str = "val") -> Whole:
        """Upsample the stored logits; ``inference`` was fixed when they were stored."""
        height, width = image.shape[-2:]
        maps = self.answers.read(part, self._places[part][index], (height, width))
        logits = torch.from_numpy(maps.logits)[None].to(image.device)
        return F.interpolate(logits, (height, width), mode="bilinear")

    def fingerprint(self) -> str:
        """Return the fingerprint of the stored answers."""
        return self.answers.fingerprint


class MappedTeacher(Teacher):
    """A teacher with other classes, whose probabilities are summed into the student's classes.

    Args:
        teacher: the teacher with its own classes.
        table: for each student class, the teacher classes that make it up.
        names: the student's class names.
    """

    def __init__(self, teacher: Teacher, table: Sequence[Sequence[int]], names: tuple) -> None:
        self.inner, self._table, self._fabric = teacher, table, teacher._fabric
        final = teacher.network.classifier
        channels = None if final is None else final.in_channels
        self.network = AbsentNetwork(len(table), names, channels)
        self.network.remarks = teacher.network.remarks
        self.lookup, self.maps, self.scored = teacher.lookup, teacher.maps, teacher.scored
        self.remarks = teacher.remarks
        self.members = {
            name: MappedTeacher(each, table, names) for name, each in teacher.members.items()
        }

    def answer(self, images: Float[Tensor, "batch 3 height width"], batch: Batch) -> Prediction:
        """Map the teacher's prediction; labels separate classes that are one to the teacher."""
        found = self.inner.answer(images, batch)
        labels = labels_on_grid_of(found.logits, batch.labels.to(images.device, non_blocking=True))
        return Prediction(map_classes(found.logits, self._table, labels), found.features)

    def predict(self, image: Image, index: int, inference: Inference, part: str = "val") -> Whole:
        """Map the teacher's prediction, without labels."""
        return map_classes(self.inner.predict(image, index, inference, part), self._table)

    def fingerprint(self) -> str:
        """Return the inner teacher's fingerprint; the class map is in the recipe."""
        return self.inner.fingerprint()


class MixedTeacher(Teacher):
    """Several teachers, whose class probabilities are averaged; it has no features.

    Args:
        members: the teachers by name, all with the same classes.
        weights: the weight of each.
        by: whether weights are constant, or multiplied by each teacher's confidence per pixel.
    """

    def __init__(self, members: Mapping[str, Teacher], weights: Sequence[float], by: By) -> None:
        self.members, self.weights, self.by = members, weights, by
        first, *others = members.values()
        for each in others:
            if each.network.classes != first.network.classes:
                raise InputError(
                    f"expected teachers with the same classes, got {first.network.classes} and "
                    f"{each.network.classes}; map one of them with classes_from"
                )
        self._fabric = first._fabric
        self.network = AbsentNetwork(first.network.classes, first.network.class_names, None)
        named = [(name, each) for name, one in members.items() for each in one.network.remarks]
        self.network.remarks = tuple(f"{name}: {each}" for name, each in named)
        self.maps = sum(each.maps for each in members.values())
        self.lookup = _Lookups([each.lookup for each in members.values() if each.lookup])
        self.scored = all(each.scored for each in members.values())
        remarks = [remark for each in members.values() for remark in each.remarks]
        self.remarks = tuple(dict.fromkeys(remarks))

    def answer(self, images: Float[Tensor, "batch 3 height width"], batch: Batch) -> Prediction:
        """Run every teacher and average on the finest of their grids."""
        found, first = [], 0
        for each in self.members.values():
            own = batch._replace(answers=batch.answers[first : first + each.maps])
            found.append(each.answer(images, own).logits)
            first += each.maps
        finest = max(found, key=lambda logits: logits.shape[-2] * logits.shape[-1])
        return Prediction(mix_logits([on_grid_of(finest, each) for each in found], *self._how))

    def predict(self, image: Image, index: int, inference: Inference, part: str = "val") -> Whole:
        """Run every teacher and average."""
        found = [each.predict(image, index, inference, part) for each in self.members.values()]
        return mix_logits(found, *self._how)

    def fingerprint(self) -> str:
        """Join the members' fingerprints; their weights are in the recipe."""
        return "-".join(each.fingerprint() for each in self.members.values())

    @property
    def _how(self) -> tuple[Sequence[float], By]:
        return self.weights, self.by


class _Lookups:
    """Concatenates the results of several lookups; picklable."""

    def __init__(self, lookups: Sequence[FindMaps]) -> None:
        self._lookups = lookups

    def __call__(self, index: int, geometry: Any) -> tuple[Tensor, ...]:
        return tuple(each for lookup in self._lookups for each in lookup(index, geometry))


def open_teacher(teacher: Any, classes: int | None = None) -> Segmenter | Source:
    """Open a teacher: a network by any specifier, or a source of answers."""
    if isinstance(teacher, Source):
        return teacher
    spec = parse_source(str(teacher), resolve) if isinstance(teacher, str | Path) else None
    if spec is None:
        return models.open_network(teacher, classes)
    found: Source = specs.build(spec)
    return found


def teacher_of(
    teacher: Any,
    data: SegmentationData,
    fabric: Fabric,
    hardware: Hardware,
    any_classes: bool = False,
) -> Teacher:
    """Build a `Teacher` from a network, stored answers, or several teachers.

    Raises:
        InputError: stored answers are missing or not finite, or the classes are not the data's.
    """
    return _make(teacher, data, fabric, hardware, None if any_classes else data.classes)


def _make(
    teacher: Any, data: SegmentationData, fabric: Fabric, hardware: Hardware, classes: int | None
) -> Teacher:
    if isinstance(teacher, Stored):
        return StoredTeacher(open_answers(teacher, classes), data, fabric)
    if isinstance(teacher, Mapped):
        known = None if teacher.classes.teacher is None else len(teacher.classes.teacher)
        inner = _make(teacher.teacher, data, fabric, hardware, known)
        theirs = inner.network.class_names
        table = teacher.classes.table(data.class_names, theirs, inner.network.classes)
        return MappedTeacher(inner, table, data.class_names)
    if isinstance(teacher, Several):
        made = [_make(each, data, fabric, hardware, classes) for each in teacher.teachers]
        names = [_title(each) for each in teacher.teachers]
        names = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]
        return MixedTeacher(dict(zip(names, made, strict=True)), teacher.weights, teacher.by)
    return NetworkTeacher(models.open_network(teacher, classes), fabric, hardware)


def _title(teacher: Any) -> str:
    """Return a teacher's display name."""
    if isinstance(teacher, Stored):
        return teacher.path.name
    if isinstance(teacher, Mapped):
        return _title(teacher.teacher)
    origin = getattr(teacher, "origin", None) or {}
    path = (origin.get("init_args") or {}).get("path")
    return Path(path).name if path else type(teacher).__name__
