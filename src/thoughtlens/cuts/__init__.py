"""Cutting: every experiment by name, and the run of a plan of cuts on the problems of a run.

The functions named here say what is cut: `cuts.ablate_head("L0H3")`, `cuts.knock_out("z3", "z2")`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
