"""Turn the analysis of a run into the small labelled Datasets that figures draw, named as the figures are.

Figures draw what they get and compute nothing, so that what is chosen, sorted or counted is chosen, sorted or counted
here. Nothing here knows a figure but by name.

Turn scores of heads into figures: a map of layers and heads, a ranking, distributions over heads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.analysis.metrics import SELF, composition, thought_map
from thoughtlens.analysis.statistics import VALUES
from thoughtlens.analysis.summary import Analysis
from thoughtlens.errors import OptionError
from thoughtlens.names import FIRST
from thoughtlens.plots.maps import head_maps_data, layer_maps
from thoughtlens.plots.parts import (
    Look,
    Panel,
    add_colour_bar,
    colours_for,
    draw_cells,
    draw_null,
    draw_number,
    estimate_of,
    limits,
    outline_cells,
    panel_axes,
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
    add_legend,
    add_title,
    few_ticks,
    name_axes,
    name_columns,
    name_rows,
    new_axes,
    say_instead,
    size_of,
)

METRICS = {
    "hub preference": ("hub_preference", 1.0),
    "sequential preference": ("sequential", 1.0),
    "skip preference": ("skip", 1.0),
    "thought mass": ("thought_mass", np.nan),
    "importance": ("importance", 0.0),
}
"""What a figure calls a metric: its variable in an analysis and its null, NaN where there is none."""

MASSES = {"mass on first": FIRST, "mass on self": SELF}
THIRDS = ("early", "middle", "late")
N_TOP = 20
"""Heads that a figure of top heads draws."""


@dataclass(frozen=True)
class Choice:
    """What is drawn of a run.

    Attributes:
        layers: of the layer maps; all if None.
        heads: names such as L4H5, in the order in which to draw them; the first by importance if None.
        top: how many heads are drawn where none are named; as many as the figure has by itself if None.
        metric: what the map and the ranking of heads show.
    """

    layers: tuple[int, ...] | None = None
    heads: tuple[str, ...] | None = None
    top: int | None = None
    metric: str = "importance"

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise OptionError(f"the number of top heads is {self.top}, expected at least 1; name a larger one.")
        if self.metric not in (*METRICS, *MASSES):
            raise OptionError(f"no metric {self.metric!r}; there are: {', '.join((*METRICS, *MASSES))}.")


def figure_data(
    analysis: Analysis, *, choice: Choice | None = None, types: xr.DataArray | None = None
) -> dict[str, xr.DataArray | xr.Dataset]:
    """What each figure of one run draws, by the name of the figure.

    Args:
        analysis: of the run.
        choice: which layers, heads and metric.
        types: the type of each head, dims (layer, head), where known.
    """
    choice = choice or Choice()
    scores, picked = head_scores(analysis), pick_heads(analysis.ranking, choice)
    maps = head_maps_data(analysis.moments, picked, n_heads=picked.sizes["rank"])
    if choice.heads is not None:
        maps.attrs["long_name"] = "mean attention of chosen heads"
    data: dict[str, xr.DataArray | xr.Dataset] = {
        "head_maps": maps,
        "layer_means": layer_maps(analysis.moments, layers=choice.layers),
        "row_composition": analysis.composition,
        "composition_by_layer": layer_composition(analysis),
        "hub_profile": analysis.model,
        "lag_profile": analysis.model,
        "depth_profile": layer_scores(analysis),
        "head_map": scores.sel(metric=choice.metric),
        "head_ranking": ranked_heads(scores, choice=choice, types=types),
        "metric_distributions": scores,
    }
    return data if types is None else data | {"head_counts": head_count_data(types, n=int(scores["n"]))}


def head_scores(analysis: Analysis) -> xr.Dataset:
    """Every metric of every head.

    Returns:
        `score` (metric, layer, head, value), `null` (metric), NaN where there is none, and `n`. The mean masses of
        thoughts on the first token and on themselves come from the moments and have no interval (NaN).
    """
    masses = _mean_row(analysis).sel(part=list(MASSES.values())).rename(part="metric")
    estimates = masses.assign_coords(metric=_text(MASSES)).expand_dims(value=[VALUES[0]])
    return _scores(analysis.heads, list(METRICS), estimates.reindex(value=list(VALUES)))


def layer_scores(analysis: Analysis) -> xr.Dataset:
    """Metrics of each layer: preference for the thought that the run prefers, the other preferences, mass and spread.

    Returns:
        `score` (metric, layer, value), `null` (metric), NaN where there is none, and `n`. The spread is the population
        standard deviation over the cells (q, k), k < q, of a layer's mean thought map; it has no interval (NaN).
    """
    hub = str(analysis.model["preferred"].item())
    names = [name for name in METRICS if name not in ("hub preference", "importance")]
    data = _scores(analysis.layers, names, _spread(analysis))
    if not hub:
        return data
    preferred = (
        analysis.layers["preference"].sel(thought=hub, drop=True).expand_dims(metric=_text([f"preference for {hub}"]))
    )
    score = xr.concat([preferred.transpose(*data["score"].dims), data["score"]], "metric")
    return xr.Dataset({"score": score, "null": ("metric", [1.0, *data["null"].values]), "n": data["n"]})


def layer_composition(analysis: Analysis) -> xr.Dataset:
    """Where the rows of thoughts look in each layer, mean over thoughts and heads: `composition` (layer, part), `n`."""
    parts = _mean_row(analysis).mean("head").rename("composition")
    return xr.Dataset({"composition": parts, "n": analysis.heads["n"]}, attrs={"queries": "thoughts"})


def question_panel(found: xr.Dataset, *, n_top: int = 3) -> xr.Dataset:
    """What a figure of one question's tokens draws: their attention, and which of them each position looks at most.

    Args:
        found: `attention` (query, token), `text` (token), the attributes `problem` and `question`.
        n_top: how many tokens of a row are marked.

    Returns:
        The same with `top`, bool (query, token), ties going to the earlier token; `n` and `title`.
    """
    attention = found["attention"].transpose("query", "token")
    order = np.argsort(-attention.values, axis=1, kind="stable")[:, :n_top]
    top = np.zeros(attention.shape, dtype=bool)
    np.put_along_axis(top, order, True, axis=1)
    title = f"{found.attrs['problem']}: attention to the question, mean over layers and heads"
    exists = attention.notnull().all("token").values
    return found.assign(top=(("query", "token"), top & exists[:, None]), n=1).assign_attrs(title=title, n_top=n_top)


def pick_heads(ranking: xr.Dataset, choice: Choice, *, top: int = N_TOP) -> xr.Dataset:
    """The heads of a ranking that are to be drawn: the named ones in their order, or the first, `top` if not chosen."""
    if choice.heads is None:
        return ranking.isel(rank=slice(choice.top or top))
    known = [str(name) for name in ranking["name"].values]
    for name in choice.heads:
        if name not in known:
            last = f"L{int(ranking['layer'].max())}H{int(ranking['head'].max())}"
            raise OptionError(f"no head {name!r} in this run, expected L0H0 to {last}; name one of them.")
    return ranking.isel(rank=[known.index(name) for name in choice.heads])


def ranked_heads(scores: xr.Dataset, *, choice: Choice, types: xr.DataArray | None = None) -> xr.Dataset:
    """Heads by a metric, the largest first, undefined ones last; ties go by thought mass.

    Args:
        scores: as `head_scores` gives them.
        choice: the metric, and which heads or how many.
        types: the type of each head, dims (layer, head), where known.

    Returns:
        `score` (rank, value), `name` (rank), `type` (rank) where known, `metric`, `null` and `n`.
    """
    flat = scores.stack(rank=("layer", "head"), create_index=False).transpose("metric", "rank", "value")
    estimates = flat["score"].sel(value="estimate")
    # lexsort sorts by its last key first, ascending, and puts NaN last; it is stable.
    keys = [-estimates.sel(metric=name).values for name in ("thought mass", choice.metric)]
    ranked = flat.sel(metric=choice.metric).isel(rank=np.lexsort(keys))
    names = [f"L{layer}H{head}" for layer, head in zip(ranked["layer"].values, ranked["head"].values, strict=True)]
    ranked = ranked.assign(name=("rank", _text(names)))
    if types is not None:
        ranked = ranked.assign(type=types.sel(layer=ranked["layer"], head=ranked["head"]))
    if choice.heads is None:
        return ranked.isel(rank=slice(choice.top or N_TOP))
    return ranked.isel(rank=np.flatnonzero(np.isin(names, choice.heads))).assign_attrs(
        title="chosen heads by attention"
    )


def head_count_data(types: xr.DataArray, *, n: int) -> xr.Dataset:
    """How many heads of each type there are in each third of the layers.

    Layer l of L is early below ⌊L/3⌋, middle below ⌊2L/3⌋, late from there.

    Args:
        types: dims (layer, head), text.
        n: problems that the types were found on.

    Returns:
        `count` (third, type) and `n`; types in the order in which they are met.
    """
    types = types.transpose("layer", "head")
    n_layers, kinds = types.sizes["layer"], list(dict.fromkeys(str(kind) for kind in types.values.ravel()))
    edges = [0, n_layers // 3, 2 * n_layers // 3, n_layers]
    thirds = [types.values[start:end] for start, end in pairwise(edges)]
    count = [[int((part == kind).sum()) for kind in kinds] for part in thirds]
    return xr.Dataset(
        {"count": (("third", "type"), np.array(count, dtype=np.int64).reshape(3, -1)), "n": n},
        coords={"third": _text(THIRDS), "type": _text(kinds)},
    )


def _mean_row(analysis: Analysis) -> xr.DataArray:
    """Composition of each head's rows, mean over thoughts: dims (layer, head, part)."""
    rows = composition(analysis.moments["mean"])
    return rows.sel(query=thought_map(analysis.moments["mean"])["query"]).mean("query")


def _spread(analysis: Analysis) -> xr.DataArray:
    """How far the cells among thoughts lie apart in each layer: dims (metric, layer, value), without interval."""
    cells = thought_map(analysis.moments["mean"].mean("head")).transpose("layer", "query", "key")
    below = cells.values[:, *np.tril_indices(cells.sizes["query"], -1)]
    spread = below.std(axis=1) if below.shape[1] else np.full(len(below), np.nan)
    values = np.stack([spread, np.full(len(below), np.nan), np.full(len(below), np.nan)], axis=-1)
    return xr.DataArray(
        values[None],
        dims=("metric", "layer", "value"),
        coords={"metric": _text(["spread over cells"]), "layer": cells["layer"].values, "value": list(VALUES)},
    )


def _scores(level: xr.Dataset, names: list[str], more: xr.DataArray) -> xr.Dataset:
    """Metrics of one level under the names of figures, and `more`, dims (metric, …, value), that have no null."""
    metric = xr.Variable("metric", _text(names))
    measured = xr.concat([level[METRICS[name][0]].drop_attrs() for name in names], "metric").assign_coords(
        metric=metric
    )
    score = xr.concat([measured, more.transpose(*measured.dims)], "metric", coords="minimal", compat="override")
    null = [METRICS[name][1] for name in names] + [np.nan] * more.sizes["metric"]
    return xr.Dataset({"score": score, "null": ("metric", null), "n": level["n"]})


def _text(names: Iterable[str]) -> np.ndarray:
    return np.array(list(names), dtype=np.dtypes.StringDType())


TYPE_COLOURS = {
    "hub": VERMILION,
    "sequential": BLUE,
    "skip": GREEN,
    "sink": BLACK,
    "self": PURPLE,
    "readout": ORANGE,
    "diffuse": GREY,
    # The names of the 2025 scripts.
    "Hub Aggregator": VERMILION,
    "Forward Flow": BLUE,
    "Skip Connection": GREEN,
    "Multi-Purpose": PURPLE,
}
CELL_WIDTH, CELL_HEIGHT = 18.5, 13.0
"""Points that a cell needs for its value to be read."""
ROW_PITCH = 12.0
PANEL = Panel(width=180.0, height=80.0, left=34.0, right=12.0, bottom=34.0, top=10.0)
MAP_BAR, RIGHT = 10.0, 66.0
N_BINS = 24


def head_map(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """One metric of every head: layers from the top, heads from the left; blue and red below and above its null.

    Args:
        data: `score` with dims (layer, head), or (layer, head, value) of which the estimate is drawn; instead of `head`
            there may be another dim with a `long_name`; `metric`, what it is; `null`, NaN where there is none (a scale
            from 0 then); `n`; optionally `marked`, bool (layer, head), heads to outline, its attribute `long_name`
            saying why.
        ax: where to draw, with room for the colour bar on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    score = estimate_of(data["score"]).transpose("layer", ...)
    n_layers, n_heads = score.shape
    columns = score[score.dims[1]]
    if ax is None:
        cell = max(CELL_WIDTH, 216.0 / n_heads), max(CELL_HEIGHT, min(20.0, 90.0 / n_layers))
        ax = new_axes(cell[0] * n_heads, cell[1] * n_layers, left=38.0, right=RIGHT, bottom=34.0, top=30.0)
    width, height = size_of(ax)
    colours = colours_for(score, float(data["null"]))
    draw_cells(ax, score.values, colours, pitch=(width / n_heads, height / n_layers))
    if "marked" in data:
        outline_cells(ax, data["marked"].transpose(*score.dims).values, colours.to_rgba(score.values))
    name_columns(ax, columns.values)
    name_rows(ax, score["layer"].values)
    add_colour_bar(ax, colours, score, (1 + 12.0 / width, 0.0, MAP_BAR / width, 1.0))
    add_title(ax, _caption(data), n=int(data["n"]), room=width + RIGHT - 8.0)
    name_axes(ax, str(columns.attrs.get("long_name", columns.name)), "layer")
    return ax


def _caption(data: xr.Dataset) -> str:
    caption = str(data["metric"].item())
    if np.isfinite(data["null"]):
        caption += f", null {float(data['null']):g}"
    return f"{caption}; outlined: {data['marked'].attrs['long_name']}" if _says_why(data) else caption


def _says_why(data: xr.Dataset) -> bool:
    return "marked" in data and "long_name" in data["marked"].attrs


def head_ranking(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """Heads by a score with its interval, the first on top, coloured by type.

    Args:
        data: `score` with dims (rank, value); `name` (rank), such as L4H5; `metric`, what the score is; `null`; `n`;
            optionally `type` (rank).
        ax: where to draw, with room for the legend on its right; a new figure without.

    Returns:
        The Axes drawn on.
    """
    score = data["score"]
    n_heads = score.sizes["rank"]
    types = [str(name) for name in data["type"].values] if "type" in data else [""] * n_heads
    colours = type_colours(types) if "type" in data else {}
    if ax is None:
        right = 84.0 if "type" in data else 14.0
        ax = new_axes(250.0, max(60.0, ROW_PITCH * n_heads), left=46.0, right=right, bottom=34.0, top=24.0)
    null = float(data["null"])
    draw_null(ax, null, upright=True)
    for place, name in enumerate(types):
        draw_number(ax, place, score.isel(rank=place), Look(colours.get(name, BLUE)), across=True)
    low, high = limits(score, null)
    ax.set_xlim(low - 0.02 * (high - low), high)
    ax.set_ylim(n_heads - 0.5, -0.5)
    _words_of_ranking(ax, data, null)
    if "type" in data:
        add_legend(ax, colours, title="type")
    return ax


def _words_of_ranking(ax: Axes, data: xr.Dataset, null: float) -> None:
    few_ticks(ax, "x")
    name_rows(ax, data["name"].values)
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    add_title(ax, str(data.attrs.get("title", "top heads by attention")), n=int(data["n"]))
    dashed = f" (dashed: {null:g}, its null)" if np.isfinite(null) and null != 0 else ""
    name_axes(ax, f"{data['metric'].item()}{dashed}")


def type_colours(types: Sequence[str]) -> dict[str, str]:
    """The colour of each type of head, in the order of the palette; unknown types take what is left of it."""
    left = iter((SKY, YELLOW))
    known = {name: colour for name, colour in TYPE_COLOURS.items() if name in types}
    return known | {name: next(left, GREY) for name in dict.fromkeys(types) if name not in known}


def metric_distributions(data: xr.Dataset, *, ax: Axes | None = None) -> Axes:
    """How each metric is distributed over heads, its null dashed.

    Args:
        data: `score` with dims (metric, layer, head), or with `value` of which the estimate is drawn; `null` (metric),
            NaN where there is none; `n`. Heads where a metric is undefined are left out and counted.
        ax: where to draw; a new figure without.

    Returns:
        The Axes that holds all panels.
    """
    score = estimate_of(data["score"])
    title = f"metrics over {score.sizes['layer'] * score.sizes['head']} heads"
    ax, panels = panel_axes(score.sizes["metric"], 3, PANEL, ax, title=title, n=int(data["n"]))
    for panel, name, null in zip(panels, score["metric"].values, data["null"].values, strict=False):
        values = score.sel(metric=name).values.ravel()
        known = values[np.isfinite(values)]
        if not len(known):
            say_instead(panel, f"{name}: undefined for all heads")
            continue
        panel.hist(known, bins=N_BINS, color=BLUE, linewidth=0)
        draw_null(panel, float(null), upright=True, above=True)
        panel.spines[["top", "right"]].set_visible(False)
        few_ticks(panel, "x")
        few_ticks(panel, "y")
        missing = len(values) - len(known)
        name_axes(panel, f"{name} ({missing} undefined)" if missing else str(name), "heads")
    return ax
