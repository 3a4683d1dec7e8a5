"""Metrics of heads: a map of layers and heads, a ranking, strips of all heads by layer, counts of types.

In: an `Analysis`. Out: a Figure. A metric is named as in `METRICS`, or `mass on first` or `mass on self`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thoughtlens.analysis.attention_measures import SELF, thought_composition
from thoughtlens.analysis.headlines_and_tables import selected_on
from thoughtlens.analysis.heads import TYPES
from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.errors import OptionError
from thoughtlens.notation import FIRST, head_name, text
from thoughtlens.plots.attention_maps import N_TOP, check_top, pick_heads
from thoughtlens.plots.primitives import (
    Look,
    Scale,
    add_colour_bar,
    beyond,
    draw_map,
    draw_null,
    draw_number,
    estimate_of,
    frame_rows,
    outline_cells,
    scale_of,
    titled,
)
from thoughtlens.plots.style import (
    BLUE,
    GREY,
    Names,
    add_title,
    caption_of,
    figure_of,
    fit,
    intervals_of,
    name_axes,
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
UNITS = {
    "hub strength": "even shares",
    "largest preference": "even shares",
    "sequential preference": "even shares",
    "skip preference": "even shares",
    "importance": "thought mass times (largest preference − 1)",
}
"""What a metric is counted in, or what it is, if it is not a share of a row."""


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


def axis_of(metric: str) -> str:
    """The name of an axis or a colour bar that shows a metric, with its unit."""
    return f"{metric}{':' if metric == 'importance' else ','} {UNITS.get(metric, 'share of a row')}"


def null_of(metric: str, null: float) -> str:
    """What the null of a metric is, for a caption; nothing where there is none."""
    if not np.isfinite(null):
        return ""
    by_chance = isinstance(METRICS[metric][1], str)
    return f"grey: below {null:.2g}, {'what chance gives a head on average' if by_chance else 'an even share'}"


def head_map(analysis: Analysis, *, metric: str = "importance", ax: Axes | None = None) -> Figure:
    """Draw one metric of every head: layers from the top, heads from the left, grey and blue below and above its null.

    Among strengths of hubs, those that are hubs by the test are outlined.

    Args:
        analysis: of a run.
        metric: hub strength, largest preference, sequential preference, skip preference, thought mass, importance,
            mass on first or mass on self. Without a null the scale begins at 0.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Raises:
        OptionError: there is no such metric.

    Example:
        >>> head_map(analysis, metric="sequential preference").axes[0].get_title(loc="left")
        'Sequential preference of each head'
    """
    score, null = score_of(analysis, metric)
    hubs = analysis.heads["hub"] != "" if metric == "hub strength" else None
    notes = [null_of(metric, null), "outlined: hubs" if hubs is not None and hubs.any() else ""]
    unit = UNITS.get(metric, "share of a row")
    if metric == "importance":
        notes, unit = [f"importance: {unit}", *notes], metric
    return draw_head_map(
        estimate_of(score),
        title=f"{metric.capitalize()} of each head",
        caption=caption_of(analysis.model.attrs, int(analysis.heads["n"]), *notes),
        label=unit,
        scale=scale_of(estimate_of(score), null),
        marked=hubs,
        ax=ax,
    )


def draw_head_map(
    score: xr.DataArray,
    *,
    title: str,
    caption: str,
    label: str,
    scale: Scale,
    marked: xr.DataArray | None = None,
    x: str = "head",
    ax: Axes | None,
) -> Figure:
    """A map of numbers (layer, column) with its scale, which `label` names; the marked cells are outlined."""
    score = score.transpose("layer", ...)
    n_layers, n_heads = score.shape
    if ax is None:
        cell = max(18.5, 216.0 / n_heads), max(13.0, min(28.0, 112.0 / n_layers))
        # High enough for the words along the scale.
        ax = new_axes(cell[0] * n_heads + 120.0, max(120.0, cell[1] * n_layers) + 74.0)
    image = draw_map(ax, score, scale, x=x, y="layer")
    if marked is not None:
        outline_cells(ax, image, marked.transpose(*score.dims).values)
    add_colour_bar(image, [ax], score, label)
    add_title(ax, title, caption)
    fit(ax)
    return figure_of(ax)


def head_ranking(
    analysis: Analysis,
    *,
    metric: str = "importance",
    heads: Sequence[str] | None = None,
    top: int = N_TOP,
    ax: Axes | None = None,
) -> Figure:
    """Draw the first heads by a metric with their intervals and types, the largest on top, grey below its null.

    Heads where the metric is undefined come last; ties go by thought mass.

    Args:
        analysis: of a run.
        metric: as of `head_map`.
        heads: names such as L4H5, if these alone are drawn.
        top: how many heads are drawn where none are named, at least 1.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Raises:
        OptionError: there is no such metric or head, or `top` is below 1.

    Example:
        >>> len(head_ranking(analysis, metric="skip preference", top=5).axes[0].get_yticklabels())
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
        order = order[: check_top(top)]
        title = f"The {len(order)} of {len(names)} heads with most {metric}, {selected_on(analysis)}"
    else:
        pick_heads(analysis.ranking, heads)
        title, order = f"{metric.capitalize()} of chosen heads", order[np.isin(names[order], heads)]
    return draw_ranking(
        score[order],
        [", ".join(filter(None, map(str, of))) for of in zip(names[order], types.values[order], strict=True)],
        title=title,
        caption=caption_of(
            analysis.model.attrs,
            int(analysis.heads["n"]),
            intervals_of(analysis.model.attrs) if "value" in score.dims else "",
            f"dashed, and {null_of(metric, null)}" if np.isfinite(null) else "",
        ),
        x=axis_of(metric),
        null=null,
        ax=ax,
    )


def draw_ranking(
    score: xr.DataArray, names: Names, *, title: str, caption: str, x: str, null: float = np.nan, ax: Axes | None
) -> Figure:
    """Numbers (rank) or (rank, value) in rows, grey below their null."""
    if ax is None:
        ax = new_axes(400.0, max(60.0, 12.0 * len(names)) + 70.0)
    draw_null(ax, null, upright=True)
    for place, colour in enumerate(beyond(score, null)):
        draw_number(ax, place, score[place], Look(colour), across=True)
    frame_rows(ax, names, score, null)
    titled(ax, title, caption, x)
    fit(ax)
    return figure_of(ax)


def metric_distributions(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw each metric of all heads as strips, a dot a head and a row a layer, grey below its null, which is dashed.

    Heads where a metric is undefined are left out and counted.

    Args:
        analysis: of a run.
        ax: an Axes of a grid, whose place the panels take; a new figure if None.

    Returns:
        The figure drawn on; its Axes are the panels.

    Example:
        >>> metric_distributions(analysis).axes[0].get_xlabel()
        'hub strength, even shares'
    """
    names, layers = (*METRICS, *MASSES), analysis.heads["layer"].values
    n_heads = analysis.heads.sizes["layer"] * analysis.heads.sizes["head"]
    caption = caption_of(
        analysis.model.attrs,
        int(analysis.heads["n"]),
        "dashed: what no preference, or chance, gives a head on average",
        "grey: below it",
    )
    size = 260.0, 44.0 + max(70.0, 8.0 * len(layers))
    figure, tiles = panels(ax, len(names), 2, size, title=f"Metrics of all {n_heads} heads, by layer", caption=caption)
    for place, (panel, name) in enumerate(zip(tiles, names, strict=False)):
        score, null = score_of(analysis, name)
        values = estimate_of(score).transpose("layer", "head")
        missing = int(values.isnull().sum())
        if missing == values.size:
            say_instead(panel, f"{name}: undefined for all heads")
            continue
        draw_null(panel, null, upright=True)
        rows = np.repeat(np.arange(len(layers)), values.sizes["head"])
        flat = values.values.ravel()
        for colour, chosen in ((GREY, flat < null), (BLUE, np.isfinite(flat) & ~(flat < null))):
            panel.plot(flat[chosen], rows[chosen], "o", color=colour, markersize=3.2, markeredgewidth=0.0, alpha=0.7)
        frame_rows(panel, layers, values, null)
        name_axes(
            panel,
            f"{name} ({missing} undefined)" if missing else axis_of(name).split(":")[0],
            "" if place % 2 else "layer",
        )
    fit(*tiles)
    return figure


def head_counts(analysis: Analysis, *, ax: Axes | None = None) -> Figure:
    """Draw how many heads of each type each layer has.

    Args:
        analysis: of a run.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Example:
        >>> head_counts(analysis).axes[0].get_title(loc="left")
        'Types of heads in each layer'
    """
    types = analysis.evidence["type"].transpose("layer", "head")
    layers = dict(zip(map(str, types["layer"].values), types.values, strict=True))
    caption = caption_of(analysis.model.attrs, int(analysis.heads["n"]), f"{types.size} heads")
    return draw_counts(layers, title="Types of heads in each layer", caption=caption, y="layer", ax=ax)


def draw_counts(groups: Mapping[str, np.ndarray], *, title: str, caption: str, y: str, ax: Axes | None) -> Figure:
    """How many heads of each type are in each group: a row a group, a column a type that any head has."""
    found = [str(kind) for kinds in groups.values() for kind in kinds]
    kinds = [kind for kind in TYPES if kind in found] + sorted({*found} - {*TYPES})
    counts = xr.DataArray(
        np.array([[(of == kind).sum() for kind in kinds] for of in groups.values()], dtype=np.float64),
        dims=("group", "type"),
        coords={"group": text(list(groups)), "type": text([f"{kind} ({found.count(kind)})" for kind in kinds])},
    )
    if ax is None:
        ax = new_axes(86.0 * max(2, len(kinds)) + 130.0, max(90.0, 13.0 * len(groups)) + 74.0)
    image = draw_map(ax, counts, scale_of(counts), x="type (its heads in all)", y=y)
    add_colour_bar(image, [ax], counts, "heads")
    if image.colorbar is not None:
        image.colorbar.ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    add_title(ax, title, caption)
    fit(ax, write=lambda count: f"{count:.0f}")
    return figure_of(ax)
