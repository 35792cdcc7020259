"""What a data set is: two splits of named samples, and names and colours for their classes."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxtyping import UInt8
from torch import Tensor

Colour = tuple[int, int, int]


class Sample(NamedTuple):
    """One image at its own size, with its labels if it has any."""

    image: UInt8[Tensor, "3 height width"]
    labels: UInt8[Tensor, "height width"] | None
    """Class ids, `IGNORE` where a pixel has none; None for an unlabelled image."""
    name: str


class Split(ABC):
    """A sequence of samples, decoded or drawn when asked for."""

    labelled: bool

    @abstractmethod
    def __len__(self) -> int:
        """Count the samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Decode or draw one sample; the same index always gives the same sample."""

    def name(self, index: int) -> str:
        """Tell a sample's name; splits that know it without decoding the sample say so."""
        return self[index].name

    @abstractmethod
    def identity(self) -> Iterable[str]:
        """Yield lines that change whenever the samples do, without decoding them."""


class SegmentationData:
    """Training and validation samples that share one set of classes.

    Args:
        name: What the set is called in tables.
        class_names: One per class, in order of their ids.
        palette: One RGB colour per class.
        train: Samples to train on.
        val: Samples to evaluate on, labelled.
        config: How to open the set again: ``{"class_path": ..., "init_args": {...}}``, JSON.
        remarks: What the user should know and nothing stops at, such as missing images.
        protocol: Published settings of evaluation, as `fakd.inference.Inference` names them.
        augmentation: Published settings of training, as `fakd.data.Augmentation` names them.
    """

    # No dataclass: the command line takes those for groups of flags, not for things to build.
    def __init__(
        self,
        name: str,
        class_names: tuple[str, ...],
        palette: tuple[Colour, ...],
        train: Split,
        val: Split,
        config: dict[str, Any] | None = None,
        remarks: tuple[str, ...] = (),
        protocol: Mapping[str, Any] | None = None,
        augmentation: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.class_names = class_names
        self.palette = palette
        self.train = train
        self.val = val
        self.config = config
        self.remarks = remarks
        self.protocol = protocol
        self.augmentation = augmentation

    @property
    def classes(self) -> int:
        """How many classes there are, ignored pixels not being one."""
        return len(self.class_names)

    def fingerprint(self) -> str:
        """Hash the classes and what the splits consist of, to tell one state of the data.

        It is the same for every copy of the data, on any machine.
        """
        digest = hashlib.sha256()
        for line in (*self.class_names, "train", *self.train.identity(), "val"):
            digest.update(line.encode() + b"\n")
        for line in self.val.identity():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()[:16]


class CachedSplit(Split):
    """Another split whose samples are kept in memory once decoded, up to a number of bytes.

    Each worker process keeps its own; what no longer fits is decoded every time.
    """

    def __init__(self, split: Split, limit: int = 2**30) -> None:
        self.labelled = split.labelled
        self._split = split
        self._room = limit
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self._split[index]
        size = sample.image.numel() + (0 if sample.labels is None else sample.labels.numel())
        if size <= self._room:
            self._room -= size
            self._kept[index] = sample
        return sample

    def name(self, index: int) -> str:
        """Tell the sample's name in the other split."""
        return self._split.name(index)

    def identity(self) -> Iterable[str]:
        """Yield the other split's lines: caching changes no sample."""
        return self._split.identity()
