"""Labelled data in, Axes out: figure functions that draw and compute nothing.

Each is `(data, *, ax=None) -> Axes`; without `ax` it draws on a Figure of its own, without pyplot or a display.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
