"""The measures of a model as ratios of sums over problems, by depth; and the difference of two sets of them, tested.

In: attention, or sums of it by depth. Out: estimates with intervals, differences and p-values.

1. Every measure is observed over possible: Σ_p above[p] / Σ_p below[p], sums over problems. Heads and layers are
   averaged within a problem first. Sums are linear: resamples, permutations and groups of problems are products of
   weights with these few numbers, so that a run of any size fits in memory.
2. Depth is relative, d = layer / (L − 1): `early` is d < 1/3, `late` is d > 2/3, `middle` is what lies between, and
   `all` is every layer. Four layers split 1, 2, 1; a depth without layers is undefined.
3. Two sets of ratios of the same problems are compared *paired*: each resample draws the same problems for both, and
   the p-value flips the sign of each problem's difference (`significance`). Accuracy has McNemar's exact test.
4. Sets of different problems are compared *unpaired*: each side is resampled by itself, and the p-value deals all
   problems out to the two sides anew. What is compared is the difference over its standard error, as in Welch's test:
   the plain difference of 42 problems from 258 varies as the 42 do, but dealt out as the 258 (Behrens and Fisher). It
   is corrected for skewness, by which 42 skewed problems would still differ too often.

p counts the draws at least as far from 0 as the observed difference, which is one of them: p is never below
1 / (1 + draws). Each p-value is of one number; `comparison_tables` and `comparison_headline` correct them over what
they show.

Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, §15 (permutation) and §8 (paired resampling);
Janssen (1997), Statistics and Probability Letters 36 (studentised permutation); Hall (1992), Journal of the Royal
Statistical Society B 54 (the correction for skewness).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb, prod
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtr, stdtrit

from thoughtlens.analysis.attention_measures import (
    MASS_FLOOR,
    composition,
    concatenated,
    expected_sums,
    preference_sums,
    where,
)
from thoughtlens.analysis.intervals import (
    CONFIDENCE,
    VALUES,
    bare_interval,
    bare_intervals,
    proportion_interval,
    resample_weights,
    resampled_sum,
    with_labels,
)
from thoughtlens.analysis.nulls import without_rounding
from thoughtlens.analysis.resampled_sums import bare, labels_of_sums
from thoughtlens.analysis.significance import (
    LEAST_PROBLEMS,
    flip_p_values,
    flipped_t,
    mcnemar,
    sign_flips,
    without_skewness,
)
from thoughtlens.analysis.streamed_attention import Blocks, in_pieces
from thoughtlens.errors import RunError
from thoughtlens.notation import text, thought_names
from thoughtlens.schema import n_thoughts_of

DEPTHS = ("all", "early", "middle", "late")
POSITIONS = {"preference": "thought", "lag_preference": "lag", "composition": "part"}
"""The dim along which a measure has positions; the others are single numbers."""
MEASURES = ("accuracy", "preference", "lag_preference", "sequential", "skip", "thought_mass", "composition")
TIE = 1e-9
"""Draws within this relative distance of the observed difference count as equal to it: sums are rounded."""

Cells = tuple[xr.Variable, xr.Variable]
"""Numerators and denominators of all measures side by side, dims (problem, cell): all have the same draws."""

Difference = tuple[xr.Dataset, xr.Dataset]
"""One set of ratios less another, dims (…, value), and the two-sided p-values, dims (…)."""


class Ratios(NamedTuple):
    """Numerators and denominators of `MEASURES`, dims (problem, depth, …); a denominator of 0 is an undefined ratio."""

    above: xr.Dataset
    below: xr.Dataset


def layers_by_depth(n_layers: int) -> xr.DataArray:
    """Which layers belong to which depth: bool, dims (depth, layer)."""
    layer = np.arange(n_layers)
    # In whole numbers: 1/3 as a float would put a layer at exactly 1/3 on either side.
    early, late = 3 * layer < n_layers - 1, 3 * layer > 2 * (n_layers - 1)
    rows = np.stack([np.ones(n_layers, dtype=bool), early, ~early & ~late, late])
    return xr.DataArray(rows, dims=("depth", "layer"), coords={"depth": text(DEPTHS)})


def depth_sums(attention: xr.DataArray, sums: xr.Dataset) -> xr.Dataset:
    """`preference_sums` and thoughts' composition, averaged over each depth; `present` is 1 where it has layers."""
    thoughts = thought_names(n_thoughts_of(attention))
    rows = composition(attention.mean("head", skipna=False)).sel(query=thoughts).mean("query")
    by_layer = {**{name: of.mean("head") for name, of in bare(sums).items()}, "composition": rows.variable}
    members = layers_by_depth(attention.sizes["layer"])
    shares = (members / members.sum("layer").clip(min=1)).variable
    found = {name: xr.dot(of, shares, dim="layer").transpose("problem", "depth", ...) for name, of in by_layer.items()}
    present = np.tile(members.values.any(-1).astype(np.float64), (attention.sizes["problem"], 1))
    labels = {**sums.coords, **rows.coords, **members.coords}
    own = {name: of for name, of in labels.items() if not {"layer", "head"}.intersection(of.dims)}
    return xr.Dataset({**found, "present": (("problem", "depth"), present)}, own)


def collect_depth_sums(blocks: Blocks) -> xr.Dataset:
    """What the ratios of every problem of a run are made of, read in one pass.

    Args:
        blocks: an attention Dataset, or its problems block by block.

    Returns:
        dims (problem, depth, …), the problems in order: `preference_sums` averaged over the heads and layers of each
        depth; `composition` (…, part), the mean over the thoughts' rows; and `present`, 1 where the depth has layers.

    Raises:
        RunError: there is no problem.

    Example:
        `collect_depth_sums(tl.open_run("runs/a").blocks())`
    """
    found = (piece["attention"] for piece in in_pieces(blocks))
    return join_problems([depth_sums(attention, preference_sums(attention)) for attention in found])


def join_problems(parts: list[xr.Dataset]) -> xr.Dataset:
    """Datasets of some problems each as one of all."""
    if not parts:
        raise RunError("found no problems to compare; extract at least one problem first.")
    return xr.concat(parts, "problem", data_vars="minimal", coords="minimal", compat="equals", join="exact")


def as_ratios(sums: xr.Dataset, correct: np.ndarray) -> Ratios:
    """The ratios of some problems, from their `collect_depth_sums`; undefined where `metrics.preferences` is."""
    expected, if_all_mass = (bare(expected_sums(of)) for of in (sums, sums.assign(mass=sums["rows"])))
    defined = {
        name: of.sum("problem") >= MASS_FLOOR * if_all_mass[name].sum("problem") for name, of in expected.items()
    }
    of_sums, right = sums.variables, xr.Variable("problem", np.asarray(correct, dtype=np.float64))
    of_later = {name: of_sums[name].isel(query=slice(1, None)).sum("query") for name in ("mass", "rows")}
    above = {name: of_sums[name] for name in (*expected, "composition")}
    above |= {"thought_mass": of_later["mass"], "accuracy": right}
    below = {name: where(defined[name], of, 0.0) for name, of in expected.items()}
    below |= {"thought_mass": of_later["rows"], "composition": of_sums["present"], "accuracy": xr.ones_like(right)}
    labels = sums.drop_vars(["problem", "query"], errors="ignore").coords
    return Ratios(xr.Dataset(above, labels), xr.Dataset(below, labels))


def _cells(ratios: Ratios) -> Cells:
    above, below = (bare(part) for part in ratios)
    # Zeros of the shape of the numerator: all positions of a measure may have one denominator.
    return _in_cells(above), _in_cells({name: below[name] + xr.zeros_like(of) for name, of in above.items()})


def _in_cells(values: Mapping[str, xr.Variable]) -> xr.Variable:
    """The numbers of several measures side by side, dims (problem, …) to (problem, cell)."""
    flat = [of.values.reshape(len(of), -1) for of in values.values()]
    return xr.Variable(("problem", "cell"), np.concatenate(flat, axis=1))


def _by_measure(cells: xr.Variable, like: xr.Dataset) -> dict[str, xr.Variable]:
    """Numbers of cells as those of the measures (problem, …) that the cells are of: (…, cell, …) to (…, depth, …)."""
    sizes = {str(name): of.sizes for name, of in like.isel(problem=0).data_vars.items()}
    axis, ends = cells.dims.index("cell"), np.cumsum([prod(of.values()) for of in sizes.values()])[:-1]
    parts = dict(zip(sizes, np.split(cells.values, ends, axis), strict=True))
    before, after = slice(None, axis), slice(axis + 1, None)
    return {
        name: xr.Variable(
            (*cells.dims[before], *of, *cells.dims[after]),
            parts[name].reshape((*cells.shape[before], *of.values(), *cells.shape[after])),
        )
        for name, of in sizes.items()
    }


def _labelled(cells: xr.Variable, like: xr.Dataset) -> xr.Dataset:
    return xr.Dataset(_by_measure(cells, like), labels_of_sums(like))


def resampled(ratios: Ratios, weights: xr.DataArray) -> xr.Dataset:
    """Every measure in every resample, dims (resample, …); the weights say how often each problem counts."""
    return _labelled(_resampled(_cells(ratios), weights), ratios.above)


def _resampled(cells: Cells, weights: xr.DataArray) -> xr.Variable:
    drawn = weights.variable.astype(np.float64)
    return _divide(*(resampled_sum(of, drawn) for of in cells))


def linearised(ratios: Ratios) -> xr.Dataset:
    """What every problem adds to a ratio R, to first order: R + (above − R · below) / mean(below).

    Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, §21 (influence function of a ratio).
    """
    return xr.Dataset(_by_measure(_linearised(_cells(ratios)), ratios.above), ratios.above.coords)


def _linearised(cells: Cells) -> xr.Variable:
    above, below = cells
    ratio = _divide(above.sum("problem"), below.sum("problem"))
    return _divide(above - below * ratio, below.mean("problem")) + ratio


def _divide(above: xr.Variable, below: xr.Variable) -> xr.Variable:
    return above / where(below > 0, below)


def with_intervals(samples: xr.Dataset) -> xr.Dataset:
    """The `interval` of every variable: dims (resample, …) to (…, value)."""
    return with_labels(bare_intervals(bare(samples)), samples.coords)


def measured(ratios: Ratios, *, n_resamples: int, seed: int) -> xr.Dataset:
    """Every measure with its interval, dims (…, value): a bootstrap over problems, but Wilson's for accuracy."""
    right = ratios.above["accuracy"]
    weights = resample_weights(right.size, n_resamples=n_resamples, seed=seed)
    values = _cells_with_intervals(_resampled(_cells(ratios), weights), ratios.above)
    return values.assign(accuracy=proportion_interval(int(right.sum()), right.size))


def _cells_with_intervals(samples: xr.Variable, like: xr.Dataset) -> xr.Dataset:
    return with_labels(_by_measure(bare_interval(samples), like), labels_of_sums(like))


def paired_difference(one: Ratios, minus: Ratios, *, n_resamples: int, seed: int) -> Difference:
    """One set of ratios less another of the same problems, in the same order."""
    n, (first, second) = one.above.sizes["problem"], (_cells(side) for side in (one, minus))
    weights = resample_weights(n, n_resamples=n_resamples, seed=seed)
    flips = sign_flips(n, n_flips=n_resamples, seed=seed)
    samples = _resampled(first, weights) - _resampled(second, weights)
    p = _labelled(_flipped_p(_linearised(first) - _linearised(second), flips), one.above)
    exact = mcnemar(one.above["accuracy"] > 0, minus.above["accuracy"] > 0)["p"]
    return _cells_with_intervals(samples, one.above), p.assign(accuracy=exact)


def flipped_p(values: xr.Dataset, flips: xr.DataArray) -> xr.Dataset:
    """Two-sided p of the mean of per-problem differences, dims (problem, …); NaN where undefined or of too few."""
    return _labelled(_flipped_p(_in_cells(bare(values)), flips), values)


def _flipped_p(cells: xr.Variable, flips: xr.DataArray) -> xr.Variable:
    values, n = xr.DataArray(cells), cells.sizes["problem"]
    known = values.notnull().all("problem")
    real = without_rounding(values.where(known, 0.0))
    return flip_p_values(flipped_t(real, flips, n)).where(known & (n >= LEAST_PROBLEMS)).variable


def unpaired_difference(one: Ratios, minus: Ratios, *, n_resamples: int, seeds: tuple[int, int]) -> Difference:
    """One set of ratios less another of other problems; the seeds of the two sides must differ to be independent."""
    cells = [_cells(side) for side in (one, minus)]
    sizes = [side.above.sizes["problem"] for side in (one, minus)]
    drawn = [resample_weights(n, n_resamples=n_resamples, seed=seed) for n, seed in zip(sizes, seeds, strict=True)]
    samples = _resampled(cells[0], drawn[0]) - _resampled(cells[1], drawn[1])
    above, below = (concatenated(parts, "problem") for parts in zip(*cells, strict=True))
    labels = relabellings(*sizes, n_draws=n_resamples, seed=seeds[0])
    # If one side lacks the measure, the permutation p-value is undefined.
    p = where(samples.isel(resample=0).notnull(), two_sided(dealt_t(above, below, labels.variable)))
    return _cells_with_intervals(samples, one.above), _labelled(p, one.above)


def dealt_t(above: xr.Variable, below: xr.Variable, labels: xr.Variable) -> xr.Variable:
    """Welch's t of the difference of two ratios, corrected for skewness: (problem, …) to (resample, …).

    Each row of `labels` deals out the problems. The smaller side may be the more skewed one, by which its mean and its
    standard error err together: without the correction one of ten true nulls is rejected at 5 %.
    """
    (one, spread, skew), (minus, spread_minus, skew_minus) = (
        _with_moments(above, below, of.astype(np.float64)) for of in (labels, 1 - labels)
    )
    difference, variance = one - minus, spread + spread_minus
    # Where neither side varies, the smallest difference is beyond any number of standard errors.
    least = TIE**2 * (one**2 + minus**2)
    sizeless = where(abs(difference) > TIE * (abs(one) + abs(minus)), np.inf * difference, 0.0)
    error = where(variance > least, variance) ** 0.5
    # Never beyond ±1 but by rounding: the skewness of n numbers is sqrt(n) at most.
    u = np.maximum(np.minimum((skew - skew_minus) / error**3, 1.0), -1.0)
    t = without_skewness(difference / error, u)
    return where(variance > least, t, where(difference.notnull(), sizeless))


def _with_moments(a: xr.Variable, b: xr.Variable, weights: xr.Variable) -> tuple[xr.Variable, xr.Variable, xr.Variable]:
    """The ratio R = Σ a / Σ b under every row of 0/1 weights, its variance and third central moment to first order.

    Of d = (a − R·b) / Σ b, the share of each problem (see `linearised`): n/(n − 1) · Σ d², for the degree
    of freedom that R takes, and Σ d³.
    """
    terms = (a, b, a**2, a * b, b**2, a**3, a**2 * b, a * b**2, b**3)
    above, below, aa, ab, bb, aaa, aab, abb, bbb = (resampled_sum(part, weights) for part in terms)
    ratio = _divide(above, below)
    n = weights.sum("problem")
    squares = aa - 2.0 * ratio * ab + ratio**2 * bb
    squares = where(squares > 0.0, squares, 0.0)
    cubes = aaa - 3.0 * ratio * aab + 3.0 * ratio**2 * abb - ratio**3 * bbb
    return ratio, _divide(squares, below**2) * (n / np.maximum(n - 1.0, 1.0)), _divide(cubes, below**3)


def two_sided(draws: xr.Variable) -> xr.Variable:
    """Share of draws at least as far from 0 as draw 0, the observed one; undefined draws are left out."""
    distance = abs(draws)
    observed = distance.isel(resample=0)
    as_far = (distance >= observed * (1.0 - TIE)).sum("resample")
    return where(observed.notnull(), as_far / distance.notnull().sum("resample"))


def over_models(values: xr.DataArray) -> xr.DataArray:
    """Mean over models with its t interval, dims (model, …) to (…, value); the problems are nested in the models.

    mean ∓ t_{.975, k − 1} · sd / sqrt(k), k models; NaN bounds for one model.
    """
    k = values.sizes["model"]
    half = values.std("model", ddof=1) * (stdtrit(k - 1, (1.0 + CONFIDENCE) / 2.0) / k**0.5) if k > 1 else np.nan
    return _bounded(values.mean("model", skipna=False), half)


def welch(one: xr.DataArray, minus: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The difference of the means of two sets of models, with Welch's t interval, dims (…, value), and two-sided p.

    df = (v + w)² / (v²/(k − 1) + w²/(m − 1)), v and w the variances of the means of k and of m models, two at least.
    NaN where neither set varies, unless the means are equal.
    """
    sizes, variances = zip(
        *((x.sizes["model"], x.var("model", ddof=1) / x.sizes["model"]) for x in (one, minus)), strict=True
    )
    difference = one.mean("model", skipna=False) - minus.mean("model", skipna=False)
    variance = (variances[0] + variances[1]).where(lambda of: of > 0.0)
    df = variance**2 / sum(of**2 / (k - 1) for k, of in zip(sizes, variances, strict=True))
    half = xr.apply_ufunc(stdtrit, df, (1.0 + CONFIDENCE) / 2.0) * variance**0.5
    p = 2.0 * xr.apply_ufunc(stdtr, df, -abs(difference) / variance**0.5)
    return _bounded(difference, half), p.where(difference != 0.0, 1.0).where(difference.notnull())


def paired_over_models(differences: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The mean of each model's own difference, dims (model, …), with its t interval (…, value), and two-sided p.

    t = mean / (sd / sqrt(k)), k models, two at least; NaN where they do not vary, unless their mean is 0.
    """
    k = differences.sizes["model"]
    mean, error = differences.mean("model", skipna=False), differences.std("model", ddof=1, skipna=False) / k**0.5
    p = 2.0 * xr.apply_ufunc(stdtr, k - 1, -abs(mean) / error.where(error > 0.0))
    return over_models(differences), p.where(mean != 0.0, 1.0).where(mean.notnull())


def _bounded(estimate: xr.DataArray, half: xr.DataArray | float) -> xr.DataArray:
    names = xr.DataArray(text(VALUES), dims="value", name="value")
    bounds: xr.DataArray = xr.concat([estimate, estimate - half, estimate + half], names)
    return bounds.transpose(..., "value")


def mean_of_models(models: Sequence[Ratios], weights: xr.DataArray) -> xr.Dataset:
    """Every measure in every resample of the problems, the mean over models; all have the same problems."""
    return stack([resampled(ratios, weights) for ratios in models], "model").mean("model", skipna=False)


def mean_linearised(models: Sequence[Ratios]) -> xr.Dataset:
    """`linearised`, the mean over models: dims (problem, …)."""
    return stack([linearised(ratios) for ratios in models], "model").mean("model", skipna=False)


def relabellings(n_one: int, n_minus: int, *, n_draws: int, seed: int) -> xr.DataArray:
    """Which problems are on the first side, draw 0 the first `n_one`: every way if there are at most `n_draws`."""
    n = n_one + n_minus
    if comb(n, n_one) <= n_draws:
        labels = np.zeros((comb(n, n_one), n), dtype=np.uint8)
        for row, chosen in zip(labels, combinations(range(n), n_one), strict=True):
            row[list(chosen)] = 1
    else:
        first = (np.arange(n) < n_one).astype(np.uint8)
        labels = np.random.default_rng(seed).permuted(np.tile(first, (n_draws + 1, 1)), axis=1)
        labels[0] = first
    return xr.DataArray(labels, dims=("resample", "problem"))


def stack(parts: list[xr.Dataset], dim: str) -> xr.Dataset:
    """Datasets of the same labels as one, along a new dim; of none, an empty one."""
    if not parts:
        return xr.Dataset()
    return xr.concat(parts, dim, data_vars="all", coords="minimal", compat="equals", join="exact")
