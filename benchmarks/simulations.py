"""Simulated populations in which a null hypothesis holds, and how often the tests of attention reject it at 5 %.

In: sizes, a population, a number of trials and a seed. Out: the share of trials that a test rejects, or in which an
interval covers the truth. All trials are drawn as one array, so that 2,000 take seconds.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import xarray as xr

from thoughtlens.analysis import resample_weights, sign_flip_test
from thoughtlens.analysis.comparison_statistics import Ratios, dealt_t, over_models, relabellings, two_sided, welch
from thoughtlens.analysis.nulls import position_effects
from thoughtlens.analysis.significance import mean_p
from thoughtlens.notation import thought_names

LEVEL: Final = 0.05

Population = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Numbers of mean 0 and of any spread, in the shape asked for."""

POPULATIONS: Final[dict[str, Population]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1.0,
    "log-normal": lambda rng, shape: rng.lognormal(size=shape) - np.exp(0.5),
    "student 2.5": lambda rng, shape: rng.standard_t(2.5, size=shape),
    "one in ten": lambda rng, shape: (
        (rng.random(shape) < 0.1) * rng.exponential(size=shape) - 0.1 + rng.normal(0, 0.01, shape)
    ),
}


def sign_flips_reject(population: str, n: int, *, n_trials: int = 2000, n_flips: int = 999, seed: int = 0) -> float:
    """How often `sign_flip_test` of n problems calls a mean of 0 an effect, two-sided."""
    values = POPULATIONS[population](np.random.default_rng(seed), (n, n_trials))
    found = sign_flip_test(xr.DataArray(values, dims=("problem", "trial")), n_flips=n_flips, seed=seed)
    return float((found["p"] <= LEVEL).mean())


def least_excess_rejects(population: str, n: int, *, n_trials: int = 2000, seed: int = 0) -> float:
    """How often `mean_p`, the test that names types of heads, calls a mean at its bound more than the bound."""
    values = POPULATIONS[population](np.random.default_rng(seed), (n, n_trials))
    sums, squares, cubes = (xr.DataArray((values**power).sum(0)) for power in (1, 2, 3))
    return float((mean_p(sums, squares, cubes, n) <= LEVEL).mean())


def unpaired_rejects(
    population: str, n_one: int, n_minus: int, spread: float, *, n_trials: int = 2000, n_draws: int = 500, seed: int = 0
) -> float:
    """How often n_one problems, `spread` times as wide as the n_minus of the other side, differ from these in mean."""
    rng = np.random.default_rng(seed)
    one, minus = (POPULATIONS[population](rng, (n, n_trials)) for n in (n_one, n_minus))
    above = xr.DataArray(np.concatenate([spread * one, minus]) + 3.0, dims=("problem", "trial"))
    pooled = Ratios(*(xr.Dataset({"mean": of}) for of in (above, xr.ones_like(above))))
    p = two_sided(dealt_t(pooled, relabellings(n_one, n_minus, n_draws=n_draws, seed=seed)))["mean"]
    return float((p <= LEVEL).mean())


def recipes_reject(n_one: int, n_minus: int, spread: float = 1.0, *, n_trials: int = 2000, seed: int = 0) -> float:
    """How often recipes of equal mean differ by `welch`, with so many seeds each, one `spread` times as wide."""
    rng = np.random.default_rng(seed)
    sizes = ((n_one, spread), (n_minus, 1.0))
    one, minus = (xr.DataArray(s * rng.normal(size=(n, n_trials)), dims=("model", "trial")) for n, s in sizes)
    return float((welch(one, minus)[1] <= LEVEL).mean())


def seeds_cover(n_models: int, *, n_trials: int = 2000, seed: int = 0) -> float:
    """How often the 95 % interval of `over_models` holds the recipe's mean."""
    values = np.random.default_rng(seed).normal(size=(n_models, n_trials))
    bounds = over_models(xr.DataArray(values, dims=("model", "trial")))
    return float(((bounds.sel(value="low") <= 0.0) & (bounds.sel(value="high") >= 0.0)).mean())


def null_rank_rejects(n_models: int, n_heads: int, likeness: float, *, n_trials: int = 2000, seed: int = 0) -> float:
    """How often a random head is beyond the heads of so many random models by its rank, not corrected over heads.

    `likeness` is the share of variance that heads of one model have in common, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    models = rng.normal(size=(n_trials, n_models + 1, 1)) * likeness**0.5
    heads = models + rng.normal(size=(n_trials, n_models + 1, n_heads)) * (1.0 - likeness) ** 0.5
    nulls = heads[:, 1:].reshape(n_trials, -1)
    p = (1.0 + (nulls >= heads[:, 0, :1]).sum(1)) / (1.0 + nulls.shape[1])
    return float((p <= LEVEL).mean())


def key_effects_reject(n: int, spread: float = 0.6, *, n_trials: int = 500, seed: int = 0) -> tuple[float, float]:
    """How often `position_effects` finds an effect where rows look by lag alone, and its interval holds 0."""
    rng, names = np.random.default_rng(seed), thought_names(6)
    q, k = np.indices((6, 6))
    means = np.where(q > k, np.exp(np.array([0.0, 2.0, 0.5, 0.0, 0.0, 0.0])[np.maximum(q - k, 0)] - 0.5 * q), 0.0)
    values = (means * np.exp(rng.normal(0.0, spread, size=(n, n_trials, 6, 6)))).reshape(n, -1)
    samples = (resample_weights(n, n_resamples=200, seed=seed).values @ values / n).reshape(-1, n_trials, 6, 6)
    coords = {"query": names, "key": names}
    found = position_effects(xr.DataArray(samples, dims=("resample", "trial", "query", "key"), coords=coords), n)
    low, high = (found["effect"].sel(value=name) for name in ("low", "high"))
    return float((found["p"] <= LEVEL).mean()), float(((low <= 0.0) & (high >= 0.0)).mean())
