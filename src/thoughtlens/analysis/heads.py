"""Heads in order and by type: their ranking by importance, how reliable it is, and what each is called.

In: `Analysis.heads`, sums over halves of the problems, and evidence. Out: heads along `rank`, reliability, and types.
The reliability of a ranking is Spearman's correlation of the rankings in two halves of the problems, drawn at random
many times, stepped up to the whole sample. A half is a row of 0/1 weights: its sums come from the same pass as others.
Attention is correlational: a type says where a head looks, not what it does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from thoughtlens.analysis.attention_measures import bare_preferences, concatenated, where
from thoughtlens.analysis.hubs import HUB_LEVEL
from thoughtlens.analysis.intervals import spearman
from thoughtlens.analysis.nulls import PATTERNS, PLACES
from thoughtlens.notation import head_name, text

TYPE_NAMES = {
    "hub": "hub",
    "sequential": "previous-thought",
    "skip": "skip",
    "sink": "first-token",
    "self": "self",
    "readout": "read-out",
}
"""What a head is called by the measure that passes."""

NO_TYPE = "no clear type"

TYPES = (*TYPE_NAMES.values(), NO_TYPE)
"""What `head_types` may call a head."""

LEAST_EXCESS = 0.05
"""Attention mass a row, beyond the null, that names a head: with enough problems any trifle is significant."""

LEVEL = HUB_LEVEL
"""Largest q-value that names a head."""


N_SPLITS = 100

N_TOP = 10
"""Heads at the top whose overlap between halves is counted."""

LEAST_RELIABILITY = 0.5
"""Below it a ranking is more chance than head, and names no heads."""

RESOLUTION = 1e-6
"""Importances nearer than this are tied: float32 attention carries no more."""


def rank_heads(heads: xr.Dataset, *, by: xr.Dataset | None = None) -> xr.Dataset:
    """Heads by importance, the largest first.

    importance = thought mass · (max_k H[k] − 1): the attention that a head gives the thought that it prefers most,
    beyond an even split.  Range 0 to T − 2, since H averages 1 over keys.  Null 0, approached from above: chance makes
    some thought the largest.  Heads whose importance is undefined come last; ties go by thought mass.

    Args:
        heads: `Analysis.heads`, dims (layer, head).
        by: `importance` and `thought_mass` (layer, head) of other problems, if these decide the order.

    Returns:
        The same along `rank` (from 1), with coords `layer`, `head` and `name`.

    Example:
        `rank_heads(tl.analyze(run).heads)["name"].values[:10]`; an analysis has it as `ranking`
    """
    values = heads.sel(value="estimate", drop=True) if by is None else by
    values = values[["importance", "thought_mass"]].transpose("layer", "head")
    # lexsort sorts by its last key first, ascending, and puts NaN last; it is stable.
    order = np.lexsort((-values["thought_mass"].values.ravel(), -values["importance"].values.ravel()))
    layers, head_numbers = np.unravel_index(order, values["importance"].shape)
    ranked = heads.isel(layer=xr.DataArray(layers, dims="rank"), head=xr.DataArray(head_numbers, dims="rank"))
    names = map(head_name, ranked["layer"].values, ranked["head"].values)
    return ranked.assign_coords(rank=np.arange(1, len(order) + 1), name=("rank", text(names)))


def with_importance(samples: Mapping[str, xr.Variable], place: xr.Variable | None = None) -> dict[str, xr.Variable]:
    """Preferences of every resample, with the `largest_preference` and `importance` of each (see `rank_heads`).

    They are of the thought at `place`; of that which the sample itself prefers most, if None.
    """
    # The thought is held fixed: the interval is that thought's, not that of whichever is largest.
    place = most_preferred(samples["preference"].isel(resample=0)) if place is None else place
    largest = samples["preference"].isel(thought=place)
    return {**samples, "largest_preference": largest, "importance": samples["thought_mass"] * (largest - 1.0)}


def most_preferred(preference: xr.Variable) -> xr.Variable:
    """The place of the thought with the largest H: dims (…, thought) to (…)."""
    known = where(preference.notnull(), preference, -np.inf).transpose(..., "thought")
    return xr.Variable(known.dims[:-1], known.values.argmax(-1))


def split_halves(n_problems: int, *, n_splits: int = N_SPLITS, seed: int = 0) -> xr.DataArray:
    """Which problems are in the first half of each random split: 0/1 uint8, dims (resample, problem)."""
    rng = np.random.default_rng(seed)
    halves = np.zeros((n_splits, n_problems), dtype=np.uint8)
    for row in halves:
        row[rng.permutation(n_problems)[: n_problems // 2]] = 1
    return xr.DataArray(halves, dims=("resample", "problem"))


def reliability(halves: xr.Dataset, total: xr.Dataset) -> xr.Dataset:
    """How far halves of the problems agree on the ranking of heads, from the sums of first halves and of all problems.

    `reliability`, `top_overlap` and `top_overlap_by_chance`, scalars; NaN where there is nothing to rank.
    """
    # r = Spearman's correlation of importance, mean over splits; 2r / (1 + r) is that of the whole sample (Spearman and
    # Brown 1910), and r itself stands where it is negative. The overlap is of the first ten heads, or of half of them.
    one, all_problems = ({name: of.variables[name] for name in halves.data_vars} for of in (halves, total))
    other = {name: all_problems[name] - of_half for name, of_half in one.items()}
    whole = _importance({name: concatenated([of], "resample") for name, of in all_problems.items()})
    defined = np.isfinite(whole[0])
    first, second = (np.nan_to_num(_importance(sums)[:, defined]) for sums in (one, other))
    n_heads = int(defined.sum())
    r, n_top = spearman(first, second), min(N_TOP, n_heads // 2)
    known = n_heads >= 3 and bool(np.isfinite(r).all())
    if not known:
        return xr.Dataset(dict.fromkeys(("reliability", "top_overlap", "top_overlap_by_chance"), np.nan))
    half = float(r.mean())
    tops = (np.argsort(-values, axis=-1, kind="stable")[:, :n_top] for values in (first, second))
    shared = [len(np.intersect1d(one, other)) for one, other in zip(*tops, strict=True)]
    return xr.Dataset(
        {
            "reliability": 2 * half / (1 + half) if half > 0 else half,
            "top_overlap": float(np.mean(shared) / n_top),
            "top_overlap_by_chance": n_top / n_heads,
        }
    )


def unreliable(ranking: xr.Dataset) -> str | None:
    """Why a ranking should name no heads, in a sentence, or None."""
    found, n = float(ranking["reliability"]), int(ranking["n_ranked"])
    if np.isnan(found):
        return f"the ranking of heads can't be judged from n = {n}: halves of the problems rank nothing."
    if found < LEAST_RELIABILITY:
        return (
            f"the ranking of heads is unreliable (split-half reliability {found:.2f}, expected {LEAST_RELIABILITY} or "
            f"more, n = {n}): no head is named; take more problems."
        )
    return None


def _importance(sums: Mapping[Any, xr.Variable]) -> np.ndarray:
    """(resample, heads), rounded so that equal heads are tied."""
    found = bare_preferences(sums)
    importance = found["thought_mass"] * (found["preference"].max("thought") - 1.0)
    by_head = importance.transpose("resample", "layer", "head").values
    flat = by_head.reshape(len(by_head), -1)
    rounded: np.ndarray = np.round(flat / RESOLUTION) * RESOLUTION
    return rounded


def head_types(found: xr.Dataset) -> xr.DataArray:
    """Name each head by what it shows beyond the nulls.

    1. A measure passes where its excess is shown to be more than 0.05 of a row's attention (`LEAST_EXCESS`): one-sided,
       corrected over all measures and heads at once (Benjamini and Hochberg), q < 0.05 (`LEVEL`). A hub passes where
       `hub_test` finds one. With as many problems as one likes, a head of 0.05 or less is named in 5 % at most.
    2. A head that passes as a hub is one, so that as many heads are of this type as have a hub;
    3. else `previous-thought` (by `sequential`) or `skip`, the larger that passes: whom it prefers among thoughts;
    4. else `first-token` (by `sink`), `self` or `read-out`, the largest that passes: where its attention goes at all;
    5. else it has `no clear type`.

    The groups are not compared with each other since their nulls leave unlike room: a head that treats `first` as
    one more thought is far above its share of all tokens, and shows nothing by it.

    Args:
        found: `excess` (…, measure, value) and `q_type` (…, measure), as in `Analysis.evidence`.

    Returns:
        Names out of `TYPES`, dims (...) without measure.

    Example:
        `head_types(tl.analyze(run).evidence).sel(layer=0, head=1).item()`, such as `previous-thought`
    """
    excess = found["excess"].sel(value="estimate", drop=True)
    enough = excess.where(passing(found), -np.inf)
    names = np.full(enough.isel(measure=0).shape, NO_TYPE, dtype=object)
    for group in (PLACES, PATTERNS[1:], PATTERNS[:1]):
        some = enough.sel(measure=list(group)).transpose(..., "measure").values
        called = np.array([TYPE_NAMES[measure] for measure in group], dtype=object)
        names = np.where(np.isfinite(some).any(-1), called[some.argmax(-1)], names)
    return excess.isel(measure=0, drop=True).copy(data=text(names)).rename("type")


def type_counts(types: xr.DataArray) -> dict[str, int]:
    """How many heads there are of each of `TYPES`."""
    return {name: int((types == name).sum()) for name in TYPES}


def passing(found: xr.Dataset) -> xr.DataArray:
    """Which measures name a head: those with `q_type` < `LEVEL`; dims (..., measure)."""
    passes: xr.DataArray = found["q_type"] < LEVEL
    return passes
