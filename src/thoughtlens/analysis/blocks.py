"""Turn a run into pieces small enough to hold in memory as float64, in the order of its problems.

Every analysis is one pass over such pieces and gives the same numbers however a run is cut.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import xarray as xr

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
        for piece in pieces(block["attention"]):
            part = slice(start, start + piece.sizes["problem"])
            start = part.stop
            yield piece.astype(np.float64), block["n_question_tokens"].isel(problem=part)


def pieces(block: xr.DataArray) -> Iterator[xr.DataArray]:
    """Slices along `problem` of at most `PIECE_CELLS` cells, but of one problem at least."""
    n_problems = block.sizes["problem"]
    step = max(1, PIECE_CELLS * n_problems // max(1, block.size))
    for start in range(0, n_problems, step):
        yield block.isel(problem=slice(start, start + step))
