"""Turn cuts made one after the other, or by degrees, into curves with intervals.

An *order* is a list of cuts, each made together with those before it: the top 1, 2, … heads of a ranking. It is set
against random orders of the same heads: whichever ranking costs more, sooner, found the heads that matter. A *dose* is
how much of one cut is made. Which cut stands where is given by its label; nothing here reads what was cut.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from thoughtlens.analysis.effects import DAMAGE_SIGN, OUTCOMES
from thoughtlens.analysis.statistics import VALUES
from thoughtlens.errors import OptionError

Orders = Mapping[str, Sequence[str]]
"""Labels of the cuts of an order, for k = 1, 2, …, by the order's name."""


def ablation_curve(summary: xr.Dataset, orders: Orders, random_orders: Orders) -> xr.Dataset:
    """What is lost as the first k of a ranking are cut, against random orders.

    area = mean effect over k = 1 … all; `p` = (1 + #{random orders with an area at least as damaging}) / (1 + #random
    orders): how often chance would have found the damaging ones as soon.

    Args:
        summary: as `summarise` gives it.
        orders: by the ranking's name; of one length.
        random_orders: random orders of the same length; may be empty.

    Returns:
        dims (order, k) with k = 0, 1, …: `accuracy`, `gold_logprob` and `kl` (…, value), the effect against the
        baseline, 0 at k = 0; `random_accuracy`, … (k, value): mean over random orders and the range of 95 % of them
        (of all of them, if under 40), NaN without; `area` and `p` (order, outcome); `n_random`.
    """
    n_steps = {len(labels) for labels in (*orders.values(), *random_orders.values())}
    if not orders or len(n_steps) != 1:
        raise OptionError(f"found {len(orders)} orders of {sorted(n_steps)} cuts, expected one or more of one length.")
    curves = {name: _curves(summary[name], orders) for name in OUTCOMES}
    chance = {name: _curves(summary[name], random_orders) for name in OUTCOMES} if random_orders else {}
    bands = {f"random_{name}": _band(chance[name] if chance else None, curve) for name, curve in curves.items()}
    scores = [_areas(curve, chance.get(name), DAMAGE_SIGN[name]) for name, curve in curves.items()]
    outcome = xr.DataArray(np.array(OUTCOMES, dtype=np.dtypes.StringDType()), dims="outcome", name="outcome")
    joined: xr.Dataset = xr.concat(scores, outcome)
    table = xr.Dataset({**curves, **bands}).merge(joined.transpose("order", "outcome"))
    return table.assign(n_random=len(random_orders), n=int(summary["n"].max()))


def dose_response(summary: xr.Dataset, doses: Mapping[str, Mapping[float, str]]) -> xr.Dataset:
    """What each degree of a cut costs.

    Args:
        summary: as `summarise` gives it.
        doses: by the name of what is cut, the label of each degree; 0 is no cut at all and need not be given.

    Returns:
        dims (target, dose): `accuracy`, `gold_logprob` and `kl` (…, value), the effect against the baseline, 0 at dose
        0 and NaN where a target was not given that dose.
    """
    levels = np.array(sorted({0.0} | {dose for given in doses.values() for dose in given}))
    names = np.array(list(doses), dtype=np.dtypes.StringDType())
    coords = {"target": names, "dose": levels, "value": summary["value"].values}
    found = {}
    for outcome in OUTCOMES:
        values = np.full((len(names), len(levels), len(VALUES)), np.nan)
        values[:, levels == 0.0] = 0.0
        for place, given in enumerate(doses.values()):
            for dose, label in given.items():
                values[place, np.flatnonzero(levels == dose)[0]] = summary[outcome].sel(intervention=label).values
        found[outcome] = (("target", "dose", "value"), values)
    return xr.Dataset(found, coords=coords).assign(n=int(summary["n"].max()))


def _curves(effect: xr.DataArray, orders: Orders) -> xr.DataArray:
    """Dims (order, k, value), from k = 0."""
    names = np.array(list(orders), dtype=np.dtypes.StringDType())
    found = [effect.sel(intervention=list(labels)).values for labels in orders.values()]
    values = np.stack([np.concatenate([np.zeros((1, len(VALUES))), rows]) for rows in found])
    coords = {"order": names, "k": np.arange(values.shape[1]), "value": effect["value"].values}
    return xr.DataArray(values, dims=("order", "k", "value"), coords=coords)


def _band(chance: xr.DataArray | None, like: xr.DataArray) -> xr.DataArray:
    template = like.isel(order=0, drop=True)
    if chance is None:
        return xr.full_like(template, np.nan)
    drawn = chance.sel(value="estimate").values
    levels = (0.025, 0.975) if len(drawn) >= 40 else (0.0, 1.0)
    low, high = np.quantile(drawn, levels, axis=0)
    return template.copy(data=np.stack([drawn.mean(0), low, high], axis=-1))


def _areas(curve: xr.DataArray, chance: xr.DataArray | None, sign: float) -> xr.Dataset:
    area, drawn = (None if c is None else c.sel(value="estimate", drop=True)[:, 1:].mean("k") for c in (curve, chance))
    assert area is not None, "there is an order, since `ablation_curve` checked that there is"
    if drawn is None:
        return xr.Dataset({"area": area, "p": xr.full_like(area, np.nan)})
    # Equal areas may differ in their last bits.
    as_bad = (sign * drawn.values[None, :] >= sign * area.values[:, None] - 1e-9).sum(1)
    return xr.Dataset({"area": area, "p": area.copy(data=(1 + as_bad) / (1 + drawn.sizes["order"]))})
