"""Turn the analysis of a run into the small labelled Datasets that figures draw, named as the figures are.

Figures draw what they get and compute nothing, so that what is chosen, sorted or counted is chosen, sorted or counted
here. Nothing here knows a figure but by name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, attention_pieces
from thoughtlens.analysis.maps import head_maps, layer_maps
from thoughtlens.analysis.metrics import SELF, composition, thought_map
from thoughtlens.analysis.statistics import VALUES, bootstrap_ratio
from thoughtlens.analysis.summary import Analysis
from thoughtlens.errors import OptionError
from thoughtlens.labels import FIRST

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
    maps = head_maps(analysis.moments, picked, n_heads=picked.sizes["rank"])
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
    return data if types is None else data | {"head_counts": head_counts(types, n=int(scores["n"]))}


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
    """Metrics of each layer: preference for the run's hub, sequential, skip, thought mass, and how cells spread.

    Returns:
        `score` (metric, layer, value), `null` (metric), NaN where there is none, and `n`. The spread is the population
        standard deviation over the cells (q, k), k < q, of a layer's mean thought map; it has no interval (NaN).
    """
    hub = str(analysis.model["hub"].item())
    names = [name for name in METRICS if name not in ("hub preference", "importance")]
    data = _scores(analysis.layers, names, _spread(analysis))
    if not hub:
        return data
    preferred = (
        analysis.layers["preference"].sel(thought=hub, drop=True).expand_dims(metric=_text([f"preference for {hub}"]))
    )
    score = xr.concat([preferred.transpose(*data["score"].dims), data["score"]], "metric")
    return xr.Dataset({"score": score, "null": ("metric", [1.0, *data["null"].values]), "n": data["n"]})


def last_thought_shares(blocks: Blocks, *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """How the last thought shares out what it gives to earlier thoughts, over all heads.

    share[k] = Σ A[T, k] / Σ_k Σ A[T, k], sums over problems, layers and heads.  Range 0-1, sums to 1.  Null 1/(T − 1),
    an even share, kept as the attribute `null`.

    Args:
        blocks: an attention Dataset, or its problems block by block.
        n_resamples: bootstrap resamples of the problems.
        seed: same seed, same interval.

    Returns:
        `share` (thought, value) and `n`.
    """
    rows = [last_thought_rows(attention) for attention in attention_pieces(blocks)]
    return last_thought_shares_of(xr.concat(rows, "problem"), n_resamples=n_resamples, seed=seed)


def last_thought_rows(attention: xr.DataArray) -> xr.DataArray:
    """What the last thought gives to each earlier one, layers and heads added up: dims (problem, thought)."""
    last = thought_map(attention).isel(query=-1, drop=True).isel(key=slice(None, -1)).rename(key="thought")
    return last.astype(np.float64).sum(("layer", "head"), skipna=False)


def last_thought_shares_of(given: xr.DataArray, *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """`last_thought_shares` from `last_thought_rows`, of problems or of blocks of them that were added up."""
    share = bootstrap_ratio(given, given.sum("thought", skipna=False), n_resamples=n_resamples, seed=seed)
    share.attrs["null"] = 1.0 / max(1, given.sizes["thought"])
    return xr.Dataset({"share": share, "n": given.sizes["problem"]})


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


def head_counts(types: xr.DataArray, *, n: int) -> xr.Dataset:
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
