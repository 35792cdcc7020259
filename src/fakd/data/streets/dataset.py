"""The built-in data set: synthetic street scenes from a seed; needs no download."""

import math
from collections.abc import Iterable
from functools import partial
from random import Random

import numpy as np
import torch

from fakd.data.dataset import SegmentationData, Split
from fakd.data.samples import Sample
from fakd.data.seeds import hash_seed
from fakd.data.streets.drawing import CLASSES, Canvas
from fakd.data.streets.shading import Labels, shade
from fakd.data.streets.street import draw_street
from fakd.errors import InputError
from fakd.memory import require_memory
from fakd.types import IGNORE

_DRAWN, _COUNTED = 140, 32
"""Measured minimum number of bytes: per pixel while a scene is drawn, per scene in lists and
orders."""


class SceneSplit(Split):
    """Scenes drawn on access, each from (seed, split, index) only.

    The first ``labelled`` of them have labels; by default all.
    """

    def __init__(
        self,
        seed: int,
        split: int,
        length: int,
        size: tuple[int, int],
        labelled: int | None = None,
    ) -> None:
        self._seed, self._split, self._length, self._size = seed, split, length, size
        self._labelled = length if labelled is None else labelled
        self.labelled = self._labelled > 0

    def is_labelled(self, index: int) -> bool:
        """Return whether a scene is one of the first, which have labels."""
        return index < self._labelled

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._length:
            raise IndexError(f"expected a scene of 0 to {self._length - 1}, got {index}")
        dice = Random(hash_seed(self._seed, self._split, index))
        # Drawn at twice the size and downsampled, so that edges are blended as by a lens.
        canvas = Canvas((2 * self._size[0], 2 * self._size[1]), dice)
        draw_street(canvas)
        image, labels = shade(canvas)
        _open_borders(labels, dice)
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        known = torch.from_numpy(labels) if self.is_labelled(index) else None
        return Sample(pixels, known, self.name(index))

    def name(self, index: int) -> str:
        """Return a scene's name without drawing it."""
        return f"{('train', 'val', 'test')[self._split]}/{index:05d}"

    def identity(self) -> Iterable[str]:
        """Yield the parameters that determine the scenes."""
        some = "" if self._labelled == self._length else f" {self._labelled} labelled"
        yield f"scenes 2 {self._seed} {self._split} {self._length} {self._size}{some}"


def scenes(
    train: int = 400,
    val: int = 100,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    labelled: int | None = None,
) -> SegmentationData:
    """Generate a data set of street scenes with twelve classes, several of them rare and thin.

    Args:
        train: Number of training scenes.
        val: Number of validation scenes, separate from the training scenes; also the number of test
            scenes.
        size: Height and width in pixels.
        seed: Determines the scenes.
        labelled: How many training scenes have labels; by default all.

    Raises:
        InputError: there would be no scene, or the size is too small or too large.
    """
    if min(train, val) < 1 or min(size) < 16:
        raise InputError(
            "scenes need at least one image per split and 16 pixels a side, got "
            f"train {train}, val {val}, size {size}"
        )
    count = train + val
    require_memory(_DRAWN * math.prod(size), f"a scene of {size}", "lower the size of scenes")
    require_memory(_COUNTED * count, f"the order of {count:,} scenes", "lower train or val")
    if seed < 0:
        raise InputError(f"the seed of scenes must not be negative, got {seed}")
    if labelled is not None and not 0 <= labelled <= train:
        raise InputError(f"labelled must be from 0 to all {train} training scenes, got {labelled}")
    some = {} if labelled is None else {"labelled": labelled}
    return SegmentationData(
        name="scenes",
        class_names=tuple(name for name, _ in CLASSES),
        palette=tuple(colour for _, colour in CLASSES),
        train=SceneSplit(seed, 0, train, size, labelled),
        val=SceneSplit(seed, 1, val, size),
        test=partial(SceneSplit, seed, 2, val, size),
        config={
            "class_path": "fakd.data.scenes",
            "init_args": {"train": train, "val": val, "size": list(size), "seed": seed, **some},
        },
    )


def _open_borders(labels: Labels, dice: Random) -> None:
    """Ignore patches of the one-pixel borders between classes, as annotators leave them open."""
    seam = np.zeros(labels.shape, dtype=bool)
    seam[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    seam[1:] |= labels[1:] != labels[:-1]
    rows, columns = labels.shape
    noise = np.random.default_rng(dice.getrandbits(64))
    cells = noise.random((rows // 8 + 1, columns // 8 + 1)) < 0.15
    labels[seam & cells.repeat(8, axis=0).repeat(8, axis=1)[:rows, :columns]] = IGNORE
