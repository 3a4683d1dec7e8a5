"""Short experiments on a loaded model: checks of the load, accuracy with damaged thoughts, what thoughts would say."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
