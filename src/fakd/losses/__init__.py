"""Distillation losses: pure functions of logits or features, and modules for use in recipes."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
