"""Turn attention into mass beyond its nulls, problem by problem and head by head: the cells that evidence is made of.

| measure | mass of a row | rows | null |
|---|---|---|---|
| hub | on one thought | the rows from z3 on that see it, two at least | row-mass-preserving |
| sequential | on the thought before | z3 … zT | row-mass-preserving |
| skip | on the first ⌈T/2⌉ thoughts | zT | row-mass-preserving |
| lag2 … | on the thought so many back | those from z3 on that see one so far back | row-mass-preserving |
| sink | on `first` | z3 … zT (all thoughts if there are fewer) | causal-uniform |
| self | on itself | the same | causal-uniform |
| readout | on all thoughts | `eot` and `answer`, where they exist | causal-uniform |
| thoughts | on earlier thoughts | z3 … zT (all thoughts if there are fewer) | causal-uniform |
| question | on the question but its first token | the same | causal-uniform |
| bot | on `bot` | the same | causal-uniform |

Sums of cells over problems are cells of sums: a run is added up, resampled and tested without holding it.
"""

from functools import cache

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import MASS_FLOOR, cell_sets, preference_sums
from thoughtlens.analysis.names import text
from thoughtlens.analysis.nulls import token_shares
from thoughtlens.labels import ANSWER, BOT, EOT, FIRST, QUESTION, thought_names
from thoughtlens.schema import n_thoughts_of

PATTERNS = ("hub", "sequential", "skip")
"""Measures of whom a row prefers among earlier thoughts: its mass on them is kept by the null."""

PLACES = ("sink", "self", "readout")
"""Measures of where a row's mass goes at all."""

MASSES = ("thoughts", "question", "bot")
"""The rest of a row's composition; they name no head, since every row has to look somewhere."""


def head_excess(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.DataArray:
    """What each problem and head has beyond the nulls: `excess_cells`, free of rounding.

    Args:
        attention: dims (problem, layer, head, query, key), rows summing to 1.
        n_question_tokens: prompt tokens before `bot`, dims (problem).
    """
    return without_rounding(excess_cells(with_places(preference_sums(attention), attention, n_question_tokens)))


def with_places(sums: xr.Dataset, attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.Dataset:
    """`preference_sums` and, as `places`, what `place_sums` gives."""
    return sums.assign(places=place_sums(attention, sums["mass"], n_question_tokens))


def place_sums(attention: xr.DataArray, mass: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.DataArray:
    """Mass of a row by where it goes, and of the readout rows on thoughts, less its causal-uniform share.

    Args:
        attention: dims (problem, ..., query, key), rows summing to 1.
        mass: what each thought gives to earlier ones, dims (problem, ..., query), as in `preference_sums`.
        n_question_tokens: prompt tokens before `bot`, dims (problem).

    Returns:
        float64, dims (problem, ..., place), `PLACES` and `MASSES`: the mean over its rows; of the readout rows, those
        that exist.
    """
    thoughts = thought_names(n_thoughts_of(attention))
    even = token_shares(len(thoughts), n_question_tokens.drop_vars("problem", errors="ignore"))
    rows = thoughts[2:] or thoughts
    own = xr.DataArray(rows, dims="row")
    reading = attention.sel(query=[EOT, ANSWER])
    # As in `causal_uniform`: the answer row keeps what it gives to answer tokens.
    expected = even.sel(query=[EOT, ANSWER], key=thoughts).sum("key") * (1.0 - reading.sel(key=ANSWER, drop=True))
    seen = even.sel(query=rows, key=thoughts)
    earlier = xr.DataArray(np.tri(len(thoughts), k=-1)[-len(rows) :], dims=("query", "key"), coords=seen.coords)
    places = {
        name: (attention.sel(query=rows, key=key) - even.sel(query=rows, key=key)).mean("query")
        for name, key in (("sink", FIRST), ("question", QUESTION), ("bot", BOT))
    } | {
        "thoughts": (mass.sel(query=rows) - (seen * earlier).sum("key")).mean("query"),
        "self": (attention.sel(query=own, key=own) - even.sel(query=own, key=own)).mean("row"),
        "readout": (reading.sel(key=thoughts).sum("key", skipna=False) - expected).mean("query"),
    }
    dims = [dim for dim in attention.dims if dim not in ("query", "key")]
    stacked = np.stack([places[name].transpose(*dims).values for name in (*PLACES, *MASSES)], axis=-1)
    coords = {dim: attention[dim] for dim in dims if dim in attention.coords}
    return xr.DataArray(stacked, dims=(*dims, "place"), coords={**coords, "place": text((*PLACES, *MASSES))})


def excess_cells(sums: xr.Dataset) -> xr.DataArray:
    """Attention mass a row beyond the null, from sums, of one problem or of many added up.

    excess(C) = Σ_{(q,k) in C} (A[q, k] − expected[q, k]) / number of rows of C.  Range −1 to 1 a problem.  Null 0.

    Args:
        sums: `preference_sums`, and `places` as `place_sums` gives it; any leading dims.

    Returns:
        float64, dims (..., cell), free of NaN; `cell` is `hub z1` … for the thoughts that may be a hub, and the names
        of the other measures. Measures that T thoughts can't show have no cell.
    """
    columns = _pattern_columns(sums.sizes["query"])
    dims = [dim for dim in sums["places"].dims if dim != "place"]
    parts = [sums[str(name)].transpose(*dims, ...).values for name in columns.attrs["names"]]
    observed = np.concatenate([part.reshape(*sums["places"].shape[:-1], -1) for part in parts], axis=-1)
    expected = sums["mass"].transpose(*dims, "query").values @ columns["even"].values
    beyond = ((observed - expected) / columns["n_rows"].values)[..., columns["says"].values]
    coords = {dim: sums[dim] for dim in dims if dim in sums.coords}
    cells = text([*columns["cell"].values[columns["says"].values], *PLACES, *MASSES])
    values = np.concatenate([beyond, sums["places"].values], axis=-1)
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
