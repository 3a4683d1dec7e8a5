"""Turn attention into the importance that looking would give each head, thought and edge, problem by problem.

All three are mean weights of whatever attention they are given: raw, value-weighted or, without heads, rolled out. Rows
that see no earlier thought say nothing; an answer row that does not exist is left out of its problem's mean. Means over
problems, and their resamples, are taken after (`verdict.resampled_means`).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, attention_pieces
from thoughtlens.analysis.influence import edge_names
from thoughtlens.analysis.rollout import rollout
from thoughtlens.errors import RunError
from thoughtlens.labels import ANSWER, EOT, thought_names
from thoughtlens.schema import n_thoughts_of

HEADS: Final = "heads"
THOUGHTS: Final = "thoughts"
EDGES: Final = "edges"
RAW: Final = "raw"
ROLLED_OUT: Final = "rolled-out"


class Looks(NamedTuple):
    """What `look` returns."""

    importances: dict[str, dict[str, xr.DataArray]]
    """by kind of unit (heads, thoughts, edges) and of attention (raw, rolled-out), dims (problem, unit)"""
    mean: xr.DataArray
    """mean attention over these problems, layers and heads, dims (query, key)"""


def look(blocks: Blocks, problems: Sequence[str], *, how: str = RAW) -> Looks:
    """All importances of these problems, in their order, in one reading of a run.

    Args:
        blocks: an attention Dataset, or its problems block by block.
        problems: ids of those that were cut, in the order of their effects.
        how: what kind of attention the blocks hold.

    Returns:
        Importances by problem, so that they can be resampled together with effects; heads have no rolled-out kind.
    """
    found: list[xr.Dataset] = []
    wanted = frozenset(problems)
    for attention in attention_pieces(blocks):
        here = [place for place, name in enumerate(attention["problem"].values) if str(name) in wanted]
        if here:
            found.append(_look_at(attention.isel(problem=here), how))
    n_found = sum(part.sizes["problem"] for part in found)
    if n_found != len(problems):
        raise RunError(
            f"the run has {n_found} of the {len(problems)} problems that were cut; name the run they are of."
        )
    joined = xr.concat(found, "problem").sel(problem=list(problems))
    importances: dict[str, dict[str, xr.DataArray]] = {HEADS: {}, THOUGHTS: {}, EDGES: {}}
    for name in joined.data_vars:
        if name != "mean":
            kind, kind_of_attention = str(name).split(", ")
            importances[kind][kind_of_attention] = joined[name].rename({kind: "unit"}).rename(None)
    return Looks(importances, joined["mean"].mean("problem"))


def _look_at(attention: xr.DataArray, how: str) -> xr.Dataset:
    """A variable for each kind of unit and of attention, and the mean over heads."""
    rolled, rolled_out = rollout(attention), ROLLED_OUT if how == RAW else f"{ROLLED_OUT} {how}"
    looks = {
        (HEADS, how): head_importance(attention),
        (THOUGHTS, how): thought_importance(attention),
        (THOUGHTS, rolled_out): thought_importance(rolled),
        (EDGES, how): edge_importance(attention),
        (EDGES, rolled_out): edge_importance(rolled),
    }
    named = {f"{kind}, {name}": values.rename(unit=kind) for (kind, name), values in looks.items()}
    return xr.Dataset(named).assign(mean=attention.mean(("layer", "head"), skipna=False))


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
