"""Samples as tensors: decoded from files when asked for, and kept in memory while there is room."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int16, UInt8
from torch import Tensor

from fakd.data.dataset import Split
from fakd.data.decoding import SIDEWAYS, decoded, stored
from fakd.data.layout import Levels
from fakd.data.masks import EXIF_REMEDY, MaskReader, Pair
from fakd.data.names import composed
from fakd.data.packed import Place
from fakd.data.unlabelled import Images
from fakd.errors import InputError
from fakd.processes import launched
from fakd.settings import IGNORE, Hardware


class Sample(NamedTuple):
    """One image at its own size, with its labels if it has any."""

    image: UInt8[Tensor, "3 height width"]
    labels: Int16[Tensor, "height width"] | None
    """Class ids, `IGNORE` where a pixel has none; None for an unlabelled image."""
    name: str


def read_image(path: Place, levels: Levels = Levels()) -> UInt8[Tensor, "3 height width"]:
    """Decode an image of any kind to RGB, upright as its EXIF orientation says.

    Args:
        path: The file.
        levels: Which of its bands are shown, and which of their numbers are black and white.

    Raises:
        InputError: the file cannot be decoded to its last row, or its numbers have no one meaning.
    """
    pixels = decoded(path, levels)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class PairedSplit(Split):
    """Images and masks decoded when asked for.

    Args:
        root: The folder that identity lines name files from.
        pairs: With a mask or without.
        group: Tells of a name which others it is not independent of.
    """

    def __init__(
        self, root: Path, pairs: Sequence[Pair], group: Callable[[str], str] | None = None
    ) -> None:
        self.root, self._group = root, group
        self.pairs = pairs if isinstance(pairs, Images) else Images(pairs)
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
            file = stored(pair.image, upright=True)
            if file.orientation in SIDEWAYS and file.size_before[::-1] == labels.shape:
                raise InputError(f"{what}once turned as its EXIF says; {EXIF_REMEDY}")
            raise InputError(f"{what}(width x height); export the mask at the size of the image")
        return Sample(image, labels, pair.name)

    def is_labelled(self, index: int) -> bool:
        """Tell whether a pair has a mask."""
        return self.pairs[index].mask is not None

    def labelled_indices(self) -> list[int]:
        """List the pairs that have a mask; all of them come before images from further folders."""
        return [i for i, pair in enumerate(self.pairs.pairs) if pair.mask is not None]

    def name(self, index: int) -> str:
        """Tell the name of a pair without decoding it."""
        pair: Pair = self.pairs[index]
        return pair.name

    def group(self, index: int) -> str | None:
        """Tell the group that the description gives a pair."""
        return self._group(self.pairs[index].name) if self._group else None

    def stamp(self, index: int) -> str:
        """Tell the size of an image's file, or what else is the same for every copy."""
        return self.pairs.stamp(index)

    def identity(self) -> Iterable[str]:
        """Yield each file's name and size, each mask's checksum, and how mask ids map to classes.

        The same on every copy of the data: no path above its root and no time counts.
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
                # A label corrected in place seldom changes the size; masks are small to read.
                yield f"{self._relative(pair.mask)} {zlib.crc32(pair.mask.read_bytes()):08x}"
        yield from self.pairs.lines(self.root)

    def _relative(self, place: Place, otherwise: str | None = None) -> str:
        """Name a file from the root; one that lies elsewhere otherwise, if there is such a name."""
        path, root = Path(str(place)).absolute(), self.root.absolute()
        if not path.is_relative_to(root):
            return composed(otherwise or path.as_posix())
        return composed(path.relative_to(root).as_posix())


def _identity(reader: MaskReader) -> str:
    """Write what ids mean; IGNORE as 255, as long as that is no class, as it always was."""
    none = 255 if len(reader.description.class_names) < 256 else IGNORE
    meanings = {raw: none if to == IGNORE else to for raw, to in reader.encoding.ids.items()}
    if reader.encoding.ids.get(2**16 - 1) == IGNORE:
        del meanings[2**16 - 1]
    others = reader.encoding.others
    return f"{sorted(meanings.items())} {none if others == IGNORE else others}"


class KeptSplit(Split):
    """Another split of whose samples some are kept decoded."""

    def __init__(self, split: Split) -> None:
        self.labelled, self._split = split.labelled, split

    def __len__(self) -> int:
        return len(self._split)

    def is_labelled(self, index: int) -> bool:
        """Ask the other split."""
        return self._split.is_labelled(index)

    def name(self, index: int) -> str:
        """Tell the sample's name in the other split."""
        return self._split.name(index)

    def group(self, index: int) -> str | None:
        """Tell the sample's group in the other split."""
        return self._split.group(index)

    def stamp(self, index: int) -> str:
        """Tell the state of the sample in the other split."""
        return self._split.stamp(index)

    def identity(self) -> Iterable[str]:
        """Yield the other split's lines: how samples are kept changes none."""
        return self._split.identity()


class CachedSplit(KeptSplit):
    """Another split whose samples are kept in memory once decoded, up to a number of bytes.

    Each worker process keeps its own; what no longer fits is decoded every time.
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


def cached(splits: Sequence[Split], hardware: Hardware) -> list[Split]:
    """Cache splits in the memory a run may take, each by its share of the samples.

    What one process may keep is what the run may, divided among all of its processes that decode;
    nothing where samples are kept on disk.
    """
    processes = max(hardware.devices, launched()[0]) * max(1, hardware.workers)
    memory = hardware.cache if hardware.cache_folder is None else 0
    total = memory * 2**30 / processes / sum(len(split) for split in splits)
    return [CachedSplit(split, int(total * len(split))) for split in splits]
