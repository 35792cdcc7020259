"""Joint augmentation of an image and its labels, a pure function of sample and generator."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16, UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import rotate  # type: ignore[attr-defined]

from fakd.data.samples import Sample
from fakd.errors import InputError
from fakd.settings import IGNORE
from fakd.settings import Augmentation as Augmentation
from fakd.sizes import fitted_size
from fakd.specs import build, check_spec

Extra = Callable[[UInt8[Tensor, "3 height width"]], UInt8[Tensor, "3 height width"]]
"""The transform that `Augmentation.extra` describes."""

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean in 8 bits, used for padding: about zero after normalisation."""

_REDRAWS = 10


class Axis(NamedTuple):
    """Position of the crop along one axis of the resized image, and the resizing."""

    before: int
    after: int
    start: int
    length: int

    def nearest(self) -> Tensor:
        """Source pixel of each crop pixel, rounded down as in OpenCV."""
        index = torch.arange(self.start, self.start + self.length, dtype=torch.float64)
        return (index * (self.before / self.after)).long().clamp_(max=self.before - 1)

    def centres(self) -> Float[Tensor, " length"]:
        """Source position of each crop pixel's centre, in pixels from the border."""
        index = torch.arange(self.start, self.start + self.length, dtype=torch.float64)
        return (index + 0.5) * (self.before / self.after)

    def seen_from(
        self, places: Float[Tensor, "*any"], flipped: bool = False
    ) -> tuple[Float[Tensor, "*any"], Bool[Tensor, "*any"]]:
        """Map positions in a padded view to the image (-1 to 1), and tell which lie inside it."""
        shown = (places >= 0) & (places < self.length)
        if flipped:
            places = self.length - places
        return (self.start + places) * (2 / self.after) - 1, shown


@dataclass(frozen=True)
class Geometry:
    """The part of an image that a view shows: resized, cropped, flipped, padded and rotated."""

    rows: Axis
    columns: Axis
    flipped: bool
    size: tuple[int, int]
    """Height and width of the view; padding is below and to the right of the crop."""
    angle: float = 0.0
    """Rotation of the padded view about its centre, in degrees counter-clockwise."""


class View(NamedTuple):
    """An augmented sample."""

    image: UInt8[Tensor, "3 height width"]
    labels: Int16[Tensor, "height width"]
    """Class ids; `IGNORE` where there is none, everywhere in an unlabelled sample."""
    name: str
    geometry: Geometry | None
    """None if another image is mixed in, so that the view is not a part of one image."""
    answers: tuple[Float[Tensor, "_channels _rows _cols"], ...] = ()
    """Maps looked up for the view, on grids over it; mixed like its pixels."""


def augment(
    sample: Sample,
    augmentation: Augmentation,
    generator: torch.Generator,
    extra: Extra | None = None,
) -> View:
    """Scale, crop, flip, colour-jitter, pad and rotate an image together with its labels.

    The crop is chosen before resizing, so only its own pixels are computed. The labels of an
    unlabelled sample are `IGNORE`. The pipeline is MMSegmentation's, with its order, ranges and
    rounding.

    Args:
        sample: Not modified.
        augmentation: How samples are augmented.
        generator: Source of all randomness.
        extra: The result of `build_extra`; applied last, with PyTorch's generator seeded.
    """
    height, width = sample.image.shape[1:]
    draws = torch.rand(2 + 2 * (_REDRAWS + 1), generator=generator, dtype=torch.float64).tolist()
    size = _draw_size((height, width), augmentation, draws[0])
    crops = [
        (
            _draw_axis(height, size[0], augmentation.crop[0], down),
            _draw_axis(width, size[1], augmentation.crop[1], right),
        )
        for down, right in zip(draws[2::2], draws[3::2], strict=True)
    ]
    rows, columns, labels = _choose_crop(sample.labels, crops, augmentation.largest_class)
    image = crop_resized(sample.image, rows, columns)
    if flipped := draws[1] < augmentation.flip:
        image, labels = image.flip(-1), labels.flip(-1)
    if augmentation.photometric:
        image = distort(image, draw_distortion(generator))
    image, labels = _pad(image, labels, augmentation.crop)
    angle = 0.0
    if augmentation.rotation:
        draw = float(torch.rand((), generator=generator, dtype=torch.float64))
        angle = augmentation.rotation * (2 * draw - 1)
        image, labels = rotate_pair(image, labels, angle)
    if extra is not None:
        image = _apply_extra(image, extra, generator)
    geometry = Geometry(rows, columns, flipped, augmentation.crop, angle)
    return View(image, labels, sample.name, geometry)


def build_extra(augmentation: Augmentation) -> Extra | None:
    """Build the transform that `Augmentation.extra` describes.

    Raises:
        InputError: the class path does not exist, its arguments are refused, or the result is not
            callable.
    """
    if augmentation.extra is None:
        return None
    spec = check_spec(augmentation.extra, "augmentation.extra")
    try:
        made: Extra = build(spec)
    except (TypeError, ValueError) as error:
        raise InputError(f"augmentation.extra: {spec['class_path']}: {error}") from error
    if not callable(made):
        kind = type(made).__name__
        raise InputError(f"augmentation.extra: expected a callable that takes an image, got {kind}")
    return made


def rotate_pair(
    image: UInt8[Tensor, "3 height width"], labels: Int16[Tensor, "height width"], angle: float
) -> tuple[UInt8[Tensor, "3 height width"], Int16[Tensor, "height width"]]:
    """Rotate counter-clockwise about the centre; fill with the mean colour and `IGNORE`."""
    colour = [float(level) for level in MEAN_COLOUR]
    turned = rotate(image, angle, InterpolationMode.BILINEAR, fill=colour)
    nearest = rotate(labels[None], angle, InterpolationMode.NEAREST, fill=[float(IGNORE)])
    return turned, nearest[0]


def cut_like(
    maps: Float[Tensor, "channels _height _width"],
    geometry: Geometry,
    grid: tuple[int, int] | None = None,
    continued: bool = False,
) -> Float[Tensor, "channels rows cols"]:
    """Crop maps of a whole image, on any grid, like a view of it; bilinear interpolation.

    Args:
        maps: Of the whole unaugmented image, for example a network's logits.
        geometry: Of the view.
        grid: Rows and columns of the result, over the whole view; by default the view's size in
            pixels.
        continued: Extend border values into padding and rotated corners. Losses that compare
            positions need this, since they would take zeros for the likeliest.

    Returns:
        The maps at the centres of the grid's cells; unless ``continued``, 0 in padding and rotated
        corners.
    """
    (rows, cols), (height, width) = grid or geometry.size, geometry.size
    down = (torch.arange(rows, dtype=torch.float64) + 0.5) * (height / rows)
    right = (torch.arange(cols, dtype=torch.float64) + 0.5) * (width / cols)
    down, right = torch.meshgrid(down, right, indexing="ij")
    if geometry.angle:
        cos, sin = (f(math.radians(geometry.angle)) for f in (math.cos, math.sin))
        down, right = down - height / 2, right - width / 2
        down, right = (
            right * sin + down * cos + height / 2,
            right * cos - down * sin + width / 2,
        )
    y, shown_y = geometry.rows.seen_from(down)
    x, shown_x = geometry.columns.seen_from(right, geometry.flipped)
    places = torch.stack((x, y), dim=-1).to(maps)
    sampled = F.grid_sample(maps[None], places[None], padding_mode="border", align_corners=False)
    return sampled[0] if continued else sampled[0] * (shown_y & shown_x).to(maps)


def crop_resized(
    image: UInt8[Tensor, "3 height width"], rows: Axis, columns: Axis
) -> UInt8[Tensor, "3 rows columns"]:
    """Compute a crop of the bilinearly resized image without resizing the rest.

    No antialiasing, and pixel centres at half-integers, as in OpenCV and
    ``interpolate(align_corners=False)``; within one level of resizing first.
    """
    if rows.before == rows.after and columns.before == columns.after:
        return image[
            :,
            rows.start : rows.start + rows.length,
            columns.start : columns.start + columns.length,
        ].contiguous()
    (top, bottom, y), (left, right, x) = _source_bounds(rows), _source_bounds(columns)
    region = image[:, top:bottom, left:right].float()
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    sampled = F.grid_sample(region[None], grid[None], padding_mode="border", align_corners=False)
    return eight_bit(sampled[0].round_().clamp_(0, 255))


def _draw_size(size: tuple[int, int], augmentation: Augmentation, draw: float) -> tuple[int, int]:
    low, high = augmentation.scale
    return fitted_size(size, augmentation.base or size, low + (high - low) * draw)


def _draw_axis(before: int, after: int, crop: int, draw: float) -> Axis:
    length = min(after, crop)
    return Axis(before, after, int(draw * (after - length + 1)), length)


def _choose_crop(
    labels: Int16[Tensor, "height width"] | None,
    crops: list[tuple[Axis, Axis]],
    largest_class: float,
) -> tuple[Axis, Axis, Int16[Tensor, "rows columns"]]:
    """Take the first crop in which no class dominates, or the last one."""
    if labels is None:
        rows, columns = crops[0]
        return rows, columns, torch.full((rows.length, columns.length), IGNORE, dtype=torch.int16)
    for rows, columns in crops:
        # NumPy gathers bytes several times as fast as PyTorch.
        kept = labels.numpy().take(rows.nearest().numpy(), 0)
        cropped = torch.from_numpy(kept.take(columns.nearest().numpy(), 1))
        if largest_class == 1 or _is_balanced(cropped, largest_class):
            break
    return rows, columns, cropped


def _is_balanced(labels: Int16[Tensor, "rows columns"], largest_class: float) -> bool:
    counts = torch.bincount((labels - IGNORE).flatten(), minlength=2)[1:]
    largest, total = int(counts.max()), int(counts.sum())
    return largest < total and largest < largest_class * total


def _source_bounds(axis: Axis) -> tuple[int, int, Float[Tensor, " length"]]:
    """Bounds of the source pixels a crop reads, and its positions within them as -1 to 1."""
    centres = axis.centres()
    first = max(math.floor(float(centres[0]) - 0.5), 0)
    end = min(math.floor(float(centres[-1]) - 0.5) + 2, axis.before)
    return first, end, ((centres - first) * (2 / (end - first)) - 1).float()


def _pad(
    image: UInt8[Tensor, "3 rows columns"],
    labels: Int16[Tensor, "rows columns"],
    crop: tuple[int, int],
) -> tuple[UInt8[Tensor, "3 height width"], Int16[Tensor, "height width"]]:
    rows, columns = labels.shape
    if (rows, columns) == crop:
        return image, labels
    canvas = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None].repeat(1, *crop)
    canvas[:, :rows, :columns] = image
    blank = torch.full(crop, IGNORE, dtype=torch.int16)
    blank[:rows, :columns] = labels
    return canvas, blank


def _apply_extra(
    image: UInt8[Tensor, "3 height width"], extra: Extra, generator: torch.Generator
) -> UInt8[Tensor, "3 height width"]:
    seed = int(torch.randint(2**32, (), generator=generator))
    # Not torch.manual_seed, which would also seed GPUs.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            changed = extra(image.clone())
        except Exception as error:
            # User code may raise anything.
            raise InputError(f"augmentation.extra cannot take an 8-bit image: {error}") from error
    kept = isinstance(changed, Tensor) and changed.dtype == image.dtype
    if not kept or changed.shape != image.shape:
        raise InputError(
            "expected augmentation.extra to return an 8-bit image of size "
            f"{tuple(image.shape)}, got {_kind(changed)}"
        )
    return changed


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.dtype} of {tuple(value.shape)}"


class Distortion(NamedTuple):
    """Parameters of one colour jitter; the defaults change nothing."""

    brightness: float = 0.0
    """Added to every value."""
    contrast: float = 1.0
    contrast_first: bool = True
    """Whether contrast is changed before saturation and hue, or after."""
    saturation: float = 1.0
    hue: int = 0
    """Shift in units of 2 degrees."""


def draw_distortion(generator: torch.Generator) -> Distortion:
    """Draw each change with probability 0.5, in SSD's ranges as used in segmentation.

    Brightness within 32 levels, contrast and saturation by 0.5 to 1.5, hue by -36 to 34 degrees.
    """
    brightness, contrast, order, saturation, hue = torch.rand(
        5, 2, generator=generator, dtype=torch.float64
    ).tolist()
    return Distortion(
        brightness=64 * brightness[1] - 32 if brightness[0] < 0.5 else 0.0,
        contrast=0.5 + contrast[1] if contrast[0] < 0.5 else 1.0,
        contrast_first=order[0] < 0.5,
        saturation=0.5 + saturation[1] if saturation[0] < 0.5 else 1.0,
        hue=int(36 * hue[1]) - 18 if hue[0] < 0.5 else 0,
    )


def distort(
    image: UInt8[Tensor, "3 height width"], distortion: Distortion
) -> UInt8[Tensor, "3 height width"]:
    """Change brightness, contrast, saturation and hue, clipping and truncating after each.

    Contrast scales the values themselves, about black. Saturation and hue are those of HSV, here in
    floating point; OpenCV rounds both to 8 bits.
    """
    pixels = image.float()
    if distortion.brightness:
        pixels = _truncate(pixels.add_(distortion.brightness))
    if distortion.contrast_first and distortion.contrast != 1:
        pixels = _truncate(pixels.mul_(distortion.contrast))
    if distortion.saturation != 1:
        pixels = _truncate(_scale_saturation(pixels, distortion.saturation))
    if distortion.hue:
        pixels = _truncate(_rotate_hue(pixels, distortion.hue / 30))
    if not distortion.contrast_first and distortion.contrast != 1:
        pixels = _truncate(pixels.mul_(distortion.contrast))
    return eight_bit(pixels)


def eight_bit(pixels: Float[Tensor, "*any"]) -> UInt8[Tensor, "*any"]:
    """Convert whole numbers from 0 to 255 to bytes; NumPy does it several times as fast."""
    return torch.from_numpy(pixels.numpy().astype(np.uint8))


def _truncate(
    pixels: Float[Tensor, "3 height width"],
) -> Float[Tensor, "3 height width"]:
    # The margin keeps float32 error from truncating an exact level to the one below.
    return pixels.clamp_(0, 255).add_(1e-3).floor_()


def _scale_saturation(
    pixels: Float[Tensor, "3 height width"], factor: float
) -> Float[Tensor, "3 height width"]:
    """Scale S = (max - min) / max, limited to 1, by scaling distances from the maximum."""
    brightest, darkest = pixels.amax(0), pixels.amin(0)
    largest = brightest / (brightest - darkest).clamp_(min=1)
    return torch.lerp(brightest, pixels, largest.clamp_(max=factor))


def _rotate_hue(
    pixels: Float[Tensor, "3 height width"], sextants: float
) -> Float[Tensor, "3 height width"]:
    """Rotate the hue, in sixths of the circle, keeping maximum and minimum.

    With a channel's height (value - min) / (max - min), the angle from red is 1 - red + green +
    blue in heights: two of them are 0 and 1, and the third gives the position between. Conversely,
    a channel's height is ||angle| - 3| - 1 clipped to 0 and 1, its own angle being 0.
    """
    red, green, blue = pixels
    brightest, darkest = pixels.amax(0), pixels.amin(0)
    chroma = brightest - darkest
    angle = torch.sub(brightest, darkest, alpha=2).sub_(red).add_(green).add_(blue)
    angle.div_(chroma.clamp(min=1)).copysign_(green - blue).add_(sextants)
    heights = torch.stack((angle, angle - 2, angle + 2)).abs_().sub_(3).abs_().sub_(1)
    return heights.clamp_(0, 1).mul_(chroma).add_(darkest)
