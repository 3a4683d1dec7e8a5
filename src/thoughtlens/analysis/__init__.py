"""Labelled attention in, labelled numbers out: moments, metrics, statistics, the summary of a run.

Never imports torch or matplotlib: it runs wherever a run folder can be read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
