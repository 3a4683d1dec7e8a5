"""Turn mean attention into the labelled thought maps that figures show; they draw what they get and compute nothing.

Cells that the causal mask forbids are NaN here, so that a figure leaves them blank instead of showing a 0.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import thought_map


def layer_maps(moments: xr.Dataset) -> xr.DataArray:
    """Mean thought map of each layer: dims (layer, query, key)."""
    maps = _visible(moments["mean"]).mean("head", skipna=False)
    return maps.assign_attrs(long_name="mean attention, all heads of a layer", n=_n_problems(moments))


def head_maps(moments: xr.Dataset, ranking: xr.Dataset, *, n_heads: int = 12) -> xr.DataArray:
    """Mean thought maps of the first heads of a ranking: dims (rank, query, key) with `layer` and `head` of each."""
    top = ranking.isel(rank=slice(n_heads))
    maps = _visible(moments["mean"]).sel(layer=top["layer"], head=top["head"])
    return maps.assign_attrs(long_name="mean attention of the top heads", n=_n_problems(moments))


def _visible(mean: xr.DataArray) -> xr.DataArray:
    maps = thought_map(mean)
    order = np.arange(maps.sizes["query"])
    seen = xr.DataArray(order[:, None] >= order[None, :], dims=("query", "key"))
    return maps.where(seen)


def _n_problems(moments: xr.Dataset) -> int:
    return int(moments["n"].sel(query="z1").max())
