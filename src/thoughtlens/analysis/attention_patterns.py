"""Raw, value-weighted and rolled-out attention, and the importance that each gives to heads, thoughts and edges.

In: attention, or value-weighted patterns. Out: patterns of the other kind, or importances (problem, unit), which are
mean weights of whichever pattern they are given. Rows that see no earlier thought say nothing; an answer row that does
not exist is left out of its problem's mean. Means over problems are taken after.

*Raw* attention is the weights after softmax. *Value-weighted* attention is what the weights move: the share of a key is
the norm of what it gives, over the norms of all that the row sees (Kobayashi et al. 2020, arXiv 2004.10102).

*Rollout* follows paths over layers and over feedback (Abnar and Zuidema 2020, arXiv 2005.00928):

1. Heads are averaged, and half of each position's state is its own: Ã = ½ A + ½ I, a row a query in each layer.
2. The state of position q after layer l is a mix of states after layer l − 1: r(l)[q] = Σ_k Ã(l)[q, k] · r(l−1)[k].
3. What a thought reads is what the position before it said: r(0)[z1] = r(L)[bot], r(0)[z(k+1)] = r(L)[zk].
4. Everything else that is read is a source of its own: `bot`, `eot`, `answer`; and `first` and `question`, whose rows
   are not recorded, keep their own state in every layer.

A share is a share of paths, weighted by attention: it knows nothing of values, of MLPs, of the projection, or of what
cutting a path would change. `answer` as a key pools the answer's tokens; their states are taken to be the last one's.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import xarray as xr

from thoughtlens.analysis.pieces import Blocks, StoredRun, in_pieces
from thoughtlens.errors import OptionError, RunError
from thoughtlens.notation import (
    ANSWER,
    EDGES,
    EOT,
    FIRST,
    HEADS,
    QUESTION,
    THOUGHTS,
    edge_name,
    edge_names,
    head_name,
    text,
    thought_names,
)
from thoughtlens.schema import ATTENTION, VALUE_WEIGHTED, n_thoughts_of, with_all_slots

log = logging.getLogger(__name__)

WEIGHTS: Final = "attention"
VALUES: Final = "value-weighted"
KINDS: Final = (WEIGHTS, VALUES)
"""What can be analysed: attention weights, or what they move (`value_shares`)."""


def value_shares(block: xr.Dataset) -> xr.Dataset:
    """A Dataset of value-weighted patterns, as one of attention.

    share[q, k] = n[q, k] / Σ_k n[q, k], n = ‖α[q, k] · v[k] · W_O‖.  Range 0-1, a row sums to 1.  No null of its own:
    the nulls of attention apply.  A row that moves nothing at all has no shares and is NaN, like one that is missing.

    Args:
        block: with `value_weighted`, dims (..., query, key); a run's, or some of its problems.

    Returns:
        The same Dataset with `attention`, float64, in the place of `value_weighted`.

    Example:
        `value_shares(next(run.blocks(pattern="value_weighted")))`, of a run made with `--record values`

    Reference: Kobayashi et al. (2020), arXiv 2004.10102.
    """
    norms = block[VALUE_WEIGHTED].astype(np.float64)
    total = norms.sum("key", skipna=False)
    return block.drop_vars(VALUE_WEIGHTED).assign({ATTENTION: norms / total.where(total > 0)})


def check_pattern(pattern: str) -> str:
    """The pattern, if it is one of `KINDS`."""
    if pattern not in KINDS:
        raise OptionError(f"no pattern {pattern!r}, expected one of {', '.join(KINDS)}; pass another --pattern.")
    return pattern


def patterned(source: StoredRun | Blocks, pattern: str = WEIGHTS) -> Iterator[xr.Dataset]:
    """The problems of a run, a Dataset or its blocks, with the pattern (of `KINDS`) in the place of attention."""
    stored = ATTENTION if check_pattern(pattern) == WEIGHTS else VALUE_WEIGHTED
    blocks: Blocks = source if isinstance(source, Iterable) else source.blocks(pattern=stored)
    if isinstance(blocks, xr.Dataset):
        blocks = [blocks]
    return iter(blocks) if pattern == WEIGHTS else map(value_shares, blocks)


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
    later = _later_rows(rolled, 0.0).sum("key", skipna=False).clip(max=1.0)
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


RAW: Final = "raw"
ROLLED_OUT: Final = "rolled-out"


def look(
    blocks: Blocks, problems: Sequence[str], *, how: str = RAW
) -> tuple[dict[str, dict[str, xr.DataArray]], xr.DataArray]:
    """All importances of these problems, in their order, and their mean attention (query, key), in one reading.

    Importances are by kind of unit (heads, thoughts, edges) and of attention (`how`, rolled-out): (problem, unit).
    Rolled-out importances are of the rows that thoughts reach (`LEAST_REACHED`), and missing where there are none.
    """
    found: list[xr.Dataset] = []
    wanted = frozenset(problems)
    for attention in (piece["attention"] for piece in in_pieces(blocks)):
        here = [place for place, name in enumerate(attention["problem"].values) if str(name) in wanted]
        if here:
            found.append(_look_at(attention.isel(problem=here), how))
    n_found = sum(part.sizes["problem"] for part in found)
    if n_found != len(problems):
        raise RunError(
            f"the run has {n_found} of the {len(problems)} problems that were cut; name the run they are of."
        )
    joined = xr.concat(found, "problem").sel(problem=list(problems))
    share = reached(joined["rolled"]).mean("problem")
    if note := rollout_note(share):
        log.warning("%s", note)
    rolled = joined["rolled"].where(~(share < LEAST_REACHED))
    joined = joined.drop_vars("rolled")
    of_rollout = {THOUGHTS: thought_importance(rolled), EDGES: edge_importance(rolled)}
    importances: dict[str, dict[str, xr.DataArray]] = {HEADS: {}, THOUGHTS: {}, EDGES: {}}
    for name in joined.drop_vars("mean").data_vars:
        kind, kind_of_attention = str(name).split(", ")
        importances[kind][kind_of_attention] = joined[name].rename({kind: "unit"}).rename(None)
    for kind, values in of_rollout.items():
        if (known := values.dropna("unit", how="all")).size:
            importances[kind][ROLLED_OUT if how == RAW else f"{ROLLED_OUT} {how}"] = known
    return importances, joined["mean"].mean("problem")


def _look_at(attention: xr.DataArray, how: str) -> xr.Dataset:
    """A variable for each kind of unit, the mean over heads, and the rollout."""
    looks = {
        (HEADS, how): head_importance(attention),
        (THOUGHTS, how): thought_importance(attention),
        (EDGES, how): edge_importance(attention),
    }
    named = {f"{kind}, {name}": values.rename(unit=kind) for (kind, name), values in looks.items()}
    means = {"mean": attention.mean(("layer", "head"), skipna=False), "rolled": rollout(attention)}
    return xr.Dataset(named).assign(means)


def head_importance(attention: xr.DataArray) -> xr.DataArray:
    """Mean over the rows z2 … zT, eot, answer of their mass on earlier thoughts: dims (problem, unit)."""
    rows = _later_rows(attention, 0.0).sum("key", skipna=False).mean("query")
    flat = rows.stack(unit=("layer", "head"))
    names = [head_name(*place) for place in flat["unit"].values]
    return _named(flat.drop_vars(["unit", "layer", "head"]), names)


def thought_importance(attention: xr.DataArray) -> xr.DataArray:
    """Mean of A[q, k] over the rows q after k, over layers and heads: dims (problem, unit).

    It is a mean over rows and not a sum, since a sum rewards being seen by many rows.
    """
    rows = _over_heads(_later_rows(attention, np.nan))
    return _named(rows.mean("query").rename(key="unit"), thought_names(n_thoughts_of(attention)))


def edge_importance(attention: xr.DataArray) -> xr.DataArray:
    """Mean over layers and heads of A[q, k]: dims (problem, unit), units named such as `z4 ⊣ z1`."""
    mean = _over_heads(attention.astype(np.float64))
    edges = edge_names(n_thoughts_of(attention))
    queries, keys = (xr.DataArray([edge[end] for edge in edges], dims="unit") for end in (0, 1))
    cells = mean.sel(query=queries, key=keys).drop_vars(["query", "key"])
    return _named(cells, [edge_name(*edge) for edge in edges])


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
    return values.assign_coords(unit=text(names)).transpose("problem", "unit")
