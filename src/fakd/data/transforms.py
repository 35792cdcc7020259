"""Paired augmentation of an image and its labels, a pure function of sample and generator."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from fakd.data.colour import distort, draw_distortion, eight_bit
from fakd.data.dataset import Sample
from fakd.settings import Augmentation as Augmentation
from fakd.settings import fitted_size
from fakd.types import IGNORE

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean in 8 bits, which padding is made of: about zero once a network normalised it."""

_REDRAWS = 10


class _Axis(NamedTuple):
    """Where along one side the crop lies in the resized image, and how it was resized."""

    before: int
    after: int
    start: int
    length: int

    def nearest(self) -> Tensor:
        """Source pixel of each crop pixel, rounded down as OpenCV does."""
        index = torch.arange(self.start, self.start + self.length, dtype=torch.float64)
        return (index * (self.before / self.after)).long().clamp_(max=self.before - 1)

    def centres(self) -> Float[Tensor, " length"]:
        """Source position of each crop pixel's centre, in pixels from the border."""
        index = torch.arange(self.start, self.start + self.length, dtype=torch.float64)
        return (index + 0.5) * (self.before / self.after)


def augment(sample: Sample, augmentation: Augmentation, generator: torch.Generator) -> Sample:
    """Scale, crop, mirror, recolour and pad an image, and its labels alike.

    The crop is chosen before anything is resized, so only its own pixels are computed; labels of
    an unlabelled sample come out as `IGNORE`. The pipeline is MMSegmentation's, with its order,
    ranges and rounding.
    """
    height, width = sample.image.shape[1:]
    draws = torch.rand(2 + 2 * (_REDRAWS + 1), generator=generator, dtype=torch.float64).tolist()
    size = _resized((height, width), augmentation, draws[0])
    crops = [
        (
            _axis(height, size[0], augmentation.crop[0], down),
            _axis(width, size[1], augmentation.crop[1], right),
        )
        for down, right in zip(draws[2::2], draws[3::2], strict=True)
    ]
    rows, columns, labels = _chosen(sample.labels, crops, augmentation.largest_class)
    image = crop_resized(sample.image, rows, columns)
    if draws[1] < augmentation.flip:
        image, labels = image.flip(-1), labels.flip(-1)
    if augmentation.photometric:
        image = distort(image, draw_distortion(generator))
    return Sample(*_padded(image, labels, augmentation.crop), sample.name)


def crop_resized(
    image: UInt8[Tensor, "3 height width"], rows: _Axis, columns: _Axis
) -> UInt8[Tensor, "3 rows columns"]:
    """Cut a crop out of the bilinearly resized image without resizing the rest.

    No antialiasing and pixel centres at half-integers, as in OpenCV and
    ``interpolate(align_corners=False)``; within one level of resizing first.
    """
    if rows.before == rows.after and columns.before == columns.after:
        return image[
            :,
            rows.start : rows.start + rows.length,
            columns.start : columns.start + columns.length,
        ].contiguous()
    (top, bottom, y), (left, right, x) = _reach(rows), _reach(columns)
    region = image[:, top:bottom, left:right].float()
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    sampled = F.grid_sample(region[None], grid[None], padding_mode="border", align_corners=False)
    return eight_bit(sampled[0].round_().clamp_(0, 255))


def _resized(size: tuple[int, int], augmentation: Augmentation, draw: float) -> tuple[int, int]:
    low, high = augmentation.scale
    return fitted_size(size, augmentation.base or size, low + (high - low) * draw)


def _axis(before: int, after: int, crop: int, draw: float) -> _Axis:
    length = min(after, crop)
    return _Axis(before, after, int(draw * (after - length + 1)), length)


def _chosen(
    labels: UInt8[Tensor, "height width"] | None,
    crops: list[tuple[_Axis, _Axis]],
    largest_class: float,
) -> tuple[_Axis, _Axis, UInt8[Tensor, "rows columns"]]:
    """Take the first crop in which no class prevails, the last one if there is none."""
    if labels is None:
        rows, columns = crops[0]
        return rows, columns, torch.full((rows.length, columns.length), IGNORE, dtype=torch.uint8)
    for rows, columns in crops:
        # NumPy gathers bytes several times as fast as PyTorch.
        kept = labels.numpy().take(rows.nearest().numpy(), 0)
        cropped = torch.from_numpy(kept.take(columns.nearest().numpy(), 1))
        if largest_class == 1 or _balanced(cropped, largest_class):
            break
    return rows, columns, cropped


def _balanced(labels: UInt8[Tensor, "rows columns"], largest_class: float) -> bool:
    counts = torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:IGNORE]
    largest, total = int(counts.max()), int(counts.sum())
    return largest < total and largest < largest_class * total


def _reach(axis: _Axis) -> tuple[int, int, Float[Tensor, " length"]]:
    """Bounds of the source pixels a crop reads, and its positions between them as -1 to 1."""
    centres = axis.centres()
    first = max(math.floor(float(centres[0]) - 0.5), 0)
    end = min(math.floor(float(centres[-1]) - 0.5) + 2, axis.before)
    return first, end, ((centres - first) * (2 / (end - first)) - 1).float()


def _padded(
    image: UInt8[Tensor, "3 rows columns"],
    labels: UInt8[Tensor, "rows columns"],
    crop: tuple[int, int],
) -> tuple[UInt8[Tensor, "3 height width"], UInt8[Tensor, "height width"]]:
    rows, columns = labels.shape
    if (rows, columns) == crop:
        return image, labels
    canvas = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, *crop)
    canvas[:, :rows, :columns] = image
    blank = torch.full(crop, IGNORE, dtype=torch.uint8)
    blank[:rows, :columns] = labels
    return canvas, blank
