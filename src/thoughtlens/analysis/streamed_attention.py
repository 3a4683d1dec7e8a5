"""The attention of a run, streamed a few problems at a time, raw or value-weighted, and its moments from one pass.

In: a stored run, an attention Dataset or its blocks. Out: a few problems at a time as float64; mean, standard deviation
and number of problems of each cell.

1. Each piece gives its own number of problems, mean and sum of squared deviations, in float64.
2. Two such triples merge into the triple of both, so that order and size of the pieces change nothing.
3. The sum of squares gives the population standard deviation (ddof = 0).

A row that does not exist is NaN in all its cells: it is left out of all three and shows in the number of its query.

*Raw* attention is the weights after softmax. *Value-weighted* attention is what the weights move: the share of a key is
the norm of what it gives, over the norms of all that the row sees (Kobayashi et al. 2020, arXiv 2004.10102).

Source: Chan, Golub and LeVeque (1983), The American Statistician 37.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json
from thoughtlens.notation import FIRST
from thoughtlens.schema import ATTENTION, VALUE_WEIGHTED, with_all_slots

PIECE_CELLS = 4_000_000
"""Cells of a piece: 32 MB in float64."""

Blocks = xr.Dataset | Iterable[xr.Dataset]
"""A whole attention Dataset, or its problems block by block."""


@runtime_checkable
class StoredRun(Protocol):
    """What analyses and comparisons read of a run on disk, such as a `thoughtlens.runs.Run`."""

    @property
    def path(self) -> Path:
        """The run folder."""

    @property
    def manifest(self) -> Json:
        """What was run, on what."""

    @property
    def keeps_means(self) -> bool:
        """Whether sums over blocks of problems were kept in the place of their attention."""

    def require_attention(self) -> None:
        """Raise `RunError` unless the run holds the attention of every problem."""

    def blocks(self, *, pattern: str = ATTENTION, chosen: npt.ArrayLike | None = None) -> Iterator[xr.Dataset]:
        """The attention Dataset of the chosen problems, some problems at a time."""

    def sums(self) -> Iterator[xr.Dataset]:
        """The sums that were kept, some blocks of problems at a time."""

    def kept_blocks(self) -> npt.NDArray[np.int64]:
        """The block of each problem, in order, whose sums were kept together."""

    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each problem was solved, in order."""

    def problems(self) -> Iterable[Any]:
        """The problems of the run, in order, with `id`, `question` and `steps`."""


def in_pieces(blocks: Blocks) -> Iterator[xr.Dataset]:
    """`attention`, as float64, and `n_question_tokens` of a few problems at a time; a store is read once."""
    for block in [blocks] if isinstance(blocks, xr.Dataset) else blocks:
        for part in _parts(block[ATTENTION]):
            piece = block[[ATTENTION, "n_question_tokens"]].isel(problem=part)
            attention = with_all_slots(piece[ATTENTION].astype(np.float64))
            yield xr.Dataset({ATTENTION: attention, "n_question_tokens": piece["n_question_tokens"]}, attrs=piece.attrs)


def _parts(attention: xr.DataArray) -> Iterator[slice]:
    """Slices along `problem` of at most `PIECE_CELLS` cells, but of one problem at least."""
    n_problems = attention.sizes["problem"]
    step = max(1, PIECE_CELLS * n_problems // max(1, attention.size))
    return (slice(start, start + step) for start in range(0, n_problems, step))


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
    partials = (partial_moments(block.isel(problem=part)) for block in blocks for part in _parts(block))
    merged = reduce(merge_moments, partials, None)
    if merged is None:
        raise RunError("found no problems to average; extract at least one problem first.")
    return finish_moments(merged)


def partial_moments(piece: xr.DataArray) -> xr.Dataset:
    """Count `n`, `mean` and sum of squared deviations `squares` over the problems of one piece."""
    # float16 sums overflow at 65,504 and round long before: upcast first.
    values = piece.astype(np.float64, copy=False)
    exists = values.sel(key=FIRST, drop=True).notnull()
    n = exists.sum("problem")
    mean = values.where(exists, 0.0).sum("problem", skipna=False) / n.clip(min=1)
    squares = ((values - mean) ** 2).where(exists, 0.0).sum("problem", skipna=False)
    return xr.Dataset({"n": n, "mean": mean, "squares": squares})


def merge_moments(a: xr.Dataset | None, b: xr.Dataset) -> xr.Dataset:
    """The moments of the problems of both parts; the first may be missing."""
    if a is None:
        return b
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


WEIGHTS: Final = "attention"


VALUES: Final = "value-weighted"


KINDS: Final = (WEIGHTS, VALUES)
"""What can be analysed: attention weights, or what they move (`value_shares`)."""


def value_shares(block: xr.Dataset) -> xr.Dataset:
    """A Dataset of value-weighted patterns, as one of attention.

    share[q, k] = n[q, k] / Σ_k n[q, k], n = ‖α[q, k] · v[k] · W_O‖.  Range 0-1, a row sums to 1.  No null of its own:
    the nulls of attention apply.  A row that moves nothing at all has no shares and is NaN, like one that is missing.

    Args:
        block: with `value_weighted`, dims (..., query, key); a run's, or some of its problems.

    Returns:
        The same Dataset with `attention`, float64, in the place of `value_weighted`.

    Example:
        `value_shares(next(run.blocks(pattern="value_weighted")))`, of a run made with `--record values`

    Reference: Kobayashi et al. (2020), arXiv 2004.10102.
    """
    norms = block[VALUE_WEIGHTED].astype(np.float64)
    total = norms.sum("key", skipna=False)
    return block.drop_vars(VALUE_WEIGHTED).assign({ATTENTION: norms / total.where(total > 0)})


def check_pattern(pattern: str) -> str:
    """The pattern, if it is one of `KINDS`."""
    if pattern not in KINDS:
        raise OptionError(f"no pattern {pattern!r}, expected one of {', '.join(KINDS)}; pass another --pattern.")
    return pattern


def patterned(source: StoredRun | Blocks, pattern: str = WEIGHTS) -> Iterator[xr.Dataset]:
    """The problems of a run, a Dataset or its blocks, with the pattern (of `KINDS`) in the place of attention."""
    stored = ATTENTION if check_pattern(pattern) == WEIGHTS else VALUE_WEIGHTED
    blocks: Blocks = source if isinstance(source, Iterable) else source.blocks(pattern=stored)
    if isinstance(blocks, xr.Dataset):
        blocks = [blocks]
    return iter(blocks) if pattern == WEIGHTS else map(value_shares, blocks)
