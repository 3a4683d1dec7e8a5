"""The position null: what a thought attracts beyond what its place in the order explains.

In: mean attention among thoughts. Out: the effect of each thought as a key, given row and lag.
"""

from functools import cache

import numpy as np
import xarray as xr
from scipy.special import stdtr

from thoughtlens.analysis.metrics import MASS_FLOOR
from thoughtlens.analysis.significance import LEAST_PROBLEMS
from thoughtlens.analysis.statistics import interval


def key_effects(means: xr.DataArray) -> xr.DataArray:
    """The effect of each key in a log-linear model of row, lag and key.

    log A[q, k] = row[q] + lag[q − k] + key[k] over the cells k < q of the rows that see two thoughts or more, A the
    mean attention, fitted by least squares.  Since lag = q − k, a straight line in k is a line in q less one in lag,
    and the model can't tell them apart (as age, period and cohort in epidemiology): the line is given to row and lag,
    and effect[k] is what is left of key[k] beyond the straight line through all keys.  These deviations are the same
    for every solution.  Range: natural logarithms, summing to 0; null 0: a head that looks back by lag alone, however
    steeply, has none.  A hub that draws e^d as much as its place explains has d · (1 − h), h its leverage on the line
    (of five keys .6 at the ends and .2 in the middle), and bends the effects of the others down beside it.

    The model holds for one kind of head: a mean over heads of several kinds is not log-linear, and may show small
    effects that no head has.

    Args:
        means: dims (…, query, key) or (…, query, thought), both the thoughts, positive below the diagonal.

    Returns:
        dims (…, key); NaN below four thoughts, where a mean is below 1e-6, and for the last thought, which none sees.

    Example:
        >>> thoughts = ["z1", "z2", "z3", "z4", "z5", "z6"]
        >>> follow = np.tri(6, k=-1) * 0.1 + np.eye(6, k=-1) * 0.5
        >>> even = xr.DataArray(follow, dims=("query", "key"), coords={"query": thoughts, "key": thoughts})
        >>> abs(key_effects(even)).max().item() < 1e-9
        True

    Reference: Holford (1983), Biometrics 39, for what such models identify.
    """
    cells = means.rename({"thought": "key"} if "thought" in means.dims else {}).transpose(..., "query", "key")
    n_thoughts = cells.sizes["key"]
    places, effects = _estimator(n_thoughts)
    values = cells.values[..., places[0], places[1]]
    known = np.asarray((values >= MASS_FLOOR).all(-1))
    found = np.full((*cells.shape[:-2], n_thoughts), np.nan)
    if len(effects):
        logarithms = np.log(np.where(known[..., None], values, 1.0))
        found[..., : n_thoughts - 1] = np.where(known[..., None], logarithms @ effects.T, np.nan)
    # What rounding leaves of nothing would be an effect in every problem alike.
    found[np.abs(found) < MASS_FLOOR] = 0.0
    return cells.isel(query=0, drop=True).copy(data=found).rename("effect")


def position_effects(samples: xr.DataArray, n_rows: int) -> xr.Dataset:
    """Key effects with intervals and two-sided p-values, from mean attention in every resample (resample, query, key).

    `effect` (key, value), `p` (key): Student's t of the effect over its bootstrap standard error, `n_rows` the problems
    (or blocks of them) that were resampled; NaN below 20, and never below 2 to the power of minus that number.
    """
    effects = key_effects(samples)
    observed, spread = effects.isel(resample=0, drop=True), effects.isel(resample=slice(1, None)).std("resample")
    t = abs(observed) / spread.where(spread > 0.0)
    t = t.fillna(xr.where(observed != 0.0, np.inf, 0.0)).where(observed.notnull())  # type: ignore[no-untyped-call]
    p = 2.0 * xr.apply_ufunc(stdtr, max(1, n_rows - 1), -t)
    tested = p.clip(min=0.5 ** float(n_rows)).where(n_rows >= LEAST_PROBLEMS)
    return xr.Dataset({"effect": interval(effects), "p": tested}).isel(key=slice(None, -1))


@cache
def _estimator(n_thoughts: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The cells (queries, keys) of the model, and the matrix from their logarithms to effects; empty if undefined."""
    queries, keys = (places[1:] for places in np.tril_indices(n_thoughts, k=-1))
    if n_thoughts < 4:
        return (queries, keys), np.empty((0, 0))
    dummies = [np.equal.outer(of, np.unique(of)).astype(float) for of in (queries, queries - keys, keys)]
    n_keys = n_thoughts - 1
    line = np.column_stack([np.ones(n_keys), np.arange(n_keys)])
    beyond_line = np.eye(n_keys) - line @ np.linalg.pinv(line)
    return (queries, keys), beyond_line @ np.linalg.pinv(np.column_stack(dummies))[-n_keys:]
