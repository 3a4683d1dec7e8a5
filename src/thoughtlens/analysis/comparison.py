"""Two or more models become what each attends to, how they differ from the first, and what could not be compared.

1. Problems are matched by what they are known by. With two in common or more, everything is measured on these and
   differences are paired; with fewer, each model keeps its own problems and differences are unpaired.
2. Attention is compared for the whole model and by relative depth, so that models of different depth can be.
3. Models of the same layers × heads have the profiles of their heads correlated by rank.

Whatever is left out is said in `Comparison.notes`. Nothing here reads files.

Groups of a run's problems become what the model does in each, and how each two of them differ.

A model meets every problem once, so that groups are of different problems: each is resampled by itself, and the p-value
deals the problems of two groups out to them anew. A group of fewer than two problems has nothing to be resampled and is
left out. How the groups were made is not known here; groups made by what the model did (solved, failed) are no
experiment, and neither are others.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.stats import rankdata

from thoughtlens.analysis.evidence import TYPES
from thoughtlens.analysis.ratios import (
    DEPTHS,
    Difference,
    Ratios,
    as_ratios,
    layers_by_depth,
    measured,
    paired_difference,
    stack,
    unpaired_difference,
)
from thoughtlens.analysis.shared_problems import (
    CORRECTIONS,
    PROFILES,
    Seen,
    Subject,
    common_problems,
    notes_on,
    read_subject,
)
from thoughtlens.analysis.statistics import CONFIDENCE, interval, resample_weights
from thoughtlens.errors import OptionError, RunError
from thoughtlens.names import thought_names

NEED_SAME_THOUGHTS = ("preference", "skip")
"""Measures whose cells are other ones when the number of thoughts differs."""


class Comparison(NamedTuple):
    """What `compare` returns; `value` is estimate, low, high, and undefined numbers are NaN.

    The measures are `accuracy` (…) and, by `depth` (all, early, middle, late), `preference` (…, thought),
    `lag_preference` (…, lag), `sequential`, `skip`, `thought_mass`, and `composition` (…, part) of the thoughts' rows.
    """

    models: xr.Dataset
    """the measures (model, …, value); n (model); attrs `paired`, `n_resamples`, `seed`, `confidence`"""
    differences: xr.Dataset
    """the measures of `model` less those of `minus`, the first one: (pair, …, value); n and n_minus (pair)"""
    p_values: xr.Dataset
    """of the differences, two-sided, each by itself: (pair, …); `comparison_tables` corrects them"""
    rank_correlations: xr.Dataset
    """Spearman over heads of `importance`, `sequential`, `skip`, `thought_mass`: (pair, value); NaN if shapes differ"""
    type_counts: xr.Dataset
    """type_count (model, depth, type), the heads of each type; without any type unless every model has them"""
    head_types: dict[str, xr.DataArray]
    """the type of each head (layer, head), by model; of those that have them"""
    notes: tuple[str, ...]
    """what was compared and what was not, in sentences"""


def compare(subjects: Mapping[str, Subject], *, n_resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare models by where they attend, by relative depth, and by accuracy.

    Args:
        subjects: two or more, by the names that the result has; differences are to the first.
        n_resamples: bootstrap resamples of the problems, sign flips and permutations.
        seed: same seed, same numbers.

    Returns:
        Labelled Datasets and notes, see `Comparison`.

    Raises:
        OptionError: fewer than two subjects.
        RunError: a subject's attention, problems and answers are not of one number.
    """
    if len(subjects) < 2:
        raise OptionError(f"found {len(subjects)} run, expected two or more to compare; name another one.")
    common = common_problems(subjects)
    # Different problems are drawn independently, the same ones alike.
    seeds = {name: seed if common else seed + place for place, name in enumerate(subjects)}
    weights = {
        name: resample_weights(len(common or subject.problems), n_resamples=n_resamples, seed=seeds[name])
        for name, subject in subjects.items()
    }
    seen = {name: read_subject(of, common or of.problems, weights[name]) for name, of in subjects.items()}
    seen = _same_positions(seen)
    values, p_values = _differences_compare(seen, seeds, paired=bool(common), n_resamples=n_resamples)
    options = {"n_resamples": n_resamples, "seed": seed, "confidence": CONFIDENCE, "paired": bool(common)}
    return Comparison(
        models=_models(seen, weights).assign_attrs(options),
        differences=values.assign_attrs(options),
        p_values=p_values.assign_attrs(options),
        rank_correlations=_rank_correlations(seen).assign_attrs(options),
        type_counts=_type_counts(subjects),
        head_types={name: of.head_types for name, of in subjects.items() if of.head_types is not None},
        notes=notes_on(subjects, seen, common),
    )


def comparison_overview(comparison: Comparison) -> xr.Dataset:
    """What a figure of the models shows: their numbers over all layers.

    Returns:
        `preference` (model, thought, value), `lag_preference` (model, lag, value), `composition` (model, part, value),
        `type_share` (model, type), of all heads, and `accuracy` (model, value), with `n` (model).
    """
    names = ["preference", "lag_preference", "composition", "accuracy", "n"]
    values = comparison.models[names].sel(depth="all", drop=True)
    counts = comparison.type_counts["type_count"].sel(depth="all", drop=True)
    # Of all heads: models have more or fewer.
    return values.assign(type_share=counts / counts.sum("type").clip(min=1))


def rank_correlation(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Spearman's correlation over heads in every resample.

    Args:
        one: a number of each head, dims (resample, layer, head).
        other: the same of another model of the same layers × heads.

    Returns:
        dims (resample), -1 to 1; heads without a number in any resample of either are left out, and fewer than three
        heads or equal numbers give NaN.
    """
    values = [profile.transpose("resample", "layer", "head").values for profile in (one, other)]
    flat = [value.reshape(len(value), -1) for value in values]
    known = np.isfinite(flat[0]).all(0) & np.isfinite(flat[1]).all(0)
    if known.sum() < 3:
        return xr.DataArray(np.full(len(flat[0]), np.nan), dims="resample")
    ranks = [rankdata(value[:, known], axis=1) for value in flat]
    centred = [xr.DataArray(rank - rank.mean(1, keepdims=True), dims=("resample", "place")) for rank in ranks]
    spread = (centred[0] ** 2).sum("place") * (centred[1] ** 2).sum("place")
    return (centred[0] * centred[1]).sum("place") / np.sqrt(spread.where(spread > 0))


def _same_positions(seen: Mapping[str, Seen]) -> dict[str, Seen]:
    """Every model with as many thoughts and lags as any; those that it lacks are undefined."""
    most = max(model.n_thoughts for model in seen.values())
    axes = {"thought": _text_compare(thought_names(most)), "lag": np.arange(1, most)}
    return {
        name: model._replace(ratios=Ratios(*(part.reindex(axes, fill_value=0.0) for part in model.ratios)))
        for name, model in seen.items()
    }


def _models(seen: Mapping[str, Seen], weights: Mapping[str, xr.DataArray]) -> xr.Dataset:
    rows = [measured(model.ratios, weights[name]).assign(n=model.n) for name, model in seen.items()]
    return stack(rows, "model").assign_coords(model=_text_compare(list(seen)))


def _differences_compare(
    seen: Mapping[str, Seen], seeds: Mapping[str, int], *, paired: bool, n_resamples: int
) -> tuple[xr.Dataset, xr.Dataset]:
    first, *others = seen
    found: list[Difference] = []
    for name in others:
        one, minus = _comparable(seen[name], seen[first])
        if paired:
            found.append(paired_difference(one, minus, n_resamples=n_resamples, seed=seeds[first]))
        else:
            found.append(unpaired_difference(one, minus, n_resamples=n_resamples, seeds=(seeds[name], seeds[first])))
    counts = {"n": ("pair", [seen[name].n for name in others]), "n_minus": ("pair", [seen[first].n] * len(others))}
    values = stack([difference.values for difference in found], "pair").assign(counts)
    p_values = stack([difference.p for difference in found], "pair")
    return _label_pairs(values, seen), _label_pairs(p_values, seen)


def _comparable(one: Seen, minus: Seen) -> tuple[Ratios, Ratios]:
    """The ratios of both, undefined where they are of different cells."""
    if one.n_thoughts == minus.n_thoughts:
        return one.ratios, minus.ratios
    empty = {name: xr.zeros_like(one.ratios.below[name]) for name in NEED_SAME_THOUGHTS}
    left, right = (side.ratios._replace(below=side.ratios.below.assign(empty)) for side in (one, minus))
    return left, right


def _rank_correlations(seen: Mapping[str, Seen]) -> xr.Dataset:
    first, *others = seen
    rows = [
        xr.Dataset({name: interval(_correlation(seen[other], seen[first], name)) for name in PROFILES})
        for other in others
    ]
    return _label_pairs(stack(rows, "pair"), seen)


def _correlation(one: Seen, other: Seen, name: str) -> xr.DataArray:
    values, others = one.profiles[name], other.profiles[name]
    same_cells = one.n_thoughts == other.n_thoughts or name not in ("importance", *NEED_SAME_THOUGHTS)
    if one.shape != other.shape or not same_cells:
        return xr.full_like(values.isel(layer=0, head=0, drop=True), np.nan)
    return rank_correlation(values, others)


def _type_counts(subjects: Mapping[str, Subject]) -> xr.Dataset:
    found = [subject.head_types for subject in subjects.values() if subject.head_types is not None]
    if len(found) < len(subjects):
        found = []
    met = {str(kind) for types in found for kind in types.values.ravel()}
    known = sorted(met, key=lambda kind: (TYPES.index(kind) if kind in TYPES else len(TYPES), kind))
    counts = np.zeros((len(subjects), len(DEPTHS), len(known)), dtype=np.int64)
    for row, types in zip(counts, found, strict=False):
        named = types.transpose("layer", "head").values
        for depth, members in zip(row, layers_by_depth(len(named)).values, strict=True):
            depth[:] = [(named[members] == kind).sum() for kind in known]
    labels = {"model": _text_compare(list(subjects)), "depth": _text_compare(DEPTHS), "type": _text_compare(known)}
    return xr.Dataset({"type_count": (("model", "depth", "type"), counts)}, coords=labels)


def _label_pairs(values: xr.Dataset, seen: Mapping[str, Seen]) -> xr.Dataset:
    first, *others = seen
    return values.assign_coords(
        pair=_text_compare([f"{name} − {first}" for name in others]),
        model=("pair", _text_compare(others)),
        minus=("pair", _text_compare([first] * len(others))),
    )


def _text_compare(names: Sequence[str]) -> np.ndarray:
    return np.array(names, dtype=np.dtypes.StringDType())


class Grouped(NamedTuple):
    """What `compare_groups` returns; measures, `value` and `p_values` are those of `compare.Comparison`."""

    groups: xr.Dataset
    """the measures (group, depth, …, value); n (group)"""
    differences: xr.Dataset
    """the measures of `group` less those of `minus`, an earlier one: (pair, depth, …, value); n and n_minus (pair)"""
    p_values: xr.Dataset
    """(pair, depth, …)"""
    notes: tuple[str, ...]


def enough(groups: Mapping[str, npt.ArrayLike]) -> dict[str, np.ndarray]:
    """The groups of two problems or more, which can be resampled."""
    masks = {name: np.asarray(members, dtype=bool) for name, members in groups.items()}
    return {name: members for name, members in masks.items() if members.sum() > 1}


def group_seed(seed: int, place: int) -> int:
    """The seed of a group's resamples: another one for each, or groups of a size would be drawn alike."""
    return seed + place


def compare_groups(
    sums: xr.Dataset,
    groups: Mapping[str, npt.ArrayLike],
    *,
    correct: npt.ArrayLike,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Grouped:
    """Compare groups of the problems of one run.

    Args:
        sums: of all problems, as `ratios.collect_depth_sums` gives them.
        groups: bool for each problem, whether it belongs; by the names that the result has.
        correct: bool, one a problem.
        n_resamples: bootstrap resamples of each group, and permutations.
        seed: same seed, same numbers; a group's intervals are those of `analyze` with `group_seed`.

    Returns:
        Labelled Datasets and notes; without pairs if only one group is left.

    Raises:
        RunError: no group has two problems.
    """
    kept, right = enough(groups), np.asarray(correct, dtype=bool)
    if not kept:
        raise RunError("no group has two problems or more; extract more problems, or group them otherwise.")
    sides = {name: as_ratios(sums.isel(problem=np.flatnonzero(of)), right[of]) for name, of in kept.items()}
    seeds = {name: group_seed(seed, place) for place, name in enumerate(sides)}
    rows = [
        measured(side, resample_weights(_n(side), n_resamples=n_resamples, seed=seeds[name])).assign(n=_n(side))
        for name, side in sides.items()
    ]
    values, p_values = _differences(sides, seeds, n_resamples)
    options = {"n_resamples": n_resamples, "seed": seed, "confidence": CONFIDENCE, "paired": False}
    return Grouped(
        stack(rows, "group").assign_coords(group=_text(list(sides))).assign_attrs(options),
        values.assign_attrs(options),
        p_values.assign_attrs(options),
        _notes(groups, list(kept)),
    )


def _differences(
    sides: Mapping[str, Ratios], seeds: Mapping[str, int], n_resamples: int
) -> tuple[xr.Dataset, xr.Dataset]:
    pairs = [(later, earlier) for earlier, later in combinations(sides, 2)]
    if not pairs:
        return xr.Dataset(coords=_labels(pairs)), xr.Dataset(coords=_labels(pairs))
    found: list[Difference] = [
        unpaired_difference(sides[one], sides[minus], n_resamples=n_resamples, seeds=(seeds[one], seeds[minus]))
        for one, minus in pairs
    ]
    counts = {
        "n": ("pair", [_n(sides[one]) for one, _ in pairs]),
        "n_minus": ("pair", [_n(sides[minus]) for _, minus in pairs]),
    }
    values = stack([difference.values for difference in found], "pair").assign(counts)
    p_values = stack([difference.p for difference in found], "pair")
    return values.assign_coords(_labels(pairs)), p_values.assign_coords(_labels(pairs))


def _labels(pairs: list[tuple[str, str]]) -> dict[str, xr.DataArray]:
    names = {
        "pair": [f"{one} − {minus}" for one, minus in pairs],
        "group": [one for one, _ in pairs],
        "minus": [minus for _, minus in pairs],
    }
    return {name: xr.DataArray(_text(of), dims="pair") for name, of in names.items()}


def _notes(groups: Mapping[str, npt.ArrayLike], kept: list[str]) -> tuple[str, ...]:
    sizes = {name: int(np.sum(members)) for name, members in groups.items()}
    notes = [
        f"{name} has {size} problem{'s' * (size != 1)}, too few to be resampled, and is left out."
        for name, size in sizes.items()
        if name not in kept
    ]
    if len(kept) == 1:
        notes.append(f"{kept[0]} is the only group, so that there are no differences.")
    else:
        notes.append("Groups are of different problems: what differs between them need not come from what they are by.")
        notes.append(CORRECTIONS)
    return tuple(notes)


def _n(side: Ratios) -> int:
    return side.above.sizes["problem"]


def _text(names: list[str]) -> np.ndarray:
    return np.array(names, dtype=np.dtypes.StringDType())
