"""Two sets of ratios become their difference, with an interval and a p-value.

*Paired*, the same problems twice: each resample draws the same problems for both. The p-value flips the sign of each
problem's difference, at random or in every way if these are few: under the null of no difference, a problem is as
likely to favour the one as the other. Accuracy has McNemar's exact test, which is that for 0 and 1.

*Unpaired*, different problems: each side is resampled by itself. The p-value deals the problems out to the two sides
anew: under the null they are of one kind.

p counts the draws at least as far from 0 as what was observed, itself among them: it is never 0. Each p-value is of one
number; none is corrected for how many there are.

References: Efron and Tibshirani (1993), An Introduction to the Bootstrap, §15 (permutation) and §8 (paired resampling);
McNemar (1947), Psychometrika 12, exact by the binomial.
"""

from itertools import combinations, product
from math import comb
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import binomtest

from thoughtlens.analysis.ratios import Ratios, join_problems, linearised, resampled
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
    flips = sign_flips(n, n_draws=n_resamples, seed=seed)
    per_problem = linearised(one) - linearised(minus)
    p = two_sided(per_problem.map(weighted_sums, weights=flips))
    exact = mcnemar(one.above["accuracy"].values > 0, minus.above["accuracy"].values > 0)
    return Difference(samples.map(interval), p.assign(accuracy=exact))


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


def sign_flips(n_problems: int, *, n_draws: int, seed: int) -> xr.DataArray:
    """Signs of each problem, draw 0 all +1: every combination if at most `n_draws` there are, else random ones."""
    if n_problems < 63 and 2**n_problems <= n_draws:
        signs = np.array(list(product((1, -1), repeat=n_problems)), dtype=np.int8)
    else:
        signs = np.random.default_rng(seed).choice(np.array([1, -1], dtype=np.int8), (n_draws + 1, n_problems))
        signs[0] = 1
    return xr.DataArray(signs, dims=("resample", "problem"))


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


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test: are the problems that only one solves evenly split between the two?"""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    n_discordant = only_one + only_other
    return float(binomtest(only_one, n_discordant).pvalue) if n_discordant else 1.0


def stack(parts: list[xr.Dataset], dim: str) -> xr.Dataset:
    """Datasets of the same labels as one, along a new dim."""
    return xr.concat(parts, dim, data_vars="all", coords="minimal", compat="equals", join="exact")
