"""Turn numbers by thought, lag or layer into profiles against their null, with intervals.

Turn compositions and counts into stacked bars: where do positions and layers look, what types are the heads?
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from thoughtlens.names import ANSWER, BOT, EOT, FIRST, QUESTION
from thoughtlens.plots.heads import type_colours
from thoughtlens.plots.parts import Look, Panel, draw_null, draw_number, draw_stacks, estimate_of, limits, panel_axes
from thoughtlens.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    add_legend,
    add_title,
    few_ticks,
    name_axes,
    name_columns,
    name_rows,
    new_axes,
)

UNDEFINED = "undefined for fewer than three thoughts"
OBSERVED = "preference, observed / even"
PANEL = Panel(width=196.0, height=92.0, left=38.0, right=12.0, bottom=30.0, top=24.0)


def hub_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Preference H of each thought with its interval, the hub in red, against 1.

    Args:
        data: `preference` with dims (thought, value), `value` holding estimate, low and high; `hub`, a thought's
            name or ""; `n`. Thoughts without a preference (NaN) are left out. Attributes may say otherwise what is
            drawn: `title` of the Dataset, `long_name`, `null` and `null_name` of the preference, `long_name` of the
            thoughts.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    words = ("is one thought a hub?", "key: thought attended to (red: most preferred)", OBSERVED)
    numbers = _defined(data["preference"])
    colours = [VERMILION if name == data["hub"].item() else BLUE for name in numbers["thought"].values]
    return _profile(data, numbers, words, colours, ax)


def lag_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Preference for thoughts so many steps back, with its interval, against 1.

    Args:
        data: `lag_preference` with dims (lag, value); `n`. Lags without a preference (NaN) are left out.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    words = ("how far back do thoughts look?", "lag: how many thoughts back", OBSERVED)
    return _profile(data, _defined(data["lag_preference"]), words, None, ax)


def skip_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How the last thought shares out what it gives to earlier thoughts, with intervals, against an even share.

    Args:
        data: `share` with dims (thought, value), its attribute `null` the even share; `n`; attributes as in
            `hub_profile`.
        ax: where to draw; a new figure without.

    Returns:
        The Axes drawn on.
    """
    words = ("does the last thought skip?", "key: thought attended to", "share of what earlier thoughts get")
    return _profile(data, _defined(data["share"]), words, None, ax)


def depth_profile(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Metrics by layer with their intervals, each in a panel of its own against its null.

    Args:
        data: `score` with dims (metric, layer, value) or (metric, layer); `null` with dims (metric), NaN where there
            is none; `n`.
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds all panels.
    """
    score, null = data["score"], data["null"]
    ax, panels = panel_axes(score.sizes["metric"], 2, PANEL, ax, title=title_of(data, "metrics by layer"), n=_n(data))
    for panel, name, level in zip(panels, score["metric"].values, null.values, strict=False):
        _draw_depth(panel, score.sel(metric=name), float(level))
        add_title(panel, str(name))
    return ax


def _draw_depth(ax: Axes, numbers: xr.DataArray, null: float) -> None:
    ax.plot(np.arange(numbers.sizes["layer"]), estimate_of(numbers).values, color=GREY, linewidth=0.8, zorder=0.8)
    draw_profile(ax, numbers, null=null, name="layer")
    few_ticks(ax, "y")


def _defined(numbers: xr.DataArray) -> xr.DataArray:
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    return numbers.isel({dim: np.flatnonzero(estimate_of(numbers).notnull().values)})


def title_of(data: xr.Dataset, otherwise: str) -> str:
    """What a Dataset says that it shows."""
    return str(data.attrs.get("title", otherwise))


def _n(data: xr.Dataset) -> int | None:
    return int(data["n"]) if "n" in data else None


def _profile(
    data: xr.Dataset,
    numbers: xr.DataArray,
    words: tuple[str, str, str],
    colours: Sequence[str] | None,
    ax: Axes | None,
) -> Axes:
    """One profile with its own margins; what attributes say goes before the words of the figure."""
    title, x, y = words
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    if ax is None:
        width = min(460.0, max(220.0, 26.0 * numbers.sizes[dim]))
        ax = new_axes(width, 170.0, left=40.0, right=34.0, bottom=34.0, top=24.0)
    null = float(numbers.attrs.get("null", 1.0))
    draw_profile(ax, numbers, null=null, null_name=str(numbers.attrs.get("null_name", "even")), colours=colours)
    add_title(ax, title_of(data, title), n=_n(data))
    named = numbers[dim].attrs.get("long_name", x) if numbers.sizes[dim] else UNDEFINED
    name_axes(ax, str(named), str(numbers.attrs.get("long_name", y)))
    return ax


def draw_profile(
    ax: Axes,
    numbers: xr.DataArray,
    *,
    null: float,
    null_name: str = "",
    name: str = "",
    colours: Sequence[str] | None = None,
) -> None:
    """Dots with intervals side by side over a dashed null, columns named, on an Axes with open sides."""
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    draw_null(ax, null, null_name)
    for place in range(numbers.sizes[dim]):
        draw_number(ax, place, numbers.isel({dim: place}), Look(colours[place] if colours else BLUE))
    ax.set_ylim(*limits(numbers, null))
    ax.set_xlim(-0.6, max(1, numbers.sizes[dim]) - 0.4)
    ax.spines[["top", "right"]].set_visible(False)
    name_columns(ax, numbers[dim].values)
    name_axes(ax, name)


COLOURS = {
    FIRST: GREY,
    QUESTION: SKY,
    BOT: YELLOW,
    "earlier thoughts": VERMILION,
    "self": PURPLE,
    EOT: GREEN,
    ANSWER: BLUE,
}
ROW_PITCH = 14.0
LEGEND_HEIGHT = 96.0


def row_composition(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Share of attention that each query gives to each part of what it sees, from the first query down.

    Args:
        data: `composition` with dims (query, part, value) and the estimate among `value`; `n` with dims (query).
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    n = data["n"]
    # A row that fewer problems have says how many.
    names = [
        str(query) if count == n.max() else f"{query} (n = {count})"
        for query, count in zip(n["query"].values, n.values, strict=True)
    ]
    ax = _axes(len(names), ax, left=84.0)
    _draw_shares(ax, data["composition"], "query", names)
    add_title(ax, "where each position looks", n=int(n.max()))
    name_axes(ax, "share of attention, mean over layers and heads")
    return ax


def composition_by_layer(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Share of attention that one group of queries gives to each part of what it sees, layer by layer.

    Args:
        data: `composition` with dims (layer, part), or with `value` of which the estimate is drawn; `n`; the attribute
            `queries` says whose rows these are.
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    names = [f"layer {layer}" for layer in data["layer"].values]
    ax = _axes(len(names), ax, left=50.0)
    _draw_shares(ax, data["composition"], "layer", names)
    add_title(ax, f"where {data.attrs.get('queries', 'thoughts')} look, by layer", n=int(data["n"]))
    name_axes(ax, "share of attention, mean over heads")
    return ax


def head_counts(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How many heads of each type there are in each third of the layers.

    Args:
        data: `count` with dims (third, type); the attribute `title` says what was counted; `n`.
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    colours = type_colours([str(name) for name in data["type"].values])
    # From the left as in the legend from the top.
    count = data["count"].transpose("type", "third").sel(type=list(colours))
    totals = count.sum("type")
    ax = _axes(count.sizes["third"], ax, left=84.0)
    draw_stacks(ax, count, colours, 1.03 * max(1.0, float(totals.max())), lambda value: f"{value:.0f}")
    name_rows(ax, [f"{name} ({total})" for name, total in zip(count["third"].values, totals.values, strict=True)])
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    add_legend(ax, colours, title="type")
    add_title(ax, str(data.attrs.get("title", "types of heads, by third of the layers")), n=int(data["n"]))
    name_axes(ax, "heads")
    return ax


def _axes(n_rows: int, ax: Axes | None, *, left: float) -> Axes:
    if ax is not None:
        return ax
    return new_axes(330.0, max(LEGEND_HEIGHT, ROW_PITCH * n_rows), left=left, right=104.0, bottom=34.0, top=24.0)


def _draw_shares(ax: Axes, composition: xr.DataArray, dim: str, names: Sequence[str]) -> None:
    shares = estimate_of(composition).transpose("part", dim)
    draw_stacks(ax, shares, COLOURS, 1.0, lambda share: f"{share:.2f}".removeprefix("0"))
    name_rows(ax, names)
    few_ticks(ax, "x")
    add_legend(ax, _colours(shares["part"].values[(shares > 0).any(dim).values]), title="looks at")


def _colours(parts: Iterable[object]) -> Mapping[str, str]:
    return {str(part): COLOURS.get(str(part), BLACK) for part in parts}
