"""The evidence of heads, layers and the model: attention beyond the nulls or beyond a null run, tested.

In: what each problem and head have beyond the nulls (`excess_cells`), added up over problems under resample weights and
under flipped signs. Out: excess with intervals, p-values and corrections for each measure, and a type for each head.
Whether there is a hub is not tested again: `hub_test` has decided it.

A *null run* has the same architecture and problems and has learnt nothing of the matter, such as one with random
weights. In each problem each head of the run is compared with the mean head of its layer in the null run: under random
weights the heads of a layer are exchangeable. What is compared is excess over the nulls, so that a run which merely
gives thoughts more mass is no evidence of a hub. Problems are the replicates: intervals and p-values say nothing of
other random weights. Attention is correlational: a type says where a head looks, not what it does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.heads import LEAST_EXCESS, LEVEL, head_types
from thoughtlens.analysis.hubs import hub_tests, row_sums
from thoughtlens.analysis.nulls import MASSES, PATTERNS, PLACES, head_excess, without_rounding
from thoughtlens.analysis.pieces import Blocks, in_pieces
from thoughtlens.analysis.significance import benjamini_hochberg, flip_p_values, studentised
from thoughtlens.analysis.statistics import interval
from thoughtlens.analysis.sums import ExcessSums
from thoughtlens.errors import RunError
from thoughtlens.notation import text


class Levels(NamedTuple):
    """`excess` (…, measure, value), `p`, `q`, `p_familywise` (…, measure), `hub` and `strongest` thought (…)."""

    heads: xr.Dataset
    """dims (layer, head, …), with the `type` of each head"""
    layers: xr.Dataset
    """of the mean head of each layer: dims (layer, …)"""
    model: xr.Dataset
    """of the mean head of all layers"""


def evidence_of_levels(
    excess: xr.DataArray,
    flipped: xr.DataArray,
    squares: xr.Dataset,
    hubs: Sequence[xr.Dataset],
    *,
    n_thoughts: int,
    over_run: bool = False,
) -> Levels:
    """Excess over the null of every measure, with interval, p-value and corrections, for heads, layers and the model.

    `excess` and `flipped` are Σ over problems (resample, layer, head, cell), the first the sample itself; `squares` is
    Σ excess² by level, with the coord `n`; `hubs` are the `hub_tests` of the run.
    """
    # p: the share of flips whose studentised mean reaches the observed one, one-sided; q: the same after Benjamini and
    # Hochberg over heads (or layers); p_familywise: against the largest of all heads in each flip. The measure `hub`
    # has the p and q of `hub_test`. Over a null run sign flips say whether the hub is beyond that run: p compares with
    # the largest of all thoughts in each flip, since the thought was chosen on the same data, and q is 1 where the run
    # has no hub by `hub_test`, or one of less than `LEAST_EXCESS` beyond the null run.
    levels = []
    for level, over, tested in zip(("heads", "layers", "model"), ([], ["head"], ["layer", "head"]), hubs, strict=True):
        # A mean over nothing would be a copy of the largest array there is.
        sums, signed = (values.mean(over) if over else values for values in (excess, flipped))
        means = (sums / squares["n"]).drop_vars("n")
        z = studentised(signed, squares[level]).drop_vars("n")
        of_hub = np.strings.startswith(means["cell"].values, "hub ")
        found = [_tested(means.isel(cell=~of_hub), z.isel(cell=~of_hub))]
        if of_hub.any():
            found.insert(0, _hub(means.isel(cell=of_hub), z.isel(cell=of_hub), tested, over_run))
        joined = xr.concat(found, "measure", data_vars="minimal", coords="minimal", compat="override")
        levels.append(joined.reindex(measure=text(measures(n_thoughts))).assign(tested[["hub", "strongest"]]))
    heads, layers, model = levels
    return Levels(heads.assign(type=head_types(heads)), layers, model)


def measures(n_thoughts: int) -> list[str]:
    """The measures of evidence for T thoughts, in the order in which they are shown."""
    return [*PATTERNS, *PLACES, *MASSES, *(f"lag{lag}" for lag in range(2, n_thoughts))]


def find_types(blocks: Blocks, *, n_problems: int, n_flips: int = 1000, seed: int = 0) -> xr.DataArray:
    """The types of heads (layer, head) as `analyze` finds them, and nothing else."""
    added, rows = ExcessSums(n_problems, n_flips=n_flips, seed=seed), None
    for piece in in_pieces(blocks):
        added.add(head_excess(piece["attention"], piece["n_question_tokens"]))
        these = row_sums(piece["attention"])
        rows = these if rows is None else rows + these
    if rows is None:
        raise RunError("found no problems to find types on; extract at least one problem first.")
    flipped, squares = added.total()
    # The first flip is the sample itself, and types need no interval.
    excess, n_thoughts = flipped.isel(resample=[0, 0]), rows.sizes["query"]
    hubs = hub_tests(rows, seed=seed)
    squares = squares.assign_coords(n=n_problems)
    return evidence_of_levels(excess, flipped, squares, hubs, n_thoughts=n_thoughts).heads["type"]


def excess_over_run(own: xr.Dataset, null: xr.Dataset) -> xr.DataArray:
    """Excess of each head less the mean head's of its layer in the null run, dims (problem, layer, head, cell).

    Both are pieces of the same problems, or `RunError` is raised.
    """
    attention, expected = own["attention"], null["attention"]
    # Labels that differ would be left out by the subtraction without a word.
    if not all(np.array_equal(attention[dim].values, expected[dim].values) for dim in attention.dims):
        found, other = (", ".join(f"{size} {dim}" for dim, size in of.sizes.items()) for of in (attention, expected))
        raise RunError(
            f"the null run has {other} and the run {found}, or other problems; take one of the same "
            "architecture, number of thoughts and problems."
        )
    # An untrained model hardly ever reaches an answer, and `eot` alone is not the readout: rows that only one of the
    # two has are left out of both.
    rows, null_rows = attention.where(expected.notnull()), expected.where(attention.notnull())
    excess = head_excess(rows, own["n_question_tokens"]).drop_vars("problem", errors="ignore")
    mean_head = head_excess(null_rows, null["n_question_tokens"]).mean("head").drop_vars("problem", errors="ignore")
    return without_rounding(excess - mean_head).transpose(*excess.dims)


def _tested(means: xr.DataArray, z: xr.DataArray) -> xr.Dataset:
    """Each cell as a measure of its own."""
    units = _units(z)
    p, familywise = (flip_p_values(z, over=over, alternative="greater") for over in ((), units))
    tests = {"p": p, "q": benjamini_hochberg(p, over=units) if units else p, "p_familywise": familywise}
    found = xr.Dataset({"excess": interval(means), **tests}).rename(cell="measure")
    return found.transpose(*units, "measure", "value")


def _hub(means: xr.DataArray, z: xr.DataArray, hubs: xr.Dataset, over_run: bool) -> xr.Dataset:
    """The measure `hub`: the cell of the thought that `hub_test` tests, with the p-values that say what it is worth."""
    units = _units(z)
    names = np.strings.replace(means["cell"].values, "hub ", "")
    named, defined = hubs["strongest"], hubs["strength"].notnull()
    place = named.copy(data=(named.values[..., None] == names).argmax(-1))
    excess = interval(means.isel(cell=place)).where(defined)
    tests = {"p": hubs["p"], "q": hubs["p_corrected"], "p_familywise": xr.full_like(hubs["p"], np.nan)}
    if over_run:
        p, familywise = (
            flip_p_values(z, over=over, alternative="greater").isel(cell=place).where(defined)
            for over in (("cell",), (*units, "cell"))
        )
        beyond = (hubs["p_corrected"] < LEVEL) & (excess.sel(value="estimate", drop=True) >= LEAST_EXCESS)
        q = benjamini_hochberg(p) if units else p
        tests = {"p": p, "q": q.where(beyond | q.isnull(), 1.0), "p_familywise": familywise}
    found = xr.Dataset({"excess": excess, **tests}).drop_vars("cell", errors="ignore")
    return found.expand_dims(measure=text(["hub"])).transpose(*units, "measure", "value")


def _units(z: xr.DataArray) -> tuple[str, ...]:
    """Heads, layers, or nothing for the model: what is corrected together."""
    return tuple(str(dim) for dim in z.dims if dim not in ("resample", "cell"))
