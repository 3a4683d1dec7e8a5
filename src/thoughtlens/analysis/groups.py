"""Groups of a run's problems become what the model does in each, and how each two of them differ.

A model meets every problem once, so that groups are of different problems: each is resampled by itself, and the p-value
deals the problems of two groups out to them anew. A group of fewer than two problems has nothing to be resampled and is
left out. How the groups were made is not known here; groups made by what the model did (solved, failed) are no
experiment, and neither are others.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.comparison_notes import CORRECTIONS
from thoughtlens.analysis.differences import Difference, measured, stack, unpaired_difference
from thoughtlens.analysis.ratios import Ratios, as_ratios
from thoughtlens.analysis.statistics import resample_weights
from thoughtlens.analysis.summary import CONFIDENCE
from thoughtlens.errors import RunError


class Grouped(NamedTuple):
    """What `compare_groups` returns; measures, `value` and `p_values` are those of `compare.Comparison`."""

    groups: xr.Dataset
    """the measures (group, depth, …, value); n (group)"""
    differences: xr.Dataset
    """the measures of `group` less those of `minus`, an earlier one: (pair, depth, …, value); n and n_minus (pair)"""
    p_values: xr.Dataset
    """(pair, depth, …)"""
    notes: tuple[str, ...]


def enough(groups: Mapping[str, npt.ArrayLike]) -> dict[str, np.ndarray]:
    """The groups of two problems or more, which can be resampled."""
    masks = {name: np.asarray(members, dtype=bool) for name, members in groups.items()}
    return {name: members for name, members in masks.items() if members.sum() > 1}


def group_seed(seed: int, place: int) -> int:
    """The seed of a group's resamples: another one for each, or groups of a size would be drawn alike."""
    return seed + place


def compare_groups(
    sums: xr.Dataset,
    groups: Mapping[str, npt.ArrayLike],
    *,
    correct: npt.ArrayLike,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Grouped:
    """Compare groups of the problems of one run.

    Args:
        sums: of all problems, as `ratios.collect_depth_sums` gives them.
        groups: bool for each problem, whether it belongs; by the names that the result has.
        correct: bool, one a problem.
        n_resamples: bootstrap resamples of each group, and permutations.
        seed: same seed, same numbers; a group's intervals are those of `analyze` with `group_seed`.

    Returns:
        Labelled Datasets and notes; without pairs if only one group is left.

    Raises:
        RunError: no group has two problems.
    """
    kept, right = enough(groups), np.asarray(correct, dtype=bool)
    if not kept:
        raise RunError("no group has two problems or more; extract more problems, or group them otherwise.")
    sides = {name: as_ratios(sums.isel(problem=np.flatnonzero(of)), right[of]) for name, of in kept.items()}
    seeds = {name: group_seed(seed, place) for place, name in enumerate(sides)}
    rows = [
        measured(side, resample_weights(_n(side), n_resamples=n_resamples, seed=seeds[name])).assign(n=_n(side))
        for name, side in sides.items()
    ]
    values, p_values = _differences(sides, seeds, n_resamples)
    options = {"n_resamples": n_resamples, "seed": seed, "confidence": CONFIDENCE, "paired": False}
    return Grouped(
        stack(rows, "group").assign_coords(group=_text(list(sides))).assign_attrs(options),
        values.assign_attrs(options),
        p_values.assign_attrs(options),
        _notes(groups, list(kept)),
    )


def _differences(
    sides: Mapping[str, Ratios], seeds: Mapping[str, int], n_resamples: int
) -> tuple[xr.Dataset, xr.Dataset]:
    pairs = [(later, earlier) for earlier, later in combinations(sides, 2)]
    if not pairs:
        return xr.Dataset(coords=_labels(pairs)), xr.Dataset(coords=_labels(pairs))
    found: list[Difference] = [
        unpaired_difference(sides[one], sides[minus], n_resamples=n_resamples, seeds=(seeds[one], seeds[minus]))
        for one, minus in pairs
    ]
    counts = {
        "n": ("pair", [_n(sides[one]) for one, _ in pairs]),
        "n_minus": ("pair", [_n(sides[minus]) for _, minus in pairs]),
    }
    values = stack([difference.values for difference in found], "pair").assign(counts)
    p_values = stack([difference.p for difference in found], "pair")
    return values.assign_coords(_labels(pairs)), p_values.assign_coords(_labels(pairs))


def _labels(pairs: list[tuple[str, str]]) -> dict[str, xr.DataArray]:
    names = {
        "pair": [f"{one} − {minus}" for one, minus in pairs],
        "group": [one for one, _ in pairs],
        "minus": [minus for _, minus in pairs],
    }
    return {name: xr.DataArray(_text(of), dims="pair") for name, of in names.items()}


def _notes(groups: Mapping[str, npt.ArrayLike], kept: list[str]) -> tuple[str, ...]:
    sizes = {name: int(np.sum(members)) for name, members in groups.items()}
    notes = [
        f"{name} has {size} problem{'s' * (size != 1)}, too few to be resampled, and is left out."
        for name, size in sizes.items()
        if name not in kept
    ]
    if len(kept) == 1:
        notes.append(f"{kept[0]} is the only group, so that there are no differences.")
    else:
        notes.append("Groups are of different problems: what differs between them need not come from what they are by.")
        notes.append(CORRECTIONS)
    return tuple(notes)


def _n(side: Ratios) -> int:
    return side.above.sizes["problem"]


def _text(names: list[str]) -> np.ndarray:
    return np.array(names, dtype=np.dtypes.StringDType())
