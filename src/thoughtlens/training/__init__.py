"""Training models that think: CODI self-distillation with step supervision, on the transformers Trainer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
