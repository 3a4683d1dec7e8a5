"""Turn the numbers of two or more models into panels beside each other, a colour and shape for each model."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.parts import SERIES, Look, Panel, dodged, draw_null, draw_number, limits, panel_axes
from thoughtlens.plots.style import (
    add_legend,
    add_title,
    few_ticks,
    name_axes,
    name_columns,
    name_rows,
    say_instead,
    size_of,
)

PANEL = Panel(width=236.0, height=112.0, left=78.0, right=16.0, bottom=32.0, top=24.0)
LEGEND = 150.0


def model_comparison(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Models side by side: preferences for thoughts and lags, where thoughts look, types of heads, accuracy.

    Args:
        data: dim `model`; any of the variables of `PANELS`, dims (model, …) or (model, …, value); optionally `n`, one
            number or one a model, and the attribute `title`, the convention. What is missing or empty is left out.
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes that holds all panels.
    """
    drawn = [name for name in PANELS if name in data and data[name].size]
    n, title = _sizes(data), ": ".join([*filter(None, [data.attrs.get("title")]), "models compared"])
    ax, panels = panel_axes(len(drawn), 2, PANEL, ax, title=title, n=n, legend=LEGEND)
    for panel, name in zip(panels, drawn, strict=False):
        _draw(panel, data[name])
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


class Words(NamedTuple):
    """How a variable is drawn, and what it is where its attributes `title` and `axis` don't say otherwise."""

    dim: str
    title: str
    axis: str
    in_rows: bool = False


PANELS = {
    "preference": Words("thought", "preference for each thought", "key: thought attended to"),
    "lag_preference": Words("lag", "preference by lag", "lag: how many thoughts back"),
    "composite": Words("rank", "composite scores", "rank"),
    "composition": Words("part", "where thoughts look", "share of attention", in_rows=True),
    "type_share": Words("type", "types of heads", "share of heads", in_rows=True),
    "layer_share": Words("third", "thirds of the layers", "share of heads", in_rows=True),
    "mean_score": Words("score", "mean scores", "mean over heads", in_rows=True),
    "accuracy": Words("what", "accuracy", "share of problems solved", in_rows=True),
}
NULLS = {"preference": (1.0, "even"), "lag_preference": (1.0, "even")}
"""What a variable is without a preference, where its attributes `null` and `null_name` don't say otherwise."""


def _draw(ax: Axes, numbers: xr.DataArray) -> None:
    plain = PANELS[str(numbers.name)]
    words = plain._replace(
        title=str(numbers.attrs.get("title", plain.title)), axis=str(numbers.attrs.get("axis", plain.axis))
    )
    if not numbers.notnull().any():
        say_instead(ax, f"{words.title}: undefined")
        return
    whole = numbers if words.dim in numbers.dims else numbers.expand_dims({words.dim: [words.title]})
    (_draw_rows if words.in_rows else _draw_columns)(ax, whole, words)
    if numbers.name == "accuracy":
        ax.set_xlim(-0.02, 1.02)
    name_axes(ax, words.axis)


def _draw_columns(ax: Axes, numbers: xr.DataArray, words: Words) -> None:
    """Models dodged beside each other in columns, against a null if there is one."""
    null, name = NULLS.get(str(numbers.name), (np.nan, ""))
    null, name = float(numbers.attrs.get("null", null)), str(numbers.attrs.get("null_name", name))
    draw_null(ax, null)
    pitch = size_of(ax)[0] / max(1, numbers.sizes[words.dim])
    _draw_dodged(ax, numbers, words.dim, pitch, across=False)
    ax.set_ylim(*limits(numbers, null))
    ax.set_xlim(-0.6, numbers.sizes[words.dim] - 0.4)
    few_ticks(ax, "y")
    name_columns(ax, numbers[words.dim].values)
    add_title(ax, f"{words.title} (dashed: {name})" if name else words.title)


def _draw_rows(ax: Axes, numbers: xr.DataArray, words: Words) -> None:
    """Models dodged below each other in rows named on the left."""
    pitch = size_of(ax)[1] / max(1, numbers.sizes[words.dim])
    _draw_dodged(ax, numbers, words.dim, pitch, across=True)
    low, high = limits(numbers)
    ax.set_xlim(low - 0.02 * (high - low), high)
    ax.set_ylim(numbers.sizes[words.dim] - 0.5, -0.5)
    few_ticks(ax, "x")
    name_rows(ax, numbers[words.dim].values)
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6)
    ax.set_axisbelow(True)
    add_title(ax, words.title)


def _draw_dodged(ax: Axes, numbers: xr.DataArray, dim: str, pitch: float, *, across: bool) -> None:
    offsets, size = dodged(numbers.sizes["model"], pitch)
    for offset, (model, look) in zip(offsets, _looks(numbers).items(), strict=True):
        for place in range(numbers.sizes[dim]):
            number = numbers.isel({dim: place}).sel(model=model)
            draw_number(ax, place + offset, number, look._replace(size=size), across=across)
