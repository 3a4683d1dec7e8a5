"""Whether attention predicts what cutting does: correlations over heads, thoughts or edges, and their sentences.

In: importances by attention and damages by problem, labelled arrays.  Out: a labelled table and a sentence a row.

1. A *unit* is a head, a thought or an edge. Its importance comes from attention, its damage is what cutting it costs.
2. Spearman's correlation over the units, and how many of the first k by attention are among the first k by damage.
3. Two kinds of chance, kept apart. Other problems: the interval, from problems resampled; damage is resampled always,
   importance where it comes with its resamples (dim `resample`, made with the same weights, so that both move
   together) and is held fixed where not. Other units: p, the share of relabellings of the units that correlate as
   strongly; with six thoughts even a perfect order has p = 2/720, and a high correlation may be luck.
4. Noise in the damage pulls a correlation towards 0, in the resamples more than in the sample. So the interval errs
   towards 0, is widened to hold its estimate, and stands beside the reliability of the damages: where they hardly
   order the units themselves, no attention could predict them.
"""

from collections.abc import Mapping
from itertools import permutations
from math import factorial

import numpy as np
import xarray as xr

from thoughtlens.analysis.statistics import interval, short, spearman, weighted_sums
from thoughtlens.errors import OptionError
from thoughtlens.notation import text

MOST_ORDERS = 10_000
"""Relabellings of the units: all of them if there are no more, else as many drawn at random."""

TOP = 5
ALPHA = 0.05
RELIABLE = 0.5
"""Below this, damages order the units too poorly for anything to predict them."""
DECIMALS = 5
"""Damages that differ in later decimals alone count as alike: float32 passes in other batches differ there too."""


def judge(
    importances: Mapping[str, xr.DataArray], damage: xr.DataArray, weights: xr.DataArray, *, top: int = TOP
) -> xr.Dataset:
    """Agreement of each kind of attention with the damage done by cutting.

    rho = Spearman's correlation of importance and mean damage over units, range −1 to 1, null 0.  precision = |top k by
    importance ∩ top k by damage| / k, range 0-1, null k / n_units; units that tie for the last places share them.
    k = `top`, but at most a third of the units.  References: Spearman (1904), American Journal of Psychology 15.

    Args:
        importances: by the attention's name: dims (unit) or (resample, unit), the latter made with these weights. Units
            that a kind of attention says nothing about (NaN, or absent) are left out of its row.
        damage: dims (problem, unit), larger for worse; NaN where a problem could not be run.
        weights: as `resample_weights` gives them for these problems.
        top: the most that k may be.

    Returns:
        dims (attention): `rho` and `precision` with `value` (NaN if all units are alike), `p` of rho over units,
        `chance` of precision, `k`, `n_units`, `reliability` of the damages and `n`, the number of problems.

    Raises:
        OptionError: there is no kind of attention, or `top` is below 1.

    Example:
        >>> import numpy as np, xarray as xr
        >>> from thoughtlens.analysis import resample_weights
        >>> names = ["z1", "z2", "z3", "z4"]
        >>> costs = np.tile([0.0, 1.0, 2.0, 3.0], (9, 1))
        >>> damage = xr.DataArray(costs, dims=("problem", "unit"), coords={"unit": names})
        >>> looked = xr.DataArray([0.1, 0.2, 0.3, 0.4], dims="unit", coords={"unit": names})
        >>> table = judge({"raw": looked}, damage, resample_weights(9, n_resamples=20))
        >>> table["rho"].sel(attention="raw", value="estimate").item(), round(table["p"].item(), 3)
        (1.0, 0.083)
    """
    if not importances or top < 1:
        raise OptionError(f"found {len(importances)} kinds of attention and top {top}; a verdict needs one of each.")
    mean_damage = resampled_means(damage, weights).round(DECIMALS)
    rows = [
        _row(looked, cut, top).assign(reliability=effects_reliability(damage.sel(unit=looked["unit"].values)))
        for looked, cut in (_known(importance, mean_damage) for importance in importances.values())
    ]
    names = xr.DataArray(text(importances), dims="attention", name="attention")
    table: xr.Dataset = xr.concat(rows, names)
    return table.assign(n=int(damage.notnull().any("unit").sum())).assign_attrs(
        n_resamples=weights.sizes["resample"] - 1
    )


def resampled_means(values: xr.DataArray, weights: xr.DataArray) -> xr.DataArray:
    """Mean over problems in every resample, of those that are not NaN: dims (problem, …) to (resample, …)."""
    known = values.notnull()
    n_drawn = weighted_sums(known, weights)
    return weighted_sums(values.where(known, 0.0), weights) / n_drawn.where(n_drawn > 0)


def effects_reliability(damage: xr.DataArray) -> float:
    """The share of the variance of mean damages over units that is not noise of the problems (Hoyt 1941), at least 0.

    1 − MS_residual / MS_units of the table (problem, unit); NaN for fewer than two of either.
    """
    table = damage.transpose("problem", "unit").dropna("problem").values.astype(np.float64)
    n_problems, n_units = table.shape
    if min(n_problems, n_units) < 2 or np.ptp(table.mean(0)) == 0:
        return float("nan")
    units = table.mean(0) - table.mean()
    residual = table - table.mean(1, keepdims=True) - units
    noise = float((residual**2).sum()) / ((n_problems - 1) * (n_units - 1))
    signal = n_problems * float((units**2).sum()) / (n_units - 1)
    return float(max(0.0, 1.0 - noise / signal))


def precision_at(first: np.ndarray, second: np.ndarray, k: int) -> np.ndarray:
    """Share of the k largest of the one among the k largest of the other; units that tie for the last places share."""
    shared: np.ndarray = (_membership(first, k) * _membership(second, k)).sum(-1) / max(1, k)
    return shared


def relabelling_p(first: np.ndarray, second: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p of Spearman's correlation, one side's units relabelled: exact up to 7 units, then drawn."""
    observed = float(spearman(first, second))
    if np.isnan(observed):
        return float("nan")
    n_units = len(first)
    exact = factorial(n_units) <= MOST_ORDERS
    if exact:
        orders = np.array(list(permutations(range(n_units))), dtype=np.intp)
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.broadcast_to(np.arange(n_units), (MOST_ORDERS, n_units)), axis=-1)
    null = spearman(first, second[orders])
    # Equal sums may differ in their last bits.
    n_extreme = int((np.abs(null) >= abs(observed) - 1e-9).sum())
    drawn = 0 if exact else 1
    return float((drawn + n_extreme) / (drawn + len(null)))


def readings(table: xr.Dataset, *, unit: str) -> dict[str, str]:
    """One sentence a kind of attention, which claims no more than its interval and p-value allow.

    Args:
        table: as `judge` gives it.
        unit: what was cut, in the plural: heads, thoughts, edges.

    Returns:
        By the attention's name.

    Example:
        >>> import numpy as np, xarray as xr
        >>> from thoughtlens.analysis import resample_weights
        >>> damage = xr.DataArray(np.zeros((9, 2)), dims=("problem", "unit"), coords={"unit": ["z1", "z2"]})
        >>> table = judge({"raw": damage.isel(problem=0)}, damage, resample_weights(9, n_resamples=20))
        >>> readings(table, unit="thoughts")["raw"]
        "raw attention and the effect of cutting thoughts can't be set side by side: all 2 are alike"
    """
    return {str(name): _reading(table.sel(attention=name), str(name), unit) for name in table["attention"].values}


def _known(importance: xr.DataArray, mean_damage: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Both over the units that both say something about, and over resamples."""
    looked, cut = xr.align(importance, mean_damage, join="inner", exclude=["resample"])
    if "resample" not in looked.dims:
        looked = looked.expand_dims(resample=cut.sizes["resample"])
    known = np.flatnonzero((looked.isel(resample=0).notnull() & cut.isel(resample=0).notnull()).values)
    looked, cut = (values.transpose("resample", "unit").isel(unit=known) for values in (looked, cut))
    return looked, cut


def _row(looked: xr.DataArray, cut: xr.DataArray, top: int) -> xr.Dataset:
    first, second, n_units = looked.values, cut.values, looked.sizes["unit"]
    k = min(top, max(1, n_units // 3))
    rho = spearman(first, second)
    # Where rho is undefined all units are alike, and there is no first k.
    shared = np.where(np.isnan(rho), np.nan, precision_at(first, second, min(k, n_units)))
    return xr.Dataset(
        {
            "rho": _holding_estimate(interval(xr.DataArray(rho, dims="resample"))),
            "precision": _holding_estimate(interval(xr.DataArray(shared, dims="resample"))),
            "p": relabelling_p(first[0], second[0]),
            "chance": k / n_units if n_units else np.nan,
            "k": k,
            "n_units": n_units,
        }
    )


def _holding_estimate(bounds: xr.DataArray) -> xr.DataArray:
    estimate, low, high = bounds.values
    return bounds.copy(data=[estimate, np.fmin(low, estimate), np.fmax(high, estimate)])


def _membership(values: np.ndarray, k: int) -> np.ndarray:
    """1 for the k largest, 0 for the rest; what ties across the border shares the places left."""
    if not values.shape[-1]:
        return np.zeros(values.shape)
    border = np.sort(values, axis=-1)[..., -k, None]
    above, at = values > border, values == border
    places = (k - above.sum(-1, keepdims=True)) / at.sum(-1, keepdims=True)
    members: np.ndarray = np.where(above, 1.0, np.where(at, places, 0.0))
    return members


def _reading(row: xr.Dataset, name: str, unit: str) -> str:
    n_units, k = int(row["n_units"]), int(row["k"])
    estimate, low, high = (float(row["rho"].sel(value=value)) for value in ("estimate", "low", "high"))
    if np.isnan(estimate):
        return f"{name} attention and the effect of cutting {unit} can't be set side by side: all {n_units} are alike"
    numbers = f"rho = {short(estimate)} [{short(low)}, {short(high)}], n = {n_units} {unit}"
    many = f"{float(row['precision'].sel(value='estimate')) * k:.1f}".removesuffix(".0")
    overlap = f"{many} of the top {k} by attention {'is' if many == '1' else 'are'} among the top {k} by effect"
    sentence = f"{_claim(low, high, float(row['p']), name, unit)}: {numbers}; {overlap}"
    steady = float(row["reliability"])
    # Written so that NaN speaks too.
    noise = "" if steady >= RELIABLE else f"; the effects themselves are noise (reliability {short(steady)})"
    return sentence + noise


def _claim(low: float, high: float, p: float, name: str, unit: str) -> str:
    if not (low > 0 or high < 0):
        return f"looking did not predict cutting ({name} attention, {unit})"
    if not p < ALPHA:
        return (
            f"{name} attention predicts the effect of cutting {unit} no better than chance over {unit} (p = {short(p)})"
        )
    if high < 0:
        return f"{name} attention misled about cutting {unit}: the more attention, the less was lost"
    return f"{name} attention predicts the effect of cutting {unit}"
