"""Models, recipes, or groups of one run's problems, compared: where they attend, by depth, and how well they do.

In: runs by name, recipes with the runs of their seeds, or the sums of one run and its groups of problems. Out: a
`Comparison`, along `model`, `recipe` or `group`.

1. Models are compared on the problems that they have in common. With two or more of these, differences are paired; with
   fewer, each model keeps its own problems and differences are unpaired. Each model is compared with the first.
2. Groups are of different problems, since a model meets every problem once: each is resampled by itself, and each is
   compared with every earlier one. A group of fewer than two problems can't be resampled and is left out. Groups made
   by what the model did (solved, failed) are no experiment, and neither are others.
3. Two models are two models: their difference holds for their weights. A *recipe* is what makes models, one a seed.
   With three seeds or more on either side, intervals are t intervals over the seeds' means and differences Welch's, so
   that problems are nested in seeds; with fewer, both are over problems, of the mean over seeds.
4. Attention is compared over all layers and by relative depth, so that models of different depth can be compared.
5. Models with the same numbers of layers and heads have the profiles of their heads correlated by rank.

What was left out is said in `Comparison.notes`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.comparison_sides import (
    CORRECTIONS,
    ENOUGH_SEEDS,
    ComparableRun,
    Side,
    Subject,
    check_replicates,
    common_problems,
    halves,
    head_types_of,
    held_out_note,
    note_on_seeds,
    notes_on,
    notes_on_groups,
    read_subject,
    subject_of,
)
from thoughtlens.analysis.comparison_statistics import (
    DEPTHS,
    Ratios,
    as_ratios,
    flipped_p,
    layers_by_depth,
    mean_linearised,
    mean_of_models,
    measured,
    over_models,
    paired_difference,
    resampled,
    stack,
    unpaired_difference,
    welch,
    with_intervals,
)
from thoughtlens.analysis.heads import TYPES
from thoughtlens.analysis.intervals import CONFIDENCE, exact_labels, resample_weights, spearman
from thoughtlens.analysis.significance import sign_flips
from thoughtlens.errors import OptionError, RunError
from thoughtlens.notation import text, thought_names

NEED_SAME_THOUGHTS = ("preference", "skip")
"""Measures whose cells are other ones when the number of thoughts differs."""

Pairs = Sequence[tuple[str, str]]
"""What is compared: the name of a side, and that of the side it is compared with."""


class Comparison(NamedTuple):
    """What `compare`, `compare_recipes` and `compare_groups` return; `dim` holds the sides: `model`, `recipe`, `group`.

    The measures are `accuracy` (…) and, by `depth` (all, early, middle, late), `preference` (…, thought),
    `lag_preference` (…, lag), `sequential`, `skip`, `thought_mass`, and `composition` (…, part) of the thoughts' rows.
    `value` is estimate, low, high; undefined numbers are NaN. Each Dataset has the attributes `paired`, `n_resamples`,
    `seed` and `confidence`; that of the measures has `problems`, the names of the problem sets.
    """

    measures: xr.Dataset
    """the measures of each side, dims (model, recipe or group, …, value); `n`, its problems; `n_models` of a recipe"""
    differences: xr.Dataset
    """the measures of a side less those of the side `minus`: (pair, …, value); n and n_minus (pair)"""
    p_values: xr.Dataset
    """of the differences, two-sided, each by itself: (pair, …); `comparison_tables` corrects them"""
    rank_correlations: xr.Dataset
    """Spearman's correlation over heads of `importance`, `sequential`, `skip`, `thought_mass`: (pair, value); NaN where
    shapes differ; of models only"""
    type_counts: xr.Dataset
    """type_count (model or group, depth, type), the heads of each type; without any type unless every side has them"""
    head_types: dict[str, xr.DataArray]
    """the type of each head (layer, head), by side; of those that have them"""
    notes: tuple[str, ...]
    """what was compared and what was not, in sentences"""

    @property
    def dim(self) -> str:
        """`model`, `recipe` or `group`."""
        return str(self.measures["n"].dims[0])

    def __repr__(self) -> str:
        sides = zip(self.measures[self.dim].values, self.measures["n"].values, strict=True)
        return f"<Comparison of {', '.join(f'{name} ({n:,} problems)' for name, n in sides)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        import thoughtlens  # the package's face, as from outside: reports are above this and slow to import

        return thoughtlens.reports.notebook_view(self)


@exact_labels()
def compare(
    subjects: Mapping[str, Subject | ComparableRun],
    *,
    holdout: float | None = None,
    holdout_seed: int = 0,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare models by where they attend, by relative depth, and by accuracy.

    A difference is a measure of one model less that of the first. Intervals are over problems (bootstrap). p-values
    flip the signs of the problems' differences where models share problems, and deal the problems out anew where not.

    Args:
        subjects: two or more runs, by the names that the result has; differences are to the first. A run is read twice,
            some problems at a time: for the types of its heads, unless an analysis of it is saved, and for the rest.
        holdout: the share of the problems that is compared, between 0 and 1; the others give the types of heads. If
            None, all do both.
        holdout_seed: with the id of a problem it decides on which side that is (see `schema.tested_half`).
        n_resamples: bootstrap resamples of the problems, sign flips and permutations.
        seed: same seed, same numbers.

    Returns:
        Labelled Datasets and notes, see `Comparison`; the sides have the dim `model`.

    Raises:
        OptionError: fewer than two subjects.
        RunError: a run kept means, or attention, problems and answers of a subject are not of one number.

    Example:
        `tl.compare({"trained": tl.open_run("runs/a"), "control": tl.open_run("runs/b")}).differences["sequential"]`

    Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap.
    """
    if len(subjects) < 2:
        raise OptionError(f"found {len(subjects)} run, expected two or more to compare; name another one.")
    models = {name: of if isinstance(of, Subject) else subject_of(of) for name, of in subjects.items()}
    common = common_problems(models)
    chosen = {name: halves(of, common, holdout, holdout_seed) for name, of in models.items()}
    for name, of in subjects.items():
        if not isinstance(of, Subject):
            _, choosing = chosen[name]
            models[name] = replace(models[name], head_types=head_types_of(of, models[name], choosing, seed))
    paired = bool(common)
    seeds = _seeds(models, seed, paired=paired)
    sides = {
        name: read_subject(of, chosen[name][0], n_resamples=n_resamples, seed=seeds[name])
        for name, of in models.items()
    }
    first, *others = sides
    notes = [*notes_on(models, sides, common)]
    if holdout is not None:
        notes.insert(1, held_out_note(chosen, holdout, holdout_seed))
    found = _side_by_side(
        "model",
        same_positions(sides),
        [(name, first) for name in others],
        {name: of.head_types for name, of in models.items() if of.head_types is not None},
        tuple(notes),
        n_resamples=n_resamples,
        seeds=seeds,
        paired=paired,
    )
    return found._replace(measures=found.measures.assign_attrs(problems=_problem_sets(models)))


def _problem_sets(models: Mapping[str, Subject]) -> str:
    """The names of the models' problem sets, each once."""
    return ", ".join(dict.fromkeys(of.problem_set for of in models.values() if of.problem_set))


@exact_labels()
def compare_recipes(
    runs: Mapping[str, Subject | ComparableRun],
    recipes: Mapping[str, Sequence[str]],
    *,
    holdout: float | None = None,
    holdout_seed: int = 0,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare recipes, each by the models that it made from several seeds.

    With k models a recipe's measure is their mean ∓ t_{.975, k − 1} · sd / sqrt(k), and a difference is Welch's t test
    of the models' means: the models are the replicates.  Below three models on a side the interval and the p-value of a
    difference are over problems (bootstrap and sign flips) of the mean over models, and hold for these weights.

    Args:
        runs: of all models, by their names, on the same problems.
        recipes: the names of the runs of each recipe, two recipes or more; differences are to the first.
        holdout: the share of the problems that is compared, between 0 and 1, so that what other commands chose on the
            others is compared on these alone; nothing is chosen here. All of them if None.
        holdout_seed: with the id of a problem it decides on which side that is (see `schema.tested_half`).
        n_resamples: bootstrap resamples of the problems, and sign flips.
        seed: same seed, same numbers.

    Returns:
        Labelled Datasets and notes, see `Comparison`; the sides have the dim `recipe`, and `n_models`.

    Raises:
        OptionError: fewer than two recipes, a recipe without runs, or a run in two recipes.
        RunError: two runs have the same weights, or the runs have fewer than two problems in common.

    Example:
        `compare_recipes(runs, {"with thoughts": ["a0", "a1", "a2"], "without": ["b0", "b1", "b2"]})`

    Reference: Welch (1947), Biometrika 34.
    """
    named = [name for members in recipes.values() for name in members]
    if len(recipes) < 2 or not all(recipes.values()) or len(set(named)) < len(named):
        raise OptionError(
            f"found {len(recipes)} groups with {len(named)} runs, expected two groups or more, none of them empty, and "
            "each run in one of them; pass --group NAME=RUN,RUN,… for each."
        )
    check_replicates(runs)
    models = {name: of if isinstance(of, Subject) else subject_of(of) for name, of in runs.items()}
    common = common_problems(models)
    if not common:
        raise RunError(
            "the runs of the groups have fewer than two problems in common; extract all on the same set of problems."
        )
    compared, left_out = halves(next(iter(models.values())), common, holdout, holdout_seed)
    notes = [f"All have the {len(compared)} problems that are compared."]
    if holdout is not None:
        notes.append(f"Held out ({holdout:g}, seed {holdout_seed}): {len(left_out)} other problems are left out.")
    read = {name: read_subject(of, compared, n_resamples=1, seed=seed) for name, of in models.items()}
    sides = same_positions(read)
    ratios = {recipe: [sides[name].ratios for name in members] for recipe, members in recipes.items()}
    first, *others = recipes
    pairs = [(name, first) for name in others]
    weights = resample_weights(len(compared), n_resamples=n_resamples, seed=seed)
    each = {
        recipe: stack([resampled(of, weights).isel(resample=0) for of in its], "model")
        for recipe, its in ratios.items()
    }
    own = {
        recipe: its.map(over_models)
        if its.sizes["model"] >= ENOUGH_SEEDS
        else with_intervals(mean_of_models(ratios[recipe], weights))
        for recipe, its in each.items()
    }
    flips = sign_flips(len(compared), n_flips=n_resamples, seed=seed)
    values, p_values = [], []
    for one, minus in pairs:
        counts = [len(recipes[name]) for name in (one, minus)]
        if min(counts) >= ENOUGH_SEEDS:
            tested = {name: welch(each[one][name], each[minus][name]) for name in each[one].data_vars}
            difference, p = (xr.Dataset({name: of[part] for name, of in tested.items()}) for part in (0, 1))
        else:
            samples = mean_of_models(ratios[one], weights) - mean_of_models(ratios[minus], weights)
            apart = mean_linearised(ratios[one]) - mean_linearised(ratios[minus])
            difference, p = with_intervals(samples), flipped_p(apart, flips)
        if len({sides[name].n_thoughts for side in (one, minus) for name in recipes[side]}) > 1:
            for part in (difference, p):
                part.update({name: xr.full_like(part[name], np.nan) for name in NEED_SAME_THOUGHTS})
        values.append(difference.assign(n=len(compared), n_minus=len(compared)))
        p_values.append(p)
        notes.append(note_on_seeds(one, minus, *counts))
    labels = _labels("recipe", pairs)
    options = {"n_resamples": n_resamples, "seed": seed, "confidence": CONFIDENCE, "paired": True}
    n_models = [len(members) for members in recipes.values()]
    return Comparison(
        measures=stack(list(own.values()), "recipe")
        .assign_coords(recipe=text(recipes))
        .assign(n=("recipe", [len(compared)] * len(recipes)), n_models=("recipe", n_models))
        .assign_attrs(options, problems=_problem_sets(models)),
        differences=stack(values, "pair").assign_coords(labels).assign_attrs(options),
        p_values=stack(p_values, "pair").assign_coords(labels).assign_attrs(options),
        rank_correlations=xr.Dataset(coords=labels, attrs=options),
        type_counts=_type_counts("recipe", list(recipes), {}).assign_attrs(options),
        head_types={},
        notes=(*notes, CORRECTIONS),
    )


@exact_labels()
def compare_groups(
    sums: xr.Dataset,
    groups: Mapping[str, npt.ArrayLike],
    *,
    correct: npt.ArrayLike,
    n_resamples: int = 1000,
    seed: int = 0,
    head_types: Mapping[str, xr.DataArray] | None = None,
) -> Comparison:
    """Compare groups of the problems of one run, each with every earlier one.

    Args:
        sums: of all problems of the run, as `collect_depth_sums` gives them.
        groups: bool for each problem, whether it belongs; by the names that the result has.
        correct: bool, one a problem.
        n_resamples: bootstrap resamples of each group, and permutations.
        seed: same seed, same numbers; a group's intervals are those of `analyze` with `group_seed`.
        head_types: the type of each head (layer, head) in each group of two problems or more, if known.

    Returns:
        Labelled Datasets and notes, see `Comparison`; the sides have the dim `group`. There are no pairs if only one
        group is left.

    Raises:
        RunError: no group has two problems.

    Example:
        `compare_groups(collect_depth_sums(run.blocks()), {"solved": right, "failed": ~right}, correct=right)`
    """
    kept, right = enough(groups), np.asarray(correct, dtype=bool)
    if not kept:
        raise RunError("no group has two problems or more; extract more problems, or group them otherwise.")
    ratios = {name: as_ratios(sums.isel(problem=np.flatnonzero(of)), right[of]) for name, of in kept.items()}
    return _side_by_side(
        "group",
        {name: Side(of, xr.Dataset(), sums.sizes["query"]) for name, of in ratios.items()},
        [(later, earlier) for earlier, later in combinations(kept, 2)],
        dict(head_types or {}),
        notes_on_groups(groups, kept, typed=bool(head_types)),
        n_resamples=n_resamples,
        seeds=_seeds(kept, seed, paired=False),
        paired=False,
    )


def enough(groups: Mapping[str, npt.ArrayLike]) -> dict[str, np.ndarray]:
    """The groups of two problems or more, which can be resampled."""
    masks = {name: np.asarray(members, dtype=bool) for name, members in groups.items()}
    return {name: members for name, members in masks.items() if members.sum() > 1}


def group_seed(seed: int, place: int) -> int:
    """The seed of the resamples of the side at this place: sides of one size would otherwise be drawn alike."""
    return seed + place


def comparison_overview(comparison: Comparison) -> xr.Dataset:
    """The numbers of a comparison of models that its figure shows, over all layers; `type_share` is of heads."""
    names = ["preference", "lag_preference", "composition", "accuracy", "n"]
    sides = {comparison.dim: "model"} if comparison.dim == "recipe" else {}
    values = comparison.measures[names].sel(depth="all", drop=True).rename(sides)
    counts = comparison.type_counts["type_count"].sel(depth="all", drop=True).rename(sides)
    # Shares and not counts: models differ in their number of heads.
    return values.assign(type_share=counts / counts.sum("type").clip(min=1))


def rank_correlation(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Spearman's correlation in every resample, over the heads that have all numbers; NaN for fewer than three."""
    values = [profile.transpose("resample", "layer", "head").values for profile in (one, other)]
    flat = [value.reshape(len(value), -1) for value in values]
    known = np.isfinite(flat[0]).all(0) & np.isfinite(flat[1]).all(0)
    rho = spearman(*(value[:, known] for value in flat))
    return xr.DataArray(rho if known.sum() >= 3 else np.full(len(rho), np.nan), dims="resample")


def _seeds(names: Iterable[str], seed: int, *, paired: bool) -> dict[str, int]:
    """The seed of each side: one for all that have the same problems, else independent ones."""
    return {name: seed if paired else group_seed(seed, place) for place, name in enumerate(names)}


def same_positions(sides: Mapping[str, Side]) -> dict[str, Side]:
    """Every model with as many thoughts and lags as any; those that it lacks are undefined."""
    most = max(side.n_thoughts for side in sides.values())
    axes = {"thought": text(thought_names(most)), "lag": np.arange(1, most)}
    return {
        name: side
        if side.n_thoughts == most
        else side._replace(ratios=Ratios(*(part.reindex(axes, fill_value=0.0) for part in side.ratios)))
        for name, side in sides.items()
    }


def _side_by_side(
    dim: str,
    sides: Mapping[str, Side],
    pairs: Pairs,
    head_types: dict[str, xr.DataArray],
    notes: tuple[str, ...],
    *,
    n_resamples: int,
    seeds: Mapping[str, int],
    paired: bool,
) -> Comparison:
    """The comparison of sides that have the same positions, in the pairs that are named."""
    options = {"n_resamples": n_resamples, "seed": min(seeds.values()), "confidence": CONFIDENCE, "paired": paired}
    rows = [measured(of.ratios, n_resamples=n_resamples, seed=seeds[name]).assign(n=of.n) for name, of in sides.items()]
    values, p_values = [], []
    for one, minus in pairs:
        both = comparable(sides[one], sides[minus])
        difference, p = (
            paired_difference(*both, n_resamples=n_resamples, seed=seeds[one])
            if paired
            else unpaired_difference(*both, n_resamples=n_resamples, seeds=(seeds[one], seeds[minus]))
        )
        values.append(difference.assign(n=sides[one].n, n_minus=sides[minus].n))
        p_values.append(p)
    labels = _labels(dim, pairs)
    return Comparison(
        measures=stack(rows, dim).assign_coords({dim: text(sides)}).assign_attrs(options),
        differences=stack(values, "pair").assign_coords(labels).assign_attrs(options),
        p_values=stack(p_values, "pair").assign_coords(labels).assign_attrs(options),
        rank_correlations=_rank_correlations(sides, pairs).assign_coords(labels).assign_attrs(options),
        type_counts=_type_counts(dim, list(sides), head_types).assign_attrs(options),
        head_types=head_types,
        notes=notes,
    )


def _labels(dim: str, pairs: Pairs) -> dict[str, tuple[str, np.ndarray]]:
    names = {
        "pair": [" − ".join(pair) for pair in pairs],
        dim: [one for one, _ in pairs],
        "minus": [minus for _, minus in pairs],
    }
    return {name: ("pair", text(of)) for name, of in names.items()}


def comparable(one: Side, minus: Side) -> tuple[Ratios, Ratios]:
    """The ratios of both, undefined where they are of different cells."""
    if one.n_thoughts == minus.n_thoughts:
        return one.ratios, minus.ratios
    empty = {name: xr.zeros_like(one.ratios.below[name]) for name in NEED_SAME_THOUGHTS}
    left, right = (side.ratios._replace(below=side.ratios.below.assign(empty)) for side in (one, minus))
    return left, right


def _rank_correlations(sides: Mapping[str, Side], pairs: Pairs) -> xr.Dataset:
    rows = []
    for one, minus in ((sides[one], sides[minus]) for one, minus in pairs if sides[one].profiles):
        same_cells = set(one.profiles) if one.n_thoughts == minus.n_thoughts else {"sequential", "thought_mass"}
        known = same_cells if one.shape == minus.shape else set()
        correlations = {
            str(name): rank_correlation(values, minus.profiles[name])
            if name in known
            else xr.full_like(values.isel(layer=0, head=0, drop=True), np.nan)
            for name, values in one.profiles.items()
        }
        rows.append(with_intervals(xr.Dataset(correlations)))
    return stack(rows, "pair")


def _type_counts(dim: str, names: Sequence[str], head_types: Mapping[str, xr.DataArray]) -> xr.Dataset:
    found = list(head_types.values()) if len(head_types) == len(names) else []
    met = {str(kind) for types in found for kind in types.values.ravel()}
    known = sorted(met, key=lambda kind: (TYPES.index(kind) if kind in TYPES else len(TYPES), kind))
    counts = np.zeros((len(names), len(DEPTHS), len(known)), dtype=np.int64)
    for row, types in zip(counts, found, strict=False):
        named = types.transpose("layer", "head").values
        for depth, members in zip(row, layers_by_depth(len(named)).values, strict=True):
            depth[:] = [(named[members] == kind).sum() for kind in known]
    labels = {dim: text(names), "depth": text(DEPTHS), "type": text(known)}
    return xr.Dataset({"type_count": ((dim, "depth", "type"), counts)}, coords=labels)
