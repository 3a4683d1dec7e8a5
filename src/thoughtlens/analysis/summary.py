"""Turn a run into its summary: moments, composition, preferences, hub, top heads, accuracy, with n and intervals.

1. One pass over the run's problems, a few at a time: each piece adds to the moments and, through the resample weights,
   to the sums of every bootstrap resample. Memory holds resamples × heads × sums and never the attention of a run.
2. Preferences, hubs and importances are functions of those sums: the estimate is resample 0, its interval the others.
   One set of resamples serves all numbers. Layers and the model are sums over heads, not means of ratios.

It knows nothing of files, models or figures. Attention is correlational: nothing here says what a head does.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, attention_pieces
from thoughtlens.analysis.metrics import composition, preference_sums, preferences, readout, readout_sums
from thoughtlens.analysis.moments import finish_moments, merge_moments, partial_moments
from thoughtlens.analysis.statistics import (
    CHUNK_CELLS,
    interval,
    proportion_interval,
    resample_weights,
    weighted_sums,
)
from thoughtlens.errors import RunError
from thoughtlens.labels import ANSWER, EOT

CONFIDENCE = 0.95


class Analysis(NamedTuple):
    """What `analyze` returns; `value` is estimate, low, high, and every Dataset carries `n`.

    The Datasets of preferences hold, for … the dims named below, `preference` (…, thought, value), `lag_preference`
    (…, lag, value), `sequential`, `skip`, `thought_mass`, `importance` and `hub_preference` (…, value), `hub` (…),
    the hub's name or "" where undefined, and `hub_support` (…), the share of resamples with the same hub.
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
    """`heads` along `rank` (1, 2, …) by importance, with `layer`, `head` and `name` (such as L2H3) of each"""
    accuracy: xr.Dataset
    """accuracy (value), Wilson interval; n"""


def analyze(blocks: Blocks, *, correct: npt.ArrayLike, n_resamples: int = 1000, seed: int = 0) -> Analysis:
    """Summarise a run in one pass over its problems.

    Args:
        blocks: an attention Dataset, or its problems block by block, in any cut.
        correct: bool, one a problem, in the order of the blocks.
        n_resamples: bootstrap resamples of the problems.
        seed: same seed, same intervals, however the run is cut into blocks.

    Returns:
        Labelled Datasets, see `Analysis`.
    """
    is_correct = np.asarray(correct, dtype=bool)
    n = len(is_correct)
    moments, sums = _accumulate(blocks, resample_weights(n, n_resamples=n_resamples, seed=seed))
    head_sums = sums[[name for name in sums.data_vars if "head" in sums[name].dims]]
    heads = _summarise_heads(head_sums)
    options = {"n_resamples": n_resamples, "seed": seed, "confidence": CONFIDENCE}
    return Analysis(
        moments=moments,
        composition=_composition(sums).assign_attrs(options),
        readout=_readout(sums).assign_attrs(options),
        model=_summarise(head_sums.sum(("layer", "head"))).assign(n=n).assign_attrs(options),
        layers=_summarise(head_sums.sum("head")).assign(n=n).assign_attrs(options),
        heads=heads.assign(n=n).assign_attrs(options),
        ranking=rank_heads(heads).assign(n=n).assign_attrs(options),
        accuracy=xr.Dataset({"accuracy": proportion_interval(int(is_correct.sum()), n, confidence=CONFIDENCE), "n": n}),
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
    return ranked.assign_coords(rank=np.arange(1, len(order) + 1), name=("rank", _text(names)))


def _accumulate(blocks: Blocks, weights: xr.DataArray) -> tuple[xr.Dataset, xr.Dataset]:
    """Moments, and the sums over the problems of every resample, in one pass."""
    sums: dict[str, xr.DataArray] = {}
    moments: xr.Dataset | None = None
    n_seen, n_problems = 0, weights.sizes["problem"]
    for attention in attention_pieces(blocks):
        drawn = weights.isel(problem=slice(n_seen, n_seen + attention.sizes["problem"]))
        n_seen += attention.sizes["problem"]
        if n_seen > n_problems:
            raise RunError(f"found attention of more problems than the {n_problems} in `correct`; extract again.")
        add_weighted(sums, _problem_sums(attention), drawn)
        piece = partial_moments(attention)
        moments = piece if moments is None else merge_moments(moments, piece)
    if moments is None or n_seen < n_problems:
        raise RunError(f"found attention of {n_seen} problems, expected {n_problems} as in `correct`; extract again.")
    return finish_moments(moments), xr.Dataset(sums)


def add_weighted(sums: dict[str, xr.DataArray], part: xr.Dataset, drawn: xr.DataArray) -> None:
    """Add the sums of some problems to those of every resample, `drawn` being the weights of these problems."""
    # In place and a variable at a time: with many heads and thoughts the sums are the largest thing in memory.
    for name, values in part.data_vars.items():
        added = weighted_sums(values, drawn)
        if str(name) in sums:
            sums[str(name)].values += added.values
        else:
            sums[str(name)] = added


def _problem_sums(attention: xr.DataArray) -> xr.Dataset:
    """Everything that is added up over problems: dims (problem, …)."""
    mean_row = attention.mean(("layer", "head"), skipna=False)
    parts = composition(mean_row)
    exists = parts.notnull().all("part")
    shares = readout_sums(mean_row)
    return preference_sums(attention).assign(
        composition=parts.where(exists, 0.0).rename(query="row"),
        readout=shares.rename(query="readout_row"),
        row_exists=exists.astype(np.float64).rename(query="row"),
    )


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
    samples = preferences(sums)
    hub = _hub_place(samples["preference"])
    observed_hub = hub.isel(resample=0)
    defined = samples["preference"].isel(resample=0).notnull().any("thought")
    samples = with_importance(samples)
    names = np.where(defined.values, samples["thought"].values[observed_hub.values], "")
    support = (hub.isel(resample=slice(1, None)) == observed_hub).mean("resample")
    return samples.map(_interval).assign(hub=observed_hub.copy(data=_text(names)), hub_support=support.where(defined))


def with_importance(samples: xr.Dataset) -> xr.Dataset:
    """Preferences of every resample, with the `hub_preference` and `importance` of each (see `rank_heads`)."""
    # The hub is held fixed at the observed one: the interval is that thought's, not that of whichever is largest.
    hub = _hub_place(samples["preference"].isel(resample=0))
    at_hub = samples["preference"].isel(thought=hub).drop_vars("thought")
    return samples.assign(hub_preference=at_hub, importance=samples["thought_mass"] * (at_hub - 1.0))


def _hub_place(preference: xr.DataArray) -> xr.DataArray:
    return preference.fillna(-np.inf).argmax("thought")


def _text(names: npt.ArrayLike) -> np.ndarray:
    return np.array(names, dtype=np.dtypes.StringDType())
