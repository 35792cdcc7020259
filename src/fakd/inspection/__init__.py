"""Looking a data set over before anything is trained: what is there, and what to fix."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
