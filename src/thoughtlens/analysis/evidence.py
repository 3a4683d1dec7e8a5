"""Turn attention into what heads do beyond their nulls: excess attention with an interval, p and q, and a type.

1. `excess_cells` gives each problem and head a few numbers, attention mass beyond a null in a mean row. They are
   added up over problems like all else, under resample weights for intervals and under flipped signs for p-values.
2. `evidence` turns those sums into one number a measure. Layers and the model are means over their heads.
3. `head_types` names each head by what it shows.

| measure | mass of a row | rows | null |
|---|---|---|---|
| hub | on one thought | the rows from z3 on that see it, two at least | row-mass-preserving |
| sequential | on the thought before | z3 … zT | row-mass-preserving |
| skip | on the first ⌈T/2⌉ thoughts | zT | row-mass-preserving |
| lag2 … | on the thought so many back | those from z3 on that see one so far back | row-mass-preserving |
| sink | on `first` | z3 … zT (all thoughts if there are fewer) | causal-uniform |
| self | on itself | the same | causal-uniform |
| readout | on all thoughts | `eot` and `answer`, where they exist | causal-uniform |

Attention is correlational: a type says where a head looks, not what it does.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import MASS_FLOOR, cell_sets, expected_sums
from thoughtlens.analysis.names import text
from thoughtlens.analysis.nulls import token_shares
from thoughtlens.analysis.significance import benjamini_hochberg, flip_p_values, studentised
from thoughtlens.analysis.statistics import interval
from thoughtlens.labels import ANSWER, EOT, FIRST, thought_names
from thoughtlens.schema import n_thoughts_of

PATTERNS = ("hub", "sequential", "skip")
"""Measures of whom a row prefers among earlier thoughts: its mass on them is kept by the null."""

PLACES = ("sink", "self", "readout")
"""Measures of where a row's mass goes at all."""

DIFFUSE = "diffuse"

LEAST_EXCESS = 0.05
"""Attention mass a row, beyond the null, that names a head: with enough problems any trifle is significant."""

LEVEL = 0.05
"""Largest q-value that names a head."""


def excess_cells(attention: xr.DataArray, sums: xr.Dataset, n_question_tokens: xr.DataArray) -> xr.DataArray:
    """Attention mass a row beyond the null, for every problem and head.

    excess(C) = Σ_{(q,k) in C} (A[q, k] − expected[q, k]) / number of rows of C.  Range −1 to 1.  Null 0.  Excesses
    below 1e-6 are rounding and count as 0, lest a test find them in every problem.

    Args:
        attention: dims (problem, ..., query, key), rows summing to 1.
        sums: its `preference_sums`.
        n_question_tokens: prompt tokens before `bot`, dims (problem).

    Returns:
        float64, dims (problem, ..., cell), free of NaN; `cell` is `hub z1` … for the thoughts that may be a hub, and
        the names of the other measures. Measures that T thoughts can't show have no cell.
    """
    n_tokens = n_question_tokens.drop_vars("problem", errors="ignore")
    found = {**_pattern_cells(sums, n_thoughts_of(attention)), **_place_cells(attention, n_tokens)}
    dims = [dim for dim in attention.dims if dim not in ("query", "key")]
    values = np.stack([value.transpose(*dims).values for value in found.values()], axis=-1)
    values[np.abs(values) < MASS_FLOOR] = 0.0
    coords = {dim: attention[dim] for dim in dims if dim in attention.coords}
    return xr.DataArray(values, dims=(*dims, "cell"), coords={**coords, "cell": text(list(found))})


def evidence(
    sums: xr.DataArray, flipped: xr.DataArray, squares: xr.DataArray, *, n_thoughts: int, confidence: float = 0.95
) -> xr.Dataset:
    """Excess over the null of every measure, with interval, p-value and corrections over heads (or layers).

    Without a preference −x is as likely as x: `p` is the share of sign flips whose studentised mean reaches the
    observed one, one-sided (more than the null); `q` corrects it over heads by Benjamini and Hochberg; `p_familywise`
    compares it with the largest of all heads in each flip (max-T).

    The hub is the thought with the largest excess. It is chosen on the data that test it, so all its p-values compare
    it with the largest of *all* thoughts of the head in each flip: max-T within the head, valid for any choice. Its
    excess and interval are those of the chosen thought: a little too large where no thought stands out.

    Args:
        sums: Σ w·excess over problems, dims (resample, ..., cell), the first resample the sample itself.
        flipped: Σ s·excess over problems, dims (resample, ..., cell), the first flip the sample itself.
        squares: Σ excess² over problems, dims (..., cell), and the scalar coord `n`, their number.
        n_thoughts: T.
        confidence: of the intervals.

    Returns:
        `excess` (..., measure, value), `p`, `q`, `p_familywise` (..., measure), and the chosen `hub` (...), "" where
        none has an excess (or T < 4); NaN for measures that T thoughts can't show.
    """
    means = (sums / squares["n"]).drop_vars("n")
    z = studentised(flipped, squares).drop_vars("n")
    groups: dict[str, list[str]] = {}
    for cell in map(str, sums["cell"].values):
        groups.setdefault(cell.split()[0], []).append(cell)
    tested = {name: _tested(means.sel(cell=cells), z.sel(cell=cells), confidence) for name, cells in groups.items()}
    measure = xr.DataArray(text(list(tested)), dims="measure", name="measure")
    found = xr.concat([table.drop_vars("cell") for table in tested.values()], measure, coords="minimal")
    hub = tested["hub"]["cell"] if "hub" in tested else None
    return _ordered(found, n_thoughts).assign(hub=_hub_names(found, hub))


def measures(n_thoughts: int) -> list[str]:
    """The measures of evidence, in the order in which they are shown."""
    return [*PATTERNS, *PLACES, *(f"lag{lag}" for lag in range(2, n_thoughts))]


def head_types(found: xr.Dataset) -> xr.DataArray:
    """Name each head by what it shows beyond the nulls.

    1. A measure passes with an excess of at least 0.05 of a row's attention (`LEAST_EXCESS`) and q < 0.05 (`LEVEL`).
    2. The type is the largest that passes among hub, sequential and skip: whom the head prefers among thoughts;
    3. else the largest that passes among sink, self and readout: where its attention goes at all;
    4. else `diffuse`.

    The two groups are not compared with each other since their nulls leave unlike room: a head that treats `first` as
    one more thought is far above its share of all tokens, and shows nothing by it.

    Args:
        found: as `evidence` gives it.

    Returns:
        Names, dims (...) without measure.
    """
    excess = found["excess"].sel(value="estimate", drop=True)
    passing = excess.where((excess >= LEAST_EXCESS) & (found["q"] < LEVEL), -np.inf)
    names = np.full(passing.isel(measure=0).shape, DIFFUSE, dtype=object)
    for group in (PLACES, PATTERNS):
        some = passing.sel(measure=list(group)).transpose(..., "measure").values
        names = np.where(np.isfinite(some).any(-1), np.array(group, dtype=object)[some.argmax(-1)], names)
    return excess.isel(measure=0, drop=True).copy(data=text(names)).rename("type")


def _tested(means: xr.DataArray, z: xr.DataArray, confidence: float) -> xr.Dataset:
    """The cell with the largest mean, tested against the largest of all of them in each flip."""
    units = tuple(str(dim) for dim in z.dims if dim not in ("resample", "cell"))
    chosen = means.isel(resample=0, drop=True).argmax("cell")
    p, familywise = (
        flip_p_values(z, over=over, alternative="greater").isel(cell=chosen) for over in (("cell",), (*units, "cell"))
    )
    excess = interval(means.isel(cell=chosen), confidence=confidence)
    return xr.Dataset({"excess": excess, "p": p, "q": benjamini_hochberg(p), "p_familywise": familywise})


def _ordered(found: xr.Dataset, n_thoughts: int) -> xr.Dataset:
    ordered = found.reindex(measure=text(measures(n_thoughts)))
    return ordered.transpose(..., "measure", "value", missing_dims="ignore")


def _hub_names(found: xr.Dataset, chosen: xr.DataArray | None) -> xr.DataArray:
    largest = found["excess"].sel(value="estimate", drop=True).isel(measure=0, drop=True)
    if chosen is None:
        return largest.copy(data=text(np.full(largest.shape, "")))
    names = np.strings.replace(chosen.values, "hub ", "")
    positive = found["excess"].sel(value="estimate", measure="hub").values > 0.0
    return largest.copy(data=text(np.where(positive, names, "")))


def _pattern_cells(sums: xr.Dataset, n_thoughts: int) -> dict[str, xr.DataArray]:
    """Observed − expected of each cell set that says something, a row of it."""
    expected, sets = expected_sums(sums), cell_sets(n_thoughts)
    found: dict[str, xr.DataArray] = {}
    for name, label, least_rows in (
        ("preference", "hub {}", 2),
        ("sequential", "sequential", 1),
        ("skip", "skip", 1),
        ("lag_preference", "lag{}", 1),
    ):
        n_rows = (sets[name].sum("key") > 0).sum("query")
        beyond = (sums[name] - expected[name]) / n_rows.clip(min=1)
        places = [dim for dim in ("thought", "lag") if dim in n_rows.dims]
        for place in n_rows[places[0]].values if places else [None]:
            at = {places[0]: place} if places else {}
            # Lag 1 is sequential.
            if n_rows.sel(at) >= least_rows and at.get("lag") != 1:
                found[label.format(place)] = beyond.sel(at, drop=True)
    return found


def _place_cells(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> dict[str, xr.DataArray]:
    """Mass on `first`, on itself and of the readout rows on thoughts, less its causal-uniform share."""
    thoughts = thought_names(n_thoughts_of(attention))
    even = token_shares(len(thoughts), n_question_tokens)
    rows = thoughts[2:] or thoughts
    own = xr.DataArray(rows, dims="row")
    reading = attention.sel(query=[EOT, ANSWER])
    # As in `causal_uniform`: the answer row keeps what it gives to answer tokens.
    expected = even.sel(query=[EOT, ANSWER], key=thoughts).sum("key") * (1.0 - reading.sel(key=ANSWER, drop=True))
    return {
        "sink": (attention.sel(query=rows, key=FIRST) - even.sel(query=rows, key=FIRST)).mean("query"),
        "self": (attention.sel(query=own, key=own) - even.sel(query=own, key=own)).mean("row"),
        "readout": (reading.sel(key=thoughts).sum("key", skipna=False) - expected).mean("query"),
    }
