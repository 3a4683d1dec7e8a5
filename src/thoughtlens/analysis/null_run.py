"""A run and a null run of the same problems become what the heads of the first do beyond those of the second.

The null run is one of the same architecture that has learnt nothing of the matter, such as one with random weights.

1. Both runs are read together. In each problem, each head of the run is held against the mean head of its layer in the
   null run: under random weights the heads of a layer are exchangeable, and head 3 of one is not head 3 of the other.
2. A row that only one of them has, such as that of an answer, is left out of both.
3. What is compared is excess over the nulls of `excess_cells`, so that a run which merely gives thoughts more mass is
   no evidence of a hub. The differences are tested as all evidence is.

Problems are the replicates: intervals and p-values say nothing of other random weights, of which a run is one draw.
"""

import numpy as np
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, counted_pieces
from thoughtlens.analysis.evidence import Levels, evidence_of_levels
from thoughtlens.analysis.excess_cells import head_excess, without_rounding
from thoughtlens.analysis.significance import sign_flips
from thoughtlens.analysis.statistics import resample_weights
from thoughtlens.analysis.streaming import WeightedSums, squares_of
from thoughtlens.errors import RunError
from thoughtlens.schema import n_thoughts_of


def evidence_over_run(
    blocks: Blocks, null: Blocks, *, n_problems: int, n_resamples: int = 1000, n_flips: int = 1000, seed: int = 0
) -> Levels:
    """What heads, layers and the model do beyond a null run, with intervals, p-values and types.

    x[problem, layer, head] = excess of the head − mean over heads of the excess of that layer in the null run, for each
    measure of `evidence`.  Range −2 to 2.  Null 0, one-sided p (more than the null run).

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
