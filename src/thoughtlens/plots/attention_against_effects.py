"""Figures that set attention beside the effect of cutting: maps of heads and of edges, and a scatter plot of units.

In: a `Study`, and which of its families: the cuts of single heads, thoughts or edges, by one edit. Out: a Figure.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thoughtlens.analysis.effects import ALPHA, MARGINS, RANKED_BY, WORSE, Study, check_outcome
from thoughtlens.analysis.effects_by_design import influence
from thoughtlens.analysis.intervals import short
from thoughtlens.errors import OptionError
from thoughtlens.notation import EDGES, HEADS, KV_GROUPS, head_place
from thoughtlens.plots.effects import EFFECTS, SHORT_EFFECTS, caption_of_cuts, lines_of
from thoughtlens.plots.heads import draw_head_map
from thoughtlens.plots.primitives import (
    add_colour_bar,
    cost_scale,
    draw_map,
    draw_null,
    limits,
    outline_cells,
    scale_of,
    titled,
)
from thoughtlens.plots.style import (
    FAINT,
    INK,
    ORANGE,
    SOFT,
    SPACE,
    TICK_SIZE,
    add_title,
    clipped,
    figure_of,
    fit,
    new_axes,
    panels,
)

T = TypeVar("T")

NAMED = 40
"""Points up to which a scatter names them all, if there is room."""
FEW = 60
"""Points up to which a scatter shows their intervals."""


def effect_map(study: Study, *, family: str | None = None, outcome: str = RANKED_BY, ax: Axes | None = None) -> Figure:
    """Draw the effect of cutting each single head, or each key-value group; significant ones are outlined.

    Layers go from the top and heads from the left, as many as the model has. A head that was not cut has a dot. Where
    key-value groups were cut too, lines divide the heads of a layer into its groups.

    Args:
        study: with cuts of single heads or key-value groups.
        family: one of `study.families`, or `kv_groups`; its first family of heads if None.
        outcome: accuracy, joint_logprob, gold_logprob or kl.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Raises:
        OptionError: there is no such outcome or family.

    Example:
        >>> effect_map(study, outcome="accuracy").axes[0].get_title(loc="left")
        'What cutting each head costs'
    """
    check_outcome(outcome)
    groups, summary = dict(group_cuts(study)), study.summary
    if family is None and groups and not any(name.split(",")[0] == HEADS for name in study.families):
        family = KV_GROUPS
    if family == KV_GROUPS and groups:
        cuts = {place: label for place, (label, _) in groups.items()}
    else:
        cuts = {head_place(unit): label for unit, label in _family(study, family, HEADS)[1].items()}
    effect, p = summary[outcome].sel(value="estimate"), summary["p_holm"].sel(outcome=outcome)
    shape = [1 + max(place[axis] for place in cuts) for axis in (0, 1)]
    if family != KV_GROUPS:
        shape = [
            int(summary.attrs.get(name, least)) for name, least in zip(("n_layers", "n_heads"), shape, strict=True)
        ]
    score, marked = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    for place, label in cuts.items():
        score[place] = effect.sel(intervention=label).item()
        marked[place] = p.sel(intervention=label).item() < ALPHA
    dims, coords = ("layer", "head"), {"layer": range(shape[0]), "head": range(shape[1])}
    cells = xr.DataArray(score, dims=dims, coords=coords)
    ends = {max(heads) for _, heads in groups.values()} if family != KV_GROUPS else set()
    notes = (
        EFFECTS[outcome].replace(", nats", ""),
        "outlined: 5 % after Holm" if marked.any() else "none significant",
        "dots: not cut" if np.isnan(score).any() else "",
        "lines: key-value groups" if ends else "",
    )
    unit = "key-value group" if family == KV_GROUPS else "head"
    figure = draw_head_map(
        cells,
        title=f"What cutting each {unit} costs",
        caption=caption_of_cuts(study, int(summary["n"].max()), *notes),
        label="share of problems" if outcome == "accuracy" else "nats",
        scale=cost_scale(cells, WORSE[outcome], _least(study, outcome)),
        marked=xr.DataArray(marked, dims=dims),
        x=unit,
        ax=ax,
    )
    drawn = figure.axes[0] if ax is None else ax
    rows, columns = np.nonzero(np.isnan(score))
    drawn.plot(columns, rows, ".", color=FAINT, markersize=2.5)
    drawn.vlines([end + 0.5 for end in sorted(ends)[:-1]], *drawn.get_ylim(), color=SOFT, linewidth=0.8)
    return figure


def _least(study: Study, outcome: str) -> float:
    """The effect that has full colour where all are smaller: the margin within which an effect is called none."""
    name = "accuracy_margin" if outcome == "accuracy" else "margin"
    return float(study.effects.attrs.get(name, MARGINS[name]))


def group_cuts(study: Study) -> Iterator[tuple[tuple[int, int], tuple[str, list[int]]]]:
    """By layer and number of each key-value group that was cut, the label of its cut and its heads."""
    columns = (study.summary[name].values for name in ("intervention", "kind", "family", "unit", "spec"))
    for label, kind, family, unit, spec in zip(*columns, strict=True):
        if kind == "cut" and family == KV_GROUPS:
            layer, group = str(unit)[1:].split("G")
            yield (int(layer), int(group)), (str(label), json.loads(str(spec))[0]["heads"])


def influence_maps(study: Study, *, family: str | None = None, ax: Axes | None = None) -> Figure:
    """Draw the attention of thoughts to thoughts, and beside it what hiding one from the other costs.

    The latter is the effect on log-probability of blocking an edge in all heads; edges significant after Holm are
    outlined. Each map has a scale of its own, since the two have other units.

    Args:
        study: with cuts of edges between thoughts.
        family: one of `study.families`; its first family of edges if None.
        ax: an Axes of a grid, whose place the maps take; a new figure if None.

    Returns:
        The figure drawn on; its first two Axes are the maps.

    Raises:
        OptionError: there is no such family, or none of its edges is between thoughts.

    Example:
        >>> [tile.get_title(loc="left") for tile in influence_maps(study).axes[:2]]
        ['Looking', 'Cutting']
    """
    _, cuts = _family(study, family, EDGES)
    maps = influence(study.summary, cuts, study.attention)
    ranked_by = str(maps.attrs["ranked_by"])
    # No thought looks at the last one, and the first looks at none.
    maps = maps.isel(query=slice(1, None), key=slice(None, -1))
    effect, significant = maps[ranked_by].sel(value="estimate", drop=True), maps["significant"]
    drawn = {
        "Looking": (maps["attention"], scale_of(maps["attention"]), "share of a row"),
        "Cutting": (effect, cost_scale(effect, WORSE[ranked_by], _least(study, ranked_by)), "nats"),
    }
    side = min(300.0, max(150.0, 19.0 * maps.sizes["query"]))
    caption = caption_of_cuts(
        study,
        maps.attrs["n"],
        "looking: mean over problems, layers and heads",
        f"cutting: {EFFECTS[ranked_by].replace(', nats', '')}",
        "outlined: 5 % after Holm" if significant.any() else "",
    )
    title = "Where thoughts look, and what hiding one thought from another costs"
    figure, tiles = panels(ax, 2, 2, (side + 90.0, side + 40.0), title=title, caption=caption)
    for tile, (name, (cells, scale, label)) in zip(tiles, drawn.items(), strict=False):
        first = tile is tiles[0]
        cells = cells.transpose("query", "key")
        image = draw_map(tile, cells, scale, x="key: what is looked at", y="query: what looks" if first else "")
        if not first:
            outline_cells(tile, image, significant.transpose("query", "key").values)
        add_colour_bar(image, [tile], cells, label)
        add_title(tile, name)
    fit(*tiles)
    return figure


def attention_against_effect(
    study: Study,
    *,
    family: str | None = None,
    attention: str = "raw",
    outcome: str = RANKED_BY,
    ax: Axes | None = None,
) -> Figure:
    """Draw a dot for each unit: attention across, effect of cutting upwards; all are named, or none for want of room.

    Args:
        study: with cuts of three heads, thoughts or edges or more.
        family: one of `study.importances`; the first if None.
        attention: the kind of attention, of `study.importances[family]`, such as raw or rolled-out.
        outcome: accuracy, joint_logprob, gold_logprob or kl. The correlation in the title is the verdict's, with the
            loss of joint_logprob.
        ax: where to draw; a new figure if None.

    Returns:
        The figure drawn on.

    Raises:
        OptionError: there is no such outcome, family or kind of attention.

    Example:
        >>> attention_against_effect(study, attention="raw").axes[0].get_xlabel()
        'raw attention of each head to earlier thoughts'
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
        ax.vlines(x, values[:, 1], values[:, 2], color=ORANGE, linewidth=0.8, alpha=0.5, zorder=0.8)
    ax.plot(x, values[:, 0], "o", color=ORANGE, markersize=3.2 if few else 2.2, markeredgewidth=0.0)
    low, high = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)
    room = (high - low) or high or 1.0
    ax.set_xlim(low - 0.06 * room, high + 0.17 * room)
    bottom, top = limits(values if few else values[:, 0])
    # Room for names above what costs nothing.
    ax.set_ylim(bottom - 0.05 * (top - bottom), top + 0.16 * (top - bottom))
    ax.locator_params(nbins=6)
    found = _correlation(study.verdicts[name].sel(attention=how)) if name in study.verdicts else ""
    n, unit = int(study.summary["n"].max()), name.split(",")[0]
    said = EFFECTS[outcome].replace(", nats", "")
    caption = caption_of_cuts(study, n, f"{len(x)} {unit}", found, said, lines_of(outcome) if few else "")
    titled(ax, "Does looking predict cutting?", caption, LOOKED_AT[unit].format(how), SHORT_EFFECTS[outcome])
    fit(ax)
    _name_all(ax, x, values if few else values[:, [0, 0, 0]], [clipped(unit, 18) for unit in units])
    return figure_of(ax)


LOOKED_AT = {
    "heads": "{} attention of each head to earlier thoughts",
    "thoughts": "{} attention of later positions to each thought",
    "edges": "{} attention of the later to the earlier thought",
}
"""What the attention of a unit is, by its kind and the kind of attention."""


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
    return "" if np.isnan(rho) else f"rank correlation {short(rho)}, p{SPACE}={SPACE}{p:.2g}"


STEPS = (4.0, 9.0, 16.0, 24.0, 33.0, 43.0, 54.0, 66.0, 79.0, 93.0)
"""How far from its dot a name may stand, in points; one that does not stand beside it has a line to it."""
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))


def _name_all(ax: Axes, x: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    """Name every point, each where the name meets no other name, no dot, no interval and no edge; or none at all."""
    if not 0 < len(x) <= NAMED:
        return
    hair = figure_of(ax).dpi / 72
    centre, low, high = (ax.transData.transform(np.stack([x, values[:, k]], -1)) for k in range(3))
    null = float(ax.transData.transform((0.0, 0.0))[1])
    # A name on the dashed line would be struck through.
    taken = [np.array([ax.bbox.x0, null - hair, ax.bbox.x1, null + hair])]
    taken += [
        np.concatenate(ends) for ends in zip(np.minimum(low, high) - hair, np.maximum(low, high) + hair, strict=True)
    ]
    taken += [np.concatenate([spot - 2 * hair, spot + 2 * hair]) for spot in centre]
    words: dict[str, Any] = {"fontsize": TICK_SIZE, "color": INK, "parse_math": False}
    words |= {"textcoords": "offset points", "va": "center"}
    sizes = [ax.text(0.0, 0.0, name, fontsize=TICK_SIZE, parse_math=False) for name in names]
    boxes = [text.get_window_extent() for text in sizes]
    for text in sizes:
        text.remove()
    # Those with most neighbours have the fewest places.
    crowd = (np.abs(centre[:, None] - centre[None]) < 40 * hair).all(-1).sum(-1)
    found: dict[int, tuple[tuple[float, float], str]] = {}
    for place in np.argsort(-crowd, kind="stable").tolist():
        spot = _free_place(ax, centre[place], boxes[place].width, boxes[place].height, np.array(taken), hair)
        if spot is None:
            return
        (right, up, side), box = spot
        found[place] = (right, up), side
        taken.append(box)
    for place, ((right, up), side) in found.items():
        far = max(abs(right), abs(up)) > STEPS[0] + 2.0
        arrow = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.4, "shrinkA": 0.0, "shrinkB": 1.0} if far else None
        ax.annotate(names[place], (x[place], values[place, 0]), (right, up), ha=side, arrowprops=arrow, **words)


def _free_place(
    ax: Axes, spot: np.ndarray, width: float, height: float, taken: np.ndarray, hair: float
) -> tuple[tuple[float, float, str], np.ndarray] | None:
    """Where a name of this size may stand: across and up from its dot in points, its side, and its box."""
    for step in STEPS:
        for right, up in DIRECTIONS:
            side = ("center", "left", "right")[right]
            across, along = right * step, up * (step + height / hair / 2 if not right else step)
            x0 = spot[0] + across * hair - {"center": width / 2, "left": 0.0, "right": width}[side]
            y0 = spot[1] + along * hair - height / 2
            box = np.array([x0, y0, x0 + width, y0 + height])
            # Names end to end would read as one.
            meets = (taken[:, 0] < box[2] + 2 * hair) & (taken[:, 2] > box[0] - 2 * hair)
            meets &= (taken[:, 1] < box[3]) & (taken[:, 3] > box[1])
            inside = ax.bbox.x0 <= box[0] and box[2] <= ax.bbox.x1 and ax.bbox.y0 <= box[1] and box[3] <= ax.bbox.y1
            if inside and not meets.any():
                return (across, along, side), box
    return None
