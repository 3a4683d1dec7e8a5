"""Turn per-problem numbers into estimates with intervals, by resampling problems.

1. A resample draws n of n problems with replacement; how often each is drawn is a row of multinomial weights.
2. Row 0 of the weights is all ones: the sample as observed.
3. Sums over problems are linear, so weights @ values gives the sums of every resample in one product, and sums of
   blocks add up: a run is resampled without holding it.
4. Any function of those sums (a ratio, a maximum) is taken after; percentiles over the resamples are its interval.

Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

import numpy as np
import xarray as xr
from scipy.special import ndtri

from thoughtlens.errors import OptionError

CONFIDENCE = 0.95
"""Of every interval that is reported."""

VALUES = ("estimate", "low", "high")
"""Labels of the `value` dim that every number with an interval carries."""

CHUNK_CELLS = 4_000_000
"""Cells of a resampled array held at once: 32 MB in float64."""


def resample_weights(n_problems: int, *, n_resamples: int = 1000, seed: int = 0) -> xr.DataArray:
    """How often each problem is drawn: dims (resample, problem), resample 0 being the sample itself.

    Args:
        n_problems: problems in the sample, drawn as often with replacement.
        n_resamples: resamples beside the observed one.
        seed: same seed, same weights.

    Returns:
        uint8 counts (a problem drawn more than 255 times does not happen), each row summing to `n_problems`.
    """
    if n_problems < 1 or n_resamples < 1:
        raise OptionError(
            f"found {n_problems} problems and {n_resamples} resamples; an interval needs at least one of each."
        )
    rng = np.random.default_rng(seed)
    weights = np.ones((n_resamples + 1, n_problems), dtype=np.uint8)
    for row in weights[1:]:
        row[:] = np.bincount(rng.integers(n_problems, size=n_problems), minlength=n_problems)
    return xr.DataArray(weights, dims=("resample", "problem"))


def weighted_sums(values: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    """Sum over problems in every resample, in float64: `problem` becomes `resample`.

    Args:
        values: dims (problem, ...), free of NaN.
        weights: as `resample_weights` gives them, or the columns that belong to these problems.
    """
    values = values.drop_vars("problem", errors="ignore")
    # As floats, in one matrix product: a product of integers would not use BLAS.
    total: xr.DataArray = xr.dot(weights.astype(np.float64), values.astype(np.float64), dim="problem", optimize=True)
    return total.transpose("resample", ...)


def interval(samples: xr.DataArray, *, confidence: float = 0.95) -> xr.DataArray:
    """Percentile interval of a statistic over its resamples.

    low, high = the (1 ∓ confidence)/2 quantiles of resamples 1 …; estimate = resample 0.  Resamples in which the
    statistic is undefined are left out; where all are, so is the interval.

    Args:
        samples: dims (resample, ...), resample 0 being the observed value.
        confidence: coverage, between 0 and 1.

    Returns:
        dims (..., value) with `value` in estimate, low, high.
    """
    _check_confidence(confidence)
    samples = samples.transpose("resample", ...)
    bounds = _quantiles(samples.values[1:], np.array([1.0 - confidence, 1.0 + confidence]) / 2.0)
    observed = samples.isel(resample=0, drop=True)
    low, high = observed.copy(data=bounds[0]), observed.copy(data=bounds[1])
    return _with_values(observed, low.where(observed.notnull()), high.where(observed.notnull()))


def bootstrap_ratio(
    numerator: xr.DataArray,
    denominator: xr.DataArray,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> xr.DataArray:
    """Ratio of sums over problems, with its bootstrap interval.

    Σ_p numerator[p] / Σ_p denominator[p].  A problem that is NaN in either is left out of both; NaN where the
    denominator sums to 0. Problems are resampled whole: all cells of a problem together.

    Args:
        numerator: dims (problem, ...).
        denominator: dims that broadcast against the numerator, `problem` among them.
        n_resamples: resamples of the problems.
        seed: same seed, same interval.
        confidence: coverage, between 0 and 1.

    Returns:
        float64, the numerator's other dims and `value` in estimate, low, high.
    """
    above, below = (_flat(array) for array in xr.broadcast(numerator, denominator))
    known = above.notnull() & below.notnull()
    weights = resample_weights(above.sizes["problem"], n_resamples=n_resamples, seed=seed)
    step = max(1, CHUNK_CELLS // weights.sizes["resample"])
    parts = [slice(start, start + step) for start in range(0, max(1, above.sizes["cell"]), step)]
    bounds = [
        _ratio_interval(above.where(known, 0.0)[:, part], below.where(known, 0.0)[:, part], weights, confidence)
        for part in parts
    ]
    template = xr.broadcast(numerator, denominator)[0].transpose("problem", ...).isel(problem=0, drop=True)
    flat = np.concatenate([bound.values for bound in bounds])
    return _with_values(*(template.copy(data=column.reshape(template.shape)) for column in np.moveaxis(flat, -1, 0)))


def bootstrap_mean(
    values: xr.DataArray, *, n_resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> xr.DataArray:
    """Mean over problems, with its bootstrap interval; NaN problems are left out.

    Args:
        values: dims (problem, ...).
        n_resamples: resamples of the problems.
        seed: same seed, same interval.
        confidence: coverage, between 0 and 1.

    Returns:
        float64, the other dims and `value` in estimate, low, high.
    """
    return bootstrap_ratio(
        values, xr.ones_like(values, dtype=np.float64), n_resamples=n_resamples, seed=seed, confidence=confidence
    )


def proportion_interval(n_true: int, n: int, *, confidence: float = 0.95) -> xr.DataArray:
    """A proportion with its Wilson score interval.

    centre = (p + z²/2n) / (1 + z²/n), half-width = z/(1 + z²/n) · sqrt(p(1 − p)/n + z²/4n²).  Range 0-1, never of
    width 0, so that 10 of 10 does not claim certainty.  Reference: Wilson (1927), JASA 22.

    Args:
        n_true: how many are.
        n: of how many; 0 gives NaN.
        confidence: coverage, between 0 and 1.

    Returns:
        `value` in estimate, low, high.
    """
    _check_confidence(confidence)
    if n == 0:
        return _with_values(*(xr.DataArray(np.nan) for _ in VALUES))
    z, p = float(ndtri((1.0 + confidence) / 2.0)), n_true / n
    scale = 1.0 + z**2 / n
    centre, half = (p + z**2 / (2 * n)) / scale, z / scale * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    # Rounding may leave the ends of [0, 1] by 1e-17, and p itself outside its interval.
    low, high = min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))
    return _with_values(*(xr.DataArray(x) for x in (p, low, high)))


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise OptionError(f"confidence is {confidence}, expected a number between 0 and 1, such as 0.95.")


def _ratio_interval(
    numerator: xr.DataArray, denominator: xr.DataArray, weights: xr.DataArray, confidence: float
) -> xr.DataArray:
    below = weighted_sums(denominator, weights)
    return interval(weighted_sums(numerator, weights) / below.where(below != 0.0), confidence=confidence)


def _flat(array: xr.DataArray) -> xr.DataArray:
    values = array.transpose("problem", ...).values.astype(np.float64, copy=False)
    return xr.DataArray(values.reshape(len(values), -1), dims=("problem", "cell"))


def _quantiles(samples: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles over the first axis, of what is not NaN; NaN where all of it is."""
    undefined = np.isnan(samples)
    bounds = np.full((len(levels), *samples.shape[1:]), np.nan)
    complete = ~undefined.any(0)
    partly = ~undefined.all(0) & ~complete
    # nanquantile goes column by column in Python: only where it must.
    bounds[:, complete] = np.quantile(samples[:, complete], levels, axis=0)
    bounds[:, partly] = np.nanquantile(samples[:, partly], levels, axis=0)
    return bounds


def _with_values(estimate: xr.DataArray, low: xr.DataArray, high: xr.DataArray) -> xr.DataArray:
    names = xr.DataArray(np.array(VALUES, dtype=np.dtypes.StringDType()), dims="value", name="value")
    labelled: xr.DataArray = xr.concat([estimate, low, high], names)
    return labelled.transpose(..., "value")
