"""Turn counts and paired differences into p-values, and p-values of a family into corrected ones."""

import numpy as np
import xarray as xr
from scipy.stats import binom, false_discovery_control, norm

POWER = 0.8
ALPHA = 0.05


def mcnemar(n_broken: np.ndarray, n_mended: np.ndarray) -> np.ndarray:
    """Exact two-sided p of McNemar's test; 1 where nothing flipped."""
    fewer, flips = np.minimum(n_broken, n_mended), n_broken + n_mended
    p: np.ndarray = np.minimum(1.0, 2.0 * binom.cdf(fewer, flips, 0.5))
    return p


def sign_flip(differences: np.ndarray, *, n_draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """Two-sided p that paired differences (problem, cut) are centred on 0, signs of problems flipped together."""
    values = np.nan_to_num(differences)
    observed, n_extreme = np.abs(values.sum(0)), np.ones(values.shape[1])
    rng = np.random.default_rng(seed)
    for start in range(0, n_draws, 1000):
        signs = rng.choice([-1.0, 1.0], size=(min(1000, n_draws - start), len(values)))
        n_extreme += (np.abs(signs @ values) >= observed - 1e-9 * (1 + observed)).sum(0)
    return n_extreme / (1 + n_draws)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's corrected p-values."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, steps)
    return corrected


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's corrected p-values."""
    corrected: np.ndarray = false_discovery_control(p) if len(p) else p
    return corrected


def minimum_detectable(spread: xr.DataArray, n: xr.DataArray) -> xr.DataArray:
    """The mean difference that a two-sided test at 5 % finds four times in five."""
    return (norm.ppf(1 - ALPHA / 2) + norm.ppf(POWER)) * spread / np.sqrt(n)
