"""What a data set is: splits of named samples, and names and colours for their classes."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from fakd.data.layout import Levels
from fakd.errors import InputError

if TYPE_CHECKING:
    # Finding out that a data set cannot be opened shall not wait for PyTorch.
    from fakd.data.samples import Sample

Colour = tuple[int, int, int]


class Split(ABC):
    """A sequence of samples, decoded or drawn when asked for."""

    labelled: bool
    """Whether any sample has labels."""

    def is_labelled(self, index: int) -> bool:
        """Tell whether a sample has labels, without decoding it."""
        return self.labelled

    def labelled_indices(self) -> list[int]:
        """List the samples that have labels."""
        return [index for index in range(len(self)) if self.is_labelled(index)]

    @abstractmethod
    def __len__(self) -> int:
        """Count the samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> "Sample":
        """Decode or draw one sample; the same index always gives the same sample."""

    def name(self, index: int) -> str:
        """Tell a sample's name; splits that know it without decoding the sample say so."""
        return self[index].name

    def group(self, index: int) -> str | None:
        """Tell which others a sample is not independent of, such as its clip; None if not known."""
        return None

    def stamp(self, index: int) -> str:
        """Tell one state of a sample's image from another without decoding it.

        By default one of the whole split; splits that can tell that of each image do.
        """
        return hashlib.sha256("\n".join(self.identity()).encode()).hexdigest()[:8]

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
        levels: What the numbers of image files mean, if it is files.
        test: Finds the samples that all is scored on in the end, labelled; None for none.
        worthwhile: The smallest difference in mIoU, in percent points, that matters on it.
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
        """How many classes there are, ignored pixels not being one."""
        return len(self.class_names)

    def split(self, name: Literal["train", "val", "test"]) -> Split:
        """Find a split by its name; that for tests is listed only now.

        Raises:
            InputError: there is none for tests, or training or validation has its images too.
        """
        return self.train if name == "train" else self.val if name == "val" else self.open_test()

    def open_test(self) -> Split:
        """List the samples that all is scored on in the end, and neither training nor choosing.

        Raises:
            InputError: there are none, or training or validation has some of their images too.
        """
        if self._test is None:
            raise InputError(
                f"{self.name} has no test split; describe one under test:, as train and val are"
            )
        return self._test()

    def fingerprint(self) -> str:
        """Hash the classes and what is trained and chosen on, to tell one state of the data.

        It is the same for every copy of the data, on any machine.
        """
        splits = ("train", *self.train.identity(), "val", *self.val.identity())
        return hashed((*self.class_names, *splits))


def hashed(lines: Iterable[str]) -> str:
    """Hash lines, to tell whether they are the same."""
    digest = hashlib.sha256()
    for line in lines:
        # Names of files may be of any bytes.
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def default_palette(classes: int) -> tuple[Colour, ...]:
    """Give each class its own fixed colour, black left out.

    The bits of ``class + 1`` are dealt in turn to the high bits of red, green and blue, as in
    the PASCAL VOC colour map, so neighbouring ids look different and all are distinct.

    >>> default_palette(3)
    ((128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    return tuple(_interleaved(number + 1) for number in range(classes))


def _interleaved(number: int) -> Colour:
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    red, green, blue = channels
    return red, green, blue
