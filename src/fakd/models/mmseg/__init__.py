"""Networks of mmsegmentation: their checkpoints, names and published scores."""

import lazy_loader

# Lazy, as published scores are also read by commands that do not import torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"checkpoint": ["load_mmseg", "to_mmseg"]}
)
