"""Turn scores of heads into figures: a map of layers and heads, a ranking, distributions over heads."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.heat import add_colour_bar, colours_for, draw_cells, outline_cells
from thoughtlens.plots.intervals import Look, draw_null, draw_number, estimate_of, limits
from thoughtlens.plots.panels import Panel, panel_axes
from thoughtlens.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    new_axes,
    size_of,
)
from thoughtlens.plots.text import add_legend, add_title, few_ticks, name_axes, name_columns, name_rows, say_instead

TYPE_COLOURS = {
    "hub": VERMILION,
    "sequential": BLUE,
    "skip": GREEN,
    "sink": BLACK,
    "self": PURPLE,
    "readout": ORANGE,
    "diffuse": GREY,
    # The names of the 2025 scripts.
    "Hub Aggregator": VERMILION,
    "Forward Flow": BLUE,
    "Skip Connection": GREEN,
    "Multi-Purpose": PURPLE,
}
CELL_WIDTH, CELL_HEIGHT = 18.5, 13.0
"""Points that a cell needs for its value to be read."""
ROW_PITCH = 12.0
PANEL = Panel(width=180.0, height=80.0, left=34.0, right=12.0, bottom=34.0, top=10.0)
MAP_BAR, RIGHT = 10.0, 66.0
N_BINS = 24


def head_map(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """One metric of every head: layers from the top, heads from the left; blue and red below and above its null.

    Args:
        data: `score` with dims (layer, head), or (layer, head, value) of which the estimate is drawn; instead of `head`
            there may be another dim with a `long_name`; `metric`, what it is; `null`, NaN where there is none (a scale
            from 0 then); `n`; optionally `marked`, bool (layer, head), heads to outline, its attribute `long_name`
            saying why.
        ax: where to draw, with room for the colour bar on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    score = estimate_of(data["score"]).transpose("layer", ...)
    n_layers, n_heads = score.shape
    columns = score[score.dims[1]]
    if ax is None:
        cell = max(CELL_WIDTH, 216.0 / n_heads), max(CELL_HEIGHT, min(20.0, 90.0 / n_layers))
        ax = new_axes(cell[0] * n_heads, cell[1] * n_layers, left=38.0, right=RIGHT, bottom=34.0, top=30.0)
    width, height = size_of(ax)
    colours = colours_for(score, float(data["null"]))
    draw_cells(ax, score.values, colours, pitch=(width / n_heads, height / n_layers))
    if "marked" in data:
        outline_cells(ax, data["marked"].transpose(*score.dims).values, colours.to_rgba(score.values))
    name_columns(ax, columns.values)
    name_rows(ax, score["layer"].values)
    add_colour_bar(ax, colours, score, (1 + 12.0 / width, 0.0, MAP_BAR / width, 1.0))
    add_title(ax, _caption(data), n=int(data["n"]), room=width + RIGHT - 8.0)
    name_axes(ax, str(columns.attrs.get("long_name", columns.name)), "layer")
    return ax


def _caption(data: xr.Dataset) -> str:
    caption = str(data["metric"].item())
    if np.isfinite(data["null"]):
        caption += f", null {float(data['null']):g}"
    return f"{caption}; outlined: {data['marked'].attrs['long_name']}" if _says_why(data) else caption


def _says_why(data: xr.Dataset) -> bool:
    return "marked" in data and "long_name" in data["marked"].attrs


def head_ranking(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Heads by a score with its interval, the first on top, coloured by type.

    Args:
        data: `score` with dims (rank, value); `name` (rank), such as L4H5; `metric`, what the score is; `null`; `n`;
            optionally `type` (rank).
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    score = data["score"]
    n_heads = score.sizes["rank"]
    types = [str(name) for name in data["type"].values] if "type" in data else [""] * n_heads
    colours = type_colours(types) if "type" in data else {}
    if ax is None:
        right = 84.0 if "type" in data else 14.0
        ax = new_axes(250.0, max(60.0, ROW_PITCH * n_heads), left=46.0, right=right, bottom=34.0, top=24.0)
    null = float(data["null"])
    draw_null(ax, null, upright=True)
    for place, name in enumerate(types):
        draw_number(ax, place, score.isel(rank=place), Look(colours.get(name, BLUE)), across=True)
    low, high = limits(score, null)
    ax.set_xlim(low - 0.02 * (high - low), high)
    ax.set_ylim(n_heads - 0.5, -0.5)
    _words_of_ranking(ax, data, null)
    if "type" in data:
        add_legend(ax, colours, title="type")
    return ax


def _words_of_ranking(ax: Axes, data: xr.Dataset, null: float) -> None:
    few_ticks(ax, "x")
    name_rows(ax, data["name"].values)
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    add_title(ax, str(data.attrs.get("title", "top heads by attention")), n=int(data["n"]))
    dashed = f" (dashed: {null:g}, its null)" if np.isfinite(null) and null != 0 else ""
    name_axes(ax, f"{data['metric'].item()}{dashed}")


def type_colours(types: Sequence[str]) -> dict[str, str]:
    """The colour of each type of head, in the order of the palette; unknown types take what is left of it."""
    left = iter((SKY, YELLOW))
    known = {name: colour for name, colour in TYPE_COLOURS.items() if name in types}
    return known | {name: next(left, GREY) for name in dict.fromkeys(types) if name not in known}


def metric_distributions(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How each metric is distributed over heads, its null dashed.

    Args:
        data: `score` with dims (metric, layer, head), or with `value` of which the estimate is drawn; `null` (metric),
            NaN where there is none; `n`. Heads where a metric is undefined are left out and counted.
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds all panels.
    """
    score = estimate_of(data["score"])
    title = f"metrics over {score.sizes['layer'] * score.sizes['head']} heads"
    ax, panels = panel_axes(score.sizes["metric"], 3, PANEL, ax, title=title, n=int(data["n"]))
    for panel, name, null in zip(panels, score["metric"].values, data["null"].values, strict=False):
        values = score.sel(metric=name).values.ravel()
        known = values[np.isfinite(values)]
        if not len(known):
            say_instead(panel, f"{name}: undefined for all heads")
            continue
        panel.hist(known, bins=N_BINS, color=BLUE, linewidth=0)
        draw_null(panel, float(null), upright=True, above=True)
        panel.spines[["top", "right"]].set_visible(False)
        few_ticks(panel, "x")
        few_ticks(panel, "y")
        missing = len(values) - len(known)
        name_axes(panel, f"{name} ({missing} undefined)" if missing else str(name), "heads")
    return ax
