"""Estimates with intervals from per-problem numbers, rank correlation, and numbers as short text.

In: arrays with the dim `problem`. Out: arrays with the dim `value`: estimate, low, high.

1. A resample draws n of n problems with replacement; how often each problem is drawn is a row of multinomial weights.
2. Row 0 of the weights is all ones: the sample as observed.
3. Sums over problems are linear. So weights @ values gives the sums of every resample in one product, and the sums of
   blocks of problems add up: a run is resampled without being held in memory.
4. Any function of those sums (a ratio, a maximum) is taken afterwards; its interval is percentiles over the resamples.

5. A mean of paired differences has a bootstrap-t interval: each resample's mean is studentised by its own standard
   error, so that the interval grows to the side of the tail. A difference of paired proportions has a score interval,
   which has a width even where nothing differed.

Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 12 (bootstrap-t) and 13 (percentile
interval).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.special import ndtri
from scipy.stats import binomtest, rankdata

from thoughtlens.errors import OptionError
from thoughtlens.notation import text

CONFIDENCE = 0.95
"""Of every interval that is reported."""

VALUES = ("estimate", "low", "high")
"""Labels of the `value` dim that every number with an interval carries."""

_VALUE = xr.DataArray(text(VALUES), dims="value", coords={"value": text(VALUES)})

CHUNK_CELLS = 4_000_000
"""Cells of a resampled array held at once: 32 MB in float64."""

CACHED_CELLS = 65_536
"""Cells that stay in the processor's cache."""


@contextmanager
def exact_labels() -> Iterator[None]:
    """Arithmetic on arrays whose labels differ raises, where xarray would keep what they have in common.

    Arrays whose labels agree are then not copied first, which takes a third of the analysis of few heads.
    """
    with xr.set_options(arithmetic_join="exact"):  # type: ignore[no-untyped-call]  # of xr.set_options
        yield


def resample_weights(n_problems: int, *, n_resamples: int = 1000, seed: int = 0) -> xr.DataArray:
    """How often each problem is drawn in each bootstrap resample.

    Args:
        n_problems: n, the problems in the sample; each resample draws n of them with replacement.
        n_resamples: resamples beside the observed one.
        seed: same seed, same weights.

    Returns:
        uint8 counts, dims (resample, problem), each row summing to n; resample 0 is the sample itself, all ones.

    Raises:
        OptionError: there is no problem, or no resample was asked for.

    Example:
        >>> resample_weights(3, n_resamples=2).sum("problem").values.tolist()
        [3, 3, 3]
    """
    if n_problems < 1 or n_resamples < 1:
        raise OptionError(
            f"found {n_problems} problems and {n_resamples} resamples; an interval needs at least one of each."
        )
    rng = np.random.default_rng(seed)
    weights = np.ones((n_resamples + 1, n_problems), dtype=np.uint8)
    step = max(1, CACHED_CELLS // n_problems)
    for some in (weights[start : start + step] for start in range(1, n_resamples + 1, step)):
        # Each resample counts in cells of its own.
        drawn = rng.integers(n_problems, size=some.shape) + n_problems * np.arange(len(some))[:, None]
        some[:] = np.bincount(drawn.ravel(), minlength=some.size).reshape(some.shape)
    return xr.DataArray(weights, dims=("resample", "problem"))


def weighted_sums(values: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    """Sums over problems in every resample, Σ_p weights[b, p] · values[p], in float64: dims (resample, …)."""
    total = resampled_sum(values.variable, weights.variable)
    coords = {**weights.coords, **values.coords}
    return xr.DataArray(total, {name: of for name, of in coords.items() if "problem" not in of.dims})


def resampled_sum(values: xr.Variable, weights: xr.Variable) -> xr.Variable:
    """`weighted_sums` without labels, whose comparison takes longer than the product."""
    # As floats, in one matrix product: a product of integers would not use BLAS.
    rows, drawn = (
        of.transpose(*dims).astype(np.float64, copy=False)
        for of, dims in ((values, ("problem", ...)), (weights, ("resample", "problem")))
    )
    total = np.tensordot(drawn.values, rows.values, axes=1)
    return xr.Variable(("resample", *rows.dims[1:]), total)


def interval(samples: xr.DataArray, *, confidence: float = CONFIDENCE) -> xr.DataArray:
    """Percentile interval of a statistic over its resamples.

    low, high = the (1 ∓ confidence)/2 quantiles of resamples 1, 2, …; estimate = resample 0.  Resamples in which the
    statistic is undefined are left out; where it is undefined in all of them, so is the interval.

    Args:
        samples: dims (resample, ...), resample 0 being the observed value.
        confidence: coverage, between 0 and 1.

    Returns:
        dims (..., value) with `value` in estimate, low, high.

    Raises:
        OptionError: `confidence` is not between 0 and 1.

    Example:
        >>> interval(xr.DataArray([0.5, 0.0, 0.25, 0.5, 0.75, 1.0], dims="resample"), confidence=0.5).values.tolist()
        [0.5, 0.25, 0.75]

    Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    _check_confidence(confidence)
    samples = samples.transpose("resample", ...)
    return _with_values(samples.isel(resample=0, drop=True), _with_bounds(samples.values, confidence))


def bare_interval(samples: xr.Variable) -> xr.Variable:
    """`interval` without labels: dims (resample, …) to (…, value)."""
    ordered = samples.transpose("resample", ...)
    return xr.Variable((*ordered.dims[1:], "value"), _with_bounds(ordered.values))


def bare_intervals(samples: Mapping[str, xr.Variable]) -> dict[str, xr.Variable]:
    """`bare_interval` of each, the quantiles of all taken at once."""
    ordered = {name: of.transpose("resample", ...) for name, of in samples.items()}
    flat = [of.values.reshape(len(of), prod(of.shape[1:])) for of in ordered.values()]
    found = np.split(_with_bounds(np.concatenate(flat, axis=1)), np.cumsum([of.shape[1] for of in flat])[:-1])
    return {
        name: xr.Variable((*of.dims[1:], "value"), its.reshape(*of.shape[1:], len(VALUES)))
        for (name, of), its in zip(ordered.items(), found, strict=True)
    }


def _with_bounds(samples: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Resample 0, and the bounds of its percentile interval from the others: (resample, …) to (…, value)."""
    bounds = _quantiles(samples[1:], np.array([1.0 - confidence, 1.0 + confidence]) / 2.0)
    bounds[:, np.isnan(samples[0])] = np.nan
    return np.stack([samples[0], *bounds], axis=-1)


def bootstrap_ratio(
    numerator: xr.DataArray,
    denominator: xr.DataArray,
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> xr.DataArray:
    """Ratio of sums over problems, with its bootstrap interval.

    Σ_p numerator[p] / Σ_p denominator[p].  A problem that is NaN in either is left out of both; NaN where the
    denominator sums to 0. All cells of a problem are drawn together.

    Args:
        numerator: dims (problem, ...).
        denominator: dims that broadcast against the numerator, `problem` among them.
        n_resamples: resamples of the problems.
        seed: same seed, same interval.
        confidence: coverage, between 0 and 1.

    Returns:
        float64, the numerator's other dims and `value` in estimate, low, high.

    Raises:
        OptionError: no problem or no resample, or `confidence` is not between 0 and 1.

    Example:
        >>> right, asked = (xr.DataArray(values, dims="problem") for values in ([1.0, 3.0], [2.0, 4.0]))
        >>> round(float(bootstrap_ratio(right, asked).sel(value="estimate")), 3)
        0.667
    """
    _check_confidence(confidence)
    over, under = xr.broadcast(numerator, denominator)
    flat = [_flat(array).values for array in (over, under)]
    known = ~(np.isnan(flat[0]) | np.isnan(flat[1]))
    above, below = (xr.Variable(("problem", "cell"), np.where(known, values, 0.0)) for values in flat)
    drawn = resample_weights(above.sizes["problem"], n_resamples=n_resamples, seed=seed).variable
    step = max(1, CHUNK_CELLS // drawn.sizes["resample"])
    parts = [slice(start, start + step) for start in range(0, max(1, above.sizes["cell"]), step)]
    bounds = [_ratio_bounds(above[:, part], below[:, part], drawn, confidence) for part in parts]
    template = over.transpose("problem", ...).isel(problem=0, drop=True)
    return _with_values(template, np.concatenate(bounds).reshape(*template.shape, len(VALUES)))


def bootstrap_mean(
    values: xr.DataArray, *, n_resamples: int = 1000, seed: int = 0, confidence: float = CONFIDENCE
) -> xr.DataArray:
    """Mean over problems, with its bootstrap interval; a problem that is NaN is left out.

    Args:
        values: dims (problem, ...).
        n_resamples: resamples of the problems.
        seed: same seed, same interval.
        confidence: coverage, between 0 and 1.

    Returns:
        float64, the other dims and `value` in estimate, low, high.

    Raises:
        OptionError: as `bootstrap_ratio`.

    Example:
        >>> bootstrap_mean(xr.DataArray([2.0, 2.0], dims="problem")).values.tolist()
        [2.0, 2.0, 2.0]
    """
    return bootstrap_ratio(
        values, xr.ones_like(values, dtype=np.float64), n_resamples=n_resamples, seed=seed, confidence=confidence
    )


def bootstrap_t(
    values: xr.DataArray, *, n_resamples: int = 1000, seed: int = 0, confidence: float = CONFIDENCE
) -> xr.DataArray:
    """Mean over problems, with its bootstrap-t interval; a problem that is NaN is left out.

    t*[b] = (mean*[b] − mean) / se*[b];  low, high = mean − t*_{(1 ± confidence)/2} · se.  se is the standard error of
    the problems, se* that of a resample; resamples all of whose values are alike say nothing and are left out. No end
    leaves the range of the values. Where few problems carry the sum (`effective_size` below 20) the interval can be far
    too short.

    Args:
        values: dims (problem, ...).
        n_resamples: resamples of the problems.
        seed: same seed, same interval.
        confidence: coverage, between 0 and 1.

    Returns:
        float64, the other dims and `value` in estimate, low, high; of width 0 where all values are alike.

    Raises:
        OptionError: as `bootstrap_ratio`.

    Example:
        >>> bootstrap_t(xr.DataArray([2.0, 2.0], dims="problem")).values.tolist()
        [2.0, 2.0, 2.0]

    Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 12.
    """
    _check_confidence(confidence)
    flat = _flat(values)
    known = flat.notnull()
    # About the mean, so that squares lose no digits.
    centre = flat.mean("problem")
    centred = (flat - centre).fillna(0.0)
    weights = resample_weights(flat.sizes["problem"], n_resamples=n_resamples, seed=seed)
    step = max(1, CHUNK_CELLS // weights.sizes["resample"])
    parts = [slice(start, start + step) for start in range(0, max(1, flat.sizes["cell"]), step)]
    levels = np.array([1.0 + confidence, 1.0 - confidence]) / 2.0
    bounds = np.concatenate([_t_bounds(centred[:, part], known[:, part], weights, levels) for part in parts], axis=1)
    template = values.transpose("problem", ...).isel(problem=0, drop=True).astype(np.float64)
    numbers = centre.values, *(centre.values + bounds).clip(flat.min("problem").values, flat.max("problem").values)
    return _with_values(template, np.stack([number.reshape(template.shape) for number in numbers], axis=-1))


def effective_size(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """How many values carry their sum: (Σ|x|)² / Σx² over the first axis, NaN left out.

    n if all are alike in size, 1 if all but one are 0; 0 where all are 0.

    Args:
        values: shape (n, …).

    Returns:
        Shape (…), 0 to n.

    Example:
        >>> effective_size([3.0, 0.0, -3.0, 0.0]).item()
        2.0

    Reference: Kish (1965), Survey Sampling (effective sample size of weights).
    """
    numbers = np.nan_to_num(np.asarray(values, dtype=np.float64))
    squares = (numbers**2).sum(0)
    sums = np.abs(numbers).sum(0) ** 2
    size: npt.NDArray[np.float64] = np.divide(sums, squares, out=np.zeros(squares.shape), where=squares > 0)
    return size


def shrunk(
    estimates: npt.ArrayLike, errors: npt.ArrayLike, *, k: int, n_draws: int = 4000, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Estimates drawn towards their common mean by their noise, and the chance of each to be among the k lowest.

    estimate[j] ~ N(true[j], error[j]²), true[j] ~ N(μ, τ²);  shrunk[j] = μ + (estimate[j] − μ) · τ² / (τ² + error[j]²),
    which is the posterior mean, its variance being error[j]² · τ² / (τ² + error[j]²).  τ² is the one at which Σ_j
    (estimate[j] − μ)² / (τ² + error[j]²) is J − 1, or 0; μ is the mean weighted by 1 / (τ² + error[j]²).

    Args:
        estimates: shape (J,), finite.
        errors: their standard errors, shape (J,).
        k: 1 to J.
        n_draws: of the posterior.
        seed: of the draws.

    Returns:
        `shrunk` and the posterior chance of being among the k lowest, both of shape (J,).

    Example:
        >>> values, chance = shrunk([-2.0, 0.0, 0.1, -0.1], [0.5, 0.1, 0.1, 0.1], k=1)
        >>> bool(values[0] > -2.0), bool(chance[0] > 0.9)
        (True, True)

    References: Morris (1983), Journal of the American Statistical Association 78; Paule and Mandel (1982), Journal of
    Research of the National Bureau of Standards 87.
    """
    values, noise = np.asarray(estimates, dtype=np.float64), np.asarray(errors, dtype=np.float64) ** 2
    # An error of 0 would take all the weight.
    noise = np.maximum(noise, max(1e-12, 1e-9 * float(values.var())))

    def mean_at(between: float) -> float:
        return float(np.average(values, weights=1.0 / (between + noise)))

    low, high = 0.0, float(np.ptp(values)) ** 2 + 1e-12
    for _ in range(100):
        middle = (low + high) / 2.0
        excess = ((values - mean_at(middle)) ** 2 / (middle + noise)).sum() - (len(values) - 1)
        low, high = (middle, high) if excess > 0 else (low, middle)
    kept = low / (low + noise)
    centre = mean_at(low) + (values - mean_at(low)) * kept
    drawn = np.random.default_rng(seed).normal(centre, np.sqrt(kept * noise), size=(n_draws, len(values)))
    border = np.partition(drawn, k - 1, axis=-1)[:, k - 1, None]
    below, at = drawn < border, drawn == border
    # Where nothing differs all share the places.
    return centre, (below + at * (k - below.sum(-1, keepdims=True)) / at.sum(-1, keepdims=True)).mean(0)


def paired_difference_interval(
    lost: npt.ArrayLike, gained: npt.ArrayLike, n: npt.ArrayLike, *, confidence: float = CONFIDENCE
) -> npt.NDArray[np.float64]:
    """A difference of paired proportions, after − before, with Tango's score interval.

    estimate = (gained − lost) / n.  The interval holds every δ with |gained − lost − nδ| <= z · sqrt(n · (2q + δ(1 −
    δ))), q the most likely share of lost pairs if the difference is δ.  Range −1 to 1, never of width 0.

    Args:
        lost: pairs that are true before and false after.
        gained: pairs that are false before and true after.
        n: all pairs; 0 gives NaN.
        confidence: coverage, between 0 and 1.

    Returns:
        Shape (…, 3): estimate, low, high.

    Raises:
        OptionError: `confidence` is not between 0 and 1.

    Example:
        >>> paired_difference_interval(0, 0, 100).round(3).tolist()
        [0.0, -0.037, 0.037]

    Reference: Tango (1998), Statistics in Medicine 17.
    """
    _check_confidence(confidence)
    out, into, pairs = np.broadcast_arrays(*(np.asarray(count, dtype=np.float64) for count in (lost, gained, n)))
    pairs = np.where(pairs > 0, pairs, np.nan)
    estimate, z = (into - out) / pairs, float(ndtri((1.0 + confidence) / 2.0))
    ends = [_score_end(out, into, pairs, estimate, limit) for limit in (z, -z)]
    return np.stack([estimate, *ends], axis=-1)


def _score_end(
    lost: np.ndarray, gained: np.ndarray, n: np.ndarray, estimate: np.ndarray, limit: float
) -> npt.NDArray[np.float64]:
    """The δ at which the score, which falls as δ grows, is `limit`; by halving, to 1e-15."""
    # The end that is known to be inside the interval, and one that is not.
    inside, outside = estimate.copy(), np.full_like(estimate, -np.sign(limit))
    for _ in range(50):
        delta = (inside + outside) / 2.0
        linear = (2.0 * n - gained + lost) * delta - lost - gained
        constant = -lost * delta * (1.0 - delta)
        q = (np.sqrt(np.maximum(linear**2 - 8.0 * n * constant, 0.0)) - linear) / (4.0 * n)
        spread = np.sqrt(np.maximum(n * (2.0 * q + delta * (1.0 - delta)), 0.0))
        holds = np.abs(gained - lost - n * delta) <= abs(limit) * spread
        inside, outside = np.where(holds, delta, inside), np.where(holds, outside, delta)
    ends: npt.NDArray[np.float64] = inside
    return ends


def proportion_interval(n_true: int, n: int, *, confidence: float = CONFIDENCE) -> xr.DataArray:
    """A proportion with its Wilson score interval.

    centre = (p + z²/2n) / (1 + z²/n), half-width = z/(1 + z²/n) · sqrt(p(1 − p)/n + z²/4n²), p = n_true / n.
    Range 0-1, never of width 0, so that 10 of 10 does not claim certainty.

    Args:
        n_true: how many are true, 0 to n.
        n: of how many; 0 gives NaN.
        confidence: coverage, between 0 and 1.

    Returns:
        `value` in estimate, low, high.

    Raises:
        OptionError: `confidence` is not between 0 and 1.

    Example:
        >>> proportion_interval(10, 10).round(3).values.tolist()
        [1.0, 0.722, 1.0]

    Reference: Wilson (1927), Journal of the American Statistical Association 22.
    """
    _check_confidence(confidence)
    if n == 0:
        return _with_values(xr.DataArray(np.nan), np.full(len(VALUES), np.nan))
    p, bounds = n_true / n, binomtest(n_true, n).proportion_ci(confidence, method="wilson")
    # Rounding may leave p outside its interval by 1e-17.
    return _with_values(xr.DataArray(p), np.array([p, min(p, bounds.low), max(p, bounds.high)]))


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation over the last axis.

    rho = Pearson's correlation of the ranks; values that tie share their mean rank.  Range −1 to 1, null 0.

    Args:
        first: shape (…, n).
        second: shape (…, n), or one that broadcasts against it.

    Returns:
        Shape (…); NaN where all values of a side are alike, or one of them is NaN.

    Example:
        >>> spearman([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]).round(2).item()
        0.8

    Reference: Spearman (1904), American Journal of Psychology 15.
    """
    one, other = (_centred_ranks(np.asarray(values, dtype=np.float64)) for values in (first, second))
    spread = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    product = (one * other).sum(-1)
    rho: npt.NDArray[np.float64] = np.divide(product, spread, out=np.full(product.shape, np.nan), where=spread > 0)
    return rho.clip(-1.0, 1.0)


def short(number: float) -> str:
    """A number in a sentence: two decimals without the zero before the point, such as `.41`, `−.10` or `1.00`."""
    if np.isnan(number):
        return "undefined"
    digits = f"{abs(number):.2f}"
    sign = "−" if number < 0 and float(digits) else ""
    return sign + digits.removeprefix("0")


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise OptionError(f"confidence is {confidence}, expected a number between 0 and 1, such as 0.95.")


def _t_bounds(centred: xr.DataArray, known: xr.DataArray, weights: xr.DataArray, levels: np.ndarray) -> np.ndarray:
    """How far below and above the mean the interval ends: (2, cell)."""
    n, sums, squares = (weighted_sums(values, weights).values for values in (known, centred, centred**2))
    # Left out where a resample has no problem, or only such as are alike: rounding of the squares is no spread.
    mean = np.divide(sums, n, out=np.full(sums.shape, np.nan), where=n > 0)
    variance = np.divide(squares, n, out=np.full(sums.shape, np.nan), where=n > 0) - mean**2
    error = np.sqrt(np.maximum(variance, 0.0) / np.maximum(n, 1.0))
    alike = ~(variance > 1e-12 * np.maximum(squares[:1], 1e-300))
    t = np.divide(mean, error, out=np.full(sums.shape, np.nan), where=~alike & (error > 0))
    with np.errstate(invalid="ignore"):
        ends: np.ndarray = -_quantiles(t[1:], levels) * error[:1]
    # Where nothing varies, or no resample does, there is no width to know.
    return np.where(np.isnan(ends) & (n[:1] > 0), 0.0, ends)


def _ratio_bounds(above: xr.Variable, below: xr.Variable, drawn: xr.Variable, confidence: float) -> np.ndarray:
    sums, of = (resampled_sum(part, drawn).values for part in (above, below))
    return _with_bounds(np.divide(sums, of, out=np.full(sums.shape, np.nan), where=of != 0.0), confidence)


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


def _centred_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if not values.shape[-1]:
        return np.zeros(values.shape)
    ranks = rankdata(values, axis=-1, nan_policy="propagate")
    centred: npt.NDArray[np.float64] = ranks - ranks.mean(-1, keepdims=True)
    return centred


def with_labels(values: Mapping[str, xr.Variable], labels: xr.Coordinates) -> xr.Dataset:
    """Numbers with intervals as a Dataset, with those of the labels whose dims they have."""
    dims = {dim for of in values.values() for dim in of.dims}
    own = {str(name): of.variable for name, of in labels.items() if dims.issuperset(of.dims)}
    indexes = {name: index for name, index in labels.xindexes.items() if name in own}
    return xr.Dataset(values, _with_value_labels(own, indexes))


def _with_value_labels(labels: Mapping[str, xr.Variable], indexes: Mapping[Any, Any]) -> xr.Coordinates:
    return xr.Coordinates({**labels, "value": _VALUE.variable}, indexes={**indexes, "value": _VALUE.xindexes["value"]})


def _with_values(template: xr.DataArray, values: np.ndarray) -> xr.DataArray:
    """Values (..., value) with the labels of a template (...); by `xr.concat` it would take a tenth of an analysis."""
    coords = _with_value_labels({str(name): of.variable for name, of in template.coords.items()}, template.xindexes)
    return xr.DataArray(values, coords, (*template.dims, "value"), template.name, template.attrs)
