"""Per-image pixel counts of a network on a split, as stored in a run's folder."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Num

from fakd.files import write_atomically


class Pixels(NamedTuple):
    """Numbers of correct, labelled and predicted pixels of each class, without ignored ones."""

    hit: Num[np.ndarray, "*sets classes"]
    truth: Num[np.ndarray, "*sets classes"]
    said: Num[np.ndarray, "*sets classes"]


class ImageCounts(NamedTuple):
    """Per-image pixel counts of a network."""

    names: tuple[str, ...]
    pixels: Pixels
    """Counts ``[images, classes]``."""
    groups: tuple[str, ...] | None = None
    """The group of each image, such as its clip; None for independent images."""


def write_images(
    path: Path, names: Sequence[str], counts: np.ndarray, groups: Sequence[str | None] = ()
) -> None:
    """Write per-image pixel counts of a split, for comparisons.

    The counts are of correct, labelled and predicted pixels, ``[3, images, classes]``.
    """
    arrays = dict(zip(Pixels._fields, counts, strict=True))
    if all(group is not None for group in groups) and groups:
        arrays["groups"] = np.array(groups)

    def write(path: Path) -> None:
        # Through a file object, since NumPy would append its suffix to a path.
        with path.open("wb") as file:
            np.savez_compressed(file, names=np.array(names), **arrays)

    write_atomically(path, write)


def read_images(path: Path, classes: int) -> ImageCounts | None:
    """Read what `write_images` wrote; None if there is no file.

    Raises:
        ValueError: the file is damaged, or the counts have another shape than expected.
    """
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = tuple(str(name) for name in arrays["names"])
            pixels = Pixels(arrays["hit"], arrays["truth"], arrays["said"])
            groups = tuple(map(str, arrays["groups"])) if "groups" in arrays else None
    except (ValueError, LookupError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        # Of what it cannot read NumPy says that it is pickled, and might be trusted.
        raise ValueError(f"{path.name} is damaged") from error
    shapes = {array.shape for array in pixels}
    if shapes != {(len(names), classes)}:
        raise ValueError(f"expected {(len(names), classes)} counts in {path.name}, got {shapes}")
    if groups is not None and len(groups) != len(names):
        raise ValueError(f"expected {len(names)} groups in {path.name}, got {len(groups)}")
    return ImageCounts(names, pixels, groups)
