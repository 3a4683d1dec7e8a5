"""The figure that compares models: a panel for each measure, a shade and a marker for each model.

In: a `Comparison`. Out: a Figure with a panel a measure.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thoughtlens.analysis.comparison import Comparison, comparison_overview
from thoughtlens.plots.primitives import dodged, draw_null, draw_number, estimate_of, frame_rows, limits, looks
from thoughtlens.plots.style import (
    add_legend,
    add_title,
    caption_of,
    clipped,
    fit,
    name_axes,
    name_ticks,
    panels,
    say_instead,
    size_of,
)


def model_comparison(comparison: Comparison, *, ax: Axes | None = None) -> Figure:
    """Draw models side by side: preferences for thoughts and lags, where thoughts look, types of heads, accuracy.

    Args:
        comparison: of two or more models or recipes; what it lacks, such as types of heads, is left out.
        ax: an Axes of a grid, whose place the panels take; a new figure if None.

    Returns:
        The figure drawn on; its Axes are the panels.

    Example:
        >>> [panel.get_title(loc="left") for panel in model_comparison(comparison).axes][-1]
        'Accuracy'
    """
    over = "seeds, or over problems below three seeds" if comparison.dim == "recipe" else "problems"
    lines = f"lines: 95 % {'interval' if comparison.dim == 'recipe' else 'bootstrap'} over {over}"
    named, sides = comparison.measures.attrs, comparison.measures[comparison.dim].values
    title = " and ".join([", ".join(clipped(name, 20) for name in sides[:-1]), clipped(sides[-1], 20)])
    numbers = comparison_overview(comparison)
    # What no thought can look at has no row.
    numbers = numbers.sel(part=(numbers["composition"].fillna(0.0) != 0.0).any(["model", "value"]).values)
    return draw_models(
        numbers, title=f"{title} side by side", named=named, notes=(lines, "dashed: an even share"), ax=ax
    )


class Words(NamedTuple):
    """How a variable is drawn: its dim, its title and the name of its axis, its null and what that is."""

    dim: str
    title: str
    axis: str
    in_rows: bool = False
    null: float = np.nan
    null_name: str = ""


PANELS = {
    "preference": Words("thought", "Preference for each thought", "thought looked at", False, 1.0),
    "lag_preference": Words("lag", "Preference by lag", "lag: how many thoughts back", False, 1.0),
    "composition": Words("part", "Where thoughts look", "share of attention", in_rows=True),
    "type_share": Words("type", "Types of heads", "share of heads", in_rows=True),
    "accuracy": Words("what", "Accuracy", "share of problems solved", in_rows=True),
}


def draw_models(
    numbers: xr.Dataset,
    *,
    title: str,
    named: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    words: dict[str, Words] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """A panel for each variable (model, …) or (model, …, value) of which anything is defined; `n` is of each model.

    `named` may have the name of the problem set.
    """
    drawn = {name: how for name, how in (words or PANELS).items() if name in numbers and numbers[name].notnull().any()}
    sizes = np.unique(numbers["n"].values)
    n = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    caption = caption_of(named or {}, n, *notes)
    least = (130.0, 76.0)  # with names of rows on the left, and two lines above and below
    figure, tiles = panels(
        ax, max(1, len(drawn)), 2, (326.0, 168.0), title=title, caption=caption, least=least, margin=(110.0, 0.0)
    )
    for panel, (name, how) in zip(tiles, drawn.items(), strict=False):
        _draw(panel, numbers[name], how)
    series = looks([str(name) for name in numbers["model"].values])
    # In the empty place of an odd number of panels, or beside the upper right one.
    for panel in tiles[-1:] if len(tiles) % 2 else tiles[:2][-1:]:
        add_legend(
            panel, {name: look.colour for name, look in series.items()}, markers=[x.marker for x in series.values()]
        )
    if not drawn:
        for panel in tiles:
            say_instead(panel, "nothing to compare")
    fit(*tiles)
    return figure


def _draw(ax: Axes, numbers: xr.DataArray, words: Words) -> None:
    whole = numbers if words.dim in numbers.dims else numbers.expand_dims({words.dim: [words.title]})
    # A cell that no model can have, such as a preference for the last thought, has no place.
    known = estimate_of(whole).notnull().any("model").transpose(words.dim)
    whole = whole.isel({words.dim: np.flatnonzero(known.values)})
    names, series = whole[words.dim].values, looks([str(name) for name in whole["model"].values])
    # Models of which nothing is known here take no room.
    whole = whole.isel(model=np.flatnonzero(estimate_of(whole).notnull().any(words.dim).values))
    draw_null(ax, words.null)
    pitch = size_of(ax)[words.in_rows] / len(names)
    offsets, size = dodged(whole.sizes["model"], pitch)
    for offset, model in zip(offsets, map(str, whole["model"].values), strict=True):
        for place in range(len(names)):
            number = whole.isel({words.dim: place}).sel(model=model)
            draw_number(ax, place + offset, number, series[model]._replace(size=size), across=words.in_rows)
    if words.in_rows:
        frame_rows(ax, names, whole)
    else:
        ax.set_ylim(*limits(whole, words.null))
        ax.set_xlim(-0.6, len(names) - 0.4)
        ax.locator_params(axis="y", nbins=6)
        name_ticks(ax.xaxis, names)
    if numbers.name == "accuracy":
        ax.set_xlim(-0.02, 1.02)
        ax.set_yticks([])
    add_title(ax, f"{words.title} (dashed: {words.null_name})" if words.null_name else words.title)
    name_axes(ax, words.axis)
