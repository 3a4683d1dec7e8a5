"""Profiles by thought, lag and layer against their nulls, and where positions and layers look.

In: an `Analysis`. Out: Axes.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.analysis.metrics import cell_spread, thought_composition
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.notation import ANSWER, BOT, EOT, FIRST, QUESTION
from thoughtlens.plots.heads import METRICS
from thoughtlens.plots.primitives import draw_columns, draw_stacks, estimate_of, print_stacks, titled
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
    fit,
    name_axes,
    name_ticks,
    new_axes,
    panels,
    short,
)

OBSERVED = "preference, observed / even"


def hub_profile(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw the preference H of each thought with its interval against 1; the hub of the mean head, if any, is red.

    Args:
        analysis: of a run; thoughts without a preference are left out.
        ax: where to draw; a new figure if None.

    Returns:
        The Axes drawn on.

    Example:
        >>> hub_profile(analysis).get_title(loc="left")
        'is one thought a hub? (n = 5)'
    """
    hub = analysis.model["hub"].item()
    return draw_profile(
        analysis.model["preference"],
        title="is one thought a hub?",
        n=int(analysis.model["n"]),
        x=f"key: thought attended to ({'red: the hub' if hub else 'no hub by the test'})",
        y=OBSERVED,
        red=hub,
        ax=ax,
    )


def lag_profile(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw the preference for thoughts so many steps back, with its interval, against 1.

    Args:
        analysis: of a run; lags without a preference are left out.
        ax: where to draw; a new figure if None.

    Returns:
        The Axes drawn on.

    Example:
        >>> lag_profile(analysis).get_xlabel()
        'lag: how many thoughts back'
    """
    return draw_profile(
        analysis.model["lag_preference"],
        title="how far back do thoughts look?",
        n=int(analysis.model["n"]),
        x="lag: how many thoughts back",
        y=OBSERVED,
        ax=ax,
    )


def skip_profile(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw how the last thought shares out what it gives to earlier thoughts, with intervals, against an even share.

    Args:
        analysis: of a run.
        ax: where to draw; a new figure if None.

    Returns:
        The Axes drawn on.

    Example:
        >>> skip_profile(analysis).get_ylabel()
        'share of what earlier thoughts get'
    """
    share = analysis.last_thought["share"]
    return draw_profile(
        share,
        title="does the last thought skip?",
        n=int(analysis.last_thought["n"]),
        x="key: thought attended to",
        y="share of what earlier thoughts get",
        null=float(share.attrs["null"]),
        ax=ax,
    )


def draw_profile(
    numbers: xr.DataArray,
    *,
    title: str,
    n: int,
    x: str,
    y: str,
    null: float = 1.0,
    null_name: str = "even",
    red: object = None,
    ax: Axes | None,
) -> Axes:
    """The numbers of one profile that are defined, dims (place) or (place, value); the place `red` in red."""
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    known = numbers.isel({dim: np.flatnonzero(estimate_of(numbers).notnull().values)})
    if ax is None:
        ax = new_axes(min(530.0, max(294.0, 26.0 * known.sizes[dim] + 74.0)), 228.0)
    colours = [VERMILION if place == red else BLUE for place in known[dim].values]
    draw_columns(ax, known, null=null, null_name=null_name, colours=colours)
    titled(ax, title, n, x if known.sizes[dim] else "undefined for fewer than three thoughts", y)
    fit(ax)
    return ax


def depth_profile(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw metrics by layer with their intervals, each in a panel of its own against its null.

    They are the preference for the hub of the run, if it has one, sequential and skip preference, thought mass, and the
    spread over cells.

    Args:
        analysis: of a run.
        ax: an Axes of a grid, whose place the panels take; a new figure if None.

    Returns:
        The Axes given; its panels are the Axes of the subfigure that has its place.

    Example:
        >>> ax = depth_profile(analysis)
        >>> [panel.get_title(loc="left") for panel in ax.get_figure().subfigs[0].axes][-1]
        'spread over cells'
    """
    hub, layers = str(analysis.model["hub"].item()), analysis.layers
    drawn = {f"preference for {hub}": (layers["preference"].sel(thought=hub), 1.0)} if hub else {}
    for name, null in (("sequential preference", 1.0), ("skip preference", 1.0), ("thought mass", np.nan)):
        drawn[name] = layers[METRICS[name][0]], null
    drawn["spread over cells"] = cell_spread(analysis.moments["mean"].mean("head")), np.nan
    return draw_depth(drawn, title="metrics by layer (dashed: no preference)", n=int(layers["n"]), ax=ax)


def draw_depth(drawn: dict[str, tuple[xr.DataArray, float]], *, title: str, n: int, ax: Axes | None) -> Axes:
    """Numbers (layer) or (layer, value) and their nulls by the names of their panels."""
    ax, tiles = panels(ax, len(drawn), 2, (246.0, 146.0), title=title, n=n)
    for panel, (name, (numbers, null)) in zip(tiles, drawn.items(), strict=False):
        numbers = numbers.transpose("layer", ...)
        panel.plot(np.arange(len(numbers)), estimate_of(numbers).values, color=GREY, linewidth=0.8, zorder=0.8)
        draw_columns(panel, numbers, null=null)
        panel.locator_params(axis="y", nbins=6)
        add_title(panel, name)
        name_axes(panel, "layer")
    fit(*tiles)
    return ax


COLOURS = {
    FIRST: GREY,
    QUESTION: SKY,
    BOT: YELLOW,
    "earlier thoughts": VERMILION,
    "self": PURPLE,
    EOT: GREEN,
    ANSWER: BLUE,
}


def row_composition(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw the share of attention that each query gives to each part of what it sees, from the first query down.

    Args:
        analysis: of a run.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The Axes drawn on.

    Example:
        >>> row_composition(analysis).get_title(loc="left")
        'where each position looks (n = 5)'
    """
    n = analysis.composition["n"]
    # A row that fewer problems have says how many.
    names = [
        str(query) if count == n.max() else f"{query} (n = {count})"
        for query, count in zip(n["query"].values, n.values, strict=True)
    ]
    shares = estimate_of(analysis.composition["composition"]).transpose("part", "query")
    return _draw_shares(
        shares, names, "where each position looks", int(n.max()), "share of attention, mean over layers and heads", ax
    )


def composition_by_layer(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw the share of attention that thoughts give to each part of what they see, layer by layer.

    Args:
        analysis: of a run.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The Axes drawn on.

    Example:
        >>> composition_by_layer(analysis).get_xlabel()
        'share of attention, mean over heads'
    """
    shares = thought_composition(analysis.moments["mean"]).mean("head").transpose("part", "layer")
    names = [f"layer {layer}" for layer in shares["layer"].values]
    n = int(analysis.heads["n"])
    return _draw_shares(shares, names, "where thoughts look, by layer", n, "share of attention, mean over heads", ax)


def _draw_shares(shares: xr.DataArray, names: Sequence[str], title: str, n: int, x: str, ax: Axes | None) -> Axes:
    if ax is None:
        ax = new_axes(518.0, max(96.0, 14.0 * len(names)) + 58.0)
    draw_stacks(ax, shares, COLOURS, 1.0)
    name_ticks(ax.yaxis, names)
    ax.locator_params(axis="x", nbins=6)
    add_title(ax, title, n=n)
    name_axes(ax, x, open_sides=False)
    seen = (str(part) for part in shares["part"].values[(shares > 0).values.any(axis=1)])
    add_legend(ax, {part: COLOURS.get(part, BLACK) for part in seen}, title="looks at")
    fit(ax)
    print_stacks(ax, short)
    return ax
