"""Turn attention into what it would be without a preference: the expected cells under each of four nulls.

| null | keeps | spreads |
|---|---|---|
| `causal_uniform` | what a query can see, the mass of the answer row on answer tokens | the row, over every token |
| `row_mass_preserving` | a row's mass on earlier thoughts, and on itself | that mass, over the earlier thoughts |
| `permuted` | the same, and the sizes of its cells | nothing: whom a cell belongs to is drawn |
| `from_run` | architecture and problems | nothing: another run, such as one with random weights, says what to expect |

`excess` is observed − expected, in attention mass. Nothing here tests anything or knows about heads of interest.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import thought_map
from thoughtlens.analysis.names import text
from thoughtlens.errors import RunError
from thoughtlens.labels import ANSWER, QUESTION, key_names, query_names
from thoughtlens.schema import n_thoughts_of


def token_shares(n_thoughts: int, n_question_tokens: xr.DataArray | int) -> xr.DataArray:
    """The share of each slot in the tokens that a row sees, answer tokens left out.

    share[q, k] = n[k] / (n_question + 1 + place of q), for the slots k that q sees: 1 token each, `question` the
    n_question − 1 beside `first`; `bot` has place 0 and sees itself. For the `answer` row, the tokens up to `eot`.

    Args:
        n_thoughts: T.
        n_question_tokens: prompt tokens before `bot`, one number or dims (problem).

    Returns:
        float64, dims (query, key), with `problem` if the number has it; 0 for the key `answer`. Rows sum to 1.
    """
    queries, keys = query_names(n_thoughts), key_names(n_thoughts)
    place, slot = np.arange(len(queries))[:, None], np.arange(len(keys))[None, :]
    sees = xr.DataArray(
        (slot <= place + keys.index(queries[0])).astype(np.float64),
        dims=("query", "key"),
        coords={"query": text(queries), "key": text(keys)},
    )
    sees.loc[{"key": ANSWER}] = 0.0
    is_question = (sees["key"] == QUESTION).astype(np.float64)
    n_tokens: xr.DataArray = sees * (1.0 + is_question * (n_question_tokens - 2))
    return n_tokens / n_tokens.sum("key")


def causal_uniform(attention: xr.DataArray, n_question_tokens: xr.DataArray | int) -> xr.DataArray:
    """Each row spreads evenly over every token that it can see.

    expected[q, k] = (1 − A[q, answer]) · n[k] / (n_question + 1 + place of q), see `token_shares`.  How many answer
    tokens the `answer` row sees is not recorded: it keeps its mass on them, and only the rest is spread. Even rows
    are their own null whatever that number is.

    Args:
        attention: dims (..., query, key), rows summing to 1.
        n_question_tokens: prompt tokens before `bot`, one number or dims (problem).

    Returns:
        float64, the dims of the attention; rows sum to 1, NaN where the row does not exist.
    """
    values = attention.astype(np.float64)
    rest = 1.0 - values.sel(key=ANSWER, drop=True)
    n = n_question_tokens
    if isinstance(n, xr.DataArray):
        n = n.drop_vars("problem", errors="ignore")
    expected = rest * token_shares(n_thoughts_of(attention), n) + values * (values["key"] == ANSWER)
    return expected.transpose(*attention.dims).rename("expected")


def row_mass_preserving(attention: xr.DataArray) -> xr.DataArray:
    """Each thought's row spreads what it gives to earlier thoughts evenly over them.

    expected[q, k] = M[q] / q for k < q, with M[q] = Σ_{k<q} A[q, k] and q from 0; a row keeps its self-attention.

    Args:
        attention: dims (..., query, key), rows summing to 1.

    Returns:
        float64, dims (..., query, key), both the thoughts; 0 for k > q.
    """
    cells = thought_map(attention).astype(np.float64).transpose(..., "query", "key")
    earlier = _earlier(cells.sizes["query"])
    even = np.where(earlier, cells, 0.0).sum(-1, keepdims=True) / np.maximum(earlier.sum(-1, keepdims=True), 1)
    return cells.copy(data=np.where(earlier, even, cells)).rename("expected")


def permuted(attention: xr.DataArray, *, seed: int = 0) -> xr.DataArray:
    """The earlier thoughts of each row in a random order, drawn anew for every row of every problem and head.

    One draw, not an expectation: its mean over draws is `row_mass_preserving`.

    Args:
        attention: dims (..., query, key), rows summing to 1.
        seed: same seed, same order.

    Returns:
        float64, dims (..., query, key), both the thoughts; 0 for k > q.
    """
    cells = thought_map(attention).astype(np.float64).transpose(..., "query", "key")
    rng = np.random.default_rng(seed)
    # Later thoughts sort after every draw, in their own order, and so stay where they are.
    draws = np.where(_earlier(cells.sizes["query"]), rng.random(cells.shape), 1.0)
    order = np.argsort(draws, axis=-1, kind="stable")
    return cells.copy(data=np.take_along_axis(cells.values, order, axis=-1)).rename("expected")


def from_run(moments: xr.Dataset) -> xr.DataArray:
    """What another run gives on average: such as one of random weights in the same architecture.

    expected[layer, q, k] = mean over heads of mean over problems of A.  Over heads, since the heads of a layer are
    exchangeable under random weights: head 3 of one model is not head 3 of another.

    Args:
        moments: of the other run, as `moments` gives them.

    Returns:
        float64, dims (layer, query, key); NaN where no problem has the row.
    """
    return moments["mean"].mean("head", skipna=False).rename("expected")


def excess(attention: xr.DataArray, null: xr.DataArray) -> xr.DataArray:
    """Attention beyond its null: observed − expected, for the cells that the null speaks of.

    Range −1 to 1.  Null 0.

    Args:
        attention: dims (..., query, key).
        null: as the functions here give it; dims that it lacks are taken to be alike.

    Returns:
        float64, the dims of the attention, the queries and keys of the null.

    Raises:
        RunError: the two differ in layers, heads or thoughts.
    """
    _check_same(attention, null)
    seen = attention.sel(query=null["query"], key=null["key"]).astype(np.float64)
    return (seen - null).transpose(*attention.dims).rename("excess")


def _check_same(attention: xr.DataArray, null: xr.DataArray) -> None:
    # Labels that differ would be left out by the subtraction without a word.
    places = [dim for dim in ("layer", "head", "problem") if dim in null.coords and dim in attention.coords]
    same = all(np.array_equal(null[dim].values, attention[dim].values) for dim in places)
    last = query_names(n_thoughts_of(attention))[-3]
    thoughts = [str(name) for name in null["query"].values if str(name).startswith("z")]
    if not same or thoughts[-1:] != [last]:
        raise RunError(
            f"the null has {_sizes(null)} and the attention {_sizes(attention)}, or other labels; "
            "take a null of the same architecture and number of thoughts."
        )


def _sizes(array: xr.DataArray) -> str:
    return ", ".join(f"{size} {dim}" for dim, size in array.sizes.items())


def _earlier(n_thoughts: int) -> np.ndarray:
    earlier: np.ndarray = np.tri(n_thoughts, k=-1, dtype=bool)
    return earlier
