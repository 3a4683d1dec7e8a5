"""Turn mean attention into what the step-indexed figures draw: the maps and scores that the 2025 scripts showed.

Row s is the query of thought `z{s}` and column j the key `z{j+1}`, so that the cell [s, s − 1] is self-attention; every
title says so. For comparison with published figures alone: `panels` has what to conclude from.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.maps import check_layers
from thoughtlens.analysis.panels import Choice, pick_heads
from thoughtlens.analysis.step_indexed import step_indexed
from thoughtlens.analysis.summary import Analysis

STEP_INDEXED = "step-indexed"


def step_figure_data(
    analysis: Analysis, choice: Choice | None = None
) -> dict[str, tuple[str, xr.DataArray | xr.Dataset]]:
    """What each step-indexed figure draws: the name of its file, its figure function and its data.

    Args:
        analysis: of the run.
        choice: layers, and heads, which are otherwise the first by their largest cell.
    """
    choice, n = choice or Choice(), int(analysis.model["n"])
    maps = step_indexed(analysis.moments["mean"]).rename(row="query", column="key")
    mean = maps.mean(("layer", "head"))
    return {
        "head_maps": ("head_maps", _heads(maps, analysis.ranking, choice, n)),
        "layer_means": ("layer_means", _layers(maps, choice, n)),
        "column_sums": ("hub_profile", _columns(mean, n)),
        "sequential": ("skip_profile", _sequential(mean, n)),
        "skip": ("skip_profile", _skip(mean, n)),
    }


def _heads(maps: xr.DataArray, ranking: xr.Dataset, choice: Choice, n: int) -> xr.DataArray:
    largest = maps.max(("query", "key")).sel(layer=ranking["layer"], head=ranking["head"])
    by_cell = ranking.isel(rank=np.argsort(-largest.values, kind="stable"))
    picked = pick_heads(by_cell, choice)
    chosen = maps.sel(layer=picked["layer"], head=picked["head"])
    return _shown(chosen, f"{STEP_INDEXED}: heads by their largest cell", n)


def _layers(maps: xr.DataArray, choice: Choice, n: int) -> xr.DataArray:
    check_layers(maps["layer"].values, choice.layers)
    chosen = maps if choice.layers is None else maps.sel(layer=list(choice.layers))
    return _shown(chosen.mean("head"), f"{STEP_INDEXED}: all heads of a layer", n)


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
    share = mean.isel(query=-1, drop=True).isel(key=slice(n_steps // 2)).rename(key="thought")
    share["thought"].attrs["long_name"] = "column: step"
    share.attrs = {"long_name": f"cell [{n_steps - 1}, column]", "null": 0.1, "null_name": "0.1"}
    return xr.Dataset({"share": share, "n": n}, attrs={"title": f"{STEP_INDEXED} skip"})
