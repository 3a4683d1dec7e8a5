"""The nulls of attention, and what problems and heads have beyond them.

| null | keeps | spreads |
|---|---|---|
| `causal_uniform` | what a query can see, the mass of the answer row on answer tokens | the row, over every token |
| `row_mass_preserving` | a row's mass on earlier thoughts, and on itself | that mass, over the earlier thoughts |
| `permuted` | the same, and the sizes of its cells | nothing: which thought a cell belongs to is drawn |
| `from_run` | architecture and problems | nothing: another run, such as one with random weights, says what to expect |

In: attention, or sums of it. Out: `excess`, which is observed − expected attention mass; or `excess_cells`, the same
from sums, so that a run is added up, resampled and tested without being held. These are the measures of evidence:

| measure | mass of a row | rows | null |
|---|---|---|---|
| hub | on one thought | the rows from z3 on that see it, two at least | row-mass-preserving |
| sequential | on the thought before | z3 … zT | row-mass-preserving |
| skip | on the first ⌈T/2⌉ thoughts | zT | row-mass-preserving |
| lag2 … | on the thought so many back | those from z3 on that see one so far back | row-mass-preserving |
| sink, self | on `first`, on itself | z3 … zT (all thoughts if there are fewer) | causal-uniform |
| readout | on all thoughts | `eot` and `answer`, where they exist | causal-uniform |
| thoughts | on earlier thoughts | z3 … zT (all thoughts if there are fewer) | causal-uniform |
| question, bot | on the question but its first token, on `bot` | the same | causal-uniform |

The *position null* is what a thought attracts by its place in the order alone: a log-linear model of row, lag and key,
of which `key_effects` gives the effect of each thought as a key.
"""

from collections.abc import Collection
from functools import cache

import numpy as np
import xarray as xr
from scipy.special import stdtr

from thoughtlens.analysis.attention_measures import MASS_FLOOR, cell_sets, preference_sums, thought_map
from thoughtlens.analysis.intervals import interval
from thoughtlens.analysis.significance import LEAST_PROBLEMS
from thoughtlens.errors import RunError
from thoughtlens.notation import ANSWER, BOT, EOT, FIRST, QUESTION, key_names, query_names, text, thought_names
from thoughtlens.schema import n_thoughts_of, with_all_slots


def token_shares(n_thoughts: int, n_question_tokens: xr.DataArray | int, absent: Collection[str] = ()) -> xr.DataArray:
    """The share of each slot in the tokens that a row sees, answer tokens left out: (query, key), rows sum to 1.

    `absent` are slots that the checkpoint lacks, which no row sees.
    """
    queries, keys = query_names(n_thoughts), key_names(n_thoughts)
    place, slot = np.arange(len(queries))[:, None], np.arange(len(keys))[None, :]
    sees = (slot <= place + keys.index(queries[0])) & ~np.isin(keys, [ANSWER, *absent])
    is_question = xr.Variable("key", np.array([key == QUESTION for key in keys], dtype=np.float64))
    given = xr.DataArray(n_question_tokens)
    # Without labels, which would take most of the time.
    n_tokens = xr.Variable(("query", "key"), sees.astype(np.float64)) * (1.0 + is_question * (given.variable - 2))
    labels = {**given.coords, "query": text(queries), "key": text(keys)}
    return xr.DataArray(n_tokens / n_tokens.sum("key"), labels)


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

    Example:
        `causal_uniform(block["attention"], block["n_question_tokens"])`, for a block of `run.blocks()`
    """
    attention = with_all_slots(attention)
    values = attention.astype(np.float64)
    rest = 1.0 - values.sel(key=ANSWER, drop=True)
    n = n_question_tokens
    if isinstance(n, xr.DataArray):
        n = n.drop_vars("problem", errors="ignore")
    even = token_shares(n_thoughts_of(attention), n, attention.attrs.get("absent", ()))
    expected = rest * even + values * (values["key"] == ANSWER)
    return expected.transpose(*attention.dims).rename("expected")


def row_mass_preserving(attention: xr.DataArray) -> xr.DataArray:
    """Each thought's row spreads what it gives to earlier thoughts evenly over them.

    expected[q, k] = M[q] / q for k < q, with M[q] = Σ_{k<q} A[q, k] and q from 0; a row keeps its self-attention.

    Args:
        attention: dims (..., query, key), rows summing to 1.

    Returns:
        float64, dims (..., query, key), both the thoughts; 0 for k > q.

    Example:
        `excess(attention, row_mass_preserving(attention)).sel(query="z4", key="z1")`
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

    Example:
        `excess(tl.analyze(run).moments["mean"], from_run(tl.analyze(null).moments))`
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
    # Labels that differ would be left out by the subtraction without a word.
    places = [dim for dim in ("layer", "head", "problem") if dim in null.coords and dim in attention.coords]
    same = all(np.array_equal(null[dim].values, attention[dim].values) for dim in places)
    thoughts = [str(name) for name in null["query"].values if str(name).startswith("z")]
    if not same or thoughts[-1:] != thought_names(n_thoughts_of(attention))[-1:]:
        found, other = (", ".join(f"{size} {dim}" for dim, size in of.sizes.items()) for of in (null, attention))
        raise RunError(
            f"the null has {found} and the attention {other}, or other labels; "
            "take a null of the same architecture and number of thoughts."
        )
    seen = attention.sel(query=null["query"], key=null["key"]).astype(np.float64)
    return (seen - null).transpose(*attention.dims).rename("excess")


def _earlier(n_thoughts: int) -> np.ndarray:
    earlier: np.ndarray = np.tri(n_thoughts, k=-1, dtype=bool)
    return earlier


PATTERNS = ("hub", "sequential", "skip")
"""Measures of whom a row prefers among earlier thoughts: its mass on them is kept by the null."""

PLACES = ("sink", "self", "readout")
"""Measures of where a row's mass goes at all."""

MASSES = ("thoughts", "question", "bot")
"""The rest of a row's composition; they name no head, since every row has to look somewhere."""


def head_excess(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.DataArray:
    """What each problem and head has beyond the nulls: `excess_cells`, free of rounding."""
    return without_rounding(excess_cells(with_places(preference_sums(attention), attention, n_question_tokens)))


def with_places(sums: xr.Dataset, attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.Dataset:
    """`preference_sums` and, as `places`, what `place_sums` gives."""
    return sums.assign(places=place_sums(attention, sums["mass"], n_question_tokens))


_COLUMNS = {"sink": FIRST, "question": QUESTION, "bot": BOT}
"""Measures of one key's mass."""


def place_sums(attention: xr.DataArray, mass: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.DataArray:
    """Mean mass of rows by where it goes, less its causal-uniform share; `mass` is that of `preference_sums`."""
    n_thoughts = n_thoughts_of(attention)
    even = token_shares(n_thoughts, n_question_tokens, attention.attrs.get("absent", ())).variable
    # Places and not labels, which would take most of the time of a small model: z1 … zT stand after `bot` on both axes.
    looks, keys = attention.variable, key_names(n_thoughts)
    n_rows = n_thoughts - 2 if n_thoughts > 2 else n_thoughts
    rows, reading = slice(n_thoughts + 1 - n_rows, n_thoughts + 1), slice(n_thoughts + 1, None)
    thoughts = slice(keys.index(BOT) + 1, keys.index(EOT))
    own = {dim: xr.Variable("row", np.arange(of.stop)[-n_rows:]) for dim, of in (("query", rows), ("key", thoughts))}
    # As in `causal_uniform`: the answer row keeps what it gives to answer tokens.
    kept = looks.isel(query=reading, key=keys.index(ANSWER))
    expected = even.isel(query=reading, key=thoughts).sum("key") * (1.0 - kept)
    earlier = xr.Variable(("query", "key"), np.tri(n_thoughts, k=-1)[-n_rows:])
    seen = (even.isel(query=rows, key=thoughts) * earlier).sum("key")
    columns = {name: {"query": rows, "key": keys.index(key)} for name, key in _COLUMNS.items()}
    places = {name: (looks.isel(at) - even.isel(at)).mean("query") for name, at in columns.items()} | {
        "thoughts": (mass.variable.isel(query=slice(-n_rows, None)) - seen).mean("query"),
        "self": (looks.isel(own) - even.isel(own)).mean("row"),
        "readout": (looks.isel(query=reading, key=thoughts).sum("key", skipna=False) - expected).mean("query"),
    }
    dims = [dim for dim in attention.dims if dim not in ("query", "key")]
    stacked = np.stack([places[name].transpose(*dims).values for name in (*PLACES, *MASSES)], axis=-1)
    coords = {dim: attention[dim] for dim in dims if dim in attention.coords}
    return xr.DataArray(stacked, dims=(*dims, "place"), coords={**coords, "place": text((*PLACES, *MASSES))})


def excess_cells(sums: xr.Dataset) -> xr.DataArray:
    """Mean attention of rows beyond the null on each cell set (…, cell), from the sums of one problem or of many.

    Sets that T thoughts lack have no cell; `hub z1` … are of the thoughts that two rows or more see.
    """
    columns = _pattern_columns(sums.sizes["query"])
    bare, says = sums.variables, columns["says"].values
    dims = bare["places"].dims[:-1]
    parts = [bare[str(name)].transpose(*dims, ...).values for name in columns.attrs["names"]]
    observed = np.concatenate([part.reshape(*bare["places"].shape[:-1], -1) for part in parts], axis=-1)
    expected = bare["mass"].transpose(*dims, "query").values @ columns["even"].values
    beyond = ((observed - expected) / columns["n_rows"].values)[..., says]
    coords = {dim: sums[dim] for dim in dims if dim in sums.coords}
    cells = text([*columns["cell"].values[says], *PLACES, *MASSES])
    values = np.concatenate([beyond, bare["places"].values], axis=-1)
    return xr.DataArray(values, dims=(*dims, "cell"), coords={**coords, "cell": cells})


def without_rounding(excess: xr.DataArray) -> xr.DataArray:
    """Excesses of single problems, 0 where below 1e-6: a test would find rounding in every problem alike."""
    return excess.where(abs(excess) >= MASS_FLOOR, 0.0)


@cache
def _pattern_columns(n_thoughts: int) -> xr.Dataset:
    """Of every cell set: its name as a `cell`, what an even split gives it, its rows, and whether it says something."""
    sets = cell_sets(n_thoughts)
    labels = {"preference": "hub {}", "sequential": "sequential", "skip": "skip", "lag_preference": "lag{}"}
    n_earlier = np.arange(n_thoughts).clip(min=1)[:, None]
    names, even, n_rows = [], [], []
    for name, label in labels.items():
        in_row = sets[name].sum("key").transpose("query", ...)
        flat = in_row.values.reshape(n_thoughts, -1)
        place = in_row[in_row.dims[1]].values if in_row.ndim > 1 else [""]
        names += [label.format(each) for each in place]
        even.append(flat / n_earlier)
        n_rows.append((flat > 0).sum(0))
    rows = np.concatenate(n_rows)
    # A hub is preferred by more than one row; lag 1 is sequential.
    least = np.array([2 if name.startswith("hub ") else 1 for name in names])
    says = (rows >= least) & (np.array(names) != "lag1")
    values = {"even": (("query", "cell"), np.concatenate(even, axis=1))}
    columns = {"n_rows": ("cell", rows.clip(min=1)), "says": ("cell", says)}
    return xr.Dataset({**values, **columns}, coords={"cell": text(names)}, attrs={"names": list(labels)})


def key_effects(means: xr.DataArray) -> xr.DataArray:
    """The effect of each key in a log-linear model of row, lag and key.

    log A[q, k] = row[q] + lag[q − k] + key[k] over the cells k < q of the rows that see two thoughts or more, A the
    mean attention, fitted by least squares.  Since lag = q − k, a straight line in k is a line in q less one in lag,
    and the model can't tell them apart (as age, period and cohort in epidemiology): the line is given to row and lag,
    and effect[k] is what is left of key[k] beyond the straight line through all keys.  These deviations are the same
    for every solution.  Range: natural logarithms, summing to 0; null 0: a head that looks back by lag alone, however
    steeply, has none.  A hub that draws e^d as much as its place explains has d · (1 − h), h its leverage on the line
    (of five keys .6 at the ends and .2 in the middle), and bends the effects of the others down beside it.

    The model holds for one kind of head: a mean over heads of several kinds is not log-linear, and may show small
    effects that no head has.

    Args:
        means: dims (…, query, key) or (…, query, thought), both the thoughts, positive below the diagonal.

    Returns:
        dims (…, key); NaN below four thoughts, where a mean is below 1e-6, and for the last thought, which none sees.

    Example:
        >>> thoughts = ["z1", "z2", "z3", "z4", "z5", "z6"]
        >>> follow = np.tri(6, k=-1) * 0.1 + np.eye(6, k=-1) * 0.5
        >>> even = xr.DataArray(follow, dims=("query", "key"), coords={"query": thoughts, "key": thoughts})
        >>> abs(key_effects(even)).max().item() < 1e-9
        True

    Reference: Holford (1983), Biometrics 39, for what such models identify.
    """
    cells = means.rename({"thought": "key"} if "thought" in means.dims else {}).transpose(..., "query", "key")
    n_thoughts = cells.sizes["key"]
    places, effects = _estimator(n_thoughts)
    values = cells.values[..., places[0], places[1]]
    known = np.asarray((values >= MASS_FLOOR).all(-1))
    found = np.full((*cells.shape[:-2], n_thoughts), np.nan)
    if len(effects):
        logarithms = np.log(np.where(known[..., None], values, 1.0))
        found[..., : n_thoughts - 1] = np.where(known[..., None], logarithms @ effects.T, np.nan)
    # What rounding leaves of nothing would be an effect in every problem alike.
    found[np.abs(found) < MASS_FLOOR] = 0.0
    return cells.isel(query=0, drop=True).copy(data=found).rename("effect")


def position_effects(samples: xr.DataArray, n_rows: int) -> xr.Dataset:
    """Key effects with intervals and two-sided p-values, from mean attention in every resample (resample, query, key).

    `effect` (key, value), `p` (key): Student's t of the effect over its bootstrap standard error, `n_rows` the problems
    (or blocks of them) that were resampled; NaN below 20, and never below 2 to the power of minus that number.
    """
    effects = key_effects(samples)
    observed, spread = effects.isel(resample=0, drop=True), effects.isel(resample=slice(1, None)).std("resample")
    t = abs(observed) / spread.where(spread > 0.0)
    t = t.fillna(xr.where(observed != 0.0, np.inf, 0.0)).where(observed.notnull())  # type: ignore[no-untyped-call]  # of xr.where
    p = 2.0 * xr.apply_ufunc(stdtr, max(1, n_rows - 1), -t)
    tested = p.clip(min=0.5 ** float(n_rows)).where(n_rows >= LEAST_PROBLEMS)
    return xr.Dataset({"effect": interval(effects), "p": tested}).isel(key=slice(None, -1))


@cache
def _estimator(n_thoughts: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The cells (queries, keys) of the model, and the matrix from their logarithms to effects; empty if undefined."""
    queries, keys = (places[1:] for places in np.tril_indices(n_thoughts, k=-1))
    if n_thoughts < 4:
        return (queries, keys), np.empty((0, 0))
    dummies = [np.equal.outer(of, np.unique(of)).astype(float) for of in (queries, queries - keys, keys)]
    n_keys = n_thoughts - 1
    line = np.column_stack([np.ones(n_keys), np.arange(n_keys)])
    beyond_line = np.eye(n_keys) - line @ np.linalg.pinv(line)
    return (queries, keys), beyond_line @ np.linalg.pinv(np.column_stack(dummies))[-n_keys:]
