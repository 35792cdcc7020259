"""A split of image files and, where it is labelled, their mask files."""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from torch import Tensor

from fakd.data.dataset import Sample, Split
from fakd.data.decode import read_image
from fakd.data.masks import MaskReader
from fakd.errors import InputError


class Pair(NamedTuple):
    """An image and its mask."""

    name: str
    image: Path
    mask: Path | None = None
    """None for an unlabelled image."""
    reader: MaskReader | None = None
    """What reads the mask; its ``encoding`` says what ids mean, its ``description`` the rest."""


class PairedSplit(Split):
    """Images and masks decoded when asked for.

    Args:
        root: The folder that identity lines name files from.
        pairs: All with a mask or all without.
    """

    def __init__(self, root: Path, pairs: Sequence[Pair]) -> None:
        self.root = root
        self.pairs = list(pairs)
        self.labelled = all(pair.mask is not None for pair in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_image(pair.image)
        if pair.mask is None:
            return Sample(image, None, pair.name)
        labels = self.read_labels(pair)
        if labels.shape != image.shape[1:]:
            mask_size = "x".join(str(side) for side in reversed(labels.shape))
            image_size = "x".join(str(side) for side in reversed(image.shape[1:]))
            raise InputError(
                f"{pair.mask} is {mask_size} but its image {pair.image} is {image_size} "
                "(width x height); export the mask at the size of the image"
            )
        return Sample(image, labels, pair.name)

    def name(self, index: int) -> str:
        """Tell the name of a pair without decoding it."""
        return self.pairs[index].name

    def read_labels(self, pair: Pair) -> UInt8[Tensor, "height width"]:
        """Decode a mask to classes, `IGNORE` where a pixel has none.

        Raises:
            InputError: the mask is damaged, or says what its encoding does not know.
        """
        reader, mask = _labelled(pair)
        return reader(mask)

    def read_mask(
        self, pair: Pair
    ) -> Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]:
        """Decode a mask to what it holds: ids, whatever they mean, or RGB colours.

        Raises:
            InputError: the mask is damaged.
        """
        reader, mask = _labelled(pair)
        return reader.raw(mask)

    def identity(self) -> Iterable[str]:
        """Yield each file's name and size, each mask's checksum, and how mask ids map to classes.

        The same on every copy of the data: no path above its root and no time counts.
        """
        for reader in dict.fromkeys(pair.reader for pair in self.pairs):
            if reader is not None:
                yield f"{sorted(reader.encoding.ids.items())} {reader.encoding.others}"
        for pair in self.pairs:
            yield f"{self._relative(pair.image)} {pair.image.stat().st_size}"
            if pair.mask is not None:
                # A label corrected in place seldom changes the size; masks are small to read.
                yield f"{self._relative(pair.mask)} {zlib.crc32(pair.mask.read_bytes()):08x}"

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _labelled(pair: Pair) -> tuple[MaskReader, Path]:
    if pair.reader is None or pair.mask is None:
        raise InputError(f"{pair.image} has no mask; read its image only")
    return pair.reader, pair.mask
