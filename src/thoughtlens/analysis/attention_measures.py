"""Measures of attention: where positions look, which earlier thoughts a thought prefers, and rollout over layers.

In: attention, dims (..., query, key). Out: labelled numbers with the leading dims kept, or sums to be added up first.

Rows and columns are the same positions (thought-indexed), and a thought's attention to itself is apart.

A *preference* compares attention with its null, in which each row splits its thought mass evenly. For a set C of
cells (q, k), k an earlier thought than q, with q counted from 0 so that row q sees q earlier thoughts:

    observed(C) = Σ_{(q,k) in C} A[q, k]
    expected(C) = Σ_q M[q] · |C in row q| / q          M[q] = Σ_{k<q} A[q, k]
    preference(C) = observed(C) / expected(C)

Sums run over rows, and over heads, layers and problems where one number is wanted for all of them: a ratio of sums,
so that a row without thought mass has no say. A row that C fills says nothing (its ratio is 1 whatever it does) and
is left out; for single cells that leaves q >= 2.

*Rollout* follows paths over layers and over feedback (Abnar and Zuidema 2020, arXiv 2005.00928):

1. Heads are averaged, and half of each position's state is its own: Ã = ½ A + ½ I, a row a query in each layer.
2. The state of position q after layer l is a mix of states after layer l − 1: r(l)[q] = Σ_k Ã(l)[q, k] · r(l−1)[k].
3. What a thought reads is what the position before it said: r(0)[z1] = r(L)[bot], r(0)[z(k+1)] = r(L)[zk].
4. Everything else that is read is a source of its own: `bot`, `eot`, `answer`; and `first` and `question`, whose rows
   are not recorded, keep their own state in every layer.

A share of rollout is a share of paths, weighted by attention: it knows nothing of values, of MLPs, of the projection,
or of what cutting a path would change. `answer` as a key pools the answer's tokens; their states are taken to be the
last one's.
"""

from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from typing import Any, Final

import numpy as np
import xarray as xr
from scipy.special import entr

from thoughtlens.notation import ANSWER, BOT, EOT, FIRST, QUESTION, key_names, query_names, text, thought_names
from thoughtlens.schema import n_thoughts_of, with_all_slots

EARLIER = "earlier thoughts"
SELF = "self"
PARTS = (FIRST, QUESTION, BOT, EARLIER, SELF, EOT, ANSWER)

MASS_FLOOR = 1e-6
"""Mean thought mass below which a preference or a share is undefined: float16 cells end at 6e-8."""


def thought_map(attention: xr.DataArray) -> xr.DataArray:
    """The cells among thoughts, self-attention on the diagonal.

    Args:
        attention: dims (..., query, key).

    Returns:
        dims (..., query, key), both `z1 … zT`.

    Example:
        `thought_map(run.attention["attention"]).mean(["problem", "layer", "head"])`
    """
    thoughts = thought_names(n_thoughts_of(attention))
    return attention.sel(query=thoughts, key=thoughts)


def composition(attention: xr.DataArray) -> xr.DataArray:
    """Where each row looks: its mass on every part of what it sees.

    composition[q, part] = Σ_{k in part} A[q, k].  Range 0-1, and the parts of a row sum to 1.  No null: the parts
    differ in size.  `self` is the diagonal; the answer row's own token is pooled with the answer tokens before it
    and stays in `answer`, so that its `self` is 0.  Parts that a row can't see are 0.

    Args:
        attention: dims (..., query, key), rows summing to 1.

    Returns:
        float64, dims (..., query, part); NaN where the row does not exist.

    Example:
        >>> names = {"query": query_names(6), "key": key_names(6)}
        >>> even = xr.DataArray(np.tri(9, 11, k=2) / np.arange(3, 12)[:, None], dims=["query", "key"], coords=names)
        >>> round(composition(even).sel(query="z3", part="earlier thoughts").item(), 6)  # 2 of the 6 that z3 sees
        0.333333
    """
    cells = _part_cells(n_thoughts_of(attention))
    parts: xr.DataArray = xr.dot(attention.astype(np.float64, copy=False), cells, dim="key")
    return parts.transpose(..., "query", "part").rename("composition")


def thought_composition(attention: xr.DataArray) -> xr.DataArray:
    """Composition of the thoughts' rows, mean over thoughts: dims (..., query, key) to (..., part)."""
    rows = composition(attention)
    return rows.sel(query=thought_map(attention)["query"]).mean("query")


@cache
def _part_cells(n_thoughts: int) -> xr.DataArray:
    queries, keys = query_names(n_thoughts), key_names(n_thoughts)
    part_of_key = dict.fromkeys(thought_names(n_thoughts), EARLIER) | {part: part for part in PARTS}
    cells = xr.DataArray(
        np.zeros((len(queries), len(keys), len(PARTS))),
        dims=("query", "key", "part"),
        coords={"query": text(queries), "key": text(keys), "part": text(PARTS)},
    )
    for query in queries:
        for key in keys[: keys.index(query) + 1]:
            part = SELF if key == query != ANSWER else part_of_key[key]
            cells.loc[{"query": query, "key": key, "part": part}] = 1.0
    return cells


def thought_mass(attention: xr.DataArray) -> xr.DataArray:
    """How much of each thought's row goes to earlier thoughts at all.

    M[q] = Σ_{k<q} A[q, k].  Range 0-1; 0 for `z1`, which has no earlier thought.  No null.

    Args:
        attention: dims (..., query, key), rows summing to 1.

    Returns:
        float64, dims (..., query) with the thoughts as queries.

    Example:
        `thought_mass(run.attention["attention"]).mean(["problem", "query"])`, a number for each head
    """
    mass = composition(attention).sel(part=EARLIER, drop=True)
    return mass.sel(query=thought_names(n_thoughts_of(attention))).rename("thought_mass")


def shares(attention: xr.DataArray) -> xr.DataArray:
    """How each thought splits its thought mass over the earlier thoughts.

    S[q, k] = A[q, k] / M[q] for k < q.  Range 0-1, a row sums to 1.  Without preference: 1/q (q from 0).
    Undefined (NaN) where M[q] < 1e-6 and for k >= q.

    Args:
        attention: dims (..., query, key), rows summing to 1.

    Returns:
        float64, dims (..., query, key), both the thoughts.

    Example:
        >>> names = {"query": query_names(6), "key": key_names(6)}
        >>> even = xr.DataArray(np.tri(9, 11, k=2) / np.arange(3, 12)[:, None], dims=["query", "key"], coords=names)
        >>> shares(even).sel(query="z5", key="z2").item()
        0.25
    """
    earlier = _earlier(n_thoughts_of(attention)) > 0
    cells = thought_map(attention).astype(np.float64, copy=False).where(earlier)
    mass = cells.sum("key")
    return (cells / mass.where(mass >= MASS_FLOOR)).rename("share")


def row_entropy(attention: xr.DataArray) -> xr.DataArray:
    """How evenly each thought splits its thought mass over the earlier thoughts.

    entropy[q] = −Σ_{k<q} S[q, k] · log S[q, k] / log q, S the `shares`.  Range 0 (all on one thought) to 1.  Null 1, an
    even split.  Undefined (NaN) for z1 and z2, which have no choice, and where M[q] < 1e-6.

    Args:
        attention: dims (..., query, key), rows summing to 1.

    Returns:
        float64, dims (..., query) with the thoughts as queries.

    Example:
        >>> names = {"query": query_names(6), "key": key_names(6)}
        >>> even = xr.DataArray(np.tri(9, 11, k=2) / np.arange(3, 12)[:, None], dims=["query", "key"], coords=names)
        >>> round(row_entropy(even).sel(query="z5").item(), 6)
        1.0
    """
    among, earlier = thought_map(attention), _earlier(n_thoughts_of(attention)).variable
    # Without labels, which would take most of the time of a small model; here and in `preference_sums`.
    cells = where(earlier > 0, among.variable.astype(np.float64, copy=False), 0.0)
    mass = cells.sum("key", skipna=False)
    mass = where(mass >= MASS_FLOOR, mass)
    # −Σ S log S with S = A/M, without the division of every cell.
    nats = cells.copy(data=entr(cells.values)).sum("key", skipna=False) / mass + mass.copy(data=np.log(mass.values))
    most = xr.Variable("query", np.log(earlier.sum("key").values.clip(min=1)))
    return xr.DataArray(nats / where(most > 0, most), _beside_key(among), name="entropy")


def entropy_sums(attention: xr.DataArray) -> xr.Dataset:
    """What mean entropies are made of: `entropy` and `entropy_rows`, 1 where it is defined; dims (..., query)."""
    entropy = row_entropy(attention)
    return xr.Dataset({"entropy": entropy.fillna(0.0), "entropy_rows": entropy.notnull().astype(np.float64)})


def mean_entropy(sums: Mapping[Any, xr.Variable]) -> xr.Variable:
    """Mean entropy of each row over those that have one, from `entropy_sums` added up: dims (..., query)."""
    n_rows = sums["entropy_rows"]
    return sums["entropy"] / where(n_rows > 0, n_rows)


def cell_sets(n_thoughts: int) -> xr.Dataset:
    """The cells (query, key) that preferences are measured on, as 0/1 masks; a row that a set fills is empty."""
    return _cell_sets(n_thoughts).copy(deep=True)


@cache
def _cell_sets(n_thoughts: int) -> xr.Dataset:
    earlier, step = _earlier(n_thoughts), _distance(n_thoughts)
    thoughts = text(thought_names(n_thoughts))
    lags = xr.DataArray(np.arange(1, n_thoughts), dims="lag", coords={"lag": np.arange(1, n_thoughts)})
    is_key = (earlier["key"] == xr.DataArray(thoughts, dims="thought", coords={"thought": thoughts})).drop_vars("key")
    is_last = xr.DataArray(thoughts == thoughts[-1], dims="query")
    in_first_half = xr.DataArray(np.arange(n_thoughts) < (n_thoughts + 1) // 2, dims="key")
    sets = {
        "preference": earlier * is_key,
        "lag_preference": earlier * (step == lags),
        "sequential": earlier * (step == 1),
        "skip": earlier * is_last * in_first_half,
    }
    n_earlier = earlier.sum("key")
    return xr.Dataset({name: cells.where(cells.sum("key") < n_earlier, 0.0) for name, cells in sets.items()})


def preference_sums(attention: xr.DataArray) -> xr.Dataset:
    """What preferences are made of, for every leading index: add these up over whatever one number is wanted for.

    Args:
        attention: dims (..., query, key), rows summing to 1.

    Returns:
        float64 with the leading dims: observed attention on each of the `cell_sets` (`preference` by `thought`,
        `lag_preference` by `lag`, `sequential`, `skip`), `mass` M[q] by `query`, and `rows`, 1 where the row exists.
        A row that does not exist adds 0 to all of them.
    """
    among, n_thoughts = thought_map(attention), n_thoughts_of(attention)
    cells, sets = among.variable.astype(np.float64, copy=False), _cell_sets(n_thoughts)
    exists = cells.notnull().all("key")
    earlier = where(exists, cells, 0.0) * _earlier(n_thoughts).variable
    observed = {
        str(name): xr.dot(earlier, mask.variable, dim=["query", "key"], optimize=True)
        for name, mask in sets.data_vars.items()
    }
    labels = _beside_key(among) | {name: sets.coords[name] for name in ("thought", "lag")}
    rows = exists.astype(np.float64)
    return xr.Dataset({**observed, "mass": earlier.sum("key", skipna=False), "rows": rows}, labels)


def expected_sums(sums: xr.Dataset) -> xr.Dataset:
    """The null of each observed sum, Σ_q M[q] · |C in row q| / q, named like it; linear, so that sums will do."""
    expected = {name: _over_rows(sums["mass"].variable, of) for name, of in _even_shares(sums.sizes["query"]).items()}
    return xr.Dataset(expected, sums[list(expected)].coords)


def preferences(sums: xr.Dataset) -> xr.Dataset:
    """Preferences, observed over expected, from sums.

    observed(C) / expected(C).  Range 0 to T − 1.  Null 1, for every C, whatever the thought mass of
    the rows is: a position gains nothing from being visible to more rows, which is what a column sum rewards.
    `preference` is H[k] of each key; `lag_preference`, `sequential` and `skip` are the same ratio for those cells.
    `thought_mass` is the mean of M[q] over the rows that have an earlier thought, z2 … zT (range 0-1, no null).
    NaN where nothing can be said: the last thought's H, fewer than 3 thoughts (skip: fewer than 4), or a mean
    thought mass below 1e-6 in the rows concerned.

    Args:
        sums: as `preference_sums` gives them, added up over what the numbers are wanted for.

    Returns:
        Dataset with `preference` (..., thought), `lag_preference` (..., lag), `sequential`, `skip` and `thought_mass`.

    Example:
        >>> names = {"query": query_names(6), "key": key_names(6)}
        >>> even = xr.DataArray(np.tri(9, 11, k=2) / np.arange(3, 12)[:, None], dims=["query", "key"], coords=names)
        >>> round(preferences(preference_sums(even))["preference"].sel(thought="z2").item(), 6)
        1.0

    See also `hub_test`, which decides whether a preferred thought is a hub.
    """
    found = bare_preferences(sums.variables)
    return xr.Dataset(found, sums[[name for name in found if name != "thought_mass"]].coords)


def bare_preferences(sums: Mapping[Any, xr.Variable]) -> dict[str, xr.Variable]:
    """`preferences` without labels, whose alignment takes most of the time of a small model."""
    ratios: dict[str, xr.Variable] = {}
    for name, share in _even_shares(sums["mass"].sizes["query"]).items():
        expected, if_all_mass = (_over_rows(sums[of], share) for of in ("mass", "rows"))
        defined = (if_all_mass > 0) & (expected >= MASS_FLOOR * if_all_mass)
        ratios[name] = sums[name] / where(defined, expected)
    n_rows, of_later = (sums[name].isel(query=slice(1, None)).sum("query", skipna=False) for name in ("rows", "mass"))
    return ratios | {"thought_mass": of_later / where(n_rows > 0, n_rows)}


def _over_rows(of_rows: xr.Variable, share: xr.Variable) -> xr.Variable:
    """Σ_q of_rows[q] · share[q]: dims (…, query) and (query, …)."""
    rows = of_rows.transpose(..., "query")
    return xr.Variable((*rows.dims[:-1], *share.dims[1:]), np.tensordot(rows.values, share.values, axes=1))


def readout_sums(attention: xr.DataArray) -> xr.DataArray:
    """Attention of `eot` and `answer` to each thought, to be added up.

    Args:
        attention: dims (..., query, key).

    Returns:
        float64, dims (..., query, thought); 0 where the row does not exist.
    """
    thoughts = thought_names(n_thoughts_of(attention))
    rows = with_all_slots(attention).sel(query=[EOT, ANSWER], key=thoughts).rename(key="thought")
    return rows.astype(np.float64).fillna(0.0).rename("readout")


def readout(sums: xr.DataArray) -> xr.DataArray:
    """How `eot` and `answer` spread what they give to thoughts.

    share[r, k] = Σ A[r, k] / Σ_k Σ A[r, k], sums over what one number is wanted for.  Range 0-1, a row sums to 1.
    Without preference: 1/T, since both rows see every thought.  NaN where the row gives thoughts nothing.

    Args:
        sums: as `readout_sums` gives them, added up.

    Returns:
        float64, dims (..., query, thought).

    Example:
        >>> names = {"query": query_names(6), "key": key_names(6)}
        >>> even = xr.DataArray(np.tri(9, 11, k=2) / np.arange(3, 12)[:, None], dims=["query", "key"], coords=names)
        >>> round(readout(readout_sums(even)).sel(query="eot", thought="z1").item(), 6)  # 1/6
        0.166667
    """
    mass = sums.sum("thought")
    return (sums / mass.where(mass > 0)).rename("readout")


def where(condition: xr.Variable, values: xr.Variable, otherwise: xr.Variable | float = np.nan) -> xr.Variable:
    """The values where the condition holds."""
    found: xr.Variable = values.where(condition, otherwise)  # type: ignore[no-untyped-call]  # of Variable.where
    return found


def concatenated(parts: Iterable[xr.Variable], dim: str) -> xr.Variable:
    """Variables as one, along a dim."""
    found: xr.Variable = xr.Variable.concat(list(parts), dim)  # type: ignore[no-untyped-call]  # of Variable.concat
    return found


@cache
def _even_shares(n_thoughts: int) -> dict[str, xr.Variable]:
    """What an even split gives each cell set, of the mass of each row: |C in row q| / q, dims (query, …)."""
    shares = _cell_sets(n_thoughts).sum("key") / _earlier(n_thoughts).sum("key").clip(min=1)
    return {str(name): share.variable.transpose("query", ...) for name, share in shares.data_vars.items()}


def _beside_key(attention: xr.DataArray) -> dict[Hashable, xr.DataArray]:
    """The labels of everything but keys."""
    return {name: of for name, of in attention.coords.items() if "key" not in of.dims}


@cache
def _earlier(n_thoughts: int) -> xr.DataArray:
    return (_distance(n_thoughts) > 0).astype(np.float64)


def _distance(n_thoughts: int) -> xr.DataArray:
    """How many thoughts back a key is: q − k."""
    thoughts = text(thought_names(n_thoughts))
    order = np.arange(n_thoughts)
    return xr.DataArray(
        order[:, None] - order[None, :], dims=("query", "key"), coords={"query": thoughts, "key": thoughts}
    )


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

    Example:
        >>> import numpy as np
        >>> from thoughtlens.schema import attention_dataset
        >>> rows = np.zeros((1, 1, 1, 9, 11))
        >>> rows[..., np.arange(9), np.arange(9) + 2] = 1.0  # every position looks at itself alone
        >>> dataset = attention_dataset(rows, problem_ids=["p"], correct=[True], n_question_tokens=[9])
        >>> rollout(dataset["attention"]).sel(query="z4", key="bot").item()  # the feedback leads back to `bot`
        1.0

    Reference: Abnar and Zuidema (2020), arXiv 2005.00928, steps 1 and 2 above.
    """
    attention = with_all_slots(attention)
    mean = attention.astype(np.float64).mean("head", skipna=False)
    rows = (mean / mean.sum("key", skipna=False)).transpose(..., "layer", "query", "key")
    shares = rows.isel(layer=0, drop=True).rename("rollout")
    absent = [str(name) in attention.attrs.get("absent", ()) for name in attention["query"].values]
    rolled = _roll(np.where(np.array(absent)[:, None], 0.0, rows.values), n_thoughts_of(attention), absent[0])
    return shares.copy(data=np.where(np.array(absent)[:, None], np.nan, rolled))


def _roll(rows: np.ndarray, n_thoughts: int, without_bot: bool) -> np.ndarray:
    """Rows (..., layer, query, key) to shares (..., query, key), position by position, in the order of reading.

    Without `bot`, the first thought is fed back from the question.
    """
    # Each column is a key's share; adding a thought's own column to what it is fed marks what passes through it, and no
    # path passes through a thought twice.
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
        if query == 0 and without_bot:
            states[..., at, :] = states[..., at - 1, :]
    shares: np.ndarray = states[..., -1, len(SOURCES) :, :]
    return shares


LEAST_REACHED: Final = 0.01
"""Share of a row that must reach thoughts, or its rollout ranks next to nothing: in deep models all ends on `first`."""


def reached(rolled: xr.DataArray) -> xr.DataArray:
    """How much of each row reaches earlier thoughts at most: Σ_{k<q} of its rollout, NaN for `bot` and `z1`.

    Paths that pass through several thoughts count for each; dims (…, query, key) to (…, query).
    """
    later = later_rows(rolled, 0.0).sum("key", skipna=False).clip(max=1.0)
    return later.reindex(query=rolled["query"]).transpose(*(dim for dim in rolled.dims if dim != "key"))


def rollout_note(share: xr.DataArray) -> str | None:
    """Which rows are left out of what is made from rollout, in a sentence; None without any. `share` is `reached`."""
    few = share["query"].values[(share < LEAST_REACHED).values]
    if not len(few):
        return None
    return (
        f"Rollout: less than {LEAST_REACHED:.0%} of the rows {', '.join(map(str, few))} reaches thoughts, so that they "
        "are left out of rankings and correlations; in deep models nearly all weight ends on the prompt."
    )


def later_rows(attention: xr.DataArray, elsewhere: float) -> xr.DataArray:
    """The rows z2 … zT, eot, answer on the thoughts before each, and `elsewhere` on the others."""
    thoughts = thought_names(n_thoughts_of(attention))
    rows = [*thoughts[1:], EOT, ANSWER]
    n_earlier = xr.DataArray(np.arange(1, len(rows) + 1), dims="query", coords={"query": rows})
    place = xr.DataArray(np.arange(len(thoughts)), dims="key", coords={"key": thoughts})
    return attention.sel(query=rows, key=thoughts).astype(np.float64).where(place < n_earlier, elsewhere)
