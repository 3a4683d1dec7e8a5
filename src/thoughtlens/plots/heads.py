"""Metrics of heads: a map of layers and heads, a ranking, distributions over heads, counts of types.

In: an `Analysis`. Out: Axes. A metric is named as in `METRICS`, or `mass on first` or `mass on self`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from thoughtlens.analysis.metrics import SELF, thought_composition
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.analysis.tables import selected_on
from thoughtlens.errors import OptionError
from thoughtlens.notation import FIRST, head_name, text
from thoughtlens.plots.maps import N_TOP, check_top, pick_heads
from thoughtlens.plots.primitives import (
    Look,
    add_colour_bar,
    draw_map,
    draw_null,
    draw_number,
    draw_stacks,
    estimate_of,
    frame_rows,
    outline_cells,
    print_stacks,
    scale_of,
    titled,
)
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
    Names,
    add_legend,
    add_title,
    fit,
    name_axes,
    name_ticks,
    new_axes,
    panels,
    say_instead,
)

METRICS: dict[str, tuple[str, float | str]] = {
    "hub strength": ("hub_strength", "hub_strength_null"),
    "largest preference": ("largest_preference", "largest_preference_null"),
    "sequential preference": ("sequential", 1.0),
    "skip preference": ("skip", 1.0),
    "thought mass": ("thought_mass", np.nan),
    "importance": ("importance", "importance_null"),
}
"""What a figure calls a metric: its variable in an analysis and its null, NaN where there is none.

The null of what is the largest of several is another variable: what chance makes of it in each head.
"""

MASSES = {"mass on first": FIRST, "mass on self": SELF}
"""Metrics from the mean rows of thoughts, without intervals and nulls."""
THIRDS = ("early", "middle", "late")


@dataclass(frozen=True)
class Choice:
    """What is drawn of a run, as the options of the same names of its figures; None leaves it to the figure."""

    layers: tuple[int, ...] | None = None
    heads: tuple[str, ...] | None = None
    top: int | None = None
    metric: str = "importance"

    def __post_init__(self) -> None:
        if self.top is not None:
            check_top(self.top)
        check_metric(self.metric)


def check_metric(metric: str) -> str:
    """The metric, if figures know it."""
    if metric not in (*METRICS, *MASSES):
        raise OptionError(f"no metric {metric!r}; there are: {', '.join((*METRICS, *MASSES))}.")
    return metric


def score_of(analysis: Analysis, metric: str) -> tuple[xr.DataArray, float]:
    """A metric of every head, dims (layer, head) or (layer, head, value), and its null, NaN where there is none.

    A null of each head is drawn where it is on average.
    """
    if check_metric(metric) in MASSES:
        return thought_composition(analysis.moments["mean"]).sel(part=MASSES[metric], drop=True), np.nan
    variable, null = METRICS[metric]
    return analysis.heads[variable], float(analysis.heads[null].mean()) if isinstance(null, str) else null


def head_map(analysis: Analysis, *, metric: str = "importance", ax: Axes | None = None) -> Axes:
    """Draw one metric of every head: layers from the top, heads from the left, blue and red below and above its null.

    Among strengths of hubs, those that are hubs by the test are outlined.

    Args:
        analysis: of a run.
        metric: hub strength, largest preference, sequential preference, skip preference, thought mass, importance,
            mass on first or mass on self. Without a null the scale begins at 0.
        ax: where to draw; a new figure if None.

    Returns:
        The Axes drawn on.

    Raises:
        OptionError: there is no such metric.

    Example:
        >>> ax = head_map(analysis, metric="sequential preference")
        >>> ax.get_title(loc="left").startswith("sequential preference, null 1")
        True
    """
    score, null = score_of(analysis, metric)
    hubs: dict[str, Any] = {"marked": analysis.heads["hub"] != "", "why": "hubs"} if metric == "hub strength" else {}
    return draw_head_map(estimate_of(score), title=metric, n=int(analysis.heads["n"]), null=null, ax=ax, **hubs)


def draw_head_map(
    score: xr.DataArray,
    *,
    title: str,
    n: int,
    null: float = np.nan,
    marked: xr.DataArray | None = None,
    why: str = "",
    x: str = "head",
    ax: Axes | None,
) -> Axes:
    """A map of numbers (layer, column) about their null, the marked cells outlined, the title saying `why`."""
    score = score.transpose("layer", ...)
    n_layers, n_heads = score.shape
    if ax is None:
        cell = max(18.5, 216.0 / n_heads), max(13.0, min(20.0, 90.0 / n_layers))
        ax = new_axes(cell[0] * n_heads + 110.0, cell[1] * n_layers + 64.0)
    image = draw_map(ax, score, scale_of(score, null), x=x, y="layer")
    if marked is not None:
        outline_cells(ax, image, marked.transpose(*score.dims).values)
    add_colour_bar(image, [ax], score)
    if np.isfinite(null):
        title += f", null {null:.3g}"
    add_title(ax, f"{title}; outlined: {why}" if why else title, n=n)
    fit(ax)
    return ax


TYPE_COLOURS = {
    "hub": VERMILION,
    "previous-thought": BLUE,
    "skip": GREEN,
    "first-token": BLACK,
    "self": PURPLE,
    "read-out": ORANGE,
    "no clear type": GREY,
    # The names of the 2025 scripts.
    "Hub Aggregator": VERMILION,
    "Forward Flow": BLUE,
    "Skip Connection": GREEN,
    "Multi-Purpose": PURPLE,
}


def type_colours(types: Sequence[str]) -> dict[str, str]:
    """The colour of each type of head, in the order of the palette; unknown types take the colours that are left."""
    left = iter((SKY, YELLOW))
    known = {name: colour for name, colour in TYPE_COLOURS.items() if name in types}
    return known | {name: next(left, GREY) for name in dict.fromkeys(types) if name not in known}


def head_ranking(
    analysis: Analysis,
    *,
    metric: str = "importance",
    heads: Sequence[str] | None = None,
    top: int = N_TOP,
    ax: Axes | None = None,
) -> Axes:
    """Draw the first heads by a metric with their intervals, the largest on top, coloured by type.

    Heads where the metric is undefined come last; ties go by thought mass.

    Args:
        analysis: of a run.
        metric: as of `head_map`.
        heads: names such as L4H5, if these alone are drawn.
        top: how many heads are drawn where none are named, at least 1.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The Axes drawn on.

    Raises:
        OptionError: there is no such metric or head, or `top` is below 1.

    Example:
        >>> ax = head_ranking(analysis, metric="skip preference", top=5)
        >>> len(ax.get_yticklabels())
        5
    """
    score, null = score_of(analysis, metric)
    score, mass, types = (
        values.transpose("layer", "head", ...).stack(rank=("layer", "head"), create_index=False).transpose("rank", ...)
        for values in (score, analysis.heads["thought_mass"], analysis.evidence["type"])
    )
    names = np.array(list(map(head_name, score["layer"].values, score["head"].values)))
    # lexsort sorts by its last key first, ascending, and puts NaN last; it is stable.
    order = np.lexsort([-estimate_of(mass).values, -estimate_of(score).values])
    if heads is None:
        title, order = f"top heads by attention, {selected_on(analysis)}", order[: check_top(top)]
    else:
        pick_heads(analysis.ranking, heads)
        title, order = "chosen heads by attention", order[np.isin(names[order], heads)]
    kinds = [str(kind) for kind in types.values[order]]
    n = int(analysis.heads["n"])
    return draw_ranking(score[order], names[order], kinds, metric=metric, title=title, n=n, null=null, ax=ax)


def draw_ranking(
    score: xr.DataArray,
    names: Names,
    types: Sequence[str],
    *,
    metric: str,
    title: str,
    n: int,
    null: float = np.nan,
    ax: Axes | None,
) -> Axes:
    """Numbers (rank) or (rank, value) in rows, coloured by the types of the heads."""
    colours = type_colours(types)
    if ax is None:
        ax = new_axes(400.0, max(60.0, 12.0 * len(names)) + 58.0)
    draw_null(ax, null, upright=True)
    for place, kind in enumerate(types):
        draw_number(ax, place, score[place], Look(colours[kind]), across=True)
    frame_rows(ax, names, score, null)
    titled(ax, title, n, f"{metric} (dashed: {null:.3g}, its null)" if np.isfinite(null) and null else metric)
    add_legend(ax, colours, title="type")
    fit(ax)
    return ax


def metric_distributions(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw how each metric is distributed over heads, a histogram a metric, its null dashed.

    Heads where a metric is undefined are left out and counted.

    Args:
        analysis: of a run.
        ax: an Axes of a grid, whose place the panels take; a new figure if None.

    Returns:
        The Axes given; its panels are the Axes of the subfigure that has its place.

    Example:
        >>> ax = metric_distributions(analysis)
        >>> [panel.get_xlabel() for panel in ax.get_figure().subfigs[0].axes][:1]
        ['hub strength']
    """
    names = (*METRICS, *MASSES)
    title = f"metrics over {analysis.heads.sizes['layer'] * analysis.heads.sizes['head']} heads"
    ax, tiles = panels(ax, len(names), 3, (226.0, 124.0), title=title, n=int(analysis.heads["n"]))
    for panel, name in zip(tiles, names, strict=False):
        score, null = score_of(analysis, name)
        values = estimate_of(score).values.ravel()
        known = values[np.isfinite(values)]
        if not len(known):
            say_instead(panel, f"{name}: undefined for all heads")
            continue
        panel.hist(known, bins=24, color=BLUE, linewidth=0)
        draw_null(panel, null, upright=True, above=True)
        panel.locator_params(axis="x", nbins=6)
        panel.locator_params(axis="y", nbins=6, integer=True)
        missing = len(values) - len(known)
        name_axes(panel, f"{name} ({missing} undefined)" if missing else name, "heads")
    fit(*tiles)
    return ax


def head_counts(analysis: Analysis, *, ax: Axes | None = None) -> Axes:
    """Draw how many heads of each type there are in each third of the layers.

    Layer l of L is early below ⌊L/3⌋, middle below ⌊2L/3⌋, late from there.

    Args:
        analysis: of a run.
        ax: where to draw, with room for the legend on its right; a new figure if None.

    Returns:
        The Axes drawn on.

    Example:
        >>> head_counts(analysis).get_xlabel()
        'heads'
    """
    types = analysis.evidence["type"].transpose("layer", "head").values
    edges = [0, len(types) // 3, 2 * len(types) // 3, len(types)]
    thirds = {name: types[start:end].ravel() for name, (start, end) in zip(THIRDS, pairwise(edges), strict=True)}
    title = "types of heads, by third of the layers"
    return draw_counts(thirds, title=title, n=int(analysis.heads["n"]), ax=ax)


def draw_counts(groups: dict[str, np.ndarray], *, title: str, n: int, ax: Axes | None) -> Axes:
    """How many heads of each type are in each group: bars end to end, from the left as in the legend from the top."""
    colours = type_colours([str(kind) for kinds in groups.values() for kind in kinds])
    count = [[int((kinds == kind).sum()) for kinds in groups.values()] for kind in colours]
    bars = xr.DataArray(
        np.array(count, dtype=np.int64).reshape(len(colours), len(groups)),
        dims=("type", "group"),
        coords={"type": text(list(colours))},
    )
    totals = [len(kinds) for kinds in groups.values()]
    if ax is None:
        ax = new_axes(518.0, 154.0)
    draw_stacks(ax, bars, colours, 1.03 * max(1, *totals))
    name_ticks(ax.yaxis, [f"{name} ({total})" for name, total in zip(groups, totals, strict=True)])
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    titled(ax, title, n, "heads")
    add_legend(ax, colours, title="type")
    fit(ax)
    print_stacks(ax, lambda value: f"{value:.0f}")
    return ax
