"""Turn attention into what heads do beyond their nulls: excess attention with an interval, p and q, and a type.

1. `excess_cells` has what each problem and head have beyond the nulls, in a few numbers. They are added up over
   problems like all else, under resample weights for intervals and under flipped signs for p-values.
2. `find_evidence`: one number a measure from those sums; `evidence_of_levels`: the same for heads, layers, the model.
3. `head_types` names each head by what it shows.

Attention is correlational: a type says where a head looks, not what it does.

A run and a null run of the same problems become what the heads of the first do beyond those of the second.

The null run is one of the same architecture that has learnt nothing of the matter, such as one with random weights.

1. Both runs are read together. In each problem, each head of the run is held against the mean head of its layer in the
   null run: under random weights the heads of a layer are exchangeable, and head 3 of one is not head 3 of the other.
2. A row that only one of them has, such as that of an answer, is left out of both.
3. What is compared is excess over the nulls of `excess_cells`, so that a run which merely gives thoughts more mass is
   no evidence of a hub. The differences are tested as all evidence is.

Problems are the replicates: intervals and p-values say nothing of other random weights, of which a run is one draw.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.nulls import MASSES, PATTERNS, PLACES, head_excess, without_rounding
from thoughtlens.analysis.pieces import Blocks, counted_pieces
from thoughtlens.analysis.significance import benjamini_hochberg, flip_p_values, sign_flips, studentised
from thoughtlens.analysis.statistics import interval, resample_weights
from thoughtlens.analysis.sums import WeightedSums, squares_of
from thoughtlens.errors import RunError
from thoughtlens.names import text
from thoughtlens.schema import n_thoughts_of

DIFFUSE = "diffuse"

TYPES = (*PATTERNS, *PLACES, DIFFUSE)
"""What `head_types` may call a head."""

LEAST_EXCESS = 0.05
"""Attention mass a row, beyond the null, that names a head: with enough problems any trifle is significant."""

LEVEL = 0.05
"""Largest q-value that names a head."""


class Levels(NamedTuple):
    """Evidence of heads, layers and the model, each as `find_evidence` gives it."""

    heads: xr.Dataset
    """dims (layer, head, …), with the `type` of each head"""
    layers: xr.Dataset
    """of the mean head of each layer: dims (layer, …)"""
    model: xr.Dataset
    """of the mean head of all layers"""


def evidence_of_levels(
    excess: xr.DataArray, flipped: xr.DataArray, squares: xr.Dataset, *, n_thoughts: int, confidence: float = 0.95
) -> Levels:
    """`find_evidence` of every head, of the mean head of each layer, and of the mean of all.

    Args:
        excess: Σ w·excess over problems, dims (resample, layer, head, cell), the first resample the sample itself.
        flipped: Σ s·excess over problems, dims (resample, layer, head, cell), the first flip the sample itself.
        squares: Σ excess² of the `heads` and of the mean head of `layers` and of the `model`, with the coord `n`.
        n_thoughts: T.
        confidence: of the intervals.
    """
    heads, layers, model = (
        find_evidence(
            _mean(excess, over), _mean(flipped, over), squares[level], n_thoughts=n_thoughts, confidence=confidence
        )
        for level, over in (("heads", []), ("layers", ["head"]), ("model", ["layer", "head"]))
    )
    return Levels(heads.assign(type=head_types(heads)), layers, model)


def find_evidence(
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
        found: as `find_evidence` gives it.

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


def evidence_over_run(
    blocks: Blocks, null: Blocks, *, n_problems: int, n_resamples: int = 1000, n_flips: int = 1000, seed: int = 0
) -> Levels:
    """What heads, layers and the model do beyond a null run, with intervals, p-values and types.

    x[problem, layer, head] = excess of the head − mean over heads of the excess of that layer in the null run, for each
    measure of `find_evidence`.  Range −2 to 2.  Null 0, one-sided p (more than the null run).

    Args:
        blocks: an attention Dataset, or its problems block by block.
        null: of the same problems in the same order and cut, of as many layers, heads and thoughts.
        n_problems: how many there are.
        n_resamples: bootstrap resamples of the problems.
        n_flips: sign flips of the problems; up to 12 problems all are listed.
        seed: same seed, same intervals and p-values; the resamples are those of `analyze`.

    Returns:
        As `evidence_of_levels`, with `n`.

    Raises:
        RunError: the two are of other problems or shapes.
    """
    resamples = resample_weights(n_problems, n_resamples=n_resamples, seed=seed)
    sums, flipped = WeightedSums(resamples), WeightedSums(sign_flips(n_problems, n_flips=n_flips, seed=seed))
    squares: xr.Dataset | None = None
    n_seen, n_thoughts = 0, 0
    for own, other in zip(counted_pieces(blocks), counted_pieces(null), strict=True):
        attention = own[0]
        _check_same(attention, other[0])
        rows, null_rows = _shared(attention, other[0])
        beyond = _beyond(head_excess(rows, own[1]), head_excess(null_rows, other[1]))
        for weighted in (sums, flipped):
            weighted.add(xr.Dataset({"excess": beyond}))
        part = squares_of(beyond)
        squares = part if squares is None else squares + part
        n_seen, n_thoughts = n_seen + attention.sizes["problem"], n_thoughts_of(attention)
    if squares is None or n_seen != n_problems:
        raise RunError(f"found attention of {n_seen} problems, expected {n_problems}; extract again.")
    totals = sums.total()["excess"], flipped.total()["excess"], squares.assign_coords(n=n_problems)
    options = {"n_resamples": n_resamples, "n_flips": n_flips, "seed": seed}
    found = evidence_of_levels(*totals, n_thoughts=n_thoughts)
    return Levels(*(level.assign(n=n_problems).assign_attrs(options) for level in found))


def _shared(attention: xr.DataArray, null: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The rows that both have: an untrained model hardly ever reaches an answer, and `eot` alone is not the readout."""
    return attention.where(null.notnull()), null.where(attention.notnull())


def _beyond(excess: xr.DataArray, null: xr.DataArray) -> xr.DataArray:
    mean_head = null.mean("head").drop_vars("problem", errors="ignore")
    return without_rounding(excess.drop_vars("problem", errors="ignore") - mean_head).transpose(*excess.dims)


def _check_same(attention: xr.DataArray, null: xr.DataArray) -> None:
    # Labels that differ would be left out by the subtraction without a word.
    alike = all(np.array_equal(attention[dim].values, null[dim].values) for dim in attention.dims)
    if not alike:
        raise RunError(
            f"the null run has {_sizes(null)} and the run {_sizes(attention)}, or other problems; take one of the same "
            "architecture, number of thoughts and problems."
        )


def _sizes(array: xr.DataArray) -> str:
    return ", ".join(f"{size} {dim}" for dim, size in array.sizes.items())
