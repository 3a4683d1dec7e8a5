"""Figures that set attention beside the effect of cutting: maps of heads and of edges, and a scatter plot of units.

In: a `Study`, and which of its families: the cuts of single heads, thoughts or edges, by one edit. Out: Axes.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from thoughtlens.analysis.effect_curves import influence
from thoughtlens.analysis.effects import ALPHA, RANKED_BY, Study, check_outcome
from thoughtlens.analysis.intervals import short
from thoughtlens.errors import OptionError
from thoughtlens.notation import EDGES, HEADS, head_place
from thoughtlens.plots.effects import EFFECTS
from thoughtlens.plots.heads import draw_head_map
from thoughtlens.plots.primitives import add_colour_bar, draw_map, draw_null, limits, outline_cells, scale_of, titled
from thoughtlens.plots.style import BLUE, GREY, TICK_SIZE, add_title, clipped, figure_of, fit, new_axes, panels

T = TypeVar("T")

NAMED = 12
"""Points of a scatter that are named, if there is room."""
FEW = 60
"""Points up to which a scatter shows their intervals."""


def effect_map(study: Study, *, family: str | None = None, outcome: str = RANKED_BY, ax: Axes | None = None) -> Axes:
    """Draw the effect of cutting each single head: layers from the top, heads from the left; significant ones outlined.

    Args:
        study: with cuts of single heads.
        family: one of `study.families`; its first family of heads if None.
        outcome: accuracy, joint_logprob, gold_logprob or kl.
        ax: where to draw; a new figure if None.

    Returns:
        The Axes drawn on; a head that was not cut is grey.

    Raises:
        OptionError: there is no such outcome or family.

    Example:
        >>> effect_map(study, outcome="accuracy").get_title(loc="left").split(",")[0]
        'effect on accuracy (cut − uncut)'
    """
    _, cuts = _family(study, family, HEADS)
    places = {head_place(unit): label for unit, label in cuts.items()}
    effect = study.summary[check_outcome(outcome)].sel(value="estimate")
    p = study.summary["p_holm"].sel(outcome=outcome)
    shape = tuple(1 + max(place[axis] for place in places) for axis in (0, 1))
    score, marked = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    for place, label in places.items():
        score[place] = effect.sel(intervention=label).item()
        marked[place] = p.sel(intervention=label).item() < ALPHA
    dims, coords = ("layer", "head"), {"layer": range(shape[0]), "head": range(shape[1])}
    return draw_head_map(
        xr.DataArray(score, dims=dims, coords=coords),
        title=EFFECTS[outcome],
        n=int(study.summary["n"].max()),
        null=0.0,
        marked=xr.DataArray(marked, dims=dims),
        why="5 % after Holm" if marked.any() else "",
        ax=ax,
    )


def influence_maps(study: Study, *, family: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the influence of thoughts on thoughts, the attention between them, and where the two disagree.

    Influence is the effect of blocking an edge on log-probability; edges significant after Holm are outlined. The third
    map is the difference of ranks, `analysis.influence`.

    Args:
        study: with cuts of edges between thoughts.
        family: one of `study.families`; its first family of edges if None.
        ax: an Axes of a grid, whose place the maps take; a new figure if None.

    Returns:
        The Axes given; the maps are the Axes of the subfigure that has its place.

    Raises:
        OptionError: there is no such family, or none of its edges is between thoughts.

    Example:
        >>> ax = influence_maps(study)
        >>> [tile.get_title(loc="left") for tile in ax.get_figure().subfigs[0].axes[:3]]
        ['influence', 'mean attention', 'difference of ranks']
    """
    _, cuts = _family(study, family, EDGES)
    maps = influence(study.summary, cuts, study.attention)
    ranked_by = str(maps.attrs["ranked_by"])
    drawn = {
        "influence": (maps[ranked_by].sel(value="estimate", drop=True), 0.0),
        "mean attention": (maps["attention"], np.nan),
        "difference of ranks": (maps["disagreement"], 0.0),
    }
    side = min(300.0, max(130.0, 19.0 * maps.sizes["query"]))
    title = f"does attention show influence? Influence: {EFFECTS[ranked_by]}"
    ax, tiles = panels(ax, 3, 3, (side + 84.0, side + 54.0), title=title, n=maps.attrs["n"])
    for tile, (name, (cells, null)) in zip(tiles, drawn.items(), strict=False):
        cells = cells.transpose("query", "key")
        norm, colours = scale_of(cells, null)
        first = tile is tiles[0]
        x, y = ("key (outlined: Holm, 5 %)", "query (attends)") if first else ("key", "")
        # An edge that can't be cut is blank, as in every map of thoughts.
        image = draw_map(tile, cells, (norm, colours.with_extremes(bad="white")), x=x, y=y)
        if first:
            outline_cells(tile, image, maps["significant"].transpose("query", "key").values)
        add_colour_bar(image, [tile], cells, shrink=0.8)
        add_title(tile, name)
    fit(*tiles)
    return ax


def attention_against_effect(
    study: Study,
    *,
    family: str | None = None,
    attention: str = "raw",
    outcome: str = RANKED_BY,
    ax: Axes | None = None,
) -> Axes:
    """Draw a dot for each unit: importance by attention across, effect of cutting upwards; extreme ones named.

    Args:
        study: with cuts of three heads, thoughts or edges or more.
        family: one of `study.importances`; the first if None.
        attention: the kind of attention, of `study.importances[family]`, such as raw or rolled-out.
        outcome: accuracy, joint_logprob, gold_logprob or kl. The correlation in the title is the verdict's, with the
            loss of joint_logprob.
        ax: where to draw; a new figure if None.

    Returns:
        The Axes drawn on.

    Raises:
        OptionError: there is no such outcome, family or kind of attention.

    Example:
        >>> attention_against_effect(study, attention="raw").get_xlabel()
        'importance by raw attention, heads'
    """
    name, kinds = _one_of(study.importances, family, "family of three units or more")
    how, importance = _one_of(kinds, attention, "kind of attention")
    cuts = study.families[name]
    units = [str(unit) for unit in importance["unit"].values if str(unit) in cuts]
    effect = study.summary[check_outcome(outcome)].sel(intervention=[cuts[unit] for unit in units])
    x, values = importance.sel(unit=units).values.astype(float), effect.transpose("intervention", "value").values
    known = np.isfinite(x) & np.isfinite(values[:, 0])
    x, values, units = x[known], values[known], [unit for unit, drawn in zip(units, known, strict=True) if drawn]
    few = len(x) <= FEW
    if ax is None:
        ax = new_axes(340.0, 292.0)
    draw_null(ax, 0.0)
    if few:
        ax.vlines(x, values[:, 1], values[:, 2], color=GREY, linewidth=0.8, zorder=0.8)
    ax.plot(x, values[:, 0], "o", color=BLUE, markersize=3.2 if few else 2.2, markeredgewidth=0.0)
    low, high = float(x.min(initial=0.0)), float(x.max(initial=0.0))
    room = (high - low) or 1.0
    ax.set_xlim(low - 0.06 * room, high + 0.17 * room)
    bottom, top = limits(values if few else values[:, 0])
    ax.set_ylim(bottom - 0.05 * (top - bottom), top + 0.04 * (top - bottom))
    ax.locator_params(nbins=6)
    title = "attention against effect"
    if name in study.verdicts:
        title += _correlation(study.verdicts[name].sel(attention=how))
    n, of = int(study.summary["n"].max()), f"importance by {how} attention, {name.split(',')[0]}"
    titled(ax, title, n, of, EFFECTS[outcome])
    fit(ax)
    _name_extremes(ax, x, values if few else values[:, [0, 0, 0]], [clipped(unit, 18) for unit in units])
    return ax


def _family(study: Study, family: str | None, kind: str) -> tuple[str, dict[str, str]]:
    """A family of single heads, thoughts or edges: its name, and the label of each unit's cut."""
    of_kind = {name: cuts for name, cuts in study.families.items() if name.split(",")[0] == kind}
    return _one_of(of_kind, family, f"family of cuts of single {kind}")


def _one_of(known: Mapping[str, T], name: str | None, what: str) -> tuple[str, T]:
    """What has this name, or the first; one sentence where there is none."""
    chosen = next(iter(known), None) if name is None else name
    if chosen is None or chosen not in known:
        asked = "" if name is None else f" {name!r}"
        there = f"there are: {', '.join(known)}" if known else "there is none; intervene on such units first"
        raise OptionError(f"no {what}{asked} in this study; {there}.")
    return chosen, known[chosen]


def _correlation(row: xr.Dataset) -> str:
    rho, p = float(row["rho"]), float(row["p_holm"])
    return "" if np.isnan(rho) else f": rho = {short(rho)}, p = {p:.2g}"


BESIDE = (
    (4, 0, "left", "center"),
    (-4, 0, "right", "center"),
    (0, 3, "center", "bottom"),
    (0, -3, "center", "top"),
    # Where a neighbour is in the way on one side only.
    (-2, 3, "left", "bottom"),
    (2, 3, "right", "bottom"),
)
"""Where a name may stand beside its dot: points across and up, and how it is aligned."""


def _name_extremes(ax: Axes, x: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    """Name the points farthest out, each where the name meets no other name, no dot, no interval and no edge."""
    if not len(x):
        return
    hair = figure_of(ax).dpi / 72
    centre, low, high = (ax.transData.transform(np.stack([x, values[:, k]], -1)) for k in range(3))
    dots = [Bbox.from_extents(*(place - 2 * hair), *(place + 2 * hair)) for place in centre]
    null = float(ax.transData.transform((0.0, 0.0))[1])
    # A name on the dashed line would be struck through.
    taken = [Bbox.from_extents(ax.bbox.x0, null - hair, ax.bbox.x1, null + hair)]
    taken += [Bbox.from_extents(*(below - hair), *(above + hair)) for below, above in zip(low, high, strict=True)]
    places = centre / ax.bbox.size
    farthest = np.argsort(-np.abs(places - np.median(places, axis=0)).max(-1), kind="stable")
    for place in farthest[:NAMED]:
        others = [*taken, *(dot for k, dot in enumerate(dots) if k != place)]
        for right, up, ha, va in BESIDE:
            words: dict[str, Any] = {"ha": ha, "va": va, "fontsize": TICK_SIZE, "parse_math": False}
            name = ax.annotate(
                names[place], (x[place], values[place, 0]), (right, up), textcoords="offset points", **words
            )
            box = name.get_window_extent()
            inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
            # Names end to end would read as one.
            if inside and not box.padded(2 * hair, 0).count_overlaps(others):
                taken.append(box)
                break
            name.remove()
