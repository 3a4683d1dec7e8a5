"""Turn compositions and counts into stacked bars: where do positions and layers look, what types are the heads?"""

from collections.abc import Iterable, Mapping, Sequence

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from thoughtlens.labels import ANSWER, BOT, EOT, FIRST, QUESTION
from thoughtlens.plots.heads import type_colours
from thoughtlens.plots.intervals import estimate_of
from thoughtlens.plots.stacks import draw_stacks
from thoughtlens.plots.style import BLACK, BLUE, GREEN, GREY, PURPLE, SKY, VERMILION, YELLOW, new_axes
from thoughtlens.plots.text import add_legend, add_title, few_ticks, name_axes, name_rows

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
