"""Cuts: every experiment by name, plans of many, their matched controls, and studies that make them in a run's model.

    from thoughtlens import cuts

    plan = cuts.plan_cuts(run, heads="top:10", edits=["zero", "mean"], controls=10, orders=["attention", "cause"])
    effects = cuts.intervene(run, plan, study="first")

`cuts.ablate_head("L0H3")`, `cuts.knock_out("z3", "z2")` and the like name single cuts; edits such as `cuts.Mean()` say
what takes the place of what was there.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
