"""Turn the head scores of the 2025 scripts into what their figures of critical heads drew, in the order of composites.

The scores are those of `published_heads`, step-indexed, for comparison with published figures alone.

Turn mean attention into what the step-indexed figures draw: the maps and scores that the 2025 scripts showed.

Row s is the query of thought `z{s}` and column j the key `z{j+1}`, so that the cell [s, s − 1] is self-attention; every
title says so. For comparison with published figures alone: `panels` has what to conclude from.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from thoughtlens.analysis.summary import Analysis
from thoughtlens.names import text
from thoughtlens.plots.heads import THIRDS, Choice, pick_heads
from thoughtlens.plots.maps import check_layers
from thoughtlens.published.ranks import N_TOP, head_scores, ranked, skip_cells, top_counts
from thoughtlens.published.scores import Published, step_indexed

WORDS = {"hub_score": "hub score", "skip_score": "skip score"}


def critical_order(maps: xr.DataArray) -> pd.DataFrame:
    """Heads by composite, the highest first, with every score and `name`.

    Args:
        maps: of `step_indexed`, averaged over problems, dims (layer, head, row, column).
    """
    order = ranked(head_scores(maps), "composite_score")
    return order.assign(name=[f"L{layer}H{head}" for layer, head in zip(order["layer"], order["head"], strict=True)])


def as_ranking(order: pd.DataFrame) -> xr.Dataset:
    """The order as a ranking that heads are picked from: `layer`, `head`, `name` and `title` (rank)."""
    scores = ("composite_score", "flow_score", "hub_score", "skip_score")
    titles = [
        f"{name} {composite}: F{flow} H{hub} S{skip}"
        for name, composite, flow, hub, skip in zip(
            order["name"], *(order[score].map(_short) for score in scores), strict=True
        )
    ]
    columns = {name: ("rank", order[name].to_numpy()) for name in ("layer", "head")}
    return xr.Dataset(coords={**columns, "name": ("rank", text(order["name"])), "title": ("rank", text(titles))})


def metric_panels(order: pd.DataFrame, n: int) -> dict[str, tuple[str, xr.Dataset]]:
    """The four panels of script 7's distributions, each of the first 20 heads: figure function and data, by name."""
    top = order.head(N_TOP)
    bars = {name.removesuffix("_score"): ("head_ranking", _bars(top, name, words, n)) for name, words in WORDS.items()}
    layers = _counts(top, [(third, top[top["layer_type"] == third]) for third in THIRDS], n)
    types = _counts(top, [("all", top)], n)
    return bars | {"layers": ("head_counts", layers), "types": ("head_counts", types)}


def comparison_panels(models: Mapping[str, tuple[Published, int]]) -> xr.Dataset:
    """The panels of script 8's figure: hub scores, composites, types and layers of the top heads, mean scores.

    Args:
        models: each model's side and its number of problems, by the names that the figure has.

    Returns:
        `preference`, `composite`, `type_share`, `layer_share`, `mean_score` (model, …) and `n` (model); each says in
        its attributes what it is.
    """
    joined = xr.concat(
        [_model_panels(published) for published, _ in models.values()],
        xr.DataArray(text(list(models)), dims="model", name="model"),
        data_vars="all",
        join="outer",
        combine_attrs="override",
    )
    if len({published.summary["hub_analysis"]["uniform_baseline"] for published, _ in models.values()}) > 1:
        joined["preference"].attrs.update(null=np.nan, null_name="")
    shares = {name: joined[name].fillna(0.0) for name in ("type_share", "layer_share")}
    counted = joined.assign({**shares, "n": ("model", [n for _, n in models.values()])})
    return counted.assign_attrs(title="step-indexed")


def _model_panels(published: Published) -> xr.Dataset:
    hub = published.summary["hub_analysis"]
    order = ranked(published.heads, "composite_score").head(N_TOP)
    types, layers = (order[name].value_counts(normalize=True) for name in ("functional_type", "layer_type"))
    means = published.heads[list(WORDS)].mean()
    composites = _series("rank", order["composite_score"], "composite scores", "rank by composite")
    hubs = _series("thought", hub["all_hub_scores"], "hub scores", "column: step")
    of_top = f"share of the top heads by composite, {N_TOP} at most"
    return xr.Dataset(
        {
            "preference": hubs.assign_attrs(null=hub["uniform_baseline"], null_name="1/T"),
            "composite": composites.assign_coords(rank=composites["rank"] + 1),
            "type_share": _series("type", types, "functional types", of_top, list(types.index)),
            "layer_share": _series("third", layers.reindex(THIRDS), "thirds of the layers", of_top, THIRDS),
            "mean_score": _series("score", means, "mean scores", "mean over all heads", list(WORDS.values())),
        }
    )


def _series(dim: str, values: npt.ArrayLike, title: str, axis: str, names: Sequence[str] = ()) -> xr.DataArray:
    """Numbers of one model along a dim, named or counted."""
    numbers = np.asarray(values, dtype=np.float64)
    labels = text(names) if names else np.arange(len(numbers))
    return xr.DataArray(numbers, dims=dim, coords={dim: labels}, attrs={"title": title, "axis": axis})


def _bars(top: pd.DataFrame, name: str, words: str, n: int) -> xr.Dataset:
    values = {
        "score": ("rank", top[name].to_numpy(dtype=np.float64)),
        "name": ("rank", text(top["name"])),
        "type": ("rank", text(top["functional_type"])),
        "null": np.nan,
        "n": n,
    }
    return xr.Dataset(values, coords={"metric": words}, attrs={"title": _title(top)})


def _counts(top: pd.DataFrame, rows: list[tuple[str, pd.DataFrame]], n: int) -> xr.Dataset:
    kinds = list(top_counts(top, "functional_type"))
    count = [[int((heads["functional_type"] == kind).sum()) for kind in kinds] for _, heads in rows]
    return xr.Dataset(
        {"count": (("third", "type"), np.array(count, dtype=np.int64).reshape(len(rows), -1)), "n": n},
        coords={"third": text([name for name, _ in rows]), "type": text(kinds)},
        attrs={"title": _title(top)},
    )


def _title(top: pd.DataFrame) -> str:
    return f"step-indexed: top {len(top)} by composite"


def _short(score: float) -> str:
    return f"{score:.2f}".removeprefix("0").replace("1.00", "1")


STEP_INDEXED = "step-indexed"
N_CRITICAL, N_FIRST = 10, 3
"""Heads that the two figures of critical heads had."""

Drawn = tuple[str, xr.DataArray | xr.Dataset]
"""A figure function's name and what it draws."""


def step_figure_data(analysis: Analysis, choice: Choice | None = None) -> dict[str, Drawn]:
    """What each step-indexed figure draws, by the name that the 2025 scripts gave its file.

    Args:
        analysis: of the run.
        choice: layers, and heads, which are otherwise the first by their largest cell or by composite.

    Returns:
        Figure function and data; where one file of the scripts had several panels, its name is followed by the panel's.
    """
    choice, n = choice or Choice(), int(analysis.model["n"])
    found = step_indexed(analysis.moments["mean"])
    maps, order = found.rename(row="query", column="key"), critical_order(found)
    check_layers(maps["layer"].values, choice.layers)
    mean = maps.mean(("layer", "head"))
    return {
        "1_top_heads_attention": ("head_maps", _by_largest(maps, analysis.ranking, choice, n)),
        "2_attention_by_layer": ("layer_means", _layers(maps, choice, n)),
        "3_hub_analysis_hubs": ("hub_profile", _columns(mean, n)),
        "3_hub_analysis_sequential": ("skip_profile", _sequential(mean, n)),
        "3_hub_analysis_skips": ("skip_profile", _skip(mean, n)),
        **_critical(maps, as_ranking(order), choice, n),
        **{f"6_metric_distributions_{name}": drawn for name, drawn in metric_panels(order, n).items()},
        "hub_attention_by_layer": ("head_map", _first_column(maps, n)),
        "skip_connections_by_layer": ("head_map", _far_back(maps, n)),
        "attention_statistics": ("depth_profile", _statistics(maps, n)),
    }


def _by_largest(maps: xr.DataArray, ranking: xr.Dataset, choice: Choice, n: int) -> xr.DataArray:
    largest = maps.max(("query", "key")).sel(layer=ranking["layer"], head=ranking["head"])
    by_cell = ranking.isel(rank=np.argsort(-largest.values, kind="stable"))
    return _heads(maps, pick_heads(by_cell, choice), f"{STEP_INDEXED}: heads by their largest cell", n)


def _critical(maps: xr.DataArray, ranking: xr.Dataset, choice: Choice, n: int) -> dict[str, Drawn]:
    """The first heads by composite, and the first one's number in every layer."""
    picked = pick_heads(ranking, choice, top=N_CRITICAL)
    number = int(picked["head"].values[0])
    layers = maps["layer"].values if choice.layers is None else np.array(choice.layers)
    same = xr.Dataset(coords={"layer": ("rank", layers), "head": ("rank", np.full(len(layers), number))})
    title = f"{STEP_INDEXED}: heads by composite (flow, hub, skip)"
    return {
        "4_critical_heads_attention": ("head_maps", _heads(maps, picked, title, n)),
        "5_top3_critical_heads": ("head_maps", _heads(maps, picked.isel(rank=slice(N_FIRST)), title, n)),
        f"layer_evolution_H{number}": ("head_maps", _heads(maps, same, f"{STEP_INDEXED}: H{number} by layer", n)),
    }


def _heads(maps: xr.DataArray, picked: xr.Dataset, title: str, n: int) -> xr.DataArray:
    return _shown(maps.sel(layer=picked["layer"], head=picked["head"]), title, n)


def _layers(maps: xr.DataArray, choice: Choice, n: int) -> xr.DataArray:
    chosen = maps if choice.layers is None else maps.sel(layer=list(choice.layers))
    return _shown(chosen.mean("head"), f"{STEP_INDEXED}: all heads of a layer", n)


def _first_column(maps: xr.DataArray, n: int) -> xr.Dataset:
    cells = maps.mean("head").sel(key=0, drop=True)
    return _by_step(cells.where(cells["query"] > 0), "attention to column 0", n)


def _far_back(maps: xr.DataArray, n: int) -> xr.Dataset:
    """Σ [s, j], j < s − 1: not what script 5 calls skip."""
    seen = maps.mean("head")
    far = seen.where(seen["key"] < seen["query"] - 1, 0.0).sum("key")
    return _by_step(far.where(far["query"] > 1), "attention to columns before s − 1", n)


def _by_step(cells: xr.DataArray, what: str, n: int) -> xr.Dataset:
    score = cells.rename(query="row").transpose("layer", "row").drop_attrs()
    score["row"].attrs["long_name"] = "row: step s"
    return xr.Dataset({"score": score, "null": np.nan, "n": n}, coords={"metric": f"{STEP_INDEXED}: {what}"})


def _statistics(maps: xr.DataArray, n: int) -> xr.Dataset:
    """Mean and population variance of all T × T cells of each layer's mean map, the empty ones among them."""
    cells = maps.mean("head")
    score = xr.concat([cells.mean(("query", "key")), cells.var(("query", "key"))], "metric").drop_attrs()
    names = text(["mean of all cells", "variance of all cells"])
    data = xr.Dataset({"score": score.assign_coords(metric=names), "null": ("metric", [np.nan] * 2), "n": n})
    return data.assign_attrs(title=f"{STEP_INDEXED}: cells by layer")


def _shown(maps: xr.DataArray, title: str, n: int) -> xr.DataArray:
    """Cells below the diagonal, the only ones that were recorded; the rest is left blank."""
    order = np.arange(maps.sizes["query"])
    recorded = xr.DataArray(order[:, None] > order[None, :], dims=("query", "key"))
    shown = maps.where(recorded).assign_attrs(long_name=title, n=n)
    shown["query"].attrs["long_name"] = "row: step"
    shown["key"].attrs["long_name"] = "column: step"
    return shown


def _columns(mean: xr.DataArray, n: int) -> xr.Dataset:
    """Column sums against 1/T, the share of one row: what the mask alone gives falls from left to right."""
    incoming = mean.sum("query").rename(key="thought")
    incoming["thought"].attrs["long_name"] = "column: step (red: largest)"
    incoming.attrs = {
        "long_name": "column sum of attention",
        "null": 1.0 / incoming.sizes["thought"],
        "null_name": "1/T",
    }
    hub = int(incoming["thought"].values[int(np.argmax(incoming.values))])
    return xr.Dataset({"preference": incoming, "hub": hub, "n": n}, attrs={"title": f"{STEP_INDEXED} hub scores"})


def _sequential(mean: xr.DataArray, n: int) -> xr.Dataset:
    """Cells [s, s − 1], which are self-attention, against the 2025 scripts' threshold."""
    steps = np.arange(1, mean.sizes["query"])
    cells = mean.sel(query=xr.DataArray(steps, dims="thought"), key=xr.DataArray(steps - 1, dims="thought"))
    share = cells.drop_vars(["query", "key"]).assign_coords(thought=steps)
    share["thought"].attrs["long_name"] = "row: step s"
    share.attrs = {"long_name": "cell [s, s − 1]: self-attention", "null": 0.3, "null_name": "0.3"}
    return xr.Dataset({"share": share, "n": n}, attrs={"title": f"{STEP_INDEXED} sequential flow"})


def _skip(mean: xr.DataArray, n: int) -> xr.Dataset:
    """The last row's cells in the first half of the columns, against the 2025 scripts' threshold."""
    n_steps = mean.sizes["query"]
    share = skip_cells(mean.rename(query="row", key="column")).rename(column="thought")
    share["thought"].attrs["long_name"] = "column: step"
    share.attrs = {"long_name": f"cell [{n_steps - 1}, column]", "null": 0.1, "null_name": "0.1"}
    return xr.Dataset({"share": share, "n": n}, attrs={"title": f"{STEP_INDEXED} skip"})
