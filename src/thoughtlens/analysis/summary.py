"""Turn a run into its summary: moments, composition, preferences, evidence, heads, accuracy, with n and intervals.

1. One pass over the run's problems gives sums over them, under all weights at once (`streaming`).
2. Preferences, hubs and importances are functions of those sums: the estimate is resample 0, its interval the others.
   One set of resamples serves all numbers. Layers and the model are sums over heads, not means of ratios.
3. What is beyond the nulls (`evidence`), which heads come first and whether halves of the problems agree on it
   (`ranking`), and which heads have a hub (`hubs`) come from sums of the same pass.

It knows nothing of files, models or figures. Attention is correlational: nothing here says what a head does.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, attention_pieces
from thoughtlens.analysis.evidence import Levels, evidence_of_levels
from thoughtlens.analysis.excess_cells import excess_cells
from thoughtlens.analysis.hubs import hub_test_of
from thoughtlens.analysis.metrics import mean_entropy, preference_sums, preferences, readout
from thoughtlens.analysis.names import text
from thoughtlens.analysis.ranking import rank_heads, reliability
from thoughtlens.analysis.statistics import CHUNK_CELLS, interval, proportion_interval
from thoughtlens.analysis.streaming import Totals, accumulate, draw, measured
from thoughtlens.labels import ANSWER, EOT

CONFIDENCE = 0.95


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
