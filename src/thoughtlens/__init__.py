"""The public names of thoughtlens, which measures how language models attend to their continuous thoughts.

    import thoughtlens as tl

    model = tl.load("tiny-gpt2")
    run = tl.extract(model, tl.sample("arithmetic", n=100), "runs/first")
    analysis = tl.analyze(run)
    tl.plots.head_map(analysis)
    effects = tl.intervene(run, tl.plan_cuts(run, heads="top:3"))

`__init__.pyi` lists the names. Each is imported when it is first used, so that reading a run does not wait for torch.
More specialised functions are public in the folders, such as `thoughtlens.published.export_npy`.
"""

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
