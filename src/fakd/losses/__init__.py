"""Distillation losses: pure functions of logits or features, and modules recipes can name."""

from fakd.losses.augmentation import difference_bound, half_cosine, tilted_bound
from fakd.losses.channel import ChannelKL, channel_kl
from fakd.losses.pixel import PixelKL, joint_pixel_kl, pixel_kl
from fakd.losses.presets import PRESETS, preset
from fakd.losses.weighted_sum import WeightedSum

__all__ = [
    "PRESETS",
    "ChannelKL",
    "PixelKL",
    "WeightedSum",
    "channel_kl",
    "difference_bound",
    "half_cosine",
    "joint_pixel_kl",
    "pixel_kl",
    "preset",
    "tilted_bound",
]
