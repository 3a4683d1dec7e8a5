"""Turn the importance of heads into a ranking, and halves of the problems into how far it can be trusted.

1. Problems are split at random into two halves, many times; a half is a row of 0/1 weights, so that its sums come from
   the same pass as all others, and the other half is what is left of the total.
2. Heads are ranked in both halves. Spearman's correlation of the two, stepped up to the whole sample, is the
   reliability; how many of the first ten they share is the overlap.

It knows nothing of what importance is made of, nor of causes.
"""

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from thoughtlens.analysis.metrics import preferences
from thoughtlens.analysis.names import text

N_SPLITS = 100

N_TOP = 10
"""Heads at the top whose overlap between halves is counted."""

LEAST_RELIABILITY = 0.5
"""Below it a ranking is more chance than head, and names no heads."""

RESOLUTION = 1e-6
"""Importances nearer than this are tied: float32 attention carries no more."""


def rank_heads(heads: xr.Dataset) -> xr.Dataset:
    """Heads by importance, the largest first.

    importance = thought mass · (max_k H[k] − 1): the attention that a head gives its hub beyond an even split.
    Range 0 to T − 2, since H averages 1 over keys.  Null 0, approached from above: chance makes some thought the
    largest.  Heads whose importance is undefined come last; ties go by thought mass.

    Args:
        heads: `Analysis.heads`, dims (layer, head).

    Returns:
        The same along `rank` (from 1), with coords `layer`, `head` and `name`.
    """
    values = heads[["importance", "thought_mass"]].sel(value="estimate", drop=True).transpose("layer", "head")
    # lexsort sorts by its last key first, ascending, and puts NaN last; it is stable.
    order = np.lexsort((-values["thought_mass"].values.ravel(), -values["importance"].values.ravel()))
    layers, head_numbers = np.unravel_index(order, values["importance"].shape)
    ranked = heads.isel(layer=xr.DataArray(layers, dims="rank"), head=xr.DataArray(head_numbers, dims="rank"))
    names = [f"L{layer}H{head}" for layer, head in zip(ranked["layer"].values, ranked["head"].values, strict=True)]
    return ranked.assign_coords(rank=np.arange(1, len(order) + 1), name=("rank", text(names)))


def split_halves(n_problems: int, *, n_splits: int = N_SPLITS, seed: int = 0) -> xr.DataArray:
    """Which problems are in the first half of each random split: 0/1 uint8, dims (resample, problem).

    Args:
        n_problems: problems in the sample; of an odd number the first half has one less.
        n_splits: random splits.
        seed: same seed, same splits.
    """
    rng = np.random.default_rng(seed)
    halves = np.zeros((n_splits, n_problems), dtype=np.uint8)
    for row in halves:
        row[rng.permutation(n_problems)[: n_problems // 2]] = 1
    return xr.DataArray(halves, dims=("resample", "problem"))


def reliability(halves: xr.Dataset, total: xr.Dataset) -> xr.Dataset:
    """How far two halves of the problems agree on the ranking of heads.

    r = mean over splits of Spearman's correlation of importance over heads;  reliability = 2r / (1 + r), that of the
    whole sample (Spearman 1910, Brown 1910), or r itself where it is negative.  Range −1 to 1.  Null 0.
    top_overlap = mean share of the first ten heads (half of the heads if there are fewer than twenty) that both halves
    have, ties going by the order of heads.  Range 0-1.  Null `top_overlap_by_chance`, ten over the number of heads.

    Args:
        halves: `preference_sums` of the first halves, dims (resample, layer, head, ...).
        total: of all problems, dims (layer, head, ...).

    Returns:
        `reliability`, `top_overlap`, `top_overlap_by_chance`, scalars; NaN where there is nothing to rank (one
        problem, fewer than three heads or thoughts, or all heads alike).
    """
    whole = _importance(total.expand_dims("resample"))
    defined = np.isfinite(whole[0])
    first, second = (np.nan_to_num(_importance(sums)[:, defined]) for sums in (halves, total - halves))
    n_heads = int(defined.sum())
    r, n_top = _spearman(first, second), min(N_TOP, n_heads // 2)
    known = n_heads >= 3 and bool(np.isfinite(r).all())
    values = (
        _stepped_up(float(r.mean())) if known else np.nan,
        _overlap(first, second, n_top) if known else np.nan,
        n_top / n_heads if known else np.nan,
    )
    return xr.Dataset(dict(zip(("reliability", "top_overlap", "top_overlap_by_chance"), values, strict=True)))


def unreliable(ranking: xr.Dataset) -> str | None:
    """Why a ranking should name no heads, in a sentence, or None.

    Args:
        ranking: with `reliability` and `n`, as `Analysis.ranking` has them.
    """
    found, n = float(ranking["reliability"]), int(ranking["n"])
    if np.isnan(found):
        return f"the ranking of heads can't be judged from n = {n}: halves of the problems rank nothing."
    if found < LEAST_RELIABILITY:
        return (
            f"the ranking of heads is unreliable (split-half reliability {found:.2f}, expected {LEAST_RELIABILITY} or "
            f"more, n = {n}): no head is named; take more problems."
        )
    return None


def _importance(sums: xr.Dataset) -> np.ndarray:
    """(resample, heads), rounded so that equal heads are tied."""
    found = preferences(sums)
    importance = found["thought_mass"] * (found["preference"].max("thought") - 1.0)
    flat = importance.transpose("resample", "layer", "head").values.reshape(sums.sizes["resample"], -1)
    rounded: np.ndarray = np.round(flat / RESOLUTION) * RESOLUTION
    return rounded


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each row; NaN where a row is constant."""
    one, other = (rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (first, second))
    spread = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    r: np.ndarray = np.divide((one * other).sum(-1), spread, out=np.full(len(one), np.nan), where=spread > 0)
    return r


def _stepped_up(r: float) -> float:
    return 2 * r / (1 + r) if r > 0 else r


def _overlap(first: np.ndarray, second: np.ndarray, n_top: int) -> float:
    top = (np.argsort(-values, axis=-1, kind="stable")[:, :n_top] for values in (first, second))
    shared = [len(np.intersect1d(one, other)) for one, other in zip(*top, strict=True)]
    return float(np.mean(shared) / n_top)
