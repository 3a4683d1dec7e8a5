"""See, measure and test how language models attend to their continuous thoughts.

    import thoughtlens as tl

    model = tl.load("tiny-gpt2")
    run = tl.extract(model, tl.sample("arithmetic", n=100), "runs/first")
    analysis = tl.analyze_run(run)

Names are imported when they are first used, so that reading a run does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thoughtlens import plots
    from thoughtlens.analysis import analyze, step_indexed
    from thoughtlens.comparisons import compare_runs as compare
    from thoughtlens.errors import ThoughtLensError
    from thoughtlens.exports import export_npy
    from thoughtlens.models.loading import load
    from thoughtlens.outputs import analyze_run, write_analysis, write_figures
    from thoughtlens.problems import Problem, ProblemSet, draw, load_set, sample
    from thoughtlens.reasoning import reason
    from thoughtlens.runs.conditions import evaluate
    from thoughtlens.runs.doctor import doctor
    from thoughtlens.runs.extract import extract
    from thoughtlens.runs.intervene import intervene
    from thoughtlens.runs.lens import decode_thoughts
    from thoughtlens.runs.reading import open_run
    from thoughtlens.studies import study
    from thoughtlens.tracing import cuts

__version__ = "0.1.0"

__all__ = [
    "Problem",
    "ProblemSet",
    "ThoughtLensError",
    "analyze",
    "analyze_run",
    "compare",
    "cuts",
    "decode_thoughts",
    "doctor",
    "draw",
    "evaluate",
    "export_npy",
    "extract",
    "intervene",
    "load",
    "load_set",
    "open_run",
    "plots",
    "reason",
    "sample",
    "step_indexed",
    "study",
    "write_analysis",
    "write_figures",
]

_HOME = {
    **dict.fromkeys(("Problem", "ProblemSet", "draw", "load_set", "sample"), "problems"),
    **dict.fromkeys(("analyze", "step_indexed"), "analysis"),
    **dict.fromkeys(("analyze_run", "write_analysis", "write_figures"), "outputs"),
    "ThoughtLensError": "errors",
    "compare": "comparisons",
    "decode_thoughts": "runs.lens",
    "doctor": "runs.doctor",
    "evaluate": "runs.conditions",
    "export_npy": "exports",
    "extract": "runs.extract",
    "intervene": "runs.intervene",
    "load": "models.loading",
    "open_run": "runs.reading",
    "reason": "reasoning",
    "study": "studies",
}


_THERE = {"compare": "compare_runs"}
"""What is called otherwise where it is at home."""

_MODULES = {"cuts": "thoughtlens.tracing.cuts", "plots": "thoughtlens.plots"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _HOME:
        return getattr(import_module(f"thoughtlens.{_HOME[name]}"), _THERE.get(name, name))
    raise AttributeError(f"module 'thoughtlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
