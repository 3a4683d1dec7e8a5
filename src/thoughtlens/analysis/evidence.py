"""Turn attention into what heads do beyond their nulls: excess attention with an interval, p and q, and a type.

1. `excess_cells` has what each problem and head have beyond the nulls, in a few numbers. They are added up over
   problems like all else, under resample weights for intervals and under flipped signs for p-values.
2. `evidence` turns those sums into one number a measure; `evidence_of_levels` does for heads, layers and the model.
3. `head_types` names each head by what it shows.

Attention is correlational: a type says where a head looks, not what it does.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.excess_cells import MASSES, PATTERNS, PLACES
from thoughtlens.analysis.names import text
from thoughtlens.analysis.significance import benjamini_hochberg, flip_p_values, studentised
from thoughtlens.analysis.statistics import interval

DIFFUSE = "diffuse"

TYPES = (*PATTERNS, *PLACES, DIFFUSE)
"""What `head_types` may call a head."""

LEAST_EXCESS = 0.05
"""Attention mass a row, beyond the null, that names a head: with enough problems any trifle is significant."""

LEVEL = 0.05
"""Largest q-value that names a head."""


class Levels(NamedTuple):
    """Evidence of heads, layers and the model, each as `evidence` gives it."""

    heads: xr.Dataset
    """dims (layer, head, …), with the `type` of each head"""
    layers: xr.Dataset
    """of the mean head of each layer: dims (layer, …)"""
    model: xr.Dataset
    """of the mean head of all layers"""


def evidence_of_levels(
    excess: xr.DataArray, flipped: xr.DataArray, squares: xr.Dataset, *, n_thoughts: int, confidence: float = 0.95
) -> Levels:
    """`evidence` of every head, of the mean head of each layer, and of the mean of all.

    Args:
        excess: Σ w·excess over problems, dims (resample, layer, head, cell), the first resample the sample itself.
        flipped: Σ s·excess over problems, dims (resample, layer, head, cell), the first flip the sample itself.
        squares: Σ excess² of the `heads` and of the mean head of `layers` and of the `model`, with the coord `n`.
        n_thoughts: T.
        confidence: of the intervals.
    """
    heads, layers, model = (
        evidence(
            _mean(excess, over), _mean(flipped, over), squares[level], n_thoughts=n_thoughts, confidence=confidence
        )
        for level, over in (("heads", []), ("layers", ["head"]), ("model", ["layer", "head"]))
    )
    return Levels(heads.assign(type=head_types(heads)), layers, model)


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
    return [*PATTERNS, *PLACES, *MASSES, *(f"lag{lag}" for lag in range(2, n_thoughts))]


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


def _mean(values: xr.DataArray, over: list[str]) -> xr.DataArray:
    # A mean over nothing would be a copy of the largest array there is.
    return values.mean(over) if over else values


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
