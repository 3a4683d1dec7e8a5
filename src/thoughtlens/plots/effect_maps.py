"""Turn attention and what cutting costs into figures beside each other: maps of edges, a scatter of units."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from thoughtlens.plots.parts import Panel, add_colour_bar, colours_for, draw_cells, draw_null, limits, panel_axes
from thoughtlens.plots.style import (
    BLACK,
    BLUE,
    CHARACTER,
    GREY,
    LINE,
    TICK_SIZE,
    add_title,
    clipped,
    few_ticks,
    name_axes,
    name_columns,
    name_rows,
    new_axes,
    size_of,
)

MAP_BAR = 9.0
NAMED = 12
"""Points of a scatter that are named, if there is room."""
FEW = 60
"""Points up to which a scatter shows their intervals."""


def influence_maps(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Influence of thoughts on thoughts, attention between them, and where the two disagree.

    Args:
        data: `influence`, `attention`, `disagreement`, `marked` (query, key), the first three NaN where no edge was
            cut; `n`; attributes `title` and `long_name`, what influence is measured in.
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds the three maps.
    """
    n_thoughts = data.sizes["query"]
    side = min(300.0, max(130.0, 19.0 * n_thoughts))
    panel = Panel(width=side, height=side, left=34.0, right=50.0, bottom=32.0, top=22.0)
    ax, panels = panel_axes(3, 3, panel, ax, title=str(data.attrs["title"]), n=int(data["n"]))
    titles = ("influence", "mean attention", "difference of ranks")
    for tile, name, title in zip(panels, ("influence", "attention", "disagreement"), titles, strict=False):
        _draw_map(tile, data[name].transpose("query", "key"), title)
    if panels:
        _outline(panels[0], data["marked"].transpose("query", "key").values)
        name_axes(panels[0], "key (outlined: Holm, 5 %)", "query (attends)")
    return ax


def attention_against_effect(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """A dot a unit: its attention across, what cutting it costs upwards; the extreme ones named.

    Args:
        data: `attention` (unit); `cost` (unit, value); `n`; attributes `title`, `x`, what attention is, and
            `long_name`, what the cost is.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    if ax is None:
        ax = new_axes(270.0, 220.0, left=50.0, right=20.0, bottom=36.0, top=36.0)
    x, cost = data["attention"].values.astype(float), data["cost"]
    y = cost.sel(value="estimate").values.astype(float)
    draw_null(ax, 0.0)
    if len(x) <= FEW:
        ax.vlines(x, cost.sel(value="low"), cost.sel(value="high"), color=GREY, linewidth=0.8, zorder=0.8)
    ax.plot(x, y, "o", color=BLUE, markersize=3.2 if len(x) <= FEW else 2.2, markeredgewidth=0.0)
    _limits(ax, x, cost if len(x) <= FEW else cost.sel(value="estimate"))
    few_ticks(ax, "x")
    few_ticks(ax, "y")
    ax.spines[["top", "right"]].set_visible(False)
    add_title(ax, str(data.attrs["title"]), n=int(data["n"]))
    name_axes(ax, str(data.attrs["x"]), str(data.attrs["long_name"]))
    ends = cost.sel(value=["low", "high"]).transpose("unit", "value").values if len(x) <= FEW else np.empty((0, 2))
    _name_extremes(ax, (x, y), [clipped(name, 18) for name in data["unit"].values], ends)
    return ax


def _draw_map(tile: Axes, cells: xr.DataArray, title: str) -> None:
    width, height = size_of(tile)
    colours = colours_for(cells, np.nan if cells.name == "attention" else 0.0)
    # An edge that can't be cut is blank, as in every map of thoughts.
    colours.set_cmap(colours.get_cmap().with_extremes(bad="white"))
    draw_cells(tile, cells.values, colours, pitch=(width / cells.sizes["key"], height / cells.sizes["query"]))
    name_columns(tile, cells["key"].values)
    name_rows(tile, cells["query"].values)
    add_title(tile, title)
    name_axes(tile, "key")
    add_colour_bar(tile, colours, cells, (1 + 8.0 / width, 0.15, MAP_BAR / width, 0.7))


def _outline(tile: Axes, marked: np.ndarray) -> None:
    for row, column in np.argwhere(marked):
        tile.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=BLACK, linewidth=0.9))


def _limits(ax: Axes, x: np.ndarray, cost: xr.DataArray) -> None:
    known = x[np.isfinite(x)]
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    room = (high - low) or 1.0
    ax.set_xlim(low - 0.06 * room, high + 0.17 * room)
    bottom, top = limits(cost)
    ax.set_ylim(bottom - 0.05 * (top - bottom), top + 0.04 * (top - bottom))


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: "_Box") -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        # Names end to end would read as one.
        return across > -2 and min(self.top, other.top) - max(self.bottom, other.bottom) > 0


def _name_extremes(
    ax: Axes, points: tuple[np.ndarray, np.ndarray], names: Sequence[str], intervals: np.ndarray
) -> None:
    """Names of the points farthest out, each where it meets no other name, no dot, no interval and no edge."""
    width, height = size_of(ax)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    x, y = (points[0] - left) / (right - left) * width, (points[1] - bottom) / (top - bottom) * height
    places = np.stack([x, y], axis=-1)
    dots = [_Box(px - 2, py - 2, px + 2, py + 2) for px, py in places]
    null = -bottom / (top - bottom) * height
    # A name on the dashed line would be struck through.
    taken = [_Box(0.0, null - 1, width, null + 1)]
    reach = (intervals - bottom) / (top - bottom) * height
    taken += [_Box(across - 1, low, across + 1, high) for across, (low, high) in zip(x, reach, strict=False)]
    for place in _outermost(places / (width, height))[:NAMED]:
        others = [dot for k, dot in enumerate(dots) if k != place]
        for box in _boxes_beside(places[place], len(names[place])):
            inside = box.left >= 3 and box.right <= width and box.bottom >= 0 and box.top <= height
            if inside and not any(box.meets(other) for other in (*taken, *others)):
                taken.append(box)
                spot = (box.left / width, (box.bottom + box.top) / 2 / height)
                ax.text(*spot, names[place], transform=ax.transAxes, va="center", fontsize=TICK_SIZE, parse_math=False)
                break


def _outermost(places: np.ndarray) -> np.ndarray:
    """Points by their distance from the middle of all, the farthest first."""
    distance = np.abs(places - np.median(places, axis=0)).max(-1) if len(places) else np.empty(0)
    order: np.ndarray = np.argsort(-distance, kind="stable")
    return order


def _boxes_beside(place: np.ndarray, n_characters: int) -> Iterator[_Box]:
    """Where a name of so many characters may stand: right, left, above or below its dot, or above to one side."""
    x, y = (float(value) for value in place)
    width, height = n_characters * CHARACTER * TICK_SIZE, LINE * TICK_SIZE
    yield _Box(x + 4, y - height / 2, x + 4 + width, y + height / 2)
    yield _Box(x - 4 - width, y - height / 2, x - 4, y + height / 2)
    yield _Box(x - width / 2, y + 3, x + width / 2, y + 3 + height)
    yield _Box(x - width / 2, y - 3 - height, x + width / 2, y - 3)
    # Where a neighbour is in the way on one side only.
    yield _Box(x - 2, y + 3, x - 2 + width, y + 3 + height)
    yield _Box(x + 2 - width, y + 3, x + 2, y + 3 + height)
