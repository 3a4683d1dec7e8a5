"""Tables, figures and headline numbers of a run, of a comparison, of a study of cuts, as files in their folders."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
