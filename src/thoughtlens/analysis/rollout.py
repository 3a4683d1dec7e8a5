"""Attention becomes rollout: of what reaches a position, how much came from where, over layers and over feedback.

1. Heads are averaged, and half of each position's state is its own: Ã = ½ A + ½ I, a row a query in each layer.
2. The state of position q after layer l is a mix of states after layer l − 1: r(l)[q] = Σ_k Ã(l)[q, k] · r(l−1)[k].
3. What a thought reads is what the position before it said: r(0)[z1] = r(L)[bot], r(0)[z(k+1)] = r(L)[zk].
4. Everything else that is read is a source of its own: `bot`, `eot`, `answer`; and `first` and `question`, whose rows
   are not recorded, keep their own state in every layer.

Steps 1 and 2 are attention rollout (Abnar and Zuidema 2020, arXiv 2005.00928); step 3 closes the loop of continuous
thoughts, where otherwise each thought would be a source. A share is a share of paths, weighted by attention: it knows
nothing of values, of MLPs, of the projection, or of what cutting a path would change. `answer` as a key pools the
answer's tokens up to the query; their states are taken to be the last one's.
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from thoughtlens.analysis.statistics import bootstrap_ratio
from thoughtlens.labels import FIRST, QUESTION
from thoughtlens.schema import n_thoughts_of

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
