"""Turn the numbers of two or more models into panels beside each other, a colour and shape for each model."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.intervals import SERIES, Look, dodged, draw_null, draw_number, limits
from thoughtlens.plots.panels import Panel, panel_axes
from thoughtlens.plots.style import size_of
from thoughtlens.plots.text import add_legend, add_title, few_ticks, name_axes, name_columns, name_rows, say_instead

PANEL = Panel(width=236.0, height=112.0, left=78.0, right=16.0, bottom=32.0, top=24.0)
LEGEND = 150.0


def model_comparison(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Models side by side: preferences for thoughts and lags, where thoughts look, types of heads, accuracy.

    Args:
        data: dim `model`; any of `preference` (model, thought, value), `lag_preference` (model, lag, value),
            `composition` (model, part, value), `type_share` (model, type), `accuracy` (model, value); optionally `n`,
            one number or one a model. What is missing or empty is left out.
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes that holds all panels.
    """
    drawn = [(name, draw) for name, draw in _PANELS.items() if name in data and data[name].size]
    n = _sizes(data)
    ax, panels = panel_axes(len(drawn), 2, PANEL, ax, title="models compared", n=n, legend=LEGEND)
    for panel, (name, draw) in zip(panels, drawn, strict=False):
        draw(panel, data[name])
        panel.spines[["top", "right"]].set_visible(False)
    if panels:
        looks = _looks(data)
        add_legend(ax, {name: look.colour for name, look in looks.items()}, markers=[x.marker for x in looks.values()])
    if not drawn:
        say_instead(ax, "nothing to compare")
    return ax


def _sizes(data: xr.Dataset) -> object:
    if "n" not in data:
        return None
    sizes = np.unique(data["n"].values)
    return int(sizes[0]) if len(sizes) == 1 else f"{int(sizes[0])} to {int(sizes[-1])}"


def _looks(data: xr.Dataset | xr.DataArray) -> dict[str, Look]:
    names = [str(name) for name in data["model"].values]
    return {name: Look(*SERIES[place % len(SERIES)]) for place, name in enumerate(names)}


def _draw_preference(ax: Axes, numbers: xr.DataArray) -> None:
    _draw_columns(ax, numbers, "thought", "preference for each thought", "key: thought attended to")


def _draw_lags(ax: Axes, numbers: xr.DataArray) -> None:
    _draw_columns(ax, numbers, "lag", "preference by lag", "lag: how many thoughts back")


def _draw_columns(ax: Axes, numbers: xr.DataArray, dim: str, title: str, name: str) -> None:
    """Models dodged beside each other in columns, against 1."""
    draw_null(ax, 1.0)
    pitch = size_of(ax)[0] / max(1, numbers.sizes[dim])
    _draw_dodged(ax, numbers, dim, pitch, across=False)
    ax.set_ylim(*limits(numbers, 1.0))
    ax.set_xlim(-0.6, numbers.sizes[dim] - 0.4)
    few_ticks(ax, "y")
    name_columns(ax, numbers[dim].values)
    add_title(ax, f"{title} (dashed: even)")
    name_axes(ax, name)


def _draw_composition(ax: Axes, numbers: xr.DataArray) -> None:
    _draw_rows(ax, numbers, "part", "where thoughts look", "share of attention")


def _draw_types(ax: Axes, numbers: xr.DataArray) -> None:
    _draw_rows(ax, numbers, "type", "types of heads", "share of heads")


def _draw_accuracy(ax: Axes, numbers: xr.DataArray) -> None:
    _draw_rows(ax, numbers.expand_dims(what=["accuracy"]), "what", "accuracy", "share of problems solved")
    ax.set_xlim(-0.02, 1.02)


def _draw_rows(ax: Axes, numbers: xr.DataArray, dim: str, title: str, name: str) -> None:
    """Models dodged below each other in rows named on the left."""
    pitch = size_of(ax)[1] / max(1, numbers.sizes[dim])
    _draw_dodged(ax, numbers, dim, pitch, across=True)
    low, high = limits(numbers)
    ax.set_xlim(low - 0.02 * (high - low), high)
    ax.set_ylim(numbers.sizes[dim] - 0.5, -0.5)
    few_ticks(ax, "x")
    name_rows(ax, numbers[dim].values)
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6)
    ax.set_axisbelow(True)
    add_title(ax, title)
    name_axes(ax, name)


def _draw_dodged(ax: Axes, numbers: xr.DataArray, dim: str, pitch: float, *, across: bool) -> None:
    offsets, size = dodged(numbers.sizes["model"], pitch)
    for offset, (model, look) in zip(offsets, _looks(numbers).items(), strict=True):
        for place in range(numbers.sizes[dim]):
            number = numbers.isel({dim: place}).sel(model=model)
            draw_number(ax, place + offset, number, look._replace(size=size), across=across)


_PANELS: dict[str, Callable[[Axes, xr.DataArray], None]] = {
    "preference": _draw_preference,
    "lag_preference": _draw_lags,
    "composition": _draw_composition,
    "type_share": _draw_types,
    "accuracy": _draw_accuracy,
}
