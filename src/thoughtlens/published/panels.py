"""The figures of the 2025 scripts, drawn from step-indexed maps; use them only to compare with the published figures.

In: an `Analysis`, or each model's scores. Out: Figures by the names that the scripts gave their files. Row s of a map
is the query of thought `z{s}` and column j the key `z{j+1}`, so that the cell [s, s − 1] is self-attention; every title
says step-indexed. `thoughtlens.plots` has the figures to conclude from.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from thoughtlens.analysis.run_analysis import Analysis
from thoughtlens.notation import head_name, text
from thoughtlens.plots.attention_maps import check_layers, draw_tiles, pick_heads
from thoughtlens.plots.comparison import Words, draw_models
from thoughtlens.plots.heads import Choice, draw_counts, draw_head_map, draw_ranking
from thoughtlens.plots.primitives import scale_of
from thoughtlens.plots.profiles import draw_depth, draw_profile
from thoughtlens.plots.style import Names, caption_of, short
from thoughtlens.published.step_indexed_scores import N_TOP as N_COUNTED
from thoughtlens.published.step_indexed_scores import Published, head_scores, ranked, skip_cells, step_indexed

N_CRITICAL, N_FIRST = 10, 3
"""Heads that the two figures of critical heads had."""
THIRDS = ("early", "middle", "late")


def step_figures(analysis: Analysis, choice: Choice | None = None) -> dict[str, Figure]:
    """Draw each figure of the 2025 scripts, step-indexed.

    Args:
        analysis: of a run.
        choice: layers, and heads, which are otherwise the first by their largest cell or by composite.

    Returns:
        By the name that the scripts gave the file; a file of several panels is one figure a panel, named after both.

    Raises:
        OptionError: the run has no such layer or head.

    Example:
        `step_figures(tl.analyze(run))["1_top_heads_attention"]`
    """
    choice = choice or Choice()
    of = caption_of(analysis.model.attrs, int(analysis.model["n"]), "mean over problems")
    maps = step_indexed(analysis.moments["mean"])
    check_layers(maps["layer"].values, choice.layers)
    order = critical_order(maps)
    drawn = (*_tiles(maps, order, analysis.ranking, choice, of), *_profiles(maps, of), *_layers(maps, of))
    return dict([*drawn, *_distributions(order, of)])


def critical_order(maps: xr.DataArray) -> pd.DataFrame:
    """Heads of mean step-indexed maps by composite, the highest first, with every score, `name` and `title`."""
    order = ranked(head_scores(maps), "composite_score")
    names = list(map(head_name, order["layer"], order["head"]))
    scores = ("composite_score", "flow_score", "hub_score", "skip_score")
    titles = [
        f"{name} {composite}: F{flow} H{hub} S{skip}"
        for name, composite, flow, hub, skip in zip(names, *(order[it].map(short) for it in scores), strict=True)
    ]
    return order.assign(name=names, title=titles)


def _tiles(
    maps: xr.DataArray, order: pd.DataFrame, ranking: xr.Dataset, choice: Choice, of: str
) -> Iterator[tuple[str, Figure]]:
    """Maps of the heads with the largest cells, of layers, and of the first heads by composite."""
    largest = maps.max(("row", "column")).sel(layer=ranking["layer"], head=ranking["head"])
    by_cell = ranking.isel(rank=np.argsort(-largest.values, kind="stable"))
    top = pick_heads(by_cell, choice.heads, choice.top or N_COUNTED)
    yield "1_top_heads_attention", _draw_heads(maps, top, top["name"].values, "heads by their largest cell", of)
    layers = maps["layer"].values if choice.layers is None else np.array(choice.layers)
    names = [f"layer {layer}" for layer in layers]
    means = maps.sel(layer=layers).mean("head")
    yield "2_attention_by_layer", _draw_tiles(means, names, "all heads of a layer", of)
    columns = {name: ("rank", text(order[name])) for name in ("name", "title")}
    places = {name: ("rank", order[name].to_numpy()) for name in ("layer", "head")}
    picked = pick_heads(xr.Dataset(coords=places | columns), choice.heads, choice.top or N_CRITICAL)
    titles, what = picked["title"].values, "heads by composite (flow, hub, skip)"
    yield "4_critical_heads_attention", _draw_heads(maps, picked, titles, what, of)
    first = picked.isel(rank=slice(N_FIRST))
    yield "5_top3_critical_heads", _draw_heads(maps, first, titles[:N_FIRST], what, of)
    # Heads of one number in different layers have nothing in common; the scripts drew them all the same.
    number = int(picked["head"].values[0])
    names = [head_name(layer, number) for layer in layers]
    evolution = maps.sel(layer=layers, head=number)
    yield f"layer_evolution_H{number}", _draw_tiles(evolution, names, f"H{number} by layer", of)


def _draw_heads(maps: xr.DataArray, picked: xr.Dataset, names: Names, title: str, of: str) -> Figure:
    return _draw_tiles(maps.sel(layer=picked["layer"], head=picked["head"]), names, title, of)


def _draw_tiles(maps: xr.DataArray, names: Names, title: str, of: str) -> Figure:
    """Cells below the diagonal, the only ones that were recorded; the rest is left blank."""
    order = np.arange(maps.sizes["row"])
    recorded = xr.DataArray(order[:, None] > order[None, :], dims=("row", "column"))
    shown = maps.where(recorded).rename(row="query", column="key")
    title = f"Step-indexed: {title}"
    return draw_tiles(shown, names, title=title, caption=of, x="column: step", y="row: step", ax=None)


def _profiles(maps: xr.DataArray, of: str) -> Iterator[tuple[str, Figure]]:
    """The three panels of script 5, each against the scripts' threshold."""
    mean = maps.mean(("layer", "head"))
    n_steps = mean.sizes["row"]
    # Against 1/T, the share of one row; the mask alone gives column sums that fall from left to right.
    columns = mean.sum("row")
    largest = int(columns["column"].values[int(np.argmax(columns.values))])
    words = {"x": "column: step (dark: largest)", "y": "column sum of attention", "null_name": "1/T"}
    title = "Step-indexed hub scores"
    null = 1.0 / n_steps
    yield (
        "3_hub_analysis_hubs",
        draw_profile(columns, title=title, caption=of, null=null, dark=largest, ax=None, **words),
    )
    steps = xr.DataArray(np.arange(1, n_steps), dims="step", coords={"step": np.arange(1, n_steps)})
    cells = mean.sel(row=steps, column=steps - 1)
    words = {"x": "row: step s", "y": "cell [s, s − 1]: self-attention", "null_name": "0.3"}
    title = "Step-indexed sequential flow"
    yield "3_hub_analysis_sequential", draw_profile(cells, title=title, caption=of, null=0.3, ax=None, **words)
    words = {"x": "column: step", "y": f"cell [{n_steps - 1}, column]", "null_name": "0.1"}
    skips, title = skip_cells(mean), "Step-indexed skip"
    yield "3_hub_analysis_skips", draw_profile(skips, title=title, caption=of, null=0.1, ax=None, **words)


def _layers(maps: xr.DataArray, of: str) -> Iterator[tuple[str, Figure]]:
    """The three figures of the visualizer by layer."""
    mean, row, column = maps.mean("head"), maps["row"], maps["column"]
    first = mean.sel(column=0, drop=True).where(row > 0)
    # Σ [s, j], j < s − 1: not what script 5 calls skip.
    far = mean.where(column < row - 1, 0.0).sum("column").where(row > 1)
    scores = {
        "hub_attention_by_layer": ("attention to column 0", first),
        "skip_connections_by_layer": ("attention to columns before s − 1", far),
    }
    for name, (what, score) in scores.items():
        title = f"Step-indexed: {what}"
        yield (
            name,
            draw_head_map(
                score, title=title, caption=of, label="share of a row", scale=scale_of(score), x="row: step s", ax=None
            ),
        )
    # Over all T × T cells of each layer's mean map, the empty ones among them.
    drawn = {
        "mean of all cells": (mean.mean(("row", "column")), np.nan),
        "variance of all cells": (mean.var(("row", "column")), np.nan),
    }
    yield "attention_statistics", draw_depth(drawn, title="Step-indexed: cells by layer", caption=of, y="", ax=None)


def _distributions(order: pd.DataFrame, of: str) -> Iterator[tuple[str, Figure]]:
    """The four panels of script 7, each of the first 20 heads by composite."""
    top = order.head(N_COUNTED)
    title, kinds = f"Step-indexed: top {len(top)} by composite", top["functional_type"]
    names = [f"{name}, {kind}" for name, kind in zip(top["name"], kinds, strict=True)]
    for name in ("hub", "skip"):
        score = xr.DataArray(top[f"{name}_score"].to_numpy(dtype=np.float64), dims="rank")
        drawn = draw_ranking(score, names, title=title, caption=of, x=f"{name} score", ax=None)
        yield f"6_metric_distributions_{name}", drawn
    thirds = {third: kinds[top["layer_type"] == third].to_numpy() for third in THIRDS}
    yield "6_metric_distributions_layers", draw_counts(thirds, title=title, caption=of, y="layers", ax=None)
    yield (
        "6_metric_distributions_types",
        draw_counts({"all": kinds.to_numpy()}, title=title, caption=of, y="layers", ax=None),
    )


def compared_models(models: Mapping[str, tuple[Published, int]]) -> Figure:
    """Draw script 8's figure: hub scores, composites, types and layers of the top heads, mean scores.

    `models` has each model's side and its number of problems, by the names that the figure has.
    """
    joined = xr.concat(
        [_model_scores(published) for published, _ in models.values()],
        xr.DataArray(text(list(models)), dims="model", name="model"),
        data_vars="all",
        join="outer",
        combine_attrs="override",
    )
    joined = joined.assign(n=("model", [n for _, n in models.values()]))
    joined = joined.assign({name: joined[name].fillna(0.0) for name in ("type_share", "layer_share")})
    even = {published.summary["hub_analysis"]["uniform_baseline"] for published, _ in models.values()}
    null, null_name = (even.pop(), "1/T") if len(even) == 1 else (np.nan, "")
    of_top = f"share of the top heads by composite, {N_COUNTED} at most"
    words = {
        "hub": Words("thought", "Hub scores", "column: step", null=null, null_name=null_name),
        "composite": Words("rank", "Composite scores", "rank by composite"),
        "type_share": Words("type", "Functional types", of_top, in_rows=True),
        "layer_share": Words("third", "Thirds of the layers", of_top, in_rows=True),
        "mean_score": Words("score", "Mean scores", "mean over all heads", in_rows=True),
    }
    return draw_models(joined, title="Step-indexed: models side by side", words=words)


def _model_scores(published: Published) -> xr.Dataset:
    order = ranked(published.heads, "composite_score").head(N_COUNTED)
    types, layers = (order[name].value_counts(normalize=True) for name in ("functional_type", "layer_type"))
    hubs, composites = published.summary["hub_analysis"]["all_hub_scores"], order["composite_score"]
    means = published.heads[["hub_score", "skip_score"]].mean()
    return xr.Dataset(
        {
            "hub": _numbers("thought", hubs, np.arange(len(hubs))),
            "composite": _numbers("rank", composites, np.arange(1, 1 + len(composites))),
            "type_share": _numbers("type", types, text(list(types.index))),
            "layer_share": _numbers("third", layers.reindex(THIRDS), text(THIRDS)),
            "mean_score": _numbers("score", means, text(["hub score", "skip score"])),
        }
    )


def _numbers(dim: str, values: npt.ArrayLike, labels: np.ndarray) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=np.float64), dims=dim, coords={dim: labels})
