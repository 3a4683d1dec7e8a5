"""Figures of results: an Analysis, a Comparison, a Study or a question's attention in, a Figure out.

Each is `(result, *, choice…, ax=None) -> Figure`. It selects, sorts and labels, and computes no statistic. Without `ax`
it draws on a figure of its own, without pyplot or a display; `save_figure` writes that.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
