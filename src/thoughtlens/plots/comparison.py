"""The figure that compares models: a panel for each measure, a colour and a marker for each model.

In: a `Comparison`. Out: the Axes of a figure with a panel a measure.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.analysis.comparison import Comparison, comparison_overview
from thoughtlens.plots.primitives import dodged, draw_null, draw_number, frame_rows, limits, looks
from thoughtlens.plots.style import (
    add_legend,
    add_title,
    fit,
    name_axes,
    name_ticks,
    panels,
    say_instead,
    size_of,
)


def model_comparison(comparison: Comparison, *, ax: Axes | None = None) -> Axes:
    """Draw models side by side: preferences for thoughts and lags, where thoughts look, types of heads, accuracy.

    Args:
        comparison: of two or more models; what it lacks, such as types of heads, is left out.
        ax: an Axes of a grid, whose place the panels take; a new figure if None.

    Returns:
        The Axes given; its panels are the Axes of the subfigure that has its place.

    Example:
        >>> ax = model_comparison(comparison)
        >>> [panel.get_title(loc="left") for panel in ax.get_figure().subfigs[0].axes][-1]
        'accuracy'
    """
    return draw_models(comparison_overview(comparison), title="models compared", ax=ax)


class Words(NamedTuple):
    """How a variable is drawn: its dim, its title and the name of its axis, its null and what that is."""

    dim: str
    title: str
    axis: str
    in_rows: bool = False
    null: float = np.nan
    null_name: str = ""


PANELS = {
    "preference": Words("thought", "preference for each thought", "key: thought attended to", False, 1.0, "even"),
    "lag_preference": Words("lag", "preference by lag", "lag: how many thoughts back", False, 1.0, "even"),
    "composition": Words("part", "where thoughts look", "share of attention", in_rows=True),
    "type_share": Words("type", "types of heads", "share of heads", in_rows=True),
    "accuracy": Words("what", "accuracy", "share of problems solved", in_rows=True),
}


def draw_models(
    numbers: xr.Dataset, *, title: str, words: dict[str, Words] | None = None, ax: Axes | None = None
) -> Axes:
    """A panel for each variable (model, …) or (model, …, value) that is not empty; `n` (model) is in the title."""
    drawn = {name: how for name, how in (words or PANELS).items() if name in numbers and numbers[name].size}
    sizes = np.unique(numbers["n"].values)
    n = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    least = (130.0, 76.0)  # with names of rows on the left, and two lines above and below
    ax, tiles = panels(ax, len(drawn), 2, (326.0, 168.0), title=title, n=n, least=least, margin=(110.0, 24.0))
    for panel, (name, how) in zip(tiles, drawn.items(), strict=False):
        _draw(panel, numbers[name], how)
    series = looks([str(name) for name in numbers["model"].values])
    for panel in tiles[:2][-1:]:
        add_legend(
            panel, {name: look.colour for name, look in series.items()}, markers=[x.marker for x in series.values()]
        )
    if not drawn:
        say_instead(ax, "nothing to compare")
    fit(*tiles)
    return ax


def _draw(ax: Axes, numbers: xr.DataArray, words: Words) -> None:
    if not numbers.notnull().any():
        say_instead(ax, f"{words.title}: undefined")
        return
    whole = numbers if words.dim in numbers.dims else numbers.expand_dims({words.dim: [words.title]})
    names = whole[words.dim].values
    draw_null(ax, words.null)
    pitch = size_of(ax)[words.in_rows] / len(names)
    offsets, size = dodged(whole.sizes["model"], pitch)
    series = looks([str(name) for name in whole["model"].values])
    for offset, (model, look) in zip(offsets, series.items(), strict=True):
        for place in range(len(names)):
            number = whole.isel({words.dim: place}).sel(model=model)
            draw_number(ax, place + offset, number, look._replace(size=size), across=words.in_rows)
    if words.in_rows:
        frame_rows(ax, names, whole)
    else:
        ax.set_ylim(*limits(whole, words.null))
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.locator_params(axis="y", nbins=6)
        name_ticks(ax.xaxis, names)
    if numbers.name == "accuracy":
        ax.set_xlim(-0.02, 1.02)
    add_title(ax, f"{words.title} (dashed: {words.null_name})" if words.null_name else words.title)
    name_axes(ax, words.axis)
