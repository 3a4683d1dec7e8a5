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

from functools import cache

import numpy as np
import xarray as xr

from thoughtlens.analysis.metrics import MASS_FLOOR, cell_sets
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

TYPES = (*PATTERNS, *PLACES, DIFFUSE)
"""What `head_types` may call a head."""

LEAST_EXCESS = 0.05
"""Attention mass a row, beyond the null, that names a head: with enough problems any trifle is significant."""

LEVEL = 0.05
"""Largest q-value that names a head."""


def place_sums(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.DataArray:
    """Mass on `first`, on itself, and of the readout rows on thoughts, less its causal-uniform share.

    Args:
        attention: dims (problem, ..., query, key), rows summing to 1.
        n_question_tokens: prompt tokens before `bot`, dims (problem).

    Returns:
        float64, dims (problem, ..., place): the mean over its rows; of the readout rows, those that exist.
    """
    thoughts = thought_names(n_thoughts_of(attention))
    even = token_shares(len(thoughts), n_question_tokens.drop_vars("problem", errors="ignore"))
    rows = thoughts[2:] or thoughts
    own = xr.DataArray(rows, dims="row")
    reading = attention.sel(query=[EOT, ANSWER])
    # As in `causal_uniform`: the answer row keeps what it gives to answer tokens.
    expected = even.sel(query=[EOT, ANSWER], key=thoughts).sum("key") * (1.0 - reading.sel(key=ANSWER, drop=True))
    places = {
        "sink": (attention.sel(query=rows, key=FIRST) - even.sel(query=rows, key=FIRST)).mean("query"),
        "self": (attention.sel(query=own, key=own) - even.sel(query=own, key=own)).mean("row"),
        "readout": (reading.sel(key=thoughts).sum("key", skipna=False) - expected).mean("query"),
    }
    dims = [dim for dim in attention.dims if dim not in ("query", "key")]
    stacked = np.stack([places[name].transpose(*dims).values for name in PLACES], axis=-1)
    coords = {dim: attention[dim] for dim in dims if dim in attention.coords}
    return xr.DataArray(stacked, dims=(*dims, "place"), coords={**coords, "place": text(PLACES)})


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
    cells = text([*columns["cell"].values[columns["says"].values], *PLACES])
    values = np.concatenate([beyond, sums["places"].values], axis=-1)
    return xr.DataArray(values, dims=(*dims, "cell"), coords={**coords, "cell": cells})


def without_rounding(excess: xr.DataArray) -> xr.DataArray:
    """Excesses of single problems, 0 where below 1e-6: a test would find rounding in every problem alike."""
    return excess.where(abs(excess) >= MASS_FLOOR, 0.0)


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
    is_hub = np.strings.startswith(sums["cell"].values, "hub ")
    alone = _tested(means.isel(cell=~is_hub), z.isel(cell=~is_hub), confidence)
    nameless = alone["p"].isel(measure=0, drop=True)
    found, hub = [alone], nameless.copy(data=text(np.full(nameless.shape, "")))
    if is_hub.any():
        hubs = _tested_hub(means.isel(cell=is_hub), z.isel(cell=is_hub), confidence)
        found, hub = [hubs.drop_vars("hub"), alone], hubs["hub"]
    joined = xr.concat(found, "measure", data_vars="minimal", coords="minimal", compat="override")
    return joined.reindex(measure=text(measures(n_thoughts))).assign(hub=hub)


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
    enough = excess.where(passing(found), -np.inf)
    names = np.full(enough.isel(measure=0).shape, DIFFUSE, dtype=object)
    for group in (PLACES, PATTERNS):
        some = enough.sel(measure=list(group)).transpose(..., "measure").values
        names = np.where(np.isfinite(some).any(-1), np.array(group, dtype=object)[some.argmax(-1)], names)
    return excess.isel(measure=0, drop=True).copy(data=text(names)).rename("type")


def type_counts(types: xr.DataArray) -> dict[str, int]:
    """How many heads there are of each of `TYPES`."""
    return {name: int((types == name).sum()) for name in TYPES}


def passing(found: xr.Dataset) -> xr.DataArray:
    """Which measures pass: an excess of at least `LEAST_EXCESS` and q < `LEVEL`; dims (..., measure)."""
    large: xr.DataArray = found["excess"].sel(value="estimate", drop=True) >= LEAST_EXCESS
    return large & (found["q"] < LEVEL)


def _tested(means: xr.DataArray, z: xr.DataArray, confidence: float) -> xr.Dataset:
    """Each cell as a measure of its own."""
    units = _units(z)
    p, familywise = (flip_p_values(z, over=over, alternative="greater") for over in ((), units))
    tests = {"p": p, "q": benjamini_hochberg(p, over=units) if units else p, "p_familywise": familywise}
    found = xr.Dataset({"excess": interval(means, confidence=confidence), **tests}).rename(cell="measure")
    return found.transpose(*units, "measure", "value")


def _tested_hub(means: xr.DataArray, z: xr.DataArray, confidence: float) -> xr.Dataset:
    """The cell with the largest mean, tested against the largest of all of them in each flip."""
    units = _units(z)
    largest = means.isel(resample=0, drop=True)
    place = largest.argmax("cell")
    p, familywise = (
        flip_p_values(z, over=over, alternative="greater").isel(cell=place) for over in (("cell",), (*units, "cell"))
    )
    tests = {"p": p, "q": benjamini_hochberg(p), "p_familywise": familywise}
    excess = interval(means.isel(cell=place), confidence=confidence)
    names = np.strings.replace(z["cell"].values[place.values], "hub ", "")
    hub = place.copy(data=text(np.where(largest.max("cell").values > 0.0, names, "")))
    found = xr.Dataset({"excess": excess, **tests}).drop_vars("cell").expand_dims(measure=text(["hub"]))
    return found.transpose(*units, "measure", "value").assign(hub=hub)


def _units(z: xr.DataArray) -> tuple[str, ...]:
    """Heads, layers, or nothing for the model: what is corrected together."""
    return tuple(str(dim) for dim in z.dims if dim not in ("resample", "cell"))


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
