"""The earlier, step-indexed convention of the 2025 scripts: their scores, rankings, figures and files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
