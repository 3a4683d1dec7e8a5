"""Surveys: every model on every problem set and draw of one file, measured, cut and compared."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
