"""Two sets of ratios become their difference, with an interval and a p-value.

*Paired*, the same problems twice: each resample draws the same problems for both. The p-value flips the sign of each
problem's difference (`significance.flip_p_values`): under the null of no difference, a problem is as likely to favour
the one as the other. Accuracy has McNemar's exact test, which is that for 0 and 1.

*Unpaired*, different problems: each side is resampled by itself. The p-value deals the problems out to the two sides
anew: under the null they are of one kind.

p counts the draws at least as far from 0 as what was observed, itself among them: it is never 0. Each p-value is of one
number; `comparison_tables` corrects them over what is shown.

References: Efron and Tibshirani (1993), An Introduction to the Bootstrap, §15 (permutation) and §8 (paired resampling);
McNemar (1947), Psychometrika 12, exact by the binomial.
"""

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.excess_cells import without_rounding
from thoughtlens.analysis.ratios import Ratios, join_problems, linearised, resampled
from thoughtlens.analysis.significance import flip_p_values, mcnemar, sign_flips, studentised
from thoughtlens.analysis.statistics import interval, proportion_interval, resample_weights, weighted_sums

TIE = 1e-9
"""Draws within this relative distance of the observed difference count as equal to it: sums are rounded."""


class Difference(NamedTuple):
    """One set of ratios less another."""

    values: xr.Dataset
    """dims (…, value)"""
    p: xr.Dataset
    """dims (…), two-sided"""


def measured(ratios: Ratios, weights: xr.DataArray) -> xr.Dataset:
    """Every measure with its interval, dims (…, value): bootstrap over problems; accuracy as Wilson has it."""
    right = ratios.above["accuracy"]
    values = resampled(ratios, weights).map(interval)
    return values.assign(accuracy=proportion_interval(int(right.sum()), right.size))


def paired_difference(one: Ratios, minus: Ratios, *, n_resamples: int, seed: int) -> Difference:
    """One set of ratios less another of the same problems, in the same order."""
    n = one.above.sizes["problem"]
    weights = resample_weights(n, n_resamples=n_resamples, seed=seed)
    samples = resampled(one, weights) - resampled(minus, weights)
    flips = sign_flips(n, n_flips=n_resamples, seed=seed)
    p = (linearised(one) - linearised(minus)).map(flipped_p, flips=flips)
    exact = mcnemar(one.above["accuracy"] > 0, minus.above["accuracy"] > 0)["p"]
    return Difference(samples.map(interval), p.assign(accuracy=exact))


def flipped_p(values: xr.DataArray, flips: xr.DataArray) -> xr.DataArray:
    """Two-sided p of the mean of per-problem differences, dims (problem, …); NaN where they are undefined."""
    known = values.notnull().all("problem")
    real = without_rounding(values.where(known, 0.0))
    z = studentised(weighted_sums(real, flips), (real**2).sum("problem"))
    return flip_p_values(z).where(known)


def unpaired_difference(one: Ratios, minus: Ratios, *, n_resamples: int, seeds: tuple[int, int]) -> Difference:
    """One set of ratios less another of other problems.

    Args:
        one: of some problems.
        minus: of others.
        n_resamples: resamples of each side, and permutations of the labels.
        seeds: of the resamples of each side; two that are equal would not be independent.

    Returns:
        The difference and its p-value.
    """
    sizes = [side.above.sizes["problem"] for side in (one, minus)]
    drawn = [resample_weights(n, n_resamples=n_resamples, seed=seed) for n, seed in zip(sizes, seeds, strict=True)]
    samples = resampled(one, drawn[0]) - resampled(minus, drawn[1])
    pooled = Ratios(*(join_problems(list(parts)) for parts in zip(one, minus, strict=True)))
    labels = relabellings(*sizes, n_draws=n_resamples, seed=seeds[0])
    dealt = resampled(pooled, labels) - resampled(pooled, 1 - labels)
    # A measure that only one of the sides has is not told by dealing out the problems of the other.
    observed = samples.isel(resample=0, drop=True)
    return Difference(samples.map(interval), two_sided(dealt).where(observed.notnull()))


def two_sided(draws: xr.Dataset) -> xr.Dataset:
    """Share of draws at least as far from 0 as draw 0, the observed one; undefined draws are left out."""
    distance = abs(draws)
    observed = distance.isel(resample=0, drop=True)
    as_far = (distance >= observed * (1.0 - TIE)).where(distance.notnull())
    return as_far.mean("resample").where(observed.notnull())


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
    """Datasets of the same labels as one, along a new dim."""
    return xr.concat(parts, dim, data_vars="all", coords="minimal", compat="equals", join="exact")
