"""See, measure and test how language models attend to their continuous thoughts.

    import thoughtlens as tl

    model = tl.load("tiny-gpt2")
    run = tl.extract(model, tl.sample("arithmetic", n=100), "runs/first")
    analysis = tl.analyze(run)

Names are imported when they are first used, so that reading a run does not wait for torch; `__init__.pyi` lists them.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
