"""Distillation losses: pure functions of logits, and modules that recipes can name."""

from fakd.losses.augmentation import difference_bound, half_cosine, tilted_bound
from fakd.losses.channel import ChannelKL, channel_kl
from fakd.losses.pixel import PixelKL, joint_pixel_kl, pixel_kl

__all__ = [
    "ChannelKL",
    "PixelKL",
    "channel_kl",
    "difference_bound",
    "half_cosine",
    "joint_pixel_kl",
    "pixel_kl",
    "tilted_bound",
]
