"""Profiles by thought, lag and layer against their nulls, and where positions and layers look.

In: an `Analysis`. Out: a Figure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thoughtlens.analysis.attention_measures import thought_composition
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.notation import ANSWER, BOT, EOT, FIRST, QUESTION
from thoughtlens.plots.heads import METRICS
from thoughtlens.plots.primitives import beyond, draw_columns, draw_stacks, estimate_of, print_stacks, titled
from thoughtlens.plots.style import (
    BLUE,
    BLUES,
    SOFT,
    add_legend,
    add_title,
    caption_of,
    figure_of,
    fit,
    intervals_of,
    name_axes,
    name_ticks,
    new_axes,
    panels,
    short,
)

PREFERENCE = "preference, times an even share"


def hub_profile(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw the preference H of each thought with its interval against 1; the hub of the mean head, if any, is named.

    Args:
        analysis: of a run; thoughts without a preference are left out.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Example:
        >>> hub_profile(analysis).axes[0].get_title(loc="left")
        'How much later thoughts prefer each thought'
    """
    hub, preference = str(analysis.model["hub"].item()), analysis.model["preference"]
    return draw_profile(
        preference,
        title="How much later thoughts prefer each thought",
        caption=_caption(analysis, f"dark: {hub}, a hub by the test" if hub else "no thought is a hub by the test"),
        x="thought that is looked at",
        y=PREFERENCE,
        dark=hub,
        ax=ax,
    )


def lag_profile(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw the preference for thoughts so many steps back, with its interval, against 1.

    Args:
        analysis: of a run; lags without a preference are left out.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Example:
        >>> lag_profile(analysis).axes[0].get_xlabel()
        'lag: how many thoughts back'
    """
    return draw_profile(
        analysis.model["lag_preference"],
        title="How far back thoughts look",
        caption=_caption(analysis),
        x="lag: how many thoughts back",
        y=PREFERENCE,
        ax=ax,
    )


def skip_profile(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw how the last thought shares out what it gives to earlier thoughts, with intervals, against an even share.

    Args:
        analysis: of a run.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Example:
        >>> skip_profile(analysis).axes[0].get_ylabel()
        'share of its attention to them'
    """
    share = analysis.last_thought["share"]
    return draw_profile(
        share,
        title="How the last thought divides its attention among the earlier thoughts",
        caption=_caption(analysis),
        x="earlier thought that it looks at",
        y="share of its attention to them",
        null=float(share.attrs["null"]),
        ax=ax,
    )


def _caption(analysis: Analysis, *more: str) -> str:
    named = analysis.model.attrs
    return caption_of(named, int(analysis.model["n"]), intervals_of(named), *more)


def draw_profile(
    numbers: xr.DataArray,
    *,
    title: str,
    caption: str,
    x: str,
    y: str,
    null: float = 1.0,
    null_name: str = "even share",
    dark: object = None,
    ax: Axes | None,
) -> Figure:
    """The numbers of one profile that are defined, dims (place) or (place, value), the place `dark` in a darker blue.

    What is below the null is grey.
    """
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    known = numbers.isel({dim: np.flatnonzero(estimate_of(numbers).notnull().values)})
    if ax is None:
        ax = new_axes(min(540.0, max(350.0, 26.0 * known.sizes[dim] + 74.0)), 236.0)
    colours = [
        BLUES[-1] if place == dark else colour
        for place, colour in zip(known[dim].values, beyond(known, null), strict=True)
    ]
    draw_columns(ax, known, null=null, null_name=null_name, colours=colours)
    titled(ax, title, caption, x if known.sizes[dim] else "undefined for fewer than three thoughts", y)
    fit(ax)
    return figure_of(ax)


def depth_profile(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw metrics by layer with their intervals, each in a panel of its own against its null.

    They are the preference for the hub of the run, if it has one, sequential and skip preference, and thought mass.

    Args:
        analysis: of a run.
        ax: an Axes of a grid, whose place the panels take; a new figure if None.

    Returns:
        The figure drawn on; its Axes are the panels.

    Example:
        >>> [panel.get_title(loc="left") for panel in depth_profile(analysis).axes][-1]
        'Thought mass'
    """
    hub, layers = str(analysis.model["hub"].item()), analysis.layers
    drawn = {f"Preference for {hub}": (layers["preference"].sel(thought=hub), 1.0)} if hub else {}
    for name, null in (("sequential preference", 1.0), ("skip preference", 1.0), ("thought mass", np.nan)):
        drawn[name.capitalize()] = layers[METRICS[name][0]], null
    caption = _caption(analysis, "dashed: an even share", "grey: below it")
    words = {"title": "Where each layer looks, all its heads together", "y": "times an even share"}
    return draw_depth(drawn, caption=caption, ax=ax, **words)


def draw_depth(
    drawn: Mapping[str, tuple[xr.DataArray, float]], *, title: str, caption: str, y: str, ax: Axes | None
) -> Figure:
    """Numbers (layer) or (layer, value) and their nulls by the names of their panels; `y` is what has a null."""
    figure, tiles = panels(ax, len(drawn), 2, (246.0, 146.0), title=title, caption=caption)
    for panel, (name, (numbers, null)) in zip(tiles, drawn.items(), strict=False):
        numbers = numbers.transpose("layer", ...)
        draw_columns(panel, numbers, null=null, colours=beyond(numbers, null))
        panel.locator_params(axis="y", nbins=6)
        add_title(panel, name)
        name_axes(panel, "layer", y if np.isfinite(null) else "share of a row")
    fit(*tiles)
    return figure


COLOURS = {
    FIRST: SOFT,
    QUESTION: "#cdd2d8",
    BOT: "#98a1ab",
    "earlier thoughts": BLUE,
    "self": "#7db7f5",
    EOT: "#d3e4f5",
    ANSWER: BLUES[-1],
}
"""Thoughts in blue; what else is looked at in the greys of words."""


def row_composition(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw the share of attention that each query gives to each part of what it sees, from the first query down.

    Args:
        analysis: of a run.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The figure drawn on.

    Example:
        >>> row_composition(analysis).axes[0].get_title(loc="left")
        'Where each position looks'
    """
    n = analysis.composition["n"]
    # A row that fewer problems have says how many.
    names = [
        str(query) if count == n.max() else f"{query} (n = {count})"
        for query, count in zip(n["query"].values, n.values, strict=True)
    ]
    shares = estimate_of(analysis.composition["composition"]).transpose("part", "query")
    caption = caption_of(analysis.model.attrs, int(n.max()), "mean over problems, layers and heads")
    return _draw_shares(shares, names, title="Where each position looks", caption=caption, ax=ax)


def composition_by_layer(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw the share of attention that thoughts give to each part of what they see, layer by layer.

    Args:
        analysis: of a run.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The figure drawn on.

    Example:
        >>> composition_by_layer(analysis).axes[0].get_xlabel()
        'share of attention'
    """
    shares = thought_composition(analysis.moments["mean"]).mean("head").transpose("part", "layer")
    names = [f"layer {layer}" for layer in shares["layer"].values]
    caption = caption_of(
        analysis.model.attrs, int(analysis.heads["n"]), "mean over problems, thoughts and the heads of the layer"
    )
    return _draw_shares(shares, names, title="Where thoughts look in each layer", caption=caption, ax=ax)


def _draw_shares(shares: xr.DataArray, names: Sequence[str], *, title: str, caption: str, ax: Axes | None) -> Figure:
    if ax is None:
        ax = new_axes(518.0, max(96.0, 14.0 * len(names)) + 68.0)
    draw_stacks(ax, shares, COLOURS, 1.0)
    name_ticks(ax.yaxis, names)
    ax.locator_params(axis="x", nbins=6)
    add_title(ax, title, caption)
    name_axes(ax, "share of attention", open_sides=False)
    seen = (str(part) for part in shares["part"].values[(shares > 0).values.any(axis=1)])
    add_legend(ax, {part: COLOURS.get(part, SOFT) for part in seen}, title="looks at")
    fit(ax)
    print_stacks(ax, short)
    return figure_of(ax)
