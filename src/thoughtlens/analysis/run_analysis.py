"""The analysis of a run: moments, composition, preferences, evidence, heads, rollout, accuracy, with n and intervals.

In: a run, an attention Dataset or its blocks. Out: an `Analysis`. A run's is saved in its folder (see `archive`).

1. One pass over the problems gives sums over them, under all weights at once (`resampled_sums`). Groups of the problems
   are added up in the same pass; null models are read after, each by itself.
2. Preferences and importances are functions of those sums: the estimate is resample 0, its interval the others. One set
   of resamples serves all numbers. Layers and the model are sums over heads, not means of ratios.
3. Whether there is a hub, for heads, layers and the model, is the answer of one test (`hubs.hub_tests`).
4. With a held-out share, some of the problems choose (the thought that is tested as the hub, the most preferred thought
   of each head, the order of heads) and the others are tested: all numbers, intervals and p-values are of these alone.

Attention is correlational: nothing here says what a head does.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.archive import FOLDER, FORMAT, check_name, check_replaceable, open_same, open_saved, save
from thoughtlens.analysis.attention_evidence import Levels, beyond_nulls, evidence_of_levels, null_values
from thoughtlens.analysis.attention_measures import (
    bare_preferences,
    concatenated,
    mean_entropy,
    preference_sums,
    reached,
    readout,
)
from thoughtlens.analysis.comparison import Comparison, compare_groups, enough, group_seed
from thoughtlens.analysis.comparison_statistics import collect_depth_sums, join_problems
from thoughtlens.analysis.heads import most_preferred, rank_heads, reliability, with_importance
from thoughtlens.analysis.hubs import hub_tests, row_sums
from thoughtlens.analysis.intervals import (
    CHUNK_CELLS,
    CONFIDENCE,
    bare_intervals,
    exact_labels,
    interval,
    proportion_interval,
    with_labels,
)
from thoughtlens.analysis.nulls import position_effects
from thoughtlens.analysis.resampled_sums import Sums, Totals, Variables, parts
from thoughtlens.analysis.streamed_attention import (
    WEIGHTS,
    Blocks,
    StoredRun,
    check_pattern,
    in_pieces,
    partial_moments,
    patterned,
)
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, digest_of
from thoughtlens.notation import ANSWER, EOT, text, thought_names
from thoughtlens.schema import tested_half

BY: Final = ("correct", "n_steps")
"""What the problems of a run can be grouped by."""

_DEFAULTS: Final[Json] = {
    "pattern": WEIGHTS, "by": [], "null": [], "holdout": None, "n_resamples": 1000, "seed": 0
}  # fmt: skip


class Analysis(NamedTuple):
    """What `analyze` returns; `value` is estimate, low, high, and every Dataset carries `n`.

    The Datasets of preferences hold, for … the dims named below, `preference` (…, thought, value), `lag_preference`
    (…, lag, value), `entropy` (…, query, value), `sequential`, `skip`, `thought_mass`, `importance` and
    `largest_preference` (…, value), the preference H for the most preferred thought, whose name is `preferred` (…).
    Whether that is a hub says the test alone: `hub` (…) is the hub's name, "" where there is none or it is undefined,
    and `hub_strength` and `hub_p` (…) are the strength and the corrected p-value that decide (see `hub_test`).
    `hub_strength_null`, `largest_preference_null` and `importance_null` (…) are what chance makes of these. Where some
    problems chose and others were tested, `holdout`, `holdout_seed` and `n_choosing` are attributes; of a run also
    `model` and `problems`, the names of both.
    """

    moments: xr.Dataset
    """mean, sd (layer, head, query, key); n (layer, head, query)"""
    composition: xr.Dataset
    """composition (query, part, value), over layers and heads; n (query)"""
    readout: xr.Dataset
    """readout (query, thought, value): share of `eot` and `answer` over thoughts; n (query)"""
    model: xr.Dataset
    """preferences, no further dims"""
    layers: xr.Dataset
    """preferences (layer)"""
    heads: xr.Dataset
    """preferences (layer, head)"""
    ranking: xr.Dataset
    """`heads` along `rank` (1, 2, …) by importance, with `layer`, `head`, `name` (such as L2H3) and `type` of each;
    `reliability`, `top_overlap` and `top_overlap_by_chance` of the ranking and `n_ranked`, its problems, scalars"""
    evidence: xr.Dataset
    """excess (layer, head, measure, value), p, q, p_familywise, p_type, q_type (layer, head, measure), type (layer,
    head); `strongest`, the thought whose excess, p and q are those of the measure `hub`, and `hub`, the same where it
    is one"""
    layer_evidence: xr.Dataset
    """the same of the mean head of each layer, without types; q and p_familywise over layers"""
    model_evidence: xr.Dataset
    """the same of the mean head of the model: q and p_familywise are p"""
    hubs: xr.Dataset
    """`hub_test`: hub, strongest, strength, p, p_corrected (layer, head), …"""
    accuracy: xr.Dataset
    """accuracy (value), Wilson interval; n"""
    rollout: xr.Dataset
    """rollout (query, key, value), the mean over problems of `rollout`; n (query), the problems with that row; and
    `reached` (query), how much of the row reaches earlier thoughts at most"""
    last_thought: xr.Dataset
    """share (thought, value): how the last thought shares out what it gives to earlier ones, over layers and heads; its
    attribute `null` is an even share, 1/(T − 1); n"""
    position_null: xr.Dataset
    """effect (key, value) of each thought given row and lag, p (key); n (see `key_effects`)"""
    groups: dict[str, Comparison]
    """by what the problems were grouped, the groups side by side"""
    parts: dict[str, dict[str, "Analysis"]]
    """by what, and by group, the analysis of the problems of that group alone; of groups of two problems or more"""
    over_null: Levels | None
    """evidence of what the run has beyond its null models"""
    options: Json
    """`pattern`, `by`, `null`, `holdout` (its `share` and `seed`, or None), `n_resamples`, `seed`, and the `name` that
    it is saved under or None"""

    def __repr__(self) -> str:
        sizes, n = self.heads.sizes, int(self.model["n"])
        return (
            f"<Analysis of {n:,} problems: {sizes['layer']} layers × {sizes['head']} heads, "
            f"{sizes['thought']} thoughts; Datasets: {', '.join(self._fields[:-4])}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        import thoughtlens  # the package's face, as from outside: reports are above this and slow to import

        return thoughtlens.reports.notebook_view(self)


_CLASSES: Final = (Analysis, Comparison, Levels)
"""What a saved analysis is made of."""


def analyze(
    run: StoredRun | Blocks,
    *,
    correct: npt.ArrayLike | None = None,
    pattern: str = WEIGHTS,
    by: str | Iterable[str] = (),
    null: Sequence[StoredRun | Blocks] = (),
    holdout: float | None = None,
    holdout_seed: int = 0,
    n_resamples: int = 1000,
    seed: int = 0,
    name: str | None = None,
    force: bool = False,
) -> Analysis:
    """Summarise where a run's thoughts look, in one pass over its problems.

    An analysis of a run is saved in its folder. Where one with the same options is saved there, of the run as it is, it
    is opened instead.

    Args:
        run: a run; or an attention Dataset; or its problems block by block, in any cut.
        correct: bool, one a problem, in order; needed with blocks alone, a run and a Dataset have it.
        pattern: `attention`, or `value-weighted` where that was recorded.
        by: also analyse groups of the problems, by `correct` or (of a run) `n_steps`, and compare the groups.
        null: also say what is beyond these runs (or Datasets, or blocks) of the same architecture with random weights,
            on the run's problems or some of them; twenty or more, such as `random_weight_runs` makes.
        holdout: the share of the problems that is tested, between 0 and 1; the others choose hubs, most preferred
            thoughts and the order of heads, so that no number comes from problems that chose it. If None, all do both.
            Null models choose nothing for the run: they count with all their problems.
        holdout_seed: with the id of a problem it decides on which side that is (see `schema.tested_half`).
        n_resamples: bootstrap resamples of the problems; where a run kept sums, of the blocks of problems.
        seed: same seed, same intervals and p-values, however the run is cut into blocks.
        name: of a run: save it as `RUN/analysis/NAME`; if None, in `RUN/analysis` with the default options, and under a
            digest of the options with others.
        force: replace an analysis of other options that has this name.

    Returns:
        Labelled Datasets, see `Analysis`. Intervals are 95 % and over problems; where a run kept sums they are over
        blocks of problems, and the attribute `n_blocks` says how many.

    Raises:
        OptionError: an unknown pattern, grouping or name, no `correct`, or a held-out share that leaves either side
            fewer than two problems.
        RunError: the run does not hold what is asked for, the null run is none of this run, or the name is taken.

    Example:
        >>> import numpy as np
        >>> from thoughtlens.schema import attention_dataset
        >>> rows = np.tri(9, 11, k=2)
        >>> rows[4:7, 4] = 9.0  # z4, z5 and z6 prefer z2
        >>> rows = np.tile(rows / rows.sum(-1, keepdims=True), (50, 1, 1, 1, 1))
        >>> ids = [f"p{i}" for i in range(50)]
        >>> found = analyze(attention_dataset(rows, problem_ids=ids, correct=[True] * 50, n_question_tokens=[9] * 50))
        >>> found.model.hub.item(), found.heads.sel(layer=0, head=0).hub.item()
        ('z2', 'z2')

    See also `preferences` for H, `hub_test` for hubs, `rank_heads` for importance and `head_types` for types.
    """
    by = tuple(dict.fromkeys([by] if isinstance(by, str) else by))
    for what in by:
        if what not in BY:
            raise OptionError(f"no grouping {what!r}, expected {' or '.join(BY)}; choose one.")
    options: Json = {
        "pattern": check_pattern(pattern), "by": list(by), "null": [_told(each) for each in null],
        "holdout": None if holdout is None else {"share": holdout, "seed": holdout_seed},
        "n_resamples": n_resamples, "seed": seed,
    }  # fmt: skip
    if isinstance(run, StoredRun):
        return _analyze_run(run, null, options, name, force=force)
    if name is not None:
        raise OptionError(f"found the name {name!r} for an analysis of a Dataset, which is not saved; leave it out.")
    if correct is None and not isinstance(run, xr.Dataset):
        raise OptionError("found blocks of problems without `correct`; pass one bool a problem, or a Dataset or a run.")
    right = np.asarray(run["correct"] if correct is None else correct, dtype=bool)
    tested = None
    if holdout is not None:
        if not isinstance(run, xr.Dataset):
            raise OptionError("found --holdout of blocks, whose problems aren't known before; pass a Dataset or a run.")
        tested = _halves([str(name) for name in run["problem"].values], holdout, holdout_seed)
    groups = {what: _groups(what, right, None) for what in by}
    return _analyze(patterned(run, pattern), null, right, groups, options, tested=tested)


def open_analysis(run: StoredRun, name: str | None = None) -> Analysis:
    """An analysis that was saved in a run's folder, without computing anything.

    Args:
        run: the run.
        name: of the analysis; None for that with the default options.

    Returns:
        As `analyze` returned it.

    Raises:
        RunError: there is no such analysis, or the run has changed since.

    Example:
        `open_analysis(tl.open_run("runs/first")).heads["hub"]`
    """
    found: Analysis = open_saved(run, name, *_CLASSES)
    return found


def collect_sums(blocks: Blocks, *, over: tuple[str, ...] = ("layer", "head")) -> xr.Dataset:
    """`preference_sums` of every problem, added up over these dims: dims (problem, …)."""
    found = (preference_sums(piece["attention"]) for piece in in_pieces(blocks))
    return join_problems([sums.sum(list(over), skipna=False) for sums in found])


def _analyze_run(
    run: StoredRun, null: Sequence[StoredRun | Blocks], options: Json, name: str | None, *, force: bool
) -> Analysis:
    check_name(name)
    if not run.manifest["layout"]["n_thoughts"]:
        raise RunError(
            f"{run.path} holds no thoughts, expected a run in the mode latent; extract it with --mode latent."
        )
    if options["by"]:
        run.require_attention()
    stored = [each for each in null if isinstance(each, StoredRun)]
    check_nulls(run, stored)
    correct = run.correct()
    groups = {what: _groups(what, correct, run) for what in options["by"]}
    if name is None and options != _DEFAULTS:
        name = digest_of(options)[:8]
    kept = run.keeps_means and options["pattern"] == WEIGHTS
    asked = run.manifest.get("options", {})
    names = {what: str(asked[what]["name"]) for what in ("model", "problems") if asked.get(what, {}).get("name")}
    tested = tested_rows = None
    if holdout := options["holdout"]:
        tested = _halves([str(problem.id) for problem in run.problems()], holdout["share"], holdout["seed"])
        tested_rows = _kept_halves(run, tested) if kept else None

    nulls = [digest_of(each.manifest) for each in stored]
    folder, about = run.path / FOLDER / (name or ""), {"format": FORMAT, "run": digest_of(run.manifest), "null": nulls}
    about["options"] = options
    # A null Dataset can't be told from another one.
    if len(stored) == len(null) and (found := open_same(folder, about, *_CLASSES)) is not None:
        return found  # type: ignore[no-any-return]  # of the class that was saved
    check_replaceable(folder, about, force=force)
    n_blocks = int(run.manifest["layout"]["n_blocks"]) if kept else None
    made = _analyze(
        _read(run, options["pattern"]),
        null,
        correct,
        groups,
        options,
        tested=tested,
        tested_rows=tested_rows,
        n_blocks=n_blocks,
        names=names,
    )
    made.options["name"] = name
    save(folder, made, about)
    return made


def _halves(ids: Sequence[str], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which problems are tested; `OptionError` where a side has fewer than two."""
    tested = tested_half(ids, share, seed)
    if min(tested.sum(), (~tested).sum()) < 2:
        raise OptionError(
            f"--holdout {share:g} leaves {tested.sum()} of {len(tested)} problems to be tested and {(~tested).sum()} "
            "to choose, expected two or more of each; take more problems, or leave it out."
        )
    return tested


def _kept_halves(run: StoredRun, tested: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which blocks of a run that kept sums are tested; `RunError` where what is kept together is of both halves."""
    layout, blocks = run.manifest["layout"], run.kept_blocks()
    # Moments and what the hub test takes are kept by shard, and everything else by block.
    shards = blocks // int(layout["shard_size"])
    mixed = [shard for shard in np.unique(shards) if len(set(tested[shards == shard])) > 1]
    if mixed:
        raise RunError(
            f"{run.path} was made with --keep mean, and {len(mixed)} of {shards.max() + 1} sums that it keeps are of "
            "both halves of the problems, expected none; extract it anew with --keep raw, or leave --holdout out."
        )
    found = np.zeros(int(layout["n_blocks"]), dtype=bool)
    found[blocks] = tested
    return found


def _read(run: StoredRun | Blocks, pattern: str) -> Iterable[xr.Dataset]:
    """The problems of a run block by block, or the sums that it kept in their place."""
    return (
        run.sums() if isinstance(run, StoredRun) and run.keeps_means and pattern == WEIGHTS else patterned(run, pattern)
    )


def check_nulls(run: StoredRun, nulls: Sequence[StoredRun]) -> None:
    """Raise `RunError` where a run can't be a null of another: same weights, other architecture or problems."""
    if not nulls:
        return
    seen = {_weights(run): run.path}
    problems = {(problem.id, problem.question) for problem in run.problems()}
    for null in nulls:
        if (weights := _weights(null)) in seen:
            raise RunError(
                f"{null.path} has the weights of {seen[weights]}, which leaves nothing beyond it; make a null run with "
                "`thoughtlens extract --random-weights 0`, or several with --null-draws 20."
            )
        seen[weights] = null.path
        one, other = _facts(run), _facts(null)
        apart = [f"{name} {other[name]} and not {one[name]}" for name in one if one[name] != other[name]]
        strange = sum((problem.id, problem.question) not in problems for problem in null.problems())
        if apart or strange:
            told = "; ".join([*apart, *([f"{strange} problems that the run has not"] if strange else [])])
            raise RunError(
                f"{null.path} can't be the null of {run.path}: it has {told}; make one from the same model and "
                "problems with `thoughtlens extract --random-weights 0`, or several with --null-draws 20."
            )


def _weights(run: StoredRun) -> str:
    return str(run.manifest["options"]["model"]["sha256"])


def _facts(run: StoredRun) -> Json:
    layout, model = run.manifest["layout"], run.manifest["options"]["model"]
    sizes = {name.removeprefix("n_"): layout[name] for name in ("n_layers", "n_heads", "n_thoughts")}
    return {"architecture": model.get("architecture"), **sizes}


def _told(null: StoredRun | Blocks) -> Json:
    """What an analysis remembers of a null run."""
    if isinstance(null, StoredRun):
        return {"run": str(null.path), "model": null.manifest["options"]["model"]}
    return {"run": None, "model": {"name": "a null run"}}


def _groups(by: str, correct: npt.NDArray[np.bool_], run: StoredRun | None) -> dict[str, npt.NDArray[np.bool_]]:
    """Which problems belong to which group: bool for each problem, by the group's name."""
    if by == "correct":
        return {"solved": correct, "failed": ~correct}
    if run is None:
        raise OptionError("found the grouping 'n_steps' of a Dataset, which knows no steps; pass the run, or correct.")
    counts = np.array([len(problem.steps) for problem in run.problems()])
    if not counts.any():
        raise RunError(f"the problems of {run.path} have no steps, so that n_steps groups nothing; use --by correct.")
    return {str(count): counts == count for count in np.unique(counts[counts > 0])}


@exact_labels()
def _analyze(
    blocks: Iterable[xr.Dataset],
    null: Sequence[StoredRun | Blocks],
    correct: npt.NDArray[np.bool_],
    groups: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]],
    options: Json,
    *,
    tested: npt.NDArray[np.bool_] | None = None,
    tested_rows: npt.NDArray[np.bool_] | None = None,
    n_blocks: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Analysis:
    """The whole and each group of the problems in one pass, and what is beyond the null models.

    `tested` are the problems that others choose for; `tested_rows` are the blocks of these where sums were kept.
    `names` has the names of the model and the problem set.
    """
    draws = {name: options[name] for name in ("n_resamples", "seed")}
    if tested is None:
        tested = np.ones(len(correct), dtype=bool)
    rows = tested if n_blocks is None else np.ones(n_blocks, dtype=bool) if tested_rows is None else tested_rows
    whole = _Sides(rows, ~rows, draws)
    members = {
        (by, name): _Sides(of & tested, of & ~tested, {**draws, "seed": group_seed(draws["seed"], place)})
        for by, named in groups.items()
        for place, (name, of) in enumerate(enough({name: of & tested for name, of in named.items()}).items())
        if options["holdout"] is None or (of & ~tested).sum() > 1
    }
    depth_sums, start = [], 0
    for part in (part for block in blocks for part in parts(block)):
        own, n_read = part[0], part[1].sizes["problem"]
        for sides in (whole, *members.values()):
            sides.add(start, *part)
        here = np.flatnonzero(tested[start : start + n_read])
        if groups and own is not None and here.size:
            depth_sums.append(collect_depth_sums(own.isel(problem=here)))
        start += n_read
    attributes = {**draws, **(names or {}), **({} if n_blocks is None else {"n_blocks": n_blocks})}
    if held := options["holdout"]:
        attributes = {**attributes, "holdout": held["share"], "holdout_seed": held["seed"]}
    found = _summarise(*whole.totals(), correct, tested, {**options, "name": None}, attributes)
    if null:
        values = [null_values(_read(each, options["pattern"])) for each in null]
        levels = beyond_nulls(Levels(found.evidence, found.layer_evidence, found.model_evidence), values)
        n = int(tested.sum())
        found = found._replace(over_null=Levels(*(level.assign(n=n).assign_attrs(attributes) for level in levels)))
    for (by, name), sides in members.items():
        alone = {**options, **sides.draws, "by": [], "null": [], "name": None}
        of, its = groups[by][name], {**attributes, **sides.draws}
        if "problems" in its:
            its["problems"] += f", {name}" if by == "correct" else f", {name} steps"
        made = _summarise(*sides.totals(), correct[of], tested[of], alone, its)
        found.parts.setdefault(by, {})[name] = made
    for by, named in groups.items():
        types = {name: of.evidence["type"] for name, of in found.parts.setdefault(by, {}).items()}
        of_tested = {name: of[tested] for name, of in named.items()}
        sums = join_problems(depth_sums)
        grouped = compare_groups(sums, of_tested, correct=correct[tested], head_types=types, **draws)
        without = int((~np.any(list(of_tested.values()), axis=0)).sum())
        notes = (f"{without} problems have no steps and are in no group.",) if without else ()
        found.groups[by] = grouped._replace(notes=(*notes, *grouped.notes))
    return found


class _Sides:
    """The sums of what is tested, problems or blocks of them, and of what chooses, if the two are not the same."""

    def __init__(self, tested: npt.NDArray[np.bool_], choosing: npt.NDArray[np.bool_], draws: Json) -> None:
        self.draws = draws
        self._sums = [(tested, Sums(int(tested.sum()), **draws))]
        if choosing.any():
            # What chooses needs no interval.
            self._sums.append((choosing, Sums(int(choosing.sum()), n_resamples=1, seed=draws["seed"])))

    def add(self, start: int, own: xr.Dataset | None, sums: xr.Dataset, moments: xr.Dataset, rows: xr.Dataset) -> None:
        """Add what `parts` gives of the problems (or blocks) from place `start`."""
        for members, added in self._sums:
            here = members[start : start + sums.sizes["problem"]]
            if here.all():
                added.add(sums, moments, rows)
            elif here.any():
                assert own is not None, "sums that were kept together are of one half"
                chosen = own["attention"].isel(problem=np.flatnonzero(here))
                added.add(sums.isel(problem=np.flatnonzero(here)), partial_moments(chosen), row_sums(chosen))

    def totals(self) -> tuple[Totals, Totals]:
        """Of what is tested and of what chooses."""
        found = [sums.total() for _, sums in self._sums]
        return found[0], found[-1]


def _summarise(
    totals: Totals,
    choosing: Totals,
    correct: npt.NDArray[np.bool_],
    tested: npt.NDArray[np.bool_],
    options: Json,
    attributes: Json,
) -> Analysis:
    """The analysis of problems that have been added up; `attributes` are those of every Dataset with intervals.

    `choosing` are the sums of the problems that are not `tested`, or those of all problems again, which then do both.
    """
    n, sums, seed = int(tested.sum()), totals.sums, int(attributes["seed"])
    attributes = {**attributes, "confidence": CONFIDENCE}
    if choosing is not totals:
        attributes["n_choosing"] = int((~tested).sum())
    names = [str(name) for name, of in sums.data_vars.items() if "head" in of.dims and name != "places"]
    head_sums = {name: sums.variables[name] for name in names}
    choice = {name: choosing.sums.variables[name][:1] for name in names}
    hubs = hub_tests(totals.rows, chosen=None if choosing is totals else choosing.rows, seed=seed)
    over_heads = (
        _preferences(*({name: of.sum(dims, skipna=False) for name, of in part.items()} for part in (head_sums, choice)))
        for dims in ("head", ("layer", "head"))
    )
    levels = (_by_layer(head_sums, choice), *over_heads)
    heads, layers, model = (
        with_labels({**_with_hubs(level, tested_hubs), "n": xr.Variable((), n)}, sums.coords).assign_attrs(attributes)
        for level, tested_hubs in zip(levels, hubs, strict=True)
    )
    evidence = evidence_of_levels(totals.excess, totals.powers, hubs, sums.sizes["query"])
    trust = reliability(choosing.halves[names], choosing.sums[names].isel(resample=0))
    by = xr.Dataset(with_importance(bare_preferences(choice))).isel(resample=0)
    ranking = rank_heads(heads.assign(type=evidence.heads["type"]), by=by).assign(
        {**trust.data_vars, "n_ranked": attributes.get("n_choosing", n)}
    )
    n_rows = sums["row_exists"].rename(row="query")
    read = _ratio("readout", readout(sums["readout"].rename(readout_row="query")), n_rows.sel(query=[EOT, ANSWER]))
    given = sums["last_thought"].rename(earlier="thought")
    mass = given.sum("thought")
    last = interval(given / mass.where(mass != 0.0)).assign_attrs(null=1.0 / max(1, given.sizes["thought"]))
    composition = sums["composition"].rename(row="query") / n_rows.where(n_rows > 0)
    n_rolled = sums["rollout_exists"].rename(row="query")
    rolled = sums["rollout"].rename(row="query", column="key") / n_rolled.where(n_rolled > 0)
    return Analysis(
        moments=totals.moments,
        composition=_ratio("composition", composition, n_rows).assign_attrs(attributes),
        readout=read.assign_attrs(attributes),
        model=model,
        layers=layers,
        heads=heads,
        ranking=ranking,
        evidence=evidence.heads.assign(n=n).assign_attrs(attributes),
        layer_evidence=evidence.layers.assign(n=n).assign_attrs(attributes),
        model_evidence=evidence.model.assign(n=n).assign_attrs(attributes),
        hubs=hubs[0].assign(n=n),
        accuracy=xr.Dataset({"accuracy": proportion_interval(int(correct[tested].sum()), n), "n": n}),
        rollout=_ratio("rollout", rolled, n_rolled).assign(reached=reached(rolled.isel(resample=0, drop=True))),
        last_thought=xr.Dataset({"share": last, "n": n}),
        position_null=position_effects(sums["cells"] / sums["n"], int(totals.powers["n_rows"])).assign(n=n),
        groups={},
        parts={},
        over_null=None,
        options=options,
    )


def _ratio(name: str, samples: xr.DataArray, n_rows: xr.DataArray) -> xr.Dataset:
    """A number of each row with its interval, and of how many problems it is."""
    return xr.Dataset({name: interval(samples), "n": n_rows.isel(resample=0).astype(np.int64)})


def _by_layer(sums: Variables, choice: Variables) -> Variables:
    # A few layers at a time: the resampled preferences of all heads at once would be as large as the sums.
    n_layers = sums["mass"].sizes["layer"]
    step = max(1, CHUNK_CELLS * n_layers // sum(of.size for of in sums.values()))
    some_layers = [
        _preferences(*({name: of.isel(layer=part) for name, of in all_layers.items()} for all_layers in (sums, choice)))
        for part in (slice(start, start + step) for start in range(0, n_layers, step))
    ]
    return {name: concatenated((of[name] for of in some_layers), "layer") for name in some_layers[0]}


def _preferences(sums: Variables, choice: Variables) -> Variables:
    """Preferences, entropy and importance with intervals, from the sums of every resample.

    The most preferred thought is that in the `choice`, sums of resample 0 of the problems that choose.
    """
    samples = {**bare_preferences(sums), "entropy": mean_entropy(sums)}
    chosen = bare_preferences(choice)["preference"].isel(resample=0)
    place = most_preferred(chosen)
    thoughts = text(thought_names(chosen.sizes["thought"]))
    names = np.where(chosen.notnull().any("thought"), thoughts[place.values], "")
    return bare_intervals(with_importance(samples, place)) | {"preferred": xr.Variable(place.dims, text(names))}


def _with_hubs(level: Variables, hubs: xr.Dataset) -> Variables:
    """Preferences of heads, layers or the model with their hubs, and what chance makes of the largest of them."""
    by_chance = hubs.variables["preference_null"]
    return {
        **level,
        "hub": hubs.variables["hub"],
        "hub_strength": hubs.variables["strength"],
        "hub_p": hubs.variables["p_corrected"],
        "hub_strength_null": hubs.variables["strength_null"],
        "largest_preference_null": by_chance,
        "importance_null": level["thought_mass"].isel(value=0) * (by_chance - 1.0),
    }
