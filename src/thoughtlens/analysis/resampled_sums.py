"""The sums over problems that an analysis is made of, under every weight, from one pass over a run.

In: an attention Dataset or its blocks, or the sums that a run kept in the place of its attention. Out: sums.

1. `parts` takes a few problems at a time and gives numbers of each that add up over problems: preferences, entropies,
   what is beyond the nulls, rollouts, and what the last thought gives away.
2. `Sums` adds them to the moments and, as weights @ values, to the sums of every bootstrap resample and of every random
   half; tests need Σ x, Σ x² and Σ x³ alone. Memory holds (resamples × heads × sums), never the attention of a run.

What is resampled is a problem, or a block of problems that `block_sums` added up before. Every number is taken of
single problems and added up after, so estimates are those of all attention. Intervals are then over blocks: as wide in
expectation, and with 512 blocks their width varies by 3 %. Tests take a block for one observation. What was not added
up can't be had later: single problems, groups of them, other measures.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.attention_measures import (
    composition,
    concatenated,
    entropy_sums,
    preference_sums,
    readout_sums,
    rollout,
    thought_map,
)
from thoughtlens.analysis.heads import LEAST_EXCESS, split_halves
from thoughtlens.analysis.hubs import row_sums
from thoughtlens.analysis.intervals import resample_weights, resampled_sum
from thoughtlens.analysis.nulls import excess_cells, with_places, without_rounding
from thoughtlens.analysis.streamed_attention import finish_moments, in_pieces, merge_moments, partial_moments
from thoughtlens.errors import RunError
from thoughtlens.notation import FIRST
from thoughtlens.schema import ATTENTION

WAITING_BYTES = 64_000_000
"""Sums of single problems held at once: a matrix product of many problems is several times as fast."""

_ROWS = {"query": "row", "key": "column"}
"""All rows and keys, where `query` and `thought` are the thoughts."""

_MOMENTS = {name: f"moments_{name}" for name in ("n", "mean", "squares")}

POWERS = (1, 2, 3)
"""Of what is tested: the t of a mean, corrected for skewness, needs no others."""

_HUBS = {name: f"hub_{name}" for name in ("observed", "variance", "layer_variance", "model_variance")}


def problem_sums(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.Dataset:
    """Everything of single problems that is added up under weights: float64, dims (problem, …), free of NaN.

    All rows and keys have the dims `row` and `column`, since `query` and `thought` are the thoughts.
    """
    mean_row = attention.mean(("layer", "head"), skipna=False)
    parts = composition(mean_row)
    exists = parts.notnull().all("part")
    rolled = rollout(attention).rename(_ROWS)
    is_rolled = rolled.sel(column=FIRST, drop=True).notnull()
    last = thought_map(attention).isel(query=-1, drop=True).isel(key=slice(None, -1)).rename(key="earlier")
    given = last.astype(np.float64).sum(("layer", "head"), skipna=False)
    sums = with_places(preference_sums(attention), attention, n_question_tokens)
    of_rows: dict[Hashable, xr.DataArray] = {
        "composition": parts.where(exists, 0.0).rename(query="row"),
        "readout": readout_sums(mean_row).rename(query="readout_row"),
        "row_exists": exists.astype(np.float64).rename(query="row"),
        "rollout": rolled.fillna(0.0),
        "rollout_exists": is_rolled.astype(np.float64),
        "cells": thought_map(mean_row).rename(key="thought").fillna(0.0),
        "last_thought": given.where(given.notnull().all("earlier"), 0.0),
    }
    found = {**sums.data_vars, **entropy_sums(attention).data_vars, **of_rows}
    n = xr.Variable("problem", np.ones(attention.sizes["problem"]))
    # Labels of one name are alike: all come from those of the attention.
    labels = {name: of for array in found.values() for name, of in array.coords.variables.items()}
    return xr.Dataset({**{str(name): array.variable for name, array in found.items()}, "n": n}, labels)


def parts(block: xr.Dataset) -> Iterator[tuple[xr.Dataset | None, xr.Dataset, xr.Dataset, xr.Dataset]]:
    """What some problems, or kept sums of blocks of them, add to the sums of a run, a few at a time.

    The piece of attention (None where sums were kept), `problem_sums`, `partial_moments` and `row_sums`.
    """
    if ATTENTION in block:
        for piece in in_pieces(block):
            attention = piece[ATTENTION]
            sums = problem_sums(attention, piece["n_question_tokens"])
            yield piece, sums, partial_moments(attention), row_sums(attention)
        return
    # The names as they were before `block_sums` changed them.
    rows, moments, hubs = ({new: old for old, new in names.items()} for names in (_ROWS, _MOMENTS, _HUBS))
    blocked = [name for name, values in block.data_vars.items() if "block" in values.dims]
    of_all = block[list(moments)].rename(moments).rename(rows)
    yield None, block[blocked].rename(block="problem"), of_all, block[list(hubs)].rename(hubs).rename(thought="key")


def block_sums(seen: Iterable[tuple[xr.Dataset, npt.NDArray[np.int64]]], n_blocks: int) -> xr.Dataset:
    """Add problems up by the block (from 0) that each is in: `problem_sums` with `block` in the place of `problem`.

    The moments and what the hub test takes are of all problems together, without `block`.
    """
    added: dict[str, xr.Variable] = {}
    moments, rows, labels = None, None, None
    for dataset, blocks in seen:
        start = 0
        for _, sums, partial, hubs in parts(dataset):
            here = blocks[start : start + sums.sizes["problem"]]
            start += len(here)
            # Blocks are one more set of weights: 1 for the problems of each.
            member = xr.Variable(("resample", "problem"), (here == np.arange(n_blocks)[:, None]).astype(np.uint8))
            add_weighted(added, bare(sums), member)
            labels = labels_of_sums(sums) if labels is None else labels
            moments, rows = merge_moments(moments, partial), add(rows, hubs)
    assert moments is not None and rows is not None, "a shard has problems"
    of_all = [moments.rename(_MOMENTS).rename(_ROWS), rows.rename(_HUBS).rename(key="thought")]
    return xr.merge([xr.Dataset(added, labels).rename(resample="block"), *of_all], join="exact", compat="override")


class Totals(NamedTuple):
    """Sums over all problems of a run; `problem` in what follows is what was resampled, a problem or a block."""

    moments: xr.Dataset
    """mean, sd (layer, head, query, key); n (layer, head, query)"""
    sums: xr.Dataset
    """all that is added up, dims (resample, ...)"""
    halves: xr.Dataset
    """the same in the first half of each split, dims (resample, ...)"""
    excess: xr.DataArray
    """mean excess over the nulls (resample, layer, head, cell)"""
    powers: xr.Dataset
    """`excess_powers` of all that was added, with the number of rows as the coord `n_rows`"""
    rows: xr.Dataset
    """what the hub test takes"""


class Sums:
    """Sums of a run, or of a group of its problems, under every weight, added up piece by piece."""

    def __init__(self, n_rows: int, *, n_resamples: int, seed: int) -> None:
        """For `n_rows` problems, or blocks of them; weights don't depend on how the run is cut into pieces."""
        resamples = resample_weights(n_rows, n_resamples=n_resamples, seed=seed)
        halves = split_halves(n_rows, seed=seed)
        self._n_rows, self._n_seen, self._n_resamples = n_rows, 0, resamples.sizes["resample"]
        self._sums = WeightedSums(concatenated([resamples.variable, halves.variable], "resample"))
        self._powers: xr.Dataset | None = None
        self._moments: xr.Dataset | None = None
        self._rows: xr.Dataset | None = None

    def add(self, sums: xr.Dataset, moments: xr.Dataset, rows: xr.Dataset) -> None:
        """Add some problems, or blocks of them, as `parts` gives them."""
        self._n_seen += sums.sizes["problem"]
        if self._n_seen > self._n_rows:
            raise RunError(f"found attention of more problems than the {self._n_rows} in `correct`; extract again.")
        n = sums["n"]
        self._powers = add(self._powers, excess_powers(without_rounding(excess_cells(sums) / n) * n, n.variable))
        self._sums.add(sums)
        self._moments, self._rows = merge_moments(self._moments, moments), add(self._rows, rows)

    def total(self) -> Totals:
        """The sums of all problems; `RunError` where fewer were added than expected."""
        if self._moments is None or self._rows is None or self._powers is None or self._n_seen < self._n_rows:
            raise RunError(
                f"found attention of {self._n_seen} problems, expected {self._n_rows} as in `correct`; extract again."
            )
        sums = self._sums.total()
        resampled = sums.isel(resample=slice(self._n_resamples))
        return Totals(
            moments=finish_moments(self._moments),
            sums=resampled,
            halves=sums.isel(resample=slice(self._n_resamples, None)),
            # Blocks of problems may differ in size, and so may resamples of them.
            excess=excess_cells(resampled) / resampled["n"],
            powers=self._powers.assign_coords(n_rows=self._n_rows),
            rows=self._rows,
        )


def excess_powers(excess: xr.DataArray, n: xr.Variable | int = 1) -> xr.Dataset:
    """Σ x, Σ x², Σ x³ (power, …) of excess over a null, for `heads` and the mean heads of `layers` and of the `model`.

    `types` is of the excess beyond `LEAST_EXCESS` a problem, n being the problems of each row (problem, …, cell).
    """
    levels = {
        "heads": excess.variable,
        "layers": excess.variable.mean("head", skipna=False),
        "model": excess.variable.mean(("layer", "head"), skipna=False),
        "types": excess.variable - LEAST_EXCESS * n,
    }
    powers = {
        name: concatenated(((x**power).sum("problem", skipna=False) for power in POWERS), "power")
        for name, x in levels.items()
    }
    return xr.Dataset(powers, labels_of_sums(excess.to_dataset(name="of")).assign(power=list(POWERS)))


class WeightedSums:
    """Sums over problems under every weight; problems wait until there are enough for one large matrix product."""

    def __init__(self, weights: xr.Variable) -> None:
        """With weights of dims (resample, problem)."""
        self._weights, self._waiting, self._n_added = weights, list[xr.Dataset](), 0
        self._sums: dict[str, xr.Variable] = {}
        self._labels: xr.Coordinates | None = None

    def add(self, part: xr.Dataset) -> None:
        """Add some problems, dims (problem, ...)."""
        if self._labels is None:
            self._labels = labels_of_sums(part)
        self._waiting.append(part)
        if sum(waiting.nbytes for waiting in self._waiting) >= WAITING_BYTES:
            self._multiply()

    def total(self) -> xr.Dataset:
        """The sums, dims (resample, ...)."""
        self._multiply()
        return xr.Dataset(self._sums, self._labels)

    def _multiply(self) -> None:
        if not self._waiting:
            return
        n_problems = sum(part.sizes["problem"] for part in self._waiting)
        drawn = self._weights[:, self._n_added : self._n_added + n_problems].astype(np.float64)
        for name in map(str, self._waiting[0].data_vars):
            joined = concatenated((part.variables[name] for part in self._waiting), "problem")
            add_weighted(self._sums, {name: joined}, drawn)
        self._waiting.clear()
        self._n_added += n_problems


def add_weighted(sums: dict[str, xr.Variable], part: Mapping[str, xr.Variable], drawn: xr.Variable) -> None:
    """Add the sums of some problems to those of every resample, `drawn` being the weights of these problems."""
    # In place and a variable at a time: with many heads and thoughts the sums are the largest thing in memory.
    for name, values in part.items():
        added = resampled_sum(values, drawn)
        if name in sums:
            sums[name].values += added.values
        else:
            sums[name] = added


Variables = Mapping[str, xr.Variable]
"""Numbers without labels, by name."""


def bare(sums: xr.Dataset) -> dict[str, xr.Variable]:
    """The variables of a Dataset without labels, which agree; aligning them takes most of the time of a small model."""
    return {str(name): sums.variables[name] for name in sums.data_vars}


def labels_of_sums(part: xr.Dataset) -> xr.Coordinates:
    """The labels of what some problems are added up to."""
    return part.drop_vars([name for name, of in part.coords.items() if "problem" in of.dims]).coords


def add(total: xr.Dataset | None, piece: xr.Dataset) -> xr.Dataset:
    """Sums with those of a further piece; of the first piece if there are none yet."""
    return piece if total is None else total + piece
