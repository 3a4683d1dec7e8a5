"""Turn what cuts cost into figures: a forest with controls, curves, doses, transplants; larger is worse throughout."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.intervals import SERIES, Look, dodged, draw_null, draw_number, limits
from thoughtlens.plots.stacks import draw_stacks
from thoughtlens.plots.style import BLACK, BLUE, CHARACTER, GREY, LINE, SKY, TICK_SIZE, VERMILION, new_axes, size_of
from thoughtlens.plots.text import add_legend, add_title, clipped, few_ticks, name_axes, name_rows

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
