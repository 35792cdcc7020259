"""Photometric distortion: brightness, contrast, saturation and hue of an RGB image at random."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


class Distortion(NamedTuple):
    """One drawn change of colours; the defaults change nothing."""

    brightness: float = 0.0
    """Added to every value."""
    contrast: float = 1.0
    contrast_first: bool = True
    """Whether the contrast changes before the colours do, or after."""
    saturation: float = 1.0
    hue: int = 0
    """Shift in units of 2 degrees."""


def draw_distortion(generator: torch.Generator) -> Distortion:
    """Draw each change with probability one half, in SSD's ranges as segmentation uses them.

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
    """Change brightness, contrast, saturation and hue, values cut off and truncated after each.

    Contrast scales the values themselves, about black. Saturation and hue are those of HSV, here
    in real numbers, where OpenCV rounds both to 8 bits.
    """
    pixels = image.float()
    if distortion.brightness:
        pixels = _truncated(pixels.add_(distortion.brightness))
    if distortion.contrast_first and distortion.contrast != 1:
        pixels = _truncated(pixels.mul_(distortion.contrast))
    if distortion.saturation != 1:
        pixels = _truncated(_saturated(pixels, distortion.saturation))
    if distortion.hue:
        pixels = _truncated(_rotated(pixels, distortion.hue / 30))
    if not distortion.contrast_first and distortion.contrast != 1:
        pixels = _truncated(pixels.mul_(distortion.contrast))
    return eight_bit(pixels)


def eight_bit(pixels: Float[Tensor, "*any"]) -> UInt8[Tensor, "*any"]:
    """Store whole numbers from 0 to 255 as bytes; NumPy does it several times as fast."""
    return torch.from_numpy(pixels.numpy().astype(np.uint8))


def _truncated(
    pixels: Float[Tensor, "3 height width"],
) -> Float[Tensor, "3 height width"]:
    # The margin keeps float32 error from truncating an exact level to the one below.
    return pixels.clamp_(0, 255).add_(1e-3).floor_()


def _saturated(
    pixels: Float[Tensor, "3 height width"], factor: float
) -> Float[Tensor, "3 height width"]:
    """Scale S = (max - min) / max, at most to 1: distances from the maximum scale alike."""
    brightest, darkest = pixels.amax(0), pixels.amin(0)
    largest = brightest / (brightest - darkest).clamp_(min=1)
    return torch.lerp(brightest, pixels, largest.clamp_(max=factor))


def _rotated(
    pixels: Float[Tensor, "3 height width"], sextants: float
) -> Float[Tensor, "3 height width"]:
    """Turn the hue, measured in sixths of the circle, and keep maximum and minimum.

    With a channel's height (value - min) / (max - min), the angle from red is
    1 - red + green + blue in heights: two of them are 0 and 1, and the third says where between.
    Back again, a channel's height is ||angle| - 3| - 1 cut off at 0 and 1, its own angle being 0.
    """
    red, green, blue = pixels
    brightest, darkest = pixels.amax(0), pixels.amin(0)
    chroma = brightest - darkest
    angle = torch.sub(brightest, darkest, alpha=2).sub_(red).add_(green).add_(blue)
    angle.div_(chroma.clamp(min=1)).copysign_(green - blue).add_(sextants)
    heights = torch.stack((angle, angle - 2, angle + 2)).abs_().sub_(3).abs_().sub_(1)
    return heights.clamp_(0, 1).mul_(chroma).add_(darkest)
