import colorsys
import math

import numpy as np
import torch

from fakd.data.transforms import Distortion, distort, draw_distortion


def slow_distort(image: np.ndarray, distortion: Distortion) -> np.ndarray:
    """One pixel at a time through colorsys, in the order of MMSegmentation's transform."""
    height, width = image.shape[1:]
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            pixel = [cut(value + distortion.brightness) for value in image[:, y, x].tolist()]
            if distortion.contrast_first:
                pixel = [cut(value * distortion.contrast) for value in pixel]
            h, s, v = colorsys.rgb_to_hsv(*[value / 255 for value in pixel])
            s = min(s * distortion.saturation, 1)
            pixel = [cut(value * 255) for value in colorsys.hsv_to_rgb(h, s, v)]
            h, s, v = colorsys.rgb_to_hsv(*[value / 255 for value in pixel])
            h = (h + distortion.hue / 180) % 1
            pixel = [cut(value * 255) for value in colorsys.hsv_to_rgb(h, s, v)]
            if not distortion.contrast_first:
                pixel = [cut(value * distortion.contrast) for value in pixel]
            result[:, y, x] = pixel
    return result


def cut(value: float) -> int:
    return math.floor(min(max(value, 0), 255) + 1e-3)


def test_each_change_equals_the_slow_reference():
    image = torch.randint(0, 256, (3, 24, 24), generator=torch.Generator().manual_seed(0)).byte()
    image[:, 0, :6] = torch.tensor([0, 255, 7, 0, 255, 128])
    image[:, 0, 0:2] = torch.tensor([[0, 255]] * 3)
    for distortion in (
        Distortion(),
        Distortion(brightness=-31.7),
        Distortion(brightness=20.5, contrast=1.5),
        Distortion(brightness=9.0, contrast=0.5, contrast_first=False, saturation=1.4),
        Distortion(saturation=0.5),
        Distortion(saturation=1.5),
        Distortion(hue=-18),
        Distortion(hue=17),
        Distortion(hue=1, saturation=1.2, contrast=1.3, contrast_first=False),
    ):
        before = image.clone()
        result = distort(image, distortion)
        assert torch.equal(image, before)
        assert result.dtype == torch.uint8
        difference = (
            result.int() - torch.from_numpy(slow_distort(image.numpy(), distortion))
        ).abs()
        # One level where float32 and float64 fall on either side of a whole number.
        assert difference.max() <= 1
        assert (difference == 0).float().mean() > 0.99


def test_hue_of_pure_colours_in_literals():
    red = torch.tensor([200, 0, 0], dtype=torch.uint8)[:, None, None]
    # 17 units are 34 degrees: green rises to 34/60 of the maximum; -18 units are 36 degrees.
    assert distort(red, Distortion(hue=17)).flatten().tolist() == [200, 113, 0]
    assert distort(red, Distortion(hue=-18)).flatten().tolist() == [200, 0, 120]


def test_each_change_has_its_probability_and_range():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_distortion(generator) for _ in range(4000)]
    assert abs(np.mean([d.contrast_first for d in drawn]) - 0.5) < 0.03
    for name, neutral, low, high in (
        ("brightness", 0, -32, 32),
        ("contrast", 1, 0.5, 1.5),
        ("saturation", 1, 0.5, 1.5),
    ):
        values = np.array([getattr(d, name) for d in drawn])
        changed = values[values != neutral]
        assert abs(len(changed) / 4000 - 0.5) < 0.03
        assert low <= changed.min() < low + 0.01 * (high - low)
        assert high >= changed.max() > high - 0.01 * (high - low)
        assert abs(changed.mean() - (low + high) / 2) < 0.03 * (high - low)
    hues = [d.hue for d in drawn]
    assert set(hues) == set(range(-18, 18))
    # One in 36 of the shifts is zero.
    assert abs(np.mean(np.array(hues) == 0) - (0.5 + 0.5 / 36)) < 0.03
    pairs = [(d.brightness != 0, d.contrast != 1, d.saturation != 1, d.hue != 0) for d in drawn]
    assert len(set(pairs)) == 16
