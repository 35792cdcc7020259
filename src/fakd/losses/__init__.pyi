from .adversarial import (
    Adversarial,
    Critic,
    critic_hinge,
    critic_wasserstein,
    gradient_penalty,
    student_adversarial,
)
from .alignment import Alignment
from .augmentation import difference_bound, half_cosine, tilted_bound
from .channel import ChannelKL, channel_kl
from .contrast import MemoryContrast, PixelRegionMemory, contrast_kl
from .cross_image import CrossImageSimilarity, cross_image_similarity
from .feature import FeatureChannelKL, FeatureDistance, feature_channel_kl, feature_distance
from .hard_labels import HardLabels, hard_label_cross_entropy
from .intra_class import IntraClassVariation, intra_class_variation
from .pairwise import PairwiseSimilarity, pairwise_similarity
from .pixel import PixelKL, joint_pixel_kl, pixel_kl
from .presets import PRESETS, preset
from .relational import Relational, relational
from .weighted_sum import WeightedSum

__all__ = [
    "PRESETS",
    "Adversarial",
    "Alignment",
    "ChannelKL",
    "Critic",
    "CrossImageSimilarity",
    "FeatureChannelKL",
    "FeatureDistance",
    "HardLabels",
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
    "hard_label_cross_entropy",
    "intra_class_variation",
    "joint_pixel_kl",
    "pairwise_similarity",
    "pixel_kl",
    "preset",
    "relational",
    "student_adversarial",
    "tilted_bound",
]
