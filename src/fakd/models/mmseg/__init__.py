"""Networks of mmsegmentation: their checkpoints, names and published scores."""

import lazy_loader

# Lazily, as published scores are read where nothing needs torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"checkpoint": ["load_mmseg", "to_mmseg"]}
)
