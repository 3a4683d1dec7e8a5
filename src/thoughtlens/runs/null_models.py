"""Runs of models with random weights, which say what an architecture attends to without training.

    RUN/nulls/0, RUN/nulls/1, …    a run folder a model, which keeps sums of its attention

In: a run. Out: runs of its model with its weights drawn anew, on its problems or a hundred of them.
"""

from itertools import count, islice
from typing import Any, Final

from thoughtlens.errors import OptionError
from thoughtlens.models import randomize, reasoner_of
from thoughtlens.runs.engines import Progress
from thoughtlens.runs.extraction import MEAN, extract
from thoughtlens.runs.folder import Run, open_run, status
from thoughtlens.runs.writer import MANIFEST

NULLS: Final = "nulls"

MOST_PROBLEMS: Final = 100
"""Problems of a null model: its heads differ from model to model far more than from problem to problem."""


def random_weight_runs(
    run: Run, n: int = 20, *, pattern: str = "attention", progress: Progress = lambda n_models: None
) -> list[Run]:
    """Runs of the model of a run with its weights drawn anew, made in its folder where they are not there yet.

    Args:
        run: the run; its model is loaded again if a null model is missing.
        n: how many models, of the random weights 0, 1, …; those of the run itself are left out.
        pattern: what will be analysed; sums are kept of `attention` alone.
        progress: called with the number of models done.

    Returns:
        The runs, on 100 of the run's problems at most, drawn by seed 0. Nothing is generated after the thoughts.

    Raises:
        OptionError: n is below 1, or the pattern is another one.
        CheckpointError: the model of the run can't be found.

    Example:
        `tl.analyze(run, null=random_weight_runs(run))`
    """
    if n < 1 or pattern != "attention":
        raise OptionError(
            f"found {n} null models and the pattern {pattern!r}, expected one or more of attention; name runs of "
            "random weights with --null instead, for other patterns those of `thoughtlens extract --record values`."
        )
    own = (run.manifest["notes"].get("model_source") or {}).get("random_weights")
    reasoner: Any = None
    found = []
    for seed in islice((seed for seed in count() if seed != own), n):
        folder = run.path / NULLS / str(seed)
        if not ((folder / MANIFEST).is_file() and status(folder).complete):
            reasoner = reasoner or reasoner_of(run.manifest)
            problems = run.problems()
            some = run.problems(n=min(MOST_PROBLEMS, len(problems)))
            how: dict[str, Any] = {"n_thoughts": run.manifest["options"]["n_thoughts"], "max_new_tokens": 1}
            extract(randomize(reasoner, seed=seed), some, folder, keep=MEAN, **how)
        found.append(open_run(folder))
        progress(1)
    return found
