"""Turn attention into the two sums that each measure of a model is the ratio of, problem by problem and by depth.

1. Every measure is observed over possible: Σ_p above[p] / Σ_p below[p], sums over problems. Heads and layers are
   averaged within a problem, which leaves the ratios those of `metrics` and makes models of any size weigh alike.
2. Depth is relative, d = layer / (L − 1): `early` d < 1/3, `middle`, `late` d > 2/3, and `all`. Models of different
   numbers of layers share it. The bins mirror each other: four layers split 1, 2, 1. A lone layer is `middle`, and of
   two none is: what a bin without layers would say is undefined.
3. Since sums are linear, resamples, permutations and groups of problems are all products of weights with these numbers,
   which are few: a run of any size fits in memory.

What is compared with what is not known here.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, attention_pieces
from thoughtlens.analysis.metrics import MASS_FLOOR, composition, expected_sums, preference_sums
from thoughtlens.analysis.statistics import weighted_sums
from thoughtlens.errors import RunError
from thoughtlens.labels import thought_names
from thoughtlens.schema import n_thoughts_of

DEPTHS = ("all", "early", "middle", "late")
POSITIONS = {"preference": "thought", "lag_preference": "lag", "composition": "part"}
"""The dim along which a measure has positions; the others are single numbers."""
MEASURES = ("accuracy", "preference", "lag_preference", "sequential", "skip", "thought_mass", "composition")


class Ratios(NamedTuple):
    """Numerators and denominators of the measures, dims (problem, depth, …); a denominator of 0 is an undefined ratio.

    `preference` (thought), `lag_preference` (lag), `sequential`, `skip`, `thought_mass` as in `metrics.preferences`;
    `composition` (part) the mean over the thoughts' rows; `accuracy` (problem) without depth.
    """

    above: xr.Dataset
    below: xr.Dataset


def layers_by_depth(n_layers: int) -> xr.DataArray:
    """Which layers belong to which depth: bool, dims (depth, layer)."""
    layer = np.arange(n_layers)
    # In whole numbers: 1/3 as a float would put a layer at exactly 1/3 on either side.
    early, late = 3 * layer < n_layers - 1, 3 * layer > 2 * (n_layers - 1)
    rows = np.stack([np.ones(n_layers, dtype=bool), early, ~early & ~late, late])
    return xr.DataArray(rows, dims=("depth", "layer"), coords={"depth": _text(DEPTHS)})


def depth_sums(attention: xr.DataArray, sums: xr.Dataset) -> xr.Dataset:
    """What the ratios are made of, averaged over the heads and layers of each depth.

    Args:
        attention: dims (problem, layer, head, query, key).
        sums: its `preference_sums`.

    Returns:
        Those sums and `composition` (…, part), the mean over the thoughts' rows, dims (problem, depth, …); `present`
        (problem, depth), 1 where the depth has layers.
    """
    rows = composition(attention.mean("head", skipna=False)).sel(query=thought_names(n_thoughts_of(attention)))
    by_layer = sums.mean("head").assign(composition=rows.mean("query")).drop_vars("layer", errors="ignore")
    members = layers_by_depth(attention.sizes["layer"])
    shares = members / members.sum("layer").clip(min=1)
    by_depth = by_layer.map(lambda values: xr.dot(values, shares, dim="layer").transpose("problem", "depth", ...))
    present = members.any("layer").astype(np.float64)
    return by_depth.assign(present=present.expand_dims(problem=attention.sizes["problem"]))


def collect_depth_sums(blocks: Blocks) -> xr.Dataset:
    """`depth_sums` of every problem of a run: dims (problem, depth, …), the problems in order."""
    return join_problems([depth_sums(attention, preference_sums(attention)) for attention in attention_pieces(blocks)])


def join_problems(parts: list[xr.Dataset]) -> xr.Dataset:
    """Datasets of some problems each as one of all."""
    if not parts:
        raise RunError("found no problems to compare; extract at least one problem first.")
    return xr.concat(parts, "problem", data_vars="minimal", coords="minimal", compat="equals", join="exact")


def as_ratios(sums: xr.Dataset, correct: np.ndarray) -> Ratios:
    """The ratios of some problems.

    Args:
        sums: as `collect_depth_sums` gives them.
        correct: bool, one a problem.

    Returns:
        Numerators and denominators; where `metrics.preferences` says nothing about the problems together (no cells, or
        hardly any thought mass) the denominators are 0.
    """
    expected = expected_sums(sums)
    if_all_mass = expected_sums(sums.assign(mass=sums["rows"])).sum("problem")
    defined = expected.sum("problem") >= MASS_FLOOR * if_all_mass
    later = sums["query"].values[1:]
    right = xr.DataArray(np.asarray(correct, dtype=np.float64), dims="problem")
    above = sums[[*expected.data_vars, "composition"]].assign(
        thought_mass=sums["mass"].sel(query=later).sum("query"), accuracy=right
    )
    below = expected.where(defined, 0.0).assign(
        thought_mass=sums["rows"].sel(query=later).sum("query"),
        composition=sums["present"],
        accuracy=xr.ones_like(right),
    )
    return Ratios(*(part.drop_vars(["problem", "query"], errors="ignore") for part in (above, below)))


def resampled(ratios: Ratios, weights: xr.DataArray) -> xr.Dataset:
    """Every measure in every resample: dims (resample, …).

    Args:
        ratios: of some problems.
        weights: dims (resample, problem), how often each counts.
    """
    above, below = (part.map(weighted_sums, weights=weights) for part in ratios)
    return _divide(above, below)


def linearised(ratios: Ratios) -> xr.Dataset:
    """Each measure as a mean over problems: what every problem adds to the ratio, to first order.

    value[p] = R + (above[p] − R · below[p]) / mean(below), R the ratio; the mean over problems is R itself.
    Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, §21 (influence function of a ratio).
    """
    ratio = _divide(ratios.above.sum("problem"), ratios.below.sum("problem"))
    return ratio + _divide(ratios.above - ratio * ratios.below, ratios.below.mean("problem"))


def _divide(above: xr.Dataset, below: xr.Dataset) -> xr.Dataset:
    return above / below.where(below > 0)


def _text(names: tuple[str, ...]) -> np.ndarray:
    return np.array(names, dtype=np.dtypes.StringDType())
