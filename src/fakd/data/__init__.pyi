from .batches import Batch, evaluation_samples, training_batches
from .dataset import SegmentationData, Split, default_palette
from .folders import folder, image_files, open_data
from .masks import Pair
from .published import ade20k, cityscapes, pascal_context, voc2012
from .samples import CachedSplit, PairedSplit, Sample, cache_in_memory, read_image
from .seeds import hash_seed
from .streets.dataset import scenes
from .transforms import Augmentation, Geometry, View, augment, cut_like

__all__ = [
    "Augmentation",
    "Batch",
    "CachedSplit",
    "Geometry",
    "Pair",
    "PairedSplit",
    "Sample",
    "SegmentationData",
    "Split",
    "View",
    "ade20k",
    "augment",
    "cache_in_memory",
    "cityscapes",
    "cut_like",
    "default_palette",
    "evaluation_samples",
    "folder",
    "hash_seed",
    "image_files",
    "open_data",
    "pascal_context",
    "read_image",
    "scenes",
    "training_batches",
    "voc2012",
]
