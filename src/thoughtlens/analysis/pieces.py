"""A run in pieces that fit in memory, and the moments of its attention, from one pass over them.

Pieces are float64, in the order of the problems; every analysis gives the same numbers however a run is cut.

Moments (mean, standard deviation and count over problems):

1. Each piece gives its own count, mean and sum of squared deviations, in float64.
2. Two such triples merge into the triple of both (Chan, Golub and LeVeque 1983), so that order and size of the pieces
   don't matter and no array of all problems is held.
3. The sum of squares gives the population standard deviation (ddof = 0).

A row that does not exist is NaN in all its cells: it is left out of all three and shows in the count of its query.
"""

from collections.abc import Iterable, Iterator
from functools import reduce

import numpy as np
import xarray as xr

from thoughtlens.errors import RunError
from thoughtlens.names import FIRST

PIECE_CELLS = 4_000_000
"""Cells of a piece: 32 MB in float64."""

Blocks = xr.Dataset | Iterable[xr.Dataset]
"""A whole attention Dataset, or its problems block by block."""


def attention_pieces(blocks: Blocks) -> Iterator[xr.DataArray]:
    """Attention as float64, a few problems at a time; a lazily opened store is read once."""
    for attention, _ in counted_pieces(blocks):
        yield attention


def counted_pieces(blocks: Blocks) -> Iterator[tuple[xr.DataArray, xr.DataArray]]:
    """As `attention_pieces`, each with the `n_question_tokens` of its problems."""
    for block in [blocks] if isinstance(blocks, xr.Dataset) else blocks:
        start = 0
        for piece in small_pieces(block["attention"]):
            part = slice(start, start + piece.sizes["problem"])
            start = part.stop
            yield piece.astype(np.float64), block["n_question_tokens"].isel(problem=part)


def small_pieces(block: xr.DataArray) -> Iterator[xr.DataArray]:
    """Slices along `problem` of at most `PIECE_CELLS` cells, but of one problem at least."""
    n_problems = block.sizes["problem"]
    step = max(1, PIECE_CELLS * n_problems // max(1, block.size))
    for start in range(0, n_problems, step):
        yield block.isel(problem=slice(start, start + step))


def moments(blocks: Iterable[xr.DataArray]) -> xr.Dataset:
    """Mean, standard deviation and count of each cell over the problems of all blocks.

    Args:
        blocks: attention, dims (problem, ..., query, key), any float dtype, each block some of the problems.

    Returns:
        `mean` and `sd` with dims (..., query, key) and `n` with dims (..., query), the rows that exist; where there
        is none, mean and sd are NaN.

    Raises:
        RunError: there are no problems.

    Example:
        >>> rows = xr.DataArray([[[0.25, 0.75]], [[0.75, 0.25]]], dims=["problem", "query", "key"])
        >>> moments([rows.assign_coords(key=["first", "question"])])["sd"].sel(key="first").values
        array([0.25])

    Reference: Chan, Golub and LeVeque (1983), The American Statistician 37.
    """
    partials = (partial_moments(piece) for block in blocks for piece in small_pieces(block))
    first = next(partials, None)
    if first is None:
        raise RunError("found no problems to average; extract at least one problem first.")
    return finish_moments(reduce(merge_moments, partials, first))


def partial_moments(piece: xr.DataArray) -> xr.Dataset:
    """Count `n`, `mean` and sum of squared deviations `squares` over the problems of one piece."""
    # float16 sums overflow at 65,504 and round long before: upcast first.
    values = piece.astype(np.float64, copy=False)
    exists = values.sel(key=FIRST, drop=True).notnull()
    n = exists.sum("problem")
    mean = values.where(exists, 0.0).sum("problem", skipna=False) / n.clip(min=1)
    squares = ((values - mean) ** 2).where(exists, 0.0).sum("problem", skipna=False)
    return xr.Dataset({"n": n, "mean": mean, "squares": squares})


def merge_moments(a: xr.Dataset, b: xr.Dataset) -> xr.Dataset:
    """The moments of the problems of both parts."""
    n = a["n"] + b["n"]
    share_of_b = b["n"] / n.clip(min=1)
    delta = b["mean"] - a["mean"]
    mean = a["mean"] + delta * share_of_b
    squares = a["squares"] + b["squares"] + delta**2 * (a["n"] * share_of_b)
    return xr.Dataset({"n": n, "mean": mean, "squares": squares})


def finish_moments(partial: xr.Dataset) -> xr.Dataset:
    """Mean and population standard deviation (ddof = 0), NaN where no row exists."""
    n = partial["n"]
    sd = (partial["squares"] / n.clip(min=1)) ** 0.5
    return xr.Dataset({"mean": partial["mean"].where(n > 0), "sd": sd.where(n > 0), "n": n})
