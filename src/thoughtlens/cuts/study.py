"""Studies of cuts: `intervene`, which makes the cuts of a plan in a run's model, and the folder in which it keeps them.

in: a run and a plan; out: the effects Dataset, and a folder.

    RUN/studies/NAME/plan.json      what is cut, with which controls and orders; written before the first cut
    RUN/studies/NAME/manifest.json  on which problems, with which seed, by which calls; SHA-256 of the plan; finished?
    RUN/studies/NAME/outcomes/      what each cut did to each problem, batch by batch (`thoughtlens.cuts.study_batches`)
    RUN/studies/NAME/effects.zarr   the effects Dataset (`thoughtlens.schema`), with `exploratory` (intervention)

1. Problems are drawn from the run and sorted into batches of like length; a batch is the unit of work.
2. The study is begun, or found under its name: the same call goes on where it stopped, and cuts that its plan does not
   have are added and marked exploratory.
3. Values that edits take from other passes are measured first, over all problems.
4. For each batch the questions are read, the baseline and all cuts are made, and their outcomes are written.
5. The outcomes are put together as the effects Dataset. An order by cause needs the effects of single heads, so its
   cuts are made last.
6. With `--holdout`, batches are of one side. On the problems that choose, only the single heads of an order by
   cause are cut; the effects Dataset holds the problems that are tested.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

import numpy as np
import xarray as xr
from pydantic import BaseModel, ConfigDict

from thoughtlens.analysis.effects import ACCURACY_MARGIN, MARGIN
from thoughtlens.cuts.cut_types import Cut, address_of
from thoughtlens.cuts.edits import Donor, Drawn, Own, Resample
from thoughtlens.cuts.passes import joined, variables_of
from thoughtlens.cuts.plan import Plan, plan_from_json, shape_of
from thoughtlens.cuts.replacement_values import donor_rule
from thoughtlens.cuts.selection import CAUSE, heads_by_attention, heads_by_cause
from thoughtlens.cuts.study_batches import (
    BASELINE_KEY,
    CutJob,
    Target,
    check_plan,
    key_of,
    lacks,
    read_outcomes,
    read_values,
    record_values,
    write_values,
)
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import (
    LOCK,
    Alone,
    as_model,
    call_of,
    check_seal,
    digest_of,
    file_name,
    fingerprint,
    now,
    one_of_writers,
    only_writer,
    read_json,
    replacing,
    replacing_folder,
    write_json,
)
from thoughtlens.models.catalog import AUTO
from thoughtlens.models.loader import checked, identity, reasoner_of
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.progress import told
from thoughtlens.reasoning.loop import MAX_NEW_TOKENS
from thoughtlens.runs import batches
from thoughtlens.runs.batches import USUAL, BatchSize
from thoughtlens.runs.engines import Engine, Local, Part, Progress, alone
from thoughtlens.runs.extraction import loader_for
from thoughtlens.runs.reader import STUDIES, Run
from thoughtlens.runs.writer import MANIFEST, differences, versions
from thoughtlens.schema import BASELINE, EFFECTS_STORE, check_effects, effects_dataset, tested_half

log = logging.getLogger(__name__)

PLAN: Final = "plan.json"
OUTCOMES: Final = "outcomes"


class Written(BaseModel):
    """One version of `plan.json`: when and by which call and packages it was written, and how controls were drawn."""

    model_config = ConfigDict(extra="forbid")
    date: str
    call: str
    versions: dict[str, str]
    controls: dict[str, Any]
    sha256: str


class Manifest(BaseModel):
    """The `manifest.json` of a study."""

    model_config = ConfigDict(extra="forbid")
    finished: str | None  # when its effects were written
    model: dict[str, Any]
    problems: str  # SHA-256 of the problems that are cut
    n: int  # how many problems these are
    options: dict[str, Any]  # what outcomes depend on besides
    margins: dict[str, float]  # what counts as no effect, said before the first cut
    seed: dict[str, int]  # of the draw of problems and of the plan
    plans: list[Written]  # each version of the plan; all but the first added exploratory cuts

    def identity(self) -> dict[str, Any]:
        """What must be equal where a study goes on."""
        return self.model_dump(include={"model", "problems", "n", "options", "margins", "seed"})


def intervene_part(
    part: Part | None,
    run: Run,
    plan: Plan | Sequence[Cut],
    *,
    study: str | None = None,
    n: int | None = None,
    seed: int | None = None,
    reasoner: LatentReasoner | None = None,
    batch_size: BatchSize = AUTO,
    max_new_tokens: int = MAX_NEW_TOKENS,
    margin: float = MARGIN,
    accuracy_margin: float = ACCURACY_MARGIN,
    allow_failed: bool = False,
    force: bool = False,
    engine: Engine | None = None,
    call: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset | None:
    """Make the cuts of a plan in the model of a run, on its problems, and keep what they do.

    `intervene_part` is the same as one of several processes that each do a part of the batches. The first to come
    begins the study and measures what edits need. The last to finish closes it, and makes the cuts that depend on the
    effects of others; to the others None is returned.

    Args:
        part: which of these processes this is (an argument of `intervene_part` alone, where None is the only one).
        run: the run; its model is loaded again.
        plan: as `plan_cuts` gives it; or cuts, each with a label of its own.
        study: name of the study; a digest of its problems, plan, options and seed if None, so that the same call goes
            on with the same study. Cuts that the study of this name does not have are added and marked exploratory.
        n: how many problems, drawn from the run without repetition; all if None.
        seed: of the draw of problems; the plan's if None.
        reasoner: the run's model, if it is loaded already.
        batch_size: problems that pass together at most; no number depends on it beyond rounding. `auto` is that of the
            study if it has been begun, else what fits into the memory of a GPU, and 32 elsewhere.
        max_new_tokens: the longest answer under a cut.
        margin: nats of log-probability; only of a mean effect shown to be nearer to 0 is "no effect" said.
        accuracy_margin: the same for accuracy, a share of problems.
        allow_failed: go on when a problem can't be run under a cut, and report the pair as failed; else stop there.
        force: replace a study of this name that is of other problems, another model or seed.
        engine: where batches are worked on; in this process if None.
        call: what the study's manifest says of who asked for this; this call if None.
        progress: called with a number of passes done: a problem under a cut, the baseline being one; a bar is shown if
            None.

    Returns:
        The effects Dataset (`thoughtlens.schema`), also in `RUN/studies/NAME/effects.zarr`; with `donor` (intervention,
        problem), the id of the problem whose values were put in place, "" where there is none or there are several;
        `exploratory` (intervention), bool; and the attribute `study`, its name.

    Raises:
        OptionError: a cut is not one of this model, two have the same label, or a margin is not above 0.
        CheckpointError: the model of the run is not there, or is another.
        RunError: a problem can't be run and that is not allowed; the study of this name is another, or was altered; or
            its folder can't be written, or another process writes it.

    Example:
        Cut one head, and look at what that costs the gold answer.

            effects = intervene(run, [ablate_head("L0H3")], study="first")
            effects.gold_logprob.sel(intervention="L0H3 resample").mean()
    """
    margins = {"margin": margin, "accuracy_margin": accuracy_margin}
    if not min(margins.values()) > 0.0:
        raise OptionError(
            f"found the margins {margin} nats and {accuracy_margin} of accuracy, expected numbers above 0; no interval "
            "lies inside a margin of 0."
        )
    model, plan, target, drawn = prepared(run, plan, n, seed, reasoner, batch_size, max_new_tokens=max_new_tokens)
    given = {"study": study, "n": n, "seed": seed, "batch_size": None if batch_size == AUTO else batch_size}
    asked = Manifest(
        finished=None,
        model=identity(model) | _other_rule(run, model),
        problems=digest_of([asdict(problem) for problem in target.problems]),
        n=len(target.problems),
        # Outcomes are kept batch by batch, so that the size of a batch is one of the options.
        options={
            "n_thoughts": target.n_thoughts,
            "batch_size": USUAL if batch_size == AUTO else batch_size,
            "donors": plan.donors,
            "holdout": plan.holdout,
            "holdout_seed": plan.holdout_seed,
            **({} if target.max_new_tokens == MAX_NEW_TOKENS else {"max_new_tokens": target.max_new_tokens}),
        },
        margins=margins,
        seed={"problems": drawn, "plan": plan.seed},
        plans=[_version(plan, call or call_of("intervene", **given))],
    )
    name = digest_of([asked.identity(), asked.plans[0].sha256])[:10] if study is None else study
    if file_name(name) != name:
        raise OptionError(
            f"a study is called {name!r}, expected at most 48 letters, digits, dots, dashes and underscores, no dot "
            "first or last; pass another --study."
        )
    n_choosing = len(target.choosing)
    asked_passes = plan.n_passes(len(target.problems) - n_choosing, n_choosing)
    folder = run.path / STUDIES / name
    with _writing(folder, part) as alone, told(progress, "intervene", asked_passes) as advance:
        with alone():
            if batch_size == AUTO:
                asked, target = _sized(folder, asked, target, model)
            plan = _open(folder, asked, plan, target, force=force)
            target = replace(target, folder=folder / OUTCOMES)
        make = partial(make_cuts, model, target, plan, allow_failed=allow_failed, engine=engine)
        rankings: dict[str, Sequence[str]] = dict(plan.rankings)
        chooses = [target.ids[place] for place in sorted(target.choosing)] or target.ids
        for by in plan.orders:
            if by != CAUSE and by not in rankings:
                rankings[by] = heads_by_attention(run, by, chooses)
        if part is not None:
            # What no other part has to be done for; values that edits need are measured while the others wait.
            cuts = (*plan.made, *plan.steps(rankings))
            sides = [(cuts, target.shards())]
            sides += [((*plan.single_heads.values(),), target.shards(choosing=True))] if plan.chooses else []
            for its, shards in sides:
                with alone():
                    make(its, [])
                make(its, part.of(shards), progress=advance)
            with alone():
                if left := [s for its, shards in sides for s in lacking(target, plan, its, shards, allow_failed)]:
                    log.info("%s: batches %s are not done yet", folder, part.others(left))
                    return None
        with alone():
            advanced = advance if part is None else lambda n_passes: None
            return _closed(run, folder, target, plan, rankings, partial(make, progress=advanced), margins)


intervene = alone(intervene_part)


@contextmanager
def _writing(folder: Path, part: Part | None) -> Iterator[Alone]:
    """Be the only process that writes a study, or the only one that does a part of it."""
    if part is not None:
        with one_of_writers(folder, part.name) as alone:
            yield alone
    else:
        with only_writer(folder):
            yield nullcontext


def _closed(
    run: Run,
    folder: Path,
    target: Target,
    plan: Plan,
    rankings: dict[str, Sequence[str]],
    make: Callable[[Sequence[Cut], Sequence[int]], None],
    margins: Mapping[str, float],
) -> xr.Dataset:
    """Make the cuts that are not made, put the outcomes together as the effects Dataset, and finish the study."""
    if plan.chooses:
        single = plan.single_heads
        make([*single.values()], target.shards(choosing=True))
        chosen = effects_of(run, target, Plan((*single.values(),), donors=plan.donors), (), choosing=True)
        rankings[CAUSE] = heads_by_cause(chosen, single)
    steps = plan.steps(rankings)
    make((*plan.made, *steps), target.shards())
    effects = effects_of(run, target, plan, steps)
    if CAUSE in plan.orders and CAUSE not in rankings:
        rankings[CAUSE] = heads_by_cause(effects, plan.single_heads)
        known, steps = steps, plan.steps(rankings)
        make([step for step in steps if step not in known], target.shards())
        effects = effects_of(run, target, plan, steps)
    effects = effects.assign_attrs(study=folder.name, **margins)
    with replacing_folder(folder / EFFECTS_STORE) as store:
        effects.to_zarr(store, zarr_format=3, consolidated=False)
    manifest = read_manifest(folder)
    finished = manifest.finished or now()
    write_json(folder / MANIFEST, manifest.model_copy(update={"finished": finished}).model_dump(), sealed=True)
    return effects


def studies(folder: Path) -> dict[str, Manifest]:
    """The manifests of a run's studies, by name.

    Args:
        folder: of the run.

    Returns:
        By name, sorted: `finished` (None while cuts are made), `n`, `seed`, `plans` and what else a manifest holds.

    Raises:
        RunError: a manifest can't be read.

    Example:
        Which studies of a run are finished?

            {name: study.finished for name, study in studies(run.path).items()}
    """
    found = {path.parent.name: read_manifest(path.parent) for path in folder.glob(f"{STUDIES}/*/{MANIFEST}")}
    return {name: found[name] for name in sorted(found)}


def prepared(
    run: Run,
    plan: Plan | Sequence[Cut],
    n: int | None,
    seed: int | None,
    reasoner: LatentReasoner | None,
    batch_size: BatchSize,
    *,
    ids: Sequence[str] = (),
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> tuple[LatentReasoner, Plan, Target, int]:
    """The model, the plan, its problems in batches of like length, and the seed of their draw; all checked."""
    if (protocol := run.manifest["options"].get("protocol", "exact")) != "exact":
        raise OptionError(f"{run.path} was made under {protocol}, and cuts are exact; extract it without --protocol.")
    model = reasoner_of(run.manifest) if reasoner is None else checked(run.manifest, reasoner)
    batch_size = USUAL if batch_size == AUTO else batch_size
    if batch_size < 1:
        raise OptionError(f"the batch size is {batch_size}, expected at least 1; pass another --batch-size.")
    plan = plan if isinstance(plan, Plan) else Plan(tuple(plan))
    drawn = plan.seed if seed is None else seed
    problems = run.problems(ids, n=n, seed=drawn)
    prompts = tuple(model.prompt(problem.question) for problem in problems)
    choosing = choosing_places(plan, [problem.id for problem in problems])
    grouped = _grouped(prompts, choosing, batch_size)
    shape = shape_of(run)._replace(groups=model.group_names)
    target = Target(run.path / STUDIES, problems, grouped, shape, prompts, choosing, max_new_tokens)
    check_plan([plan.of_donors(cut)[-1] for cut in plan.made], target)
    return model, plan, target, drawn


def _grouped(
    prompts: Sequence[Sequence[int]], choosing: Collection[int], batch_size: int, tokens: int = batches.TOKENS
) -> tuple[tuple[int, ...], ...]:
    """Batches of like length, each of problems of one side."""
    grouped: list[tuple[int, ...]] = []
    for side in ([*(place for place in range(len(prompts)) if place not in choosing)], sorted(choosing)):
        if side:
            lengths = [len(prompts[place]) for place in side]
            grouped += (tuple(side[place] for place in batch) for batch in batches.plan(lengths, batch_size, tokens))
    return tuple(grouped)


def _sized(folder: Path, asked: Manifest, target: Target, model: LatentReasoner) -> tuple[Manifest, Target]:
    """The study with batches as large as they were begun with, or as memory allows."""
    if (folder / MANIFEST).is_file():
        size = int(read_manifest(folder).options["batch_size"])
    else:
        longest = max(map(len, target.prompts), default=1)
        size = batches.fitting(model, longest, target.n_thoughts, target.max_new_tokens).batch_size
    sized = asked.model_copy(update={"options": asked.options | {"batch_size": size}})
    return sized, replace(target, batches=_grouped(target.prompts, target.choosing, size))


def choosing_places(plan: Plan, ids: Sequence[str]) -> frozenset[int]:
    """The places of the problems that choose and are not tested; none without `--holdout`."""
    if plan.holdout is None:
        return frozenset()
    tested = tested_half(ids, plan.holdout, plan.holdout_seed)
    if tested.all() or not tested.any():
        raise OptionError(
            f"with --holdout {plan.holdout:g} and --holdout-seed {plan.holdout_seed} {int(tested.sum())} of "
            f"{len(ids)} problems are tested, expected some but not all; study more problems."
        )
    return frozenset(np.flatnonzero(~tested).tolist())


def _version(plan: Plan, call: str) -> Written:
    digest = hashlib.sha256(_text(plan).encode()).hexdigest()
    return Written(date=now(), call=call, versions=versions(), controls=dict(plan.controlled), sha256=digest)


def _text(plan: Plan) -> str:
    return json.dumps(plan.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _other_rule(run: Run, model: LatentReasoner) -> dict[str, str]:
    """The answer rule, where it is not that of the run."""
    rule = model.answer_rule.name
    return {} if rule == run.manifest["options"].get("answer_rule", rule) else {"answer_rule": rule}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a study; `RunError` if it can't be read."""
    remedy = "delete the folder, or name another with --study"
    path = folder / MANIFEST
    found = as_model(path, read_json(path, remedy=remedy), Manifest, remedy=remedy)
    check_seal(path, remedy=remedy)
    return found


def _open(folder: Path, asked: Manifest, plan: Plan, target: Target, *, force: bool) -> Plan:
    """Begin a study, or find it and add to its plan the cuts that it does not have; give the whole plan."""
    found = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    if found is not None and (fault := _fault(folder, found, asked)):
        if not force:
            raise RunError(f"{fault}, name another with --study, or replace it with --force.")
        for path in folder.iterdir():
            if not path.name.startswith(LOCK):
                rmtree(path) if path.is_dir() else path.unlink()
        found = None
    if found is None:
        # The manifest last: a plan without one has not been begun.
        _write_plan(folder, plan)
        write_json(folder / MANIFEST, asked.model_dump(), sealed=True)
        return plan
    known = plan_from_json(read_json(folder / PLAN, remedy="put it back, or name another study with --study"))
    whole = known.extended(plan)
    if whole != known:
        check_plan(whole.made, target)
        # The manifest first: a plan that it does not name would count as altered.
        plans = [*found.plans, _version(whole, asked.plans[0].call)]
        grown = found.model_copy(update={"finished": None, "plans": plans})
        write_json(folder / MANIFEST, grown.model_dump(), sealed=True)
        _write_plan(folder, whole)
    return whole


def _fault(folder: Path, found: Manifest, asked: Manifest) -> str | None:
    """Why the study in a folder is not the one that is asked for."""
    if differing := differences(found.identity(), asked.identity()):
        return f"{folder} is another study: {'; '.join(differing)}; ask for the same"
    if fingerprint(folder / PLAN) not in {written.sha256 for written in found.plans}:
        return f"{folder / PLAN} is missing or altered, expected the plan that the study was begun with; put it back"
    return None


def _write_plan(folder: Path, plan: Plan) -> None:
    with replacing(folder / PLAN) as file:
        file.write(_text(plan))


def make_cuts(
    reasoner: LatentReasoner,
    target: Target,
    plan: Plan,
    cuts: Sequence[Cut],
    shards: Sequence[int],
    *,
    allow_failed: bool = False,
    engine: Engine | None = None,
    progress: Progress = lambda n_passes: None,
) -> None:
    """Measure the values that edits put in place, unless they are known; then make the cuts that are not known."""
    check_plan(cuts, target)
    target.folder.mkdir(exist_ok=True)
    if needing := [part for cut in cuts for part in cut.parts if isinstance(part.edit, Drawn)]:
        known = read_values(target.folder, target.pool)
        if lacks(known, needing):
            # What is known already stays: other cuts of the study may need it.
            both = [*needing, *(part for cut in plan.made for part in cut.parts if isinstance(part.edit, Drawn))]
            write_values(target.folder, record_values(reasoner, target, both))
    where = engine or Local()
    copies = tuple(one for cut in cuts for one in plan.of_donors(cut))
    job = CutJob(loader_for(where, reasoner), target, copies, allow_failed)
    todo = [shard for shard in shards if job.missing(shard)]
    progress(sum(job.n_problems(shard) for shard in shards if shard not in todo))
    where.run(job, todo, progress)


def lacking(target: Target, plan: Plan, cuts: Sequence[Cut], shards: Sequence[int], allow_failed: bool) -> list[int]:
    """The batches in which a cut of these is not made yet."""
    copies = tuple(one for cut in cuts for one in plan.of_donors(cut))
    job = CutJob(_no_model, target, copies, allow_failed)
    return [shard for shard in shards if job.missing(shard)]


def _no_model() -> LatentReasoner:
    raise AssertionError("no cut is made")


def effects_of(run: Run, target: Target, plan: Plan, steps: Sequence[Cut], *, choosing: bool = False) -> xr.Dataset:
    """The effects of a plan's cuts and of the steps of its orders on the problems of one side, from the disk."""
    cuts, parts = (*plan.made, *steps), []
    shards = target.shards(choosing=choosing)
    for shard in shards:
        rows, outcomes = read_outcomes(target, shard)
        means = [outcomes.at([rows[BASELINE_KEY]])]
        for cut in cuts:
            means.append(outcomes.at([rows[key_of(one)] for one in plan.of_donors(cut)]).mean())
        parts.append(joined(means, 0))
    places = np.concatenate([target.batches[shard] for shard in shards])
    found = variables_of(joined(parts, 1).at((slice(None), np.argsort(places))))
    ids = [target.ids[place] for place in np.sort(places)]
    donor = [
        [""] * len(ids),
        *([named[place] for place in np.sort(places)] for named in (donor_ids(cut, target) for cut in cuts)),
    ]
    options, kinds = run.manifest["options"], plan.kinds
    about = {"holdout": plan.holdout, "holdout_seed": plan.holdout_seed, "n_choosing": len(target.choosing)}
    effects = effects_dataset(
        {**found, "donor": donor},
        labels=[BASELINE, *(cut.label for cut in cuts)],
        kinds=["baseline", *(kinds[cut.label] for cut in plan.made), *["order"] * len(steps)],
        specs=[BASELINE_KEY, *(json.dumps(cut.spec(), ensure_ascii=False) for cut in cuts)],
        problem_ids=ids,
        n_steps=[target.pool.n_steps[place] for place in np.sort(places)],
        addresses=[{}, *map(address_of, cuts)],
        controls={label: [control.label for control in its] for label, its in plan.controls.items()},
        attrs={
            "model": json.dumps(options["model"]),
            "problems": json.dumps(options["problems"]),
            "n_thoughts": target.n_thoughts,
            "variants": json.dumps(
                {label: {name: cut.label for name, cut in its.items()} for label, its in plan.variants.items()},
                ensure_ascii=False,
            ),
            "donors": plan.donors,
            "donor_rule": _donor_rule(plan, target),
            **({} if plan.holdout is None else about),
        },
    )
    exploratory = [False, *(cut.label in plan.exploratory for cut in cuts)]
    return check_effects(effects.assign(exploratory=("intervention", exploratory)))


def _donor_rule(plan: Plan, target: Target) -> str:
    """Whose values the plan's cuts put in place; "" where they put nobody's."""
    edits = [part.edit for cut in plan.made for part in cut.parts if isinstance(part.edit, Resample)]
    return donor_rule(target.pool, edits[0].seed, plan.donors) if edits else ""


def donor_ids(cut: Cut, target: Target) -> list[str]:
    """Whose values a cut puts in place in each problem, the first donor; "" where they are nobody's, or mixed."""
    edits = {part.edit for part in cut.parts if not isinstance(part.edit, Own)}
    edit = edits.pop() if edits else None
    if edits or not isinstance(edit, Donor | Resample):
        return [""] * len(target.ids)
    if isinstance(edit, Donor):
        return [edit.problem] * len(target.ids)
    return [target.ids[place] for place in target.pool.donors(edit.seed, edit.rank).tolist()]
