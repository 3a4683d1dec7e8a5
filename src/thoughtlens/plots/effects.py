"""Turn summarised effects into the small labelled Datasets that figures draw: chosen, sorted, larger for worse.

Figures draw what they get and compute nothing. Each function here is named like the figure that draws what it gives.

Turn what cuts cost into figures: a forest with controls, curves, doses, transplants; larger is worse throughout.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.analysis.effects import as_damage, controls_of, damage_of
from thoughtlens.analysis.statistics import short
from thoughtlens.analysis.verdict import ALPHA
from thoughtlens.names import head_place
from thoughtlens.plots.parts import SERIES, Look, dodged, draw_null, draw_number, draw_stacks, limits
from thoughtlens.plots.style import (
    BLACK,
    BLUE,
    CHARACTER,
    GREY,
    LINE,
    SKY,
    TICK_SIZE,
    VERMILION,
    add_legend,
    add_title,
    clipped,
    few_ticks,
    name_axes,
    name_rows,
    new_axes,
    size_of,
)

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


def effect_forest_data(summary: xr.Dataset, *, outcome: str = "gold_logprob", most: int = MOST_ROWS) -> xr.Dataset:
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
    cost = damage.isel(intervention=order).rename(intervention="cut").reset_coords(drop=True)
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


def effect_map(summary: xr.Dataset, heads: Mapping[str, str], *, outcome: str = "gold_logprob") -> xr.Dataset:
    """What cutting each single head costs, as the figure of heads (layers × heads) draws it.

    Args:
        summary: as `summarise` gives it.
        heads: label of the cut of each head, by its name.
        outcome: accuracy, gold_logprob or kl.

    Returns:
        `score` (layer, head), NaN where a head was not cut; `marked`, the heads significant after Holm; `null` 0.
    """
    damage = damage_of(summary, outcome).sel(value="estimate", drop=True)
    p = summary["p_holm"].sel(outcome=outcome)
    places = {place: label for name, label in heads.items() if (place := head_place(name))}
    layers, numbers = (np.arange(1 + max(place[axis] for place in places)) for axis in (0, 1))
    score, marked = np.full((len(layers), len(numbers)), np.nan), np.zeros((len(layers), len(numbers)), dtype=bool)
    for place, label in places.items():
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
    cost = damage.reset_coords(drop=True).rename(intervention="unit").assign_coords(unit=_text(names))
    both = xr.Dataset({"attention": looked.sel(unit=names), "cost": cost})
    known = both["attention"].notnull() & both["cost"].sel(value="estimate", drop=True).notnull()
    drawn = both.isel(unit=np.flatnonzero(known.values)).assign(n=int(summary["n"].max()))
    kind = str(importance.attrs.get("long_name", "importance by attention"))
    return drawn.assign_attrs(title=_agreement(verdict_row), x=kind, long_name=COSTS[outcome])


def ablation_curve_data(table: xr.Dataset, *, outcome: str = "gold_logprob") -> xr.Dataset:
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


def dose_response_data(table: xr.Dataset, *, outcome: str = "gold_logprob", most: int = MOST_CURVES) -> xr.Dataset:
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


ROW_PITCH, LOWEST = 11.0, 76.0
LONGEST = 28
"""Characters of a cut's label that a figure shows."""
LEGEND = 150.0
ANSWER_COLOURS = (VERMILION, SKY, "#dddddd")
SIGNIFICANT, OTHER, CONTROL = "5 % after Holm", "not significant", "its controls"


def effect_forest(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Cuts from the top, each with its interval and, as grey ticks, its controls; red where significant.

    Args:
        data: `cost` (cut, value); `controls` (cut, control), NaN where there are fewer; `significant` (cut); `n`;
            attributes `title` and `long_name`, what the cost is.
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    names = [clipped(name, LONGEST) for name in data["cut"].values]
    if ax is None:
        height = max(LOWEST, ROW_PITCH * len(names))
        ax = new_axes(290.0, height, left=_room(names), right=LEGEND * 0.62, bottom=34.0, top=36.0)
    pitch = size_of(ax)[1] / max(1, len(names))
    draw_null(ax, 0.0, upright=True)
    _draw_controls(ax, data["controls"].values, pitch)
    size = max(1.0, min(4.0, 0.5 * pitch))
    for place, marked in enumerate(data["significant"].values):
        look = Look(VERMILION, "s", size) if marked else Look(BLUE, "o", size)
        draw_number(ax, place, data["cost"].isel(cut=place), look, across=True)
    _scale(ax, data, [data["cost"].values.ravel(), data["controls"].values.ravel()], len(names))
    name_rows(ax, names)
    looks = {SIGNIFICANT: VERMILION, OTHER: BLUE, CONTROL: GREY}
    add_legend(ax, looks, markers=["s", "o", "|"])
    return ax


def dose_response(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """What each degree of a cut costs, a line a target.

    Args:
        data: `cost` (target, dose, value), NaN where a dose was not given; `n`; attributes `title` and `long_name`.
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    ax = _curve_axes(ax)
    doses = data["dose"].values.astype(float)
    step = float(np.diff(doses).min(initial=np.inf)) if len(doses) > 1 else 1.0
    pitch = step / max(1e-9, float(np.ptp(doses))) * size_of(ax)[0]
    # Beside each other, but not so far that a dose looks like another.
    offsets, size = dodged(data.sizes["target"], 0.4 * pitch)
    draw_null(ax, 0.0)
    for offset, (colour, marker), curve in zip(offsets, _looks(data.sizes["target"]), data["cost"], strict=True):
        _draw_curve(ax, doses + 0.4 * step * offset, curve, Look(colour, marker, max(2.0, size)))
    _finish_curves(ax, data, "dose: how much of the cut is made", [str(name) for name in data["target"].values])
    return ax


def ablation_curve(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """What is lost as the first k are cut, a line a ranking with its interval, over the band of random orders.

    Args:
        data: `cost` (order, k, value); `chance` (k, value), NaN without random orders; `n_random`; `n`; attributes
            `title` and `long_name`.
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    ax = _curve_axes(ax)
    k = data["k"].values.astype(float)
    draw_null(ax, 0.0)
    chance = data["chance"]
    ax.fill_between(k, chance.sel(value="low"), chance.sel(value="high"), color=GREY, alpha=0.25, linewidth=0)
    ax.plot(k, chance.sel(value="estimate"), color=GREY, linewidth=1.0, linestyle=":")
    for (colour, _), curve in zip(_looks(data.sizes["order"]), data["cost"], strict=True):
        ax.fill_between(k, curve.sel(value="low"), curve.sel(value="high"), color=colour, alpha=0.2, linewidth=0)
        ax.plot(k, curve.sel(value="estimate"), color=colour, linewidth=1.4)
    names = [str(name) for name in data["order"].values]
    _finish_curves(ax, data, "k: how many are cut, the first of each order", names, int(data["n_random"]))
    return ax


def transplant_bars(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Whose answer is given with another problem's thoughts, a bar a transplant; the donor's share with its interval.

    Args:
        data: `share` (intervention, answer, value), the first answer the donor's; `n` (intervention).
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    names = [
        f"{clipped(name, LONGEST)} (n = {int(n)})"
        for name, n in zip(data["intervention"].values, data["n"].values, strict=True)
    ]
    if ax is None:
        height = max(LOWEST, 15.0 * len(names))
        ax = new_axes(290.0, height, left=_room(names), right=LEGEND * 0.75, bottom=34.0, top=24.0)
    share = data["share"]
    colours = dict(zip((str(name) for name in share["answer"].values), ANSWER_COLOURS, strict=True))
    draw_stacks(ax, share.sel(value="estimate").transpose("answer", "intervention"), colours, 1.0, lambda x: f"{x:.0%}")
    for place, number in enumerate(share.isel(answer=0).transpose("intervention", "value")):
        ends = [float(number.sel(value=name)) for name in ("low", "high")]
        ax.plot(ends, [place + 0.33] * 2, color=BLACK, linewidth=1.0, solid_capstyle="butt")
    name_rows(ax, names)
    add_title(ax, "whose answer is given with another problem's thoughts?")
    name_axes(ax, "share of problems (line: 95 % interval of the donor's)")
    add_legend(ax, colours, title="the answer")
    return ax


def _room(names: Sequence[str]) -> float:
    """Points that the longest name takes beside an Axes."""
    return 14.0 + CHARACTER * TICK_SIZE * max((len(name) for name in names), default=1)


def _draw_controls(ax: Axes, controls: np.ndarray, pitch: float) -> None:
    rows, columns = np.nonzero(np.isfinite(controls))
    size = max(1.5, min(6.0, 0.7 * pitch))
    ax.plot(controls[rows, columns], rows, "|", color=GREY, markersize=size, markeredgewidth=0.7, zorder=0.8)


def _scale(ax: Axes, data: xr.Dataset, drawn: Sequence[np.ndarray], n_rows: int) -> None:
    low, high = limits(xr.DataArray(np.concatenate(drawn)))
    ax.set_xlim(low - 0.03 * (high - low), high)
    ax.set_ylim(max(1, n_rows) - 0.4, -0.6)
    few_ticks(ax, "x")
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    add_title(ax, str(data.attrs["title"]), n=int(data["n"]))
    name_axes(ax, str(data.attrs["long_name"]))


def _curve_axes(ax: Axes | None) -> Axes:
    return ax or new_axes(300.0, 196.0, left=46.0, right=LEGEND, bottom=34.0, top=24.0)


def _looks(n_series: int) -> list[tuple[str, str]]:
    return [SERIES[place % len(SERIES)] for place in range(n_series)]


def _draw_curve(ax: Axes, places: np.ndarray, curve: xr.DataArray, look: Look) -> None:
    estimate = curve.sel(value="estimate").values
    known = np.isfinite(estimate)
    ax.plot(places[known], estimate[known], color=look.colour, linewidth=0.9)
    for place, number in zip(places, curve, strict=True):
        draw_number(ax, float(place), number, look)


def _finish_curves(ax: Axes, data: xr.Dataset, x: str, names: Sequence[str], n_random: int = 0) -> None:
    looks = _looks(len(names))
    drawn = [data["cost"].values.ravel(), data["chance"].values.ravel() if "chance" in data else np.empty(0)]
    ax.set_ylim(*limits(xr.DataArray(np.concatenate(drawn))))
    few_ticks(ax, "x")
    few_ticks(ax, "y")
    ax.spines[["top", "right"]].set_visible(False)
    add_title(ax, str(data.attrs["title"]), n=int(data["n"]))
    name_axes(ax, x, str(data.attrs["long_name"]))
    shown = names[: max(1, int(size_of(ax)[1] / (LINE * TICK_SIZE)) - (2 if n_random else 1))]
    colours = {name: colour for name, (colour, _) in zip(shown, looks, strict=False)}
    markers = [marker if "dose" in data.dims else "s" for _, marker in looks[: len(shown)]]
    more = {f"{n_random} random orders": GREY} if n_random else {}
    add_legend(ax, colours | more, markers=[*markers, *("s" for _ in more)])
