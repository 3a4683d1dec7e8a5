"""Norms of weighted values become rows that sum to 1, so that every measure of attention can be taken of them.

A weight is not what is moved: a head can look hard at a key whose value is small (Kobayashi et al. 2020, arXiv
2004.10102). The share of a key is its norm over the norms of all that the row sees, so that a row counts the same
whether it moves much or little, as it does in attention.

Attention becomes rollout: of what reaches a position, how much came from where, over layers and over feedback.

1. Heads are averaged, and half of each position's state is its own: Ã = ½ A + ½ I, a row a query in each layer.
2. The state of position q after layer l is a mix of states after layer l − 1: r(l)[q] = Σ_k Ã(l)[q, k] · r(l−1)[k].
3. What a thought reads is what the position before it said: r(0)[z1] = r(L)[bot], r(0)[z(k+1)] = r(L)[zk].
4. Everything else that is read is a source of its own: `bot`, `eot`, `answer`; and `first` and `question`, whose rows
   are not recorded, keep their own state in every layer.

Steps 1 and 2 are attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928); step 3 closes the loop of continuous
thoughts, where otherwise each thought would be a source. A share is a share of paths, weighted by attention: it knows
nothing of values, of MLPs, of the projection, or of what cutting a path would change. `answer` as a key pools the
answer's tokens up to the query; their states are taken to be the last one's.

Turn attention into the importance that looking would give each head, thought and edge, problem by problem.

All three are mean weights of whatever attention they are given: raw, value-weighted or, without heads, rolled out. Rows
that see no earlier thought say nothing; an answer row that does not exist is left out of its problem's mean. Means over
problems, and their resamples, are taken after (`verdict.resampled_means`).
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.pieces import Blocks, attention_pieces
from thoughtlens.analysis.statistics import bootstrap_ratio
from thoughtlens.errors import RunError
from thoughtlens.names import ANSWER, EDGES, EOT, FIRST, HEADS, QUESTION, THOUGHTS, edge_names, thought_names
from thoughtlens.schema import ATTENTION, VALUE_WEIGHTED, n_thoughts_of


def value_shares(block: xr.Dataset) -> xr.Dataset:
    """A Dataset of value-weighted patterns, as one of attention.

    share[q, k] = n[q, k] / Σ_k n[q, k], n = ‖α[q, k] · v[k] · W_O‖.  Range 0-1, a row sums to 1.  No null of its own:
    the nulls of attention apply.  A row that moves nothing at all has no shares and is NaN, like one that is missing.

    Args:
        block: with `value_weighted`, dims (..., query, key); a run's, or some of its problems.

    Returns:
        The same Dataset with `attention`, float64, in the place of `value_weighted`.
    """
    norms = block[VALUE_WEIGHTED].astype(np.float64)
    total = norms.sum("key", skipna=False)
    return block.drop_vars(VALUE_WEIGHTED).assign({ATTENTION: norms / total.where(total > 0)})


SOURCES = (FIRST, QUESTION)
"""Keys without a row: their state is their own in every layer."""


def rollout(attention: xr.DataArray) -> xr.DataArray:
    """How much of what each position ends up with came from, or by way of, each position's input.

    For a source (`first`, `question`, `bot`, `eot`, `answer`): the share that came from it, thoughts being passed
    through.  Range 0-1; the sources of a row sum to 1.  For a thought: the share that passed through its input, that is
    the share of a source in its place.  Range 0-1; the shares of thoughts overlap, since a path may pass through many,
    and are part of those of the sources.  Rows are scaled to sum to 1 before (float16 leaves them 2e-3 off).  No null.

    Args:
        attention: dims (..., layer, head, query, key), layers in order, rows summing to 1.

    Returns:
        float64, dims (..., query, key); NaN in the row of an answer that does not exist.
    """
    mean = attention.astype(np.float64).mean("head", skipna=False)
    rows = (mean / mean.sum("key", skipna=False)).transpose(..., "layer", "query", "key")
    shares = rows.isel(layer=0, drop=True).rename("rollout")
    return shares.copy(data=_roll(rows.values, n_thoughts_of(attention)))


def mean_rollout(blocks: Iterable[xr.Dataset], *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """Rollout averaged over problems, with its bootstrap interval.

    Args:
        blocks: attention Datasets, a run's problems block by block.
        n_resamples: resamples of the problems.
        seed: same seed, same intervals.

    Returns:
        `rollout` (query, key, value), value being estimate, low, high; `n` (query), the problems with that row.
    """
    sums = xr.concat([rollout_sums(block["attention"]) for block in blocks], "problem", join="exact")
    return mean_rollout_of(sums, n_resamples=n_resamples, seed=seed)


def rollout_sums(attention: xr.DataArray) -> xr.Dataset:
    """What mean rollouts are made of: `rollout` (…, query, key), 0 where there is no row, and `row_exists` (…, query).

    Args:
        attention: as `rollout` takes it.
    """
    found = rollout(attention)
    exists = found.sel(key=FIRST, drop=True).notnull()
    return xr.Dataset({"rollout": found.fillna(0.0), "row_exists": exists.astype(np.float64)})


def mean_rollout_of(sums: xr.Dataset, *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """`mean_rollout` from `rollout_sums`, of problems or of blocks of them that were added up."""
    mean = bootstrap_ratio(sums["rollout"], sums["row_exists"], n_resamples=n_resamples, seed=seed)
    return xr.Dataset({"rollout": mean, "n": sums["row_exists"].sum("problem").astype(np.int64)})


def _roll(rows: np.ndarray, n_thoughts: int) -> np.ndarray:
    """Rows (..., layer, query, key) to shares (..., query, key).

    Position by position, in the order in which they are read. Each column is a key's share; adding a thought's own
    column to what it is fed marks what passes through it, and no path passes through a thought twice.
    """
    *leading, n_layers, n_queries, n_keys = rows.shape
    own = np.eye(n_keys)
    states = np.zeros((*leading, n_layers + 1, n_keys, n_keys))
    states[..., : len(SOURCES), :] = own[: len(SOURCES)]
    for query in range(n_queries):
        at = query + len(SOURCES)
        is_thought = 1 <= query <= n_thoughts  # `bot` is query 0
        states[..., 0, at, :] = own[at] + (states[..., -1, at - 1, :] if is_thought else 0.0)
        for layer in range(n_layers):
            given = np.einsum("...k,...ks->...s", rows[..., layer, query, : at + 1], states[..., layer, : at + 1, :])
            states[..., layer + 1, at, :] = 0.5 * given + 0.5 * states[..., layer, at, :]
    shares: np.ndarray = states[..., -1, len(SOURCES) :, :]
    return shares


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
