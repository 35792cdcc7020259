"""Distillation losses: pure functions of logits or features, and modules recipes can name."""

from fakd.losses.adversarial import (
    Adversarial,
    critic_hinge,
    critic_wasserstein,
    gradient_penalty,
    student_adversarial,
)
from fakd.losses.alignment import Alignment
from fakd.losses.augmentation import difference_bound, half_cosine, tilted_bound
from fakd.losses.channel import ChannelKL, channel_kl
from fakd.losses.contrast import MemoryContrast, contrast_kl
from fakd.losses.critic import Critic
from fakd.losses.cross_image import CrossImageSimilarity, cross_image_similarity
from fakd.losses.feature import FeatureDistance, feature_distance
from fakd.losses.feature_channel import FeatureChannelKL, feature_channel_kl
from fakd.losses.intra_class import IntraClassVariation, intra_class_variation
from fakd.losses.memory import PixelRegionMemory
from fakd.losses.pairwise import PairwiseSimilarity, pairwise_similarity
from fakd.losses.pixel import PixelKL, joint_pixel_kl, pixel_kl
from fakd.losses.presets import PRESETS, preset
from fakd.losses.relational import Relational, relational
from fakd.losses.weighted_sum import WeightedSum

__all__ = [
    "PRESETS",
    "Adversarial",
    "Alignment",
    "ChannelKL",
    "Critic",
    "CrossImageSimilarity",
    "FeatureChannelKL",
    "FeatureDistance",
    "IntraClassVariation",
    "MemoryContrast",
    "PairwiseSimilarity",
    "PixelKL",
    "PixelRegionMemory",
    "Relational",
    "WeightedSum",
    "channel_kl",
    "contrast_kl",
    "critic_hinge",
    "critic_wasserstein",
    "cross_image_similarity",
    "difference_bound",
    "feature_channel_kl",
    "feature_distance",
    "gradient_penalty",
    "half_cosine",
    "intra_class_variation",
    "joint_pixel_kl",
    "pairwise_similarity",
    "pixel_kl",
    "preset",
    "relational",
    "student_adversarial",
    "tilted_bound",
]
