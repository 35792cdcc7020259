"""Data sets: splits of named samples, with names and colours of the classes."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from fakd.data.layout import Levels
from fakd.errors import InputError

if TYPE_CHECKING:
    # Not imported at run time: errors in a data set are reported before PyTorch is loaded.
    from fakd.data.samples import Sample

Colour = tuple[int, int, int]


class Split(ABC):
    """A sequence of samples that are decoded or drawn on access."""

    labelled: bool
    """Whether any sample has labels."""

    def is_labelled(self, index: int) -> bool:
        """Return whether a sample has labels, without decoding it."""
        return self.labelled

    def labelled_indices(self) -> list[int]:
        """List the indices of labelled samples."""
        return [index for index in range(len(self)) if self.is_labelled(index)]

    @abstractmethod
    def __len__(self) -> int:
        """Count the samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> "Sample":
        """Decode or draw one sample; the same index always gives the same sample."""

    def name(self, index: int) -> str:
        """Return a sample's name; override it where the name is known without decoding."""
        return self[index].name

    def group(self, index: int) -> str | None:
        """Return the group of samples that are not independent, such as a clip; None if unknown."""
        return None

    def stamp(self, index: int) -> str:
        """Identify the version of a sample's image without decoding it.

        The default identifies the version of the whole split; splits that can do so per image
        override it.
        """
        return hashlib.sha256("\n".join(self.identity()).encode()).hexdigest()[:8]

    def checksum(self, index: int) -> str | None:
        """Compute a checksum of the file of a sample's image; None if it has no file."""
        return None

    @abstractmethod
    def identity(self) -> Iterable[str]:
        """Yield lines that change whenever the samples do, without decoding them."""


class SegmentationData:
    """Training and validation samples that share one set of classes.

    Args:
        name: The data set's name in tables.
        class_names: One per class, in order of their ids.
        palette: One RGB colour per class.
        train: Training samples.
        val: Validation samples, labelled.
        config: How to open the data set again: ``{"class_path": ..., "init_args": {...}}``, JSON.
        remarks: Notes for the user that do not stop a run, such as missing images.
        protocol: Published evaluation settings, with the keys of `fakd.inference.Inference`.
        augmentation: Published training settings, with the keys of `fakd.data.Augmentation`.
        levels: How values of image files are interpreted, if there are files.
        test: Opens the test split, labelled; None if there is none.
        worthwhile: The smallest difference in mIoU that matters, in percentage points.
    """

    # Not a dataclass: the command line would turn it into a group of flags.
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
        levels: Levels = Levels(),
        test: Callable[[], Split] | None = None,
        worthwhile: float = 1.0,
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
        self.levels = levels
        self.worthwhile = worthwhile
        self._test = test

    @property
    def classes(self) -> int:
        """Number of classes, not counting ignored pixels."""
        return len(self.class_names)

    def split(self, name: Literal["train", "val", "test"]) -> Split:
        """Return a split by its name; the test split is listed only now.

        Raises:
            InputError: there is no test split, or it shares images with training or validation.
        """
        return self.train if name == "train" else self.val if name == "val" else self.open_test()

    def open_test(self) -> Split:
        """Open the test split, which is used neither for training nor for selection.

        Raises:
            InputError: there is none, or it shares images with training or validation.
        """
        if self._test is None:
            raise InputError(
                f"{self.name} has no test split; describe one under test:, like train and val"
            )
        return self._test()

    def fingerprint(self) -> str:
        """Identify a version of the data by a hash of classes, training and validation samples.

        It is the same for every copy of the data, on any machine.
        """
        splits = ("train", *self.train.identity(), "val", *self.val.identity())
        return hash_lines((*self.class_names, *splits))


def hash_lines(lines: Iterable[str]) -> str:
    """Hash lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        # File names may contain any bytes.
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def default_palette(classes: int) -> tuple[Colour, ...]:
    """Give each class its own fixed colour, never black.

    The bits of ``class + 1`` are distributed in turn over the high bits of red, green and blue, as
    in the PASCAL VOC colour map, so that neighbouring ids look different and all colours are
    distinct.

    >>> default_palette(3)
    ((128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    return tuple(_colour_of(number + 1) for number in range(classes))


def _colour_of(number: int) -> Colour:
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    red, green, blue = channels
    return red, green, blue
