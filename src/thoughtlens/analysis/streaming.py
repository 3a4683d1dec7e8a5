"""Turn a run into sums over its problems, in one pass: everything that a summary is made of.

Each piece of a few problems adds to the moments and, as weights @ values, to the sums of every bootstrap resample, of
every random half and of every sign flip. Memory holds (resamples × heads × sums) and never the attention of a run.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, counted_pieces
from thoughtlens.analysis.excess_cells import excess_cells, with_places, without_rounding
from thoughtlens.analysis.hubs import row_sums
from thoughtlens.analysis.metrics import composition, entropy_sums, preference_sums, readout_sums
from thoughtlens.analysis.moments import finish_moments, merge_moments, partial_moments
from thoughtlens.analysis.ranking import split_halves
from thoughtlens.analysis.significance import sign_flips
from thoughtlens.analysis.statistics import resample_weights, weighted_sums
from thoughtlens.errors import RunError

WAITING_BYTES = 64_000_000
"""Sums of single problems held at once: a matrix product of many problems is several times as fast."""


class Draws(NamedTuple):
    """Weights of problems, dims (resample, problem)."""

    resamples: xr.DataArray
    """how often each problem is drawn, the sample itself first"""
    halves: xr.DataArray
    """1 for the problems of the first half of each random split"""
    flips: xr.DataArray
    """signs, the sample itself first"""


class Totals(NamedTuple):
    """Sums over all problems of a run."""

    moments: xr.Dataset
    """mean, sd (layer, head, query, key); n (layer, head, query)"""
    sums: xr.Dataset
    """all that is added up, dims (resample, ...)"""
    halves: xr.Dataset
    """the same in the first half of each split, dims (resample, ...)"""
    flipped: xr.DataArray
    """excess under sign flips, dims (resample, layer, head, cell)"""
    squares: xr.Dataset
    """Σ excess² of the `heads` (layer, head, cell), of the mean head of `layers` (layer, cell) and of the `model`"""
    rows: xr.Dataset
    """what the hub test takes"""


def draw(n_problems: int, *, n_resamples: int, n_flips: int, seed: int) -> Draws:
    """Draw all weights before the pass, so that they don't depend on how the run is cut."""
    return Draws(
        resample_weights(n_problems, n_resamples=n_resamples, seed=seed),
        split_halves(n_problems, seed=seed),
        sign_flips(n_problems, n_flips=n_flips, seed=seed),
    )


def accumulate(blocks: Blocks, draws: Draws) -> Totals:
    """Add a run up under every weight, in one pass.

    Args:
        blocks: an attention Dataset, or its problems block by block.
        draws: as `draw` gives them, for as many problems.

    Raises:
        RunError: there are more or fewer problems than weights.
    """
    n_problems = draws.flips.sizes["problem"]
    sums = WeightedSums(xr.concat([draws.resamples, draws.halves], "resample"))
    flipped = WeightedSums(draws.flips)
    moments, squares, rows = None, None, None
    n_seen = 0
    for attention, n_question_tokens in counted_pieces(blocks):
        n_seen += attention.sizes["problem"]
        if n_seen > n_problems:
            raise RunError(f"found attention of more problems than the {n_problems} in `correct`; extract again.")
        part = _problem_sums(attention, n_question_tokens)
        excess = without_rounding(excess_cells(part))
        sums.add(part)
        flipped.add(xr.Dataset({"excess": excess}))
        moments = _merged(moments, partial_moments(attention))
        squares, rows = _added(squares, squares_of(excess)), _added(rows, row_sums(attention))
    if moments is None or squares is None or rows is None or n_seen < n_problems:
        raise RunError(f"found attention of {n_seen} problems, expected {n_problems} as in `correct`; extract again.")
    resampled, halves = _apart(sums.total(), draws.resamples.sizes["resample"])
    squares = squares.assign_coords(n=n_problems)
    return Totals(finish_moments(moments), resampled, halves, flipped.total()["excess"], squares, rows)


def add_weighted(sums: dict[str, xr.DataArray], part: xr.Dataset, drawn: xr.DataArray) -> None:
    """Add the sums of some problems to those of every resample, `drawn` being the weights of these problems."""
    # In place and a variable at a time: with many heads and thoughts the sums are the largest thing in memory.
    for name, values in part.data_vars.items():
        added = weighted_sums(values, drawn)
        if str(name) in sums:
            sums[str(name)].values += added.values
        else:
            sums[str(name)] = added


class WeightedSums:
    """Sums over problems under every weight; problems wait until there are enough for one large matrix product."""

    def __init__(self, weights: xr.DataArray) -> None:
        self._weights, self._waiting, self._n_added = weights, list[xr.Dataset](), 0
        self._sums: dict[str, xr.DataArray] = {}

    def add(self, part: xr.Dataset) -> None:
        """Add some problems, dims (problem, ...)."""
        self._waiting.append(part)
        if sum(waiting.nbytes for waiting in self._waiting) >= WAITING_BYTES:
            self._multiply()

    def total(self) -> xr.Dataset:
        """The sums, dims (resample, ...)."""
        self._multiply()
        return xr.Dataset(self._sums)

    def _multiply(self) -> None:
        if not self._waiting:
            return
        n_problems = sum(part.sizes["problem"] for part in self._waiting)
        drawn = self._weights.isel(problem=slice(self._n_added, self._n_added + n_problems))
        for name in map(str, self._waiting[0].data_vars):
            values = [part[name].drop_vars("problem", errors="ignore") for part in self._waiting]
            add_weighted(self._sums, xr.Dataset({name: xr.concat(values, "problem")}), drawn)
        self._waiting.clear()
        self._n_added += n_problems


def _problem_sums(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.Dataset:
    """Everything that is added up over problems: dims (problem, …)."""
    mean_row = attention.mean(("layer", "head"), skipna=False)
    parts = composition(mean_row)
    exists = parts.notnull().all("part")
    shares = readout_sums(mean_row)
    sums = preference_sums(attention)
    whole = with_places(sums, attention, n_question_tokens)
    return xr.merge([whole, entropy_sums(attention)], join="exact", compat="override").assign(
        composition=parts.where(exists, 0.0).rename(query="row"),
        readout=shares.rename(query="readout_row"),
        row_exists=exists.astype(np.float64).rename(query="row"),
    )


def squares_of(excess: xr.DataArray) -> xr.Dataset:
    """Σ x² over problems of `heads`, and of their mean in `layers` and in the `model`."""
    levels = {"heads": excess, "layers": excess.mean("head"), "model": excess.mean(("layer", "head"))}
    return xr.Dataset({name: (x**2).sum("problem") for name, x in levels.items()})


def _merged(moments: xr.Dataset | None, piece: xr.Dataset) -> xr.Dataset:
    return piece if moments is None else merge_moments(moments, piece)


def _added(total: xr.Dataset | None, piece: xr.Dataset) -> xr.Dataset:
    return piece if total is None else total + piece


def _apart(sums: xr.Dataset, n_first: int) -> tuple[xr.Dataset, xr.Dataset]:
    return sums.isel(resample=slice(n_first)), sums.isel(resample=slice(n_first, None))
