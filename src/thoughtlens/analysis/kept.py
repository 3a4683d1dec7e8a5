"""Problems become sums over blocks of them, which can be kept in the place of attention; such sums become an analysis.

1. `block_sums` takes everything of each problem first (entropies, squares, rollouts, what is beyond the null for a
   question of that length), as `measured` does, and only then adds it up: no number is ever taken of a mean pattern.
2. What is resampled is a block where it would be a problem. Estimates are those of all attention. Intervals are over
   blocks: as wide in expectation, and a little less sure of themselves (with 512 blocks their width varies by 3 %).
   Sign flips are of blocks' sums: if a problem is as likely to be −x as x, so is a sum of them.
3. A block of one problem is that problem: all numbers are then those of attention.

What was not added up can't be had later: single problems, groups of them, or measures that were not thought of.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.blocks import counted_pieces
from thoughtlens.analysis.hubs import row_sums
from thoughtlens.analysis.moments import merge_moments, partial_moments
from thoughtlens.analysis.panels import last_thought_rows, last_thought_shares_of
from thoughtlens.analysis.rollout import mean_rollout_of, rollout_sums
from thoughtlens.analysis.streaming import Part, accumulate, add_weighted, draw, problem_sums
from thoughtlens.analysis.summary import Analysis, summarise

_OF_ALL = {"n": "moments_n", "mean": "moments_mean", "squares": "moments_squares"}
"""Moments are wanted of the run alone: they have no blocks."""

_HUBS = {"observed": "hub_observed", "variance": "hub_variance"}
"""What the hub test takes, also without blocks."""

_ROWS = {"query": "row", "key": "column"}
"""All rows and keys, where `query` and `thought` are the thoughts."""


def block_sums(seen: Iterable[tuple[xr.Dataset, npt.NDArray[np.int64]]], n_blocks: int) -> xr.Dataset:
    """Add problems up by the block that each is in, in one pass.

    Args:
        seen: attention Datasets of some problems each, with the block of every problem, from 0.
        n_blocks: how many blocks there are; of some there may be no problem here.

    Returns:
        float64: `problem_sums` with `block` in the place of `problem`, and `rollout` (block, row, column),
        `last_thought` (block, earlier); of all problems together, without `block`, `moments_n`, `moments_mean`,
        `moments_squares` and `hub_observed`, `hub_variance`.
    """
    sums: dict[str, xr.DataArray] = {}
    moments, rows = None, None
    for dataset, blocks in seen:
        start = 0
        for attention, n_question_tokens in counted_pieces(dataset):
            here = blocks[start : start + attention.sizes["problem"]]
            start += len(here)
            add_weighted(sums, _numbers(attention, n_question_tokens), _membership(here, n_blocks))
            partial, hubs = partial_moments(attention), row_sums(attention)
            moments = partial if moments is None else merge_moments(moments, partial)
            rows = hubs if rows is None else rows + hubs
    assert moments is not None and rows is not None, "a shard has problems"
    of_all = [moments.rename(_OF_ALL).rename(_ROWS), rows.rename(_HUBS).rename(key="thought")]
    return xr.merge([xr.Dataset(sums).rename(resample="block"), *of_all], join="exact", compat="override")


def analyze_sums(
    kept: Iterable[xr.Dataset],
    *,
    n_blocks: int,
    correct: npt.ArrayLike,
    n_resamples: int = 1000,
    n_flips: int = 1000,
    seed: int = 0,
) -> Analysis:
    """Summarise a run of which sums were kept, as `analyze` does one of which attention was.

    Args:
        kept: as `block_sums` gives them, some blocks at a time, each block once.
        n_blocks: of the run.
        correct: bool, one a problem.
        n_resamples: bootstrap resamples of the blocks.
        n_flips: sign flips of the blocks.
        seed: same seed, same numbers.

    Returns:
        As `analyze`; `n` counts problems, and the attribute `n_blocks` what the intervals are over.
    """
    options = {"n_resamples": n_resamples, "n_flips": n_flips, "seed": seed}
    totals = accumulate(_parts(kept), draw(n_blocks, **options))
    return summarise(totals, correct=correct, options={**options, "n_blocks": n_blocks})


def kept_rollout(kept: Iterable[xr.Dataset], *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """As `mean_rollout`, its interval over blocks."""
    sums = _joined(kept, ["rollout", "row_exists"]).rename({"column": "key", "row": "query"})
    return mean_rollout_of(sums, n_resamples=n_resamples, seed=seed)


def kept_last_thought_shares(kept: Iterable[xr.Dataset], *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """As `last_thought_shares`, its interval over blocks."""
    sums = _joined(kept, ["last_thought", "n"])
    given = sums["last_thought"].rename(earlier="thought")
    found = last_thought_shares_of(given, n_resamples=n_resamples, seed=seed)
    return found.assign(n=int(sums["n"].sum()))


def _numbers(attention: xr.DataArray, n_question_tokens: xr.DataArray) -> xr.Dataset:
    """All that is kept of single problems, dims (problem, …)."""
    rolled = rollout_sums(attention)["rollout"].rename(_ROWS)
    # Its thoughts are all but the last: another dim than `thought`.
    last = last_thought_rows(attention).rename(thought="earlier")
    return problem_sums(attention, n_question_tokens).assign(rollout=rolled, last_thought=last)


def _membership(blocks: npt.NDArray[np.int64], n_blocks: int) -> xr.DataArray:
    """1 for the problems of each block, dims (resample, problem): sums of blocks are one more product of weights."""
    return xr.DataArray((blocks == np.arange(n_blocks)[:, None]).astype(np.uint8), dims=("resample", "problem"))


def _parts(kept: Iterable[xr.Dataset]) -> Iterator[Part]:
    # The names of dims as they were before `block_sums` changed them.
    rows, hubs = ({new: old for old, new in names.items()} for names in (_ROWS, _HUBS))
    of_all = {new: old for old, new in _OF_ALL.items()}
    for some in kept:
        blocked = [name for name, values in some.data_vars.items() if "block" in values.dims]
        sums = some[blocked].drop_vars(["rollout", "last_thought", "column", "earlier"]).rename(block="problem")
        moments = some[list(of_all)].rename(of_all).rename(rows)
        yield Part(sums, moments, some[list(hubs)].rename(hubs).rename(thought="key"))


def _joined(kept: Iterable[xr.Dataset], names: list[str]) -> xr.Dataset:
    return xr.concat([some[names] for some in kept], "block").rename(block="problem")
