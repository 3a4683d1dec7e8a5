"""Turn summarised effects into the small labelled Datasets that figures draw: chosen, sorted, larger for worse.

Figures draw what they get and compute nothing. Each function here is named like the figure that draws what it gives.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.effects import as_damage, controls_of, damage_of
from thoughtlens.analysis.verdict import ALPHA, short

COSTS: Final = {
    "accuracy": "accuracy lost",
    "gold_logprob": "gold answer's log-probability lost (nats)",
    "kl": "KL from the baseline, first answer token (nats)",
}
"""What a figure calls the damage in each outcome."""

MOST_ROWS: Final = 60
"""Cuts that a forest of a page holds."""


MOST_CURVES: Final = 7
"""Curves that can be told apart."""


def effect_forest(summary: xr.Dataset, *, outcome: str = "gold_logprob", most: int = MOST_ROWS) -> xr.Dataset:
    """The plan's cuts, the most damaging first; of more than `most`, those whose effect is farthest from 0.

    Returns:
        dims (cut): `cost` (cut, value), `controls` (cut, control), NaN where a cut has fewer, `significant` (Holm over
        the whole plan, 5 %; never for kl), `n`; attributes say what is drawn and of how many.
    """
    damage = damage_of(summary, outcome)
    estimate = damage.sel(value="estimate", drop=True)
    places = np.flatnonzero(((summary["kind"] == "cut") & estimate.notnull()).values)
    chosen = places[np.argsort(-np.abs(estimate.values[places]), kind="stable")[:most]]
    order = chosen[np.argsort(-estimate.values[chosen], kind="stable")]
    cost = damage.isel(intervention=order).rename(intervention="cut").drop_vars(["kind", "spec"])
    p = summary["p_holm"].sel(outcome=outcome).values[order]
    of = "" if len(order) == len(places) else f", {len(order)} of {len(places)} cuts"
    return xr.Dataset(
        {
            "cost": cost,
            "controls": (("cut", "control"), _padded(estimate, controls_of(summary), cost["cut"].values)),
            "significant": ("cut", p < ALPHA),
            "n": int(summary["n"].max()),
        },
        attrs={"title": f"what cutting costs{of}", "long_name": COSTS[outcome]},
    )


def effect_map(
    summary: xr.Dataset, heads: Mapping[tuple[int, int], str], *, outcome: str = "gold_logprob"
) -> xr.Dataset:
    """What cutting each single head costs, as the figure of heads (layers × heads) draws it.

    Args:
        summary: as `summarise` gives it.
        heads: label of the cut of each head, by (layer, head).
        outcome: accuracy, gold_logprob or kl.

    Returns:
        `score` (layer, head), NaN where a head was not cut; `marked`, the heads significant after Holm; `null` 0.
    """
    damage = damage_of(summary, outcome).sel(value="estimate", drop=True)
    p = summary["p_holm"].sel(outcome=outcome)
    layers, numbers = (np.arange(1 + max(place[axis] for place in heads)) for axis in (0, 1))
    score, marked = np.full((len(layers), len(numbers)), np.nan), np.zeros((len(layers), len(numbers)), dtype=bool)
    for place, label in heads.items():
        score[place] = damage.sel(intervention=label).item()
        marked[place] = p.sel(intervention=label).item() < ALPHA
    dims = ("layer", "head")
    why = {"long_name": "5 % after Holm"} if marked.any() else {}
    return xr.Dataset(
        {"score": (dims, score), "marked": (dims, marked, why), "metric": COSTS[outcome], "null": 0.0},
        coords={"layer": layers, "head": numbers},
    ).assign(n=int(summary["n"].max()))


def attention_against_effect(
    importance: xr.DataArray,
    summary: xr.Dataset,
    cuts: Mapping[str, str],
    verdict_row: xr.Dataset | None = None,
    *,
    outcome: str = "gold_logprob",
) -> xr.Dataset:
    """Each unit's importance by attention and what cutting it costs.

    Args:
        importance: dims (unit), or (resample, unit) of which the sample is drawn.
        summary: as `summarise` gives it.
        cuts: label of each unit's cut.
        verdict_row: one row of the verdict, for the title.
        outcome: accuracy, gold_logprob or kl.

    Returns:
        dims (unit): `attention`, `cost` (unit, value), `n`; units without either are left out.
    """
    looked = importance.isel(resample=0, drop=True) if "resample" in importance.dims else importance
    names = [str(name) for name in looked["unit"].values if str(name) in cuts]
    damage = damage_of(summary, outcome).sel(intervention=[cuts[name] for name in names])
    cost = damage.drop_vars(["kind", "spec"]).rename(intervention="unit").assign_coords(unit=_text(names))
    both = xr.Dataset({"attention": looked.sel(unit=names), "cost": cost})
    known = both["attention"].notnull() & both["cost"].sel(value="estimate", drop=True).notnull()
    drawn = both.isel(unit=np.flatnonzero(known.values)).assign(n=int(summary["n"].max()))
    kind = str(importance.attrs.get("long_name", "importance by attention"))
    return drawn.assign_attrs(title=_agreement(verdict_row), x=kind, long_name=COSTS[outcome])


def ablation_curve(table: xr.Dataset, *, outcome: str = "gold_logprob") -> xr.Dataset:
    """One outcome of the curves of `curves.ablation_curve`: `cost` (order, k, value), `chance` (k, value)."""
    return xr.Dataset(
        {
            "cost": as_damage(table[outcome], outcome),
            "chance": as_damage(table[f"random_{outcome}"], outcome),
            "n_random": table["n_random"],
            "n": table["n"],
        },
        attrs={"title": "what cutting one more head costs", "long_name": COSTS[outcome]},
    )


def dose_response(table: xr.Dataset, *, outcome: str = "gold_logprob", most: int = MOST_CURVES) -> xr.Dataset:
    """One outcome of the curves of `curves.dose_response`: `cost` (target, dose, value), the `most` costly targets."""
    cost = as_damage(table[outcome], outcome)
    largest = cost.sel(value="estimate", drop=True).max("dose").fillna(-np.inf).values
    chosen = np.sort(np.argsort(-largest, kind="stable")[:most])
    of = "" if len(chosen) == len(largest) else f", {len(chosen)} of {len(largest)}"
    drawn = xr.Dataset({"cost": cost.isel(target=chosen), "n": table["n"]})
    return drawn.assign_attrs(title=f"how much of a cut costs how much{of}", long_name=COSTS[outcome])


def influence_maps(maps: xr.Dataset) -> xr.Dataset:
    """Influence, attention and disagreement as maps of one figure; `marked` are those significant after Holm."""
    ranked_by = str(maps.attrs["ranked_by"])
    drawn = {
        "influence": maps[ranked_by].sel(value="estimate", drop=True),
        "attention": maps["attention"],
        "disagreement": maps["disagreement"],
        "marked": maps["significant"],
        "n": maps.attrs["n"],
    }
    return xr.Dataset(
        drawn,
        attrs={
            "title": "does attention show influence?",
            "long_name": COSTS[ranked_by],
        },
    )


def _padded(estimate: xr.DataArray, controls: Mapping[str, list[str]], labels: np.ndarray) -> np.ndarray:
    """Damage of each cut's controls, a row a cut, NaN where there are fewer."""
    place = {str(label): k for k, label in enumerate(estimate["intervention"].values)}
    rows = [[place[label] for label in controls.get(str(cut), ())] for cut in labels]
    values = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan)
    for row, its in zip(values, rows, strict=True):
        row[: len(its)] = estimate.values[its]
    return values


def _agreement(row: xr.Dataset | None) -> str:
    if row is None or bool(row["rho"].sel(value="estimate").isnull()):
        return "attention against effect"
    rho = [short(float(row["rho"].sel(value=name))) for name in ("estimate", "low", "high")]
    return f"attention against effect: rho = {rho[0]} [{rho[1]}, {rho[2]}]"


def _text(names: list[str]) -> np.ndarray:
    return np.array(names, dtype=np.dtypes.StringDType())
