"""Turn a run into sums over its problems, in one pass: everything that a summary is made of.

1. `measured` turns each piece of a few problems into a `Part`: numbers that add up over problems.
2. `accumulate` adds parts to the moments and, as weights @ values, to the sums of every bootstrap resample, of every
   random half and of every sign flip. Memory holds (resamples × heads × sums) and never the attention of a run.

What is resampled is a row of the parts: a problem, or a block of problems that were added up before (`kept`).
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.heads import row_sums, split_halves
from thoughtlens.analysis.metrics import composition, entropy_sums, preference_sums, readout_sums
from thoughtlens.analysis.nulls import excess_cells, with_places, without_rounding
from thoughtlens.analysis.pieces import Blocks, counted_pieces, finish_moments, merge_moments, partial_moments
from thoughtlens.analysis.significance import sign_flips
from thoughtlens.analysis.statistics import resample_weights, weighted_sums
from thoughtlens.errors import RunError

WAITING_BYTES = 64_000_000
"""Sums of single problems held at once: a matrix product of many problems is several times as fast."""


class Part(NamedTuple):
    """What some problems add to the sums of a run."""

    sums: xr.Dataset
    """dims (problem, …), a row a problem or a block of problems; `n` (problem), how many problems a row stands for"""
    moments: xr.Dataset
    """as `partial_moments` gives them"""
    rows: xr.Dataset
    """as `row_sums` gives them"""


class Draws(NamedTuple):
    """Weights of problems, or of blocks of them, dims (resample, problem)."""

    resamples: xr.DataArray
    """how often each problem is drawn, the sample itself first"""
    halves: xr.DataArray
    """1 for the problems of the first half of each random split"""
    flips: xr.DataArray
    """signs, the sample itself first"""


class Totals(NamedTuple):
    """Sums over all problems of a run; `problem` in what follows is what was resampled, a problem or a block."""

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


def measured(blocks: Blocks) -> Iterator[Part]:
    """What the problems of a run add to its sums, a few at a time.

    Args:
        blocks: an attention Dataset, or its problems block by block.
    """
    for attention, n_question_tokens in counted_pieces(blocks):
        yield Part(problem_sums(attention, n_question_tokens), partial_moments(attention), row_sums(attention))


def problem_sums(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.Dataset:
    """Everything of single problems that is added up under weights.

    Args:
        attention: dims (problem, layer, head, query, key).
        n_question_tokens: prompt tokens before `bot`, dims (problem).

    Returns:
        float64, dims (problem, …), free of NaN: `preference_sums`, `entropy_sums`, `places` (`place_sums`); of the mean
        over heads `composition` (row, part), `readout` (readout_row, thought) and `row_exists` (row), 1 or 0; `n`, 1.
    """
    mean_row = attention.mean(("layer", "head"), skipna=False)
    parts = composition(mean_row)
    exists = parts.notnull().all("part")
    shares = readout_sums(mean_row)
    sums = with_places(preference_sums(attention), attention, n_question_tokens)
    return xr.merge([sums, entropy_sums(attention)], join="exact", compat="override").assign(
        composition=parts.where(exists, 0.0).rename(query="row"),
        readout=shares.rename(query="readout_row"),
        row_exists=exists.astype(np.float64).rename(query="row"),
        n=("problem", np.ones(attention.sizes["problem"])),
    )


def accumulate(parts: Iterable[Part], draws: Draws) -> Totals:
    """Add a run up under every weight, in one pass.

    Args:
        parts: of the run, in order.
        draws: as `draw` gives them, for as many rows as the parts have.

    Raises:
        RunError: there are more or fewer rows than weights.
    """
    n_rows = draws.flips.sizes["problem"]
    sums = WeightedSums(xr.concat([draws.resamples, draws.halves], "resample"))
    flipped = WeightedSums(draws.flips)
    moments, squares, rows = None, None, None
    n_seen = 0
    for part in parts:
        n_seen += part.sums.sizes["problem"]
        if n_seen > n_rows:
            raise RunError(f"found attention of more problems than the {n_rows} in `correct`; extract again.")
        n = part.sums["n"]
        excess = without_rounding(excess_cells(part.sums) / n) * n
        sums.add(part.sums)
        flipped.add(xr.Dataset({"excess": excess}))
        moments = _merged(moments, part.moments)
        squares, rows = _added(squares, squares_of(excess)), _added(rows, part.rows)
    if moments is None or squares is None or rows is None or n_seen < n_rows:
        raise RunError(f"found attention of {n_seen} problems, expected {n_rows} as in `correct`; extract again.")
    resampled, halves = _apart(sums.total(), draws.resamples.sizes["resample"])
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
