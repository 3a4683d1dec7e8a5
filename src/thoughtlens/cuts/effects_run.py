"""A run and a plan of cuts become effects: what every cut does to every problem, beside the same problems uncut.

1. Problems are drawn from the run and sorted into batches of like length; a batch is the unit of work.
2. Where edits put values of other passes in place, these are measured first, over all problems.
3. Each batch reads its questions, makes the baseline and all cuts, and writes its outcomes; what is known from an
   earlier call is kept, so that a study goes on after a kill, and grows.
4. The outcomes are put together as the effects Dataset (`thoughtlens.schema`) in `RUN/analysis/effects.zarr`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import xarray as xr

from thoughtlens.cuts.controls import Shape, controllable, controls_for
from thoughtlens.cuts.edits import Donor, Own, Resample
from thoughtlens.cuts.job import (
    BASELINE_KEY,
    CutJob,
    Target,
    key_of,
    measure_material,
    read_material,
    read_outcomes,
    study_folder,
    write_material,
)
from thoughtlens.cuts.material import donors, needs_material
from thoughtlens.cuts.named import Cut
from thoughtlens.cuts.passes import joined
from thoughtlens.cuts.plan import Incremental, Plan, check_plan
from thoughtlens.errors import OptionError
from thoughtlens.files import replacing_folder, writing
from thoughtlens.models.loader import checked, identity, reasoner_of
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.runs import engines as batches
from thoughtlens.runs.engines import Engine, Local, Progress
from thoughtlens.runs.extraction import to_load
from thoughtlens.runs.folder import ANALYSIS, Run
from thoughtlens.schema import BASELINE, EFFECTS_STORE, check_effects, effects_dataset
from thoughtlens.taps import Site

EFFECTS: Final = "effects"


def intervene(
    run: Run,
    cuts: Sequence[Cut],
    *,
    controls: int | Mapping[str, Sequence[Cut]] = 0,
    orders: Incremental | None = None,
    n: int | None = None,
    seed: int = 0,
    reasoner: LatentReasoner | None = None,
    batch_size: int = 32,
    allow_failed: bool = False,
    engine: Engine | None = None,
    progress: Progress = lambda n_passes: None,
) -> xr.Dataset:
    """Make cuts in the model of a run, on its problems, and keep what they do.

    Args:
        run: the run; its model is loaded again.
        cuts: the plan (`thoughtlens.cuts.named`), each with a label of its own.
        controls: made too, and placed beside their cut: how many of each, drawn from the same layers, or by its label
            those of each cut, as `controls_for` gives them. What has nothing like it goes without.
        orders: cuts made one after the other, as `plan_incremental` gives them.
        n: how many problems, drawn from the run without repetition; all if None.
        seed: of the draw of problems and controls.
        reasoner: the run's model, if it is loaded already.
        batch_size: problems that pass together at most; no number depends on it beyond rounding.
        allow_failed: go on when a problem can't be run under a cut, and report the pair as failed; else stop there.
        engine: where batches are worked on; in this process if None.
        progress: called with a number of passes done: a problem under a cut, the baseline being one.

    Returns:
        The effects Dataset, also in `RUN/analysis/effects.zarr`; with `donor` (intervention, problem), the id of the
        problem whose values were put in place, "" where there is none or there are several.

    Raises:
        OptionError: a cut is not one of this model, or two have the same label.
        CheckpointError: the model of the run is not there, or is another.
        RunError: a problem can't be run and that is not allowed, or the folder can't be written.
    """
    model = reasoner_of(run.manifest) if reasoner is None else checked(run.manifest, reasoner)
    target = target_of(run, model, n=n, seed=seed, batch_size=batch_size)
    if isinstance(controls, int):
        like, shape = controllable(cuts, shape_of(run)) if controls else [], shape_of(run)
        controls = controls_for(like, n=controls, seed=seed, shape=shape) if like else {}
    plan = Plan(tuple(cuts), controls, orders)
    return make_cuts(run, model, target, plan, allow_failed=allow_failed, engine=engine, progress=progress)


def make_cuts(
    run: Run,
    reasoner: LatentReasoner,
    target: Target,
    plan: Plan,
    *,
    allow_failed: bool = False,
    engine: Engine | None = None,
    progress: Progress = lambda n_passes: None,
) -> xr.Dataset:
    """As `intervene`, with the model loaded and the problems chosen (`target_of`)."""
    made = plan.made
    check_plan(made, shape_of(run), target)
    with writing(target.folder):
        _prepare(reasoner, target, made)
        where = engine or Local()
        load = partial(reasoner_of, to_load(reasoner)) if where.elsewhere else (lambda: reasoner)
        job = CutJob(load, target, made, allow_failed)
        todo = [shard for shard in range(len(target.batches)) if job.missing(shard)]
        progress(sum(job.n_problems(shard) for shard in range(len(target.batches)) if shard not in todo))
        where.run(job, todo, progress)
        effects = check_effects(_put_together(run, target, plan))
        with replacing_folder(run.path / ANALYSIS / EFFECTS_STORE) as folder:
            effects.to_zarr(folder, zarr_format=3, consolidated=False)
    return effects


def target_of(
    run: Run, reasoner: LatentReasoner, *, n: int | None = None, seed: int = 0, batch_size: int = 32
) -> Target:
    """The problems of a run that are cut, in batches of like length; the arguments are those of `intervene`."""
    if batch_size < 1:
        raise OptionError(f"the batch size is {batch_size}, expected at least 1; pass another --batch-size.")
    problems = run.problems(n=n, seed=seed)
    prompts = tuple(reasoner.prompt(problem.question) for problem in problems)
    grouped = tuple(map(tuple, batches.plan(list(map(len, prompts)), batch_size)))
    n_thoughts = int(run.manifest["options"]["n_thoughts"])
    # Batches are in it since their outcomes are kept batch by batch.
    options = {
        "model": identity(reasoner),
        "problems": [[problem.id, problem.question, problem.answer, *problem.steps] for problem in problems],
        "n_thoughts": n_thoughts,
        "batches": grouped,
    }
    return Target(study_folder(run.path / ANALYSIS / EFFECTS, options), problems, grouped, n_thoughts, prompts)


def shape_of(run: Run) -> Shape:
    """What a run's model has that can be cut."""
    layout = run.manifest["layout"]
    return Shape(layout["n_layers"], layout["n_heads"], layout["n_thoughts"])


def _prepare(reasoner: LatentReasoner, target: Target, cuts: Sequence[Cut]) -> None:
    """Measure and keep the values that edits put in place, unless they are there."""
    needing = [part for cut in cuts for part in cut.parts if needs_material(part)]
    if not needing:
        return
    known = read_material(target.folder, target.ids, target.n_steps)
    if known is None or (known.heads is None and any(part.site is Site.HEAD for part in needing)):
        write_material(target.folder, measure_material(reasoner, target, needing))


def _put_together(run: Run, target: Target, plan: Plan) -> xr.Dataset:
    """The effects Dataset of a study whose outcomes are all on disk."""
    cuts, parts = plan.made, []
    keys = [BASELINE_KEY, *map(key_of, cuts)]
    for shard, batch in enumerate(target.batches):
        rows, outcomes = read_outcomes(target.folder, shard, len(batch))
        parts.append(outcomes.at([rows[key] for key in keys]))
    order = np.argsort(np.concatenate(target.batches))
    found = joined(parts, 1).at((slice(None), order))._asdict()
    failed = found.pop("failure") != ""
    donor = [[""] * len(target.ids), *(donor_ids(cut, target) for cut in cuts)]
    options = run.manifest["options"]
    return effects_dataset(
        {**found, "failed": failed, "donor": donor},
        labels=[BASELINE, *(cut.label for cut in cuts)],
        kinds=["baseline", *(kind for kind, its in plan.kinds.items() for _ in its)],
        specs=[BASELINE_KEY, *(json.dumps(cut.spec(), ensure_ascii=False) for cut in cuts)],
        problem_ids=target.ids,
        addresses=[{}, *map(address_of, cuts)],
        controls={label: [control.label for control in its] for label, its in plan.controls.items()},
        attrs={
            "model": json.dumps(options["model"]),
            "problems": json.dumps(options["problems"]),
            "n_thoughts": target.n_thoughts,
        },
    )


def address_of(cut: Cut) -> dict[str, Any]:
    """What a cut cuts and how, as the coordinates of the effects Dataset say it."""
    specs = cut.spec()
    edits = [spec["edit"] if isinstance(spec["edit"], dict) else {"name": spec["edit"]} for spec in specs]
    named = [", ".join(str(value) for name, value in edit.items() if name != "factor") for edit in edits]
    scopes = {tuple(spec["queries"] or ()) for spec in specs if spec["site"] == Site.HEAD}
    return {
        "family": cut.family,
        "unit": cut.unit,
        "edit": " + ".join(dict.fromkeys(named)),
        "at": ", ".join(scopes.pop()) if len(scopes) == 1 else "",
        "dose": np.nan if cut.dose is None else cut.dose,
        "order": cut.order,
        "k": cut.k,
    }


def donor_ids(cut: Cut, target: Target) -> list[str]:
    """Whose values a cut puts in place in each problem; "" where they are nobody's, or of several problems."""
    edits = {part.edit for part in cut.parts if not isinstance(part.edit, Own)}
    edit = edits.pop() if edits else None
    if edits or not isinstance(edit, Donor | Resample):
        return [""] * len(target.ids)
    if isinstance(edit, Donor):
        return [edit.problem] * len(target.ids)
    return [target.ids[int(place)] for place in donors(target.n_steps, edit.seed)]
