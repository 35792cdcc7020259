"""Data sets, paired augmentation and reproducible batches."""

from pathlib import Path

from fakd.data.batches import Batch, evaluation_samples, training_batches
from fakd.data.dataset import CachedSplit, Sample, SegmentationData, Split
from fakd.data.decode import read_image
from fakd.data.folder import folder, image_files
from fakd.data.pairs import Pair, PairedSplit
from fakd.data.palette import default_palette
from fakd.data.published import ade20k, cityscapes, pascal_context, voc2012
from fakd.data.scenes import scenes
from fakd.data.seeds import mixed
from fakd.data.transforms import Augmentation, augment

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


def open_data(data: SegmentationData | str | Path) -> SegmentationData:
    """Open what a flag or a caller names: a data set, ``scenes``, a folder or its YAML file."""
    if isinstance(data, SegmentationData):
        return data
    return scenes() if data == "scenes" else folder(data)
