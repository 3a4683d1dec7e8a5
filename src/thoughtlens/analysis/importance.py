"""Turn attention into the importance that looking would give each head, thought and edge, problem by problem.

All three are mean weights of whatever attention they are given: raw, value-weighted or, without heads, rolled out. Rows
that see no earlier thought say nothing; an answer row that does not exist is left out of its problem's mean. Means over
problems, and their resamples, are taken after (`verdict.resampled_means`).
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.influence import edge_names
from thoughtlens.labels import ANSWER, EOT, thought_names
from thoughtlens.schema import n_thoughts_of


def head_importance(attention: xr.DataArray) -> xr.DataArray:
    """How much each head looks at earlier thoughts.

    importance = mean over the rows z2 … zT, eot, answer of Σ_k A[q, k], k the earlier thoughts.  Range 0-1, no null.

    Args:
        attention: dims (problem, layer, head, query, key).

    Returns:
        float64, dims (problem, unit), units named such as L4H5.
    """
    rows = _later_rows(attention, 0.0).sum("key", skipna=False).mean("query")
    flat = rows.stack(unit=("layer", "head"))
    names = [f"L{layer}H{head}" for layer, head in flat["unit"].values]
    return _named(flat.drop_vars(["unit", "layer", "head"]), names)


def thought_importance(attention: xr.DataArray) -> xr.DataArray:
    """How much each thought is looked at by the rows after it.

    importance[k] = mean over the rows after k, eot and answer among them, and over layers and heads, of A[q, k].  Range
    0-1.  Null: none of its own; a mean over rows, not a sum, since a sum rewards being seen by many.

    Args:
        attention: dims (problem, [layer, head,] query, key).

    Returns:
        float64, dims (problem, unit), the thoughts.
    """
    rows = _over_heads(_later_rows(attention, np.nan))
    return _named(rows.mean("query").rename(key="unit"), thought_names(n_thoughts_of(attention)))


def edge_importance(attention: xr.DataArray) -> xr.DataArray:
    """How much each thought looks at each earlier one.

    importance[q, k] = mean over layers and heads of A[q, k].  Range 0-1, no null.

    Args:
        attention: dims (problem, [layer, head,] query, key).

    Returns:
        float64, dims (problem, unit), units named such as `z4 ⊣ z1`.
    """
    mean = _over_heads(attention.astype(np.float64))
    edges = edge_names(n_thoughts_of(attention))
    queries, keys = (xr.DataArray([edge[end] for edge in edges], dims="unit") for end in (0, 1))
    cells = mean.sel(query=queries, key=keys).drop_vars(["query", "key"])
    return _named(cells, [f"{query} ⊣ {key}" for query, key in edges])


def _later_rows(attention: xr.DataArray, elsewhere: float) -> xr.DataArray:
    """The rows z2 … zT, eot, answer on the thoughts before each, and `elsewhere` on the others."""
    thoughts = thought_names(n_thoughts_of(attention))
    rows = [*thoughts[1:], EOT, ANSWER]
    n_earlier = xr.DataArray(np.arange(1, len(rows) + 1), dims="query", coords={"query": rows})
    place = xr.DataArray(np.arange(len(thoughts)), dims="key", coords={"key": thoughts})
    return attention.sel(query=rows, key=thoughts).astype(np.float64).where(place < n_earlier, elsewhere)


def _over_heads(attention: xr.DataArray) -> xr.DataArray:
    return attention.mean([dim for dim in ("layer", "head") if dim in attention.dims])


def _named(values: xr.DataArray, names: list[str]) -> xr.DataArray:
    labelled = values.assign_coords(unit=np.array(names, dtype=np.dtypes.StringDType()))
    return labelled.transpose("problem", "unit")
