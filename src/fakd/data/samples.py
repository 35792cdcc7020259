"""Samples as tensors: decoded from files on access, and cached in memory up to a limit."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int16, UInt8
from torch import Tensor

from fakd.data.dataset import Split
from fakd.data.decoding import SIDEWAYS, decode_raw, decode_rgb
from fakd.data.layout import Levels
from fakd.data.masks import EXIF_REMEDY, MaskReader, Pair
from fakd.data.names import to_nfc
from fakd.data.packed import Place
from fakd.data.unlabelled import TrainingImages
from fakd.errors import InputError
from fakd.processes import launched_processes
from fakd.settings import IGNORE, Hardware


class Sample(NamedTuple):
    """One image at its original size, with its labels if it has any."""

    image: UInt8[Tensor, "3 height width"]
    labels: Int16[Tensor, "height width"] | None
    """Class ids, `IGNORE` where a pixel has none; None for an unlabelled image."""
    name: str


def read_image(path: Place, levels: Levels = Levels()) -> UInt8[Tensor, "3 height width"]:
    """Decode an image of any format to RGB, rotated according to its EXIF orientation.

    Args:
        path: The file.
        levels: Which bands are used, and which of their values are black and white.

    Raises:
        InputError: the file cannot be decoded to its last row, or its values are ambiguous.
    """
    pixels = decode_rgb(path, levels)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class PairedSplit(Split):
    """Images and masks, decoded on access.

    Args:
        root: The folder that file names in `identity` are relative to.
        pairs: With or without masks.
        group: Maps a name to its group of dependent images.
    """

    def __init__(
        self, root: Path, pairs: Sequence[Pair], group: Callable[[str], str] | None = None
    ) -> None:
        self.root, self._group = root, group
        self.pairs = pairs if isinstance(pairs, TrainingImages) else TrainingImages(pairs)
        self.labelled = any(pair.mask is not None for pair in self.pairs.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image, pair.levels)
        if pair.mask is None or pair.reader is None:
            return Sample(image, None, pair.name)
        labels = torch.from_numpy(pair.reader(pair.mask))
        if labels.shape != image.shape[1:]:
            mask_size = "x".join(str(side) for side in reversed(labels.shape))
            image_size = "x".join(str(side) for side in reversed(image.shape[1:]))
            what = f"{pair.mask} is {mask_size} but its image {pair.image} is {image_size} "
            file = decode_raw(pair.image, upright=True)
            if file.orientation in SIDEWAYS and file.size_before[::-1] == labels.shape:
                raise InputError(f"{what}after EXIF rotation; {EXIF_REMEDY}")
            raise InputError(f"{what}(width x height); export the mask at the size of the image")
        return Sample(image, labels, pair.name)

    def is_labelled(self, index: int) -> bool:
        """Return whether a pair has a mask."""
        return self.pairs[index].mask is not None

    def labelled_indices(self) -> list[int]:
        """List the pairs that have a mask; they all come before images from additional folders."""
        return [i for i, pair in enumerate(self.pairs.pairs) if pair.mask is not None]

    def name(self, index: int) -> str:
        """Return the name of a pair without decoding it."""
        pair: Pair = self.pairs[index]
        return pair.name

    def group(self, index: int) -> str | None:
        """Return a pair's group according to the description."""
        return self._group(self.pairs[index].name) if self._group else None

    def stamp(self, index: int) -> str:
        """Return the file size of an image, or another identifier that is equal in every copy."""
        return self.pairs.stamp(index)

    def checksum(self, index: int) -> str | None:
        """Compute the CRC-32 of an image's file; None within other files."""
        image = self.pairs[index].image
        return f"{zlib.crc32(image.read_bytes()):08x}" if isinstance(image, Path) else None

    def identity(self) -> Iterable[str]:
        """Yield names and sizes of files, checksums of masks, and the mapping from ids to classes.

        It is the same for every copy of the data: neither the root's location nor file times count.
        """
        for reader in dict.fromkeys(pair.reader for pair in self.pairs.pairs):
            if reader is not None:
                yield _identity(reader)
        for levels in dict.fromkeys(pair.levels for pair in self.pairs.pairs or self.pairs[:1]):
            if levels != Levels():
                yield str(levels)
        for pair in self.pairs.pairs:
            yield f"{self._relative(pair.image, pair.name)} {pair.image.stat().st_size}"
            if pair.mask is not None:
                # Correcting a label in place seldom changes the size, and masks are small to read.
                yield f"{self._relative(pair.mask)} {zlib.crc32(pair.mask.read_bytes()):08x}"
        yield from self.pairs.lines(self.root)

    def _relative(self, place: Place, otherwise: str | None = None) -> str:
        """Return a file's path relative to the root, or ``otherwise`` if it is elsewhere."""
        path, root = Path(str(place)).absolute(), self.root.absolute()
        if not path.is_relative_to(root):
            return to_nfc(otherwise or path.as_posix())
        return to_nfc(path.relative_to(root).as_posix())


def _identity(reader: MaskReader) -> str:
    """Describe the mapping of ids.

    IGNORE is written as 255 unless that is a class, for compatibility with earlier versions.
    """
    none = 255 if len(reader.description.class_names) < 256 else IGNORE
    meanings = {raw: none if to == IGNORE else to for raw, to in reader.encoding.ids.items()}
    if reader.encoding.ids.get(2**16 - 1) == IGNORE:
        del meanings[2**16 - 1]
    others = reader.encoding.others
    return f"{sorted(meanings.items())} {none if others == IGNORE else others}"


class WrappedSplit(Split):
    """Base of splits that cache decoded samples of another split."""

    def __init__(self, split: Split) -> None:
        self.labelled, self._split = split.labelled, split

    def __len__(self) -> int:
        return len(self._split)

    def is_labelled(self, index: int) -> bool:
        """Return whether the sample has labels in the other split."""
        return self._split.is_labelled(index)

    def name(self, index: int) -> str:
        """Return the sample's name in the other split."""
        return self._split.name(index)

    def group(self, index: int) -> str | None:
        """Return the sample's group in the other split."""
        return self._split.group(index)

    def stamp(self, index: int) -> str:
        """Return the sample's version in the other split."""
        return self._split.stamp(index)

    def checksum(self, index: int) -> str | None:
        """Return the checksum of the sample's image in the other split."""
        return self._split.checksum(index)

    def identity(self) -> Iterable[str]:
        """Yield the other split's lines: caching does not change samples."""
        return self._split.identity()


class CachedSplit(WrappedSplit):
    """A split that caches decoded samples of another one in memory, up to a number of bytes.

    Each worker process has its own cache, for as long as it lives; samples that no longer fit are
    decoded every time.
    """

    def __init__(self, split: Split, limit: int) -> None:
        super().__init__(split)
        self._room = limit
        self._kept: dict[int, Sample] = {}

    def __getitem__(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        sample = self._split[index]
        size = sample.image.nbytes + (0 if sample.labels is None else sample.labels.nbytes)
        if size <= self._room:
            self._room -= size
            self._kept[index] = sample
        return sample


def cache_in_memory(train: Split, val: Split, hardware: Hardware) -> tuple[Split, Split]:
    """Cache both splits in the memory a run may use, in proportion to their number of samples.

    The limit is divided among all processes that decode; nothing is cached in memory if there is a
    cache on disk. With workers, which end with each evaluation, only training samples are cached.
    """
    processes = max(hardware.devices, launched_processes()[0]) * max(1, hardware.workers)
    memory = hardware.cache if hardware.cache_folder is None else 0
    limit = int(memory * 2**30 / processes)
    if hardware.workers:
        return CachedSplit(train, limit), val
    first = limit * len(train) // (len(train) + len(val))
    return CachedSplit(train, first), CachedSplit(val, limit - first)
