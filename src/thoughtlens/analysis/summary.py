"""Turn a run into its summary: moments, composition, preferences, evidence, heads, accuracy, with n and intervals.

1. One pass over the run's problems gives sums over them, under all weights at once (`streaming`).
2. Preferences, hubs and importances are functions of those sums: the estimate is resample 0, its interval the others.
   One set of resamples serves all numbers. Layers and the model are sums over heads, not means of ratios.
3. What is beyond the nulls (`find_evidence`), which heads come first and whether halves of the problems agree on it
   (`ranking`), and which heads have a hub (`hubs`) come from sums of the same pass.

It knows nothing of files, models or figures. Attention is correlational: nothing here says what a head does.

Problems become sums over blocks of them, which can be kept in the place of attention; such sums become an analysis.

1. `block_sums` takes everything of each problem first (entropies, squares, rollouts, what is beyond the null for a
   question of that length), as `measured` does, and only then adds it up: no number is ever taken of a mean pattern.
2. What is resampled is a block where it would be a problem. Estimates are those of all attention. Intervals are over
   blocks: as wide in expectation, and a little less sure of themselves (with 512 blocks their width varies by 3 %).
   Sign flips are of blocks' sums: if a problem is as likely to be −x as x, so is a sum of them.
3. A block of one problem is that problem: all numbers are then those of attention.

What was not added up can't be had later: single problems, groups of them, or measures that were not thought of.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.evidence import Levels, evidence_of_levels
from thoughtlens.analysis.heads import hub_test_of, rank_heads, reliability, row_sums
from thoughtlens.analysis.importance import mean_rollout_of, rollout_sums
from thoughtlens.analysis.metrics import mean_entropy, preference_sums, preferences, readout, thought_map
from thoughtlens.analysis.nulls import excess_cells
from thoughtlens.analysis.pieces import Blocks, attention_pieces, counted_pieces, merge_moments, partial_moments
from thoughtlens.analysis.statistics import CHUNK_CELLS, CONFIDENCE, bootstrap_ratio, interval, proportion_interval
from thoughtlens.analysis.sums import Part, Totals, accumulate, add_weighted, draw, measured, problem_sums
from thoughtlens.names import ANSWER, EOT, text


class Analysis(NamedTuple):
    """What `analyze` returns; `value` is estimate, low, high, and every Dataset carries `n`.

    The Datasets of preferences hold, for … the dims named below, `preference` (…, thought, value), `lag_preference`
    (…, lag, value), `entropy` (…, query, value), `sequential`, `skip`, `thought_mass`, `importance` and
    `hub_preference` (…, value), `hub` (…), the hub's name or "" where undefined, and `hub_support` (…), the share of
    resamples with the same hub.
    """

    moments: xr.Dataset
    """mean, sd (layer, head, query, key); n (layer, head, query)"""
    composition: xr.Dataset
    """composition (query, part, value), over layers and heads; n (query)"""
    readout: xr.Dataset
    """readout (query, thought, value): share of `eot` and `answer` over thoughts; n (query)"""
    model: xr.Dataset
    """preferences, no further dims"""
    layers: xr.Dataset
    """preferences (layer)"""
    heads: xr.Dataset
    """preferences (layer, head)"""
    ranking: xr.Dataset
    """`heads` along `rank` (1, 2, …) by importance, with `layer`, `head`, `name` (such as L2H3) and `type` of each;
    `reliability`, `top_overlap` and `top_overlap_by_chance` of the ranking, scalars"""
    evidence: xr.Dataset
    """excess (layer, head, measure, value), p, q, p_familywise (layer, head, measure), hub, type (layer, head)"""
    layer_evidence: xr.Dataset
    """the same of the mean head of each layer, without type; q and p_familywise over layers"""
    model_evidence: xr.Dataset
    """the same of the mean head of the model: q and p_familywise are p"""
    hubs: xr.Dataset
    """`hub_test`: hub, strength, p, p_corrected (layer, head)"""
    accuracy: xr.Dataset
    """accuracy (value), Wilson interval; n"""


def analyze(
    blocks: Blocks, *, correct: npt.ArrayLike, n_resamples: int = 1000, n_flips: int = 1000, seed: int = 0
) -> Analysis:
    """Summarise a run in one pass over its problems.

    Args:
        blocks: an attention Dataset, or its problems block by block, in any cut.
        correct: bool, one a problem, in the order of the blocks.
        n_resamples: bootstrap resamples of the problems.
        n_flips: sign flips of the problems; up to 12 problems all are listed.
        seed: same seed, same intervals and p-values, however the run is cut into blocks.

    Returns:
        Labelled Datasets, see `Analysis`.
    """
    draws = draw(len(np.asarray(correct)), n_resamples=n_resamples, n_flips=n_flips, seed=seed)
    options = {"n_resamples": n_resamples, "n_flips": n_flips, "seed": seed}
    return summarise(accumulate(measured(blocks), draws), correct=correct, options=options)


def summarise(totals: Totals, *, correct: npt.ArrayLike, options: Mapping[str, float]) -> Analysis:
    """The summary of a run that has been added up.

    Args:
        totals: as `accumulate` gives them.
        correct: bool, one a problem.
        options: `n_resamples`, `n_flips`, `seed`, and whatever else the Datasets shall carry as attributes.
    """
    is_correct = np.asarray(correct, dtype=bool)
    n, sums = len(is_correct), totals.sums
    seed, options = int(options["seed"]), {**options, "confidence": CONFIDENCE}
    head_sums = sums[[name for name in sums.data_vars if "head" in sums[name].dims and name != "places"]]
    heads = _summarise_heads(head_sums)
    found = Levels(*(level.assign(n=n).assign_attrs(options) for level in _evidence(totals)))
    ranking = rank_heads(heads.assign(type=found.heads["type"]))
    trust = reliability(totals.halves[list(head_sums.data_vars)], head_sums.isel(resample=0))
    return Analysis(
        moments=totals.moments,
        composition=_composition(sums).assign_attrs(options),
        readout=_readout(sums).assign_attrs(options),
        model=_summarise(head_sums.sum(("layer", "head"))).assign(n=n).assign_attrs(options),
        layers=_summarise(head_sums.sum("head")).assign(n=n).assign_attrs(options),
        heads=heads.assign(n=n).assign_attrs(options),
        ranking=ranking.assign(trust.data_vars).assign(n=n).assign_attrs(options),
        accuracy=xr.Dataset({"accuracy": proportion_interval(int(is_correct.sum()), n, confidence=CONFIDENCE), "n": n}),
        evidence=found.heads,
        layer_evidence=found.layers,
        model_evidence=found.model,
        hubs=hub_test_of(totals.rows, seed=seed).assign(n=n),
    )


def collect_sums(blocks: Blocks, *, over: tuple[str, ...] = ("layer", "head")) -> xr.Dataset:
    """`preference_sums` of every problem, for resampling or pairing problems without their attention.

    Args:
        blocks: an attention Dataset, or its problems block by block.
        over: dims to add up: none gives a row for each head, ("head",) for each layer, both for the model.

    Returns:
        As `preference_sums`, float64, dims (problem, ...).
    """
    parts = [preference_sums(attention).sum(list(over), skipna=False) for attention in attention_pieces(blocks)]
    return xr.concat(parts, "problem", data_vars="minimal", coords="minimal", compat="equals", join="exact")


def _evidence(totals: Totals) -> Levels:
    counts = totals.sums["n"]
    n = counts.isel(resample=0, drop=True)
    # Blocks of problems may differ in size, and so may resamples of them.
    excess = excess_cells(totals.sums) * (n / counts)
    squares, n_thoughts = totals.squares.assign_coords(n=n.astype(int)), totals.sums.sizes["query"]
    return evidence_of_levels(excess, totals.flipped, squares, n_thoughts=n_thoughts, confidence=CONFIDENCE)


def _composition(sums: xr.Dataset) -> xr.Dataset:
    n_rows = sums["row_exists"].rename(row="query")
    samples = sums["composition"].rename(row="query") / n_rows.where(n_rows > 0)
    return xr.Dataset({"composition": _interval(samples), "n": _observed_count(n_rows)})


def _readout(sums: xr.Dataset) -> xr.Dataset:
    n_rows = sums["row_exists"].rename(row="query").sel(query=[EOT, ANSWER])
    samples = readout(sums["readout"].rename(readout_row="query"))
    return xr.Dataset({"readout": _interval(samples), "n": _observed_count(n_rows)})


def _observed_count(n_rows: xr.DataArray) -> xr.DataArray:
    return n_rows.isel(resample=0).astype(np.int64)


def _interval(samples: xr.DataArray) -> xr.DataArray:
    return interval(samples, confidence=CONFIDENCE)


def _summarise_heads(sums: xr.Dataset) -> xr.Dataset:
    # A few layers at a time: the resampled preferences of all heads at once would be as large as the sums.
    n_layers = sums.sizes["layer"]
    step = max(1, CHUNK_CELLS * n_layers // sums["preference"].size)
    some_layers = [_summarise(sums.isel(layer=slice(start, start + step))) for start in range(0, n_layers, step)]
    return xr.concat(some_layers, "layer", data_vars="minimal", coords="minimal", compat="equals", join="exact")


def _summarise(sums: xr.Dataset) -> xr.Dataset:
    """Preferences, hub and importance with intervals, from the sums of every resample."""
    samples = preferences(sums).assign(entropy=mean_entropy(sums))
    hub = _hub_place(samples["preference"])
    observed_hub = hub.isel(resample=0)
    defined = samples["preference"].isel(resample=0).notnull().any("thought")
    samples = with_importance(samples)
    names = np.where(defined.values, samples["thought"].values[observed_hub.values], "")
    support = (hub.isel(resample=slice(1, None)) == observed_hub).mean("resample")
    return samples.map(_interval).assign(hub=observed_hub.copy(data=text(names)), hub_support=support.where(defined))


def with_importance(samples: xr.Dataset) -> xr.Dataset:
    """Preferences of every resample, with the `hub_preference` and `importance` of each (see `rank_heads`)."""
    # The hub is held fixed at the observed one: the interval is that thought's, not that of whichever is largest.
    hub = _hub_place(samples["preference"].isel(resample=0))
    at_hub = samples["preference"].isel(thought=hub).drop_vars("thought")
    return samples.assign(hub_preference=at_hub, importance=samples["thought_mass"] * (at_hub - 1.0))


def _hub_place(preference: xr.DataArray) -> xr.DataArray:
    return preference.fillna(-np.inf).argmax("thought")


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


def last_thought_shares(blocks: Blocks, *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """How the last thought shares out what it gives to earlier thoughts, over all heads.

    share[k] = Σ A[T, k] / Σ_k Σ A[T, k], sums over problems, layers and heads.  Range 0-1, sums to 1.  Null 1/(T − 1),
    an even share, kept as the attribute `null`.

    Args:
        blocks: an attention Dataset, or its problems block by block.
        n_resamples: bootstrap resamples of the problems.
        seed: same seed, same interval.

    Returns:
        `share` (thought, value) and `n`.
    """
    rows = [last_thought_rows(attention) for attention in attention_pieces(blocks)]
    return last_thought_shares_of(xr.concat(rows, "problem"), n_resamples=n_resamples, seed=seed)


def last_thought_rows(attention: xr.DataArray) -> xr.DataArray:
    """What the last thought gives to each earlier one, layers and heads added up: dims (problem, thought)."""
    last = thought_map(attention).isel(query=-1, drop=True).isel(key=slice(None, -1)).rename(key="thought")
    return last.astype(np.float64).sum(("layer", "head"), skipna=False)


def last_thought_shares_of(given: xr.DataArray, *, n_resamples: int = 1000, seed: int = 0) -> xr.Dataset:
    """`last_thought_shares` from `last_thought_rows`, of problems or of blocks of them that were added up."""
    share = bootstrap_ratio(given, given.sum("thought", skipna=False), n_resamples=n_resamples, seed=seed)
    share.attrs["null"] = 1.0 / max(1, given.sizes["thought"])
    return xr.Dataset({"share": share, "n": given.sizes["problem"]})
