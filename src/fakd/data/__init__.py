"""Data sets, joint augmentation of images and labels, and reproducible batches."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
