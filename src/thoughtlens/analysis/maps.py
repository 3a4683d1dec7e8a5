"""Turn mean attention into the labelled thought maps that figures show; they draw what they get and compute nothing.

Cells that the causal mask forbids are NaN here, so that a figure leaves them blank instead of showing a 0.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import thought_map
from thoughtlens.errors import OptionError


def layer_maps(moments: xr.Dataset, *, layers: Sequence[int] | None = None) -> xr.DataArray:
    """Mean thought map of each layer, or of those chosen: dims (layer, query, key)."""
    mean = moments["mean"]
    check_layers(mean["layer"].values, layers)
    maps = _visible(mean if layers is None else mean.sel(layer=list(layers))).mean("head", skipna=False)
    return maps.assign_attrs(long_name="mean attention, all heads of a layer", n=_n_problems(moments))


def head_maps(moments: xr.Dataset, ranking: xr.Dataset, *, n_heads: int = 12) -> xr.DataArray:
    """Mean thought maps of the first heads of a ranking: dims (rank, query, key) with `layer` and `head` of each."""
    top = ranking.isel(rank=slice(n_heads))
    maps = _visible(moments["mean"]).sel(layer=top["layer"], head=top["head"])
    return maps.assign_attrs(long_name="mean attention of the top heads", n=_n_problems(moments))


def check_layers(known: np.ndarray, chosen: Sequence[int] | None) -> None:
    """Raise `OptionError` where a chosen layer is none of the run's."""
    for layer in chosen or ():
        if layer not in known:
            raise OptionError(f"no layer {layer} in this run, expected 0 to {known.max()}; name one of them.")


def _visible(mean: xr.DataArray) -> xr.DataArray:
    maps = thought_map(mean)
    order = np.arange(maps.sizes["query"])
    seen = xr.DataArray(order[:, None] >= order[None, :], dims=("query", "key"))
    return maps.where(seen)


def _n_problems(moments: xr.Dataset) -> int:
    return int(moments["n"].sel(query="z1").max())
