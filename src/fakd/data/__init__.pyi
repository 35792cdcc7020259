from .batches import Batch, evaluation_samples, training_batches
from .dataset import CachedSplit, Sample, SegmentationData, Split
from .decode import read_image
from .folders import folder, image_files, open_data, scenes
from .pairs import Pair, PairedSplit
from .palette import default_palette
from .published import ade20k, cityscapes, pascal_context, voc2012
from .seeds import mixed
from .transforms import Augmentation, augment

__all__ = [
    "Augmentation",
    "Batch",
    "CachedSplit",
    "Pair",
    "PairedSplit",
    "Sample",
    "SegmentationData",
    "Split",
    "ade20k",
    "augment",
    "cityscapes",
    "default_palette",
    "evaluation_samples",
    "folder",
    "image_files",
    "mixed",
    "open_data",
    "pascal_context",
    "read_image",
    "scenes",
    "training_batches",
    "voc2012",
]
