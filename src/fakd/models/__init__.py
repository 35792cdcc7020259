"""What satisfies `fakd.types.Segmenter`: the paper's networks and everybody else's."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
