"""Models on their problems are read once each, so that they can be held against each other on the problems they share.

Sums by depth are kept for each problem; sums by head only for the resamples. Memory grows by a few numbers a problem.
What is made of them is not known here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens.analysis.blocks import Blocks, attention_pieces
from thoughtlens.analysis.metrics import preference_sums, preferences
from thoughtlens.analysis.ratios import Ratios, as_ratios, depth_sums, join_problems
from thoughtlens.analysis.streaming import add_weighted
from thoughtlens.analysis.summary import with_importance
from thoughtlens.errors import RunError

PROFILES = ("importance", "sequential", "skip", "thought_mass")
"""What heads are ranked by."""


@final
@dataclass(frozen=True)
class Subject:
    """A model on its problems, as a comparison needs it.

    Attributes:
        blocks: an attention Dataset, or its problems block by block, read once.
        problems: what each problem is known by, in the order of the blocks; equal in two subjects if the same problem.
        correct: bool, one a problem.
        n_question_tokens: prompt tokens before `bot`, one a problem, if known.
        head_types: the type of each head, dims (layer, head), if known.
    """

    blocks: Blocks
    problems: Sequence[str]
    correct: npt.ArrayLike
    n_question_tokens: npt.ArrayLike | None = None
    head_types: xr.DataArray | None = None


class Seen(NamedTuple):
    """What was read of a model."""

    ratios: Ratios
    """of the problems compared, in the order of these"""
    profiles: xr.Dataset
    """`PROFILES` of each head, dims (resample, layer, head)"""
    n_thoughts: int

    @property
    def n(self) -> int:
        """Problems compared."""
        return self.ratios.above.sizes["problem"]

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return self.profiles.sizes["layer"], self.profiles.sizes["head"]


def common_problems(subjects: Mapping[str, Subject]) -> list[str]:
    """The problems that all subjects have, in the order of the first; none if there is but one to draw from."""
    shared = set.intersection(*(set(subject.problems) for subject in subjects.values()))
    first = next(iter(subjects.values()))
    return [problem for problem in first.problems if problem in shared] if len(shared) > 1 else []


def read_subject(subject: Subject, chosen: Sequence[str], weights: xr.DataArray) -> Seen:
    """Read the chosen problems of a subject.

    Args:
        subject: the model; its blocks are used up.
        chosen: the problems to keep, each among the subject's.
        weights: how often each chosen problem is drawn, dims (resample, problem), in the order of `chosen`.

    Returns:
        The numbers of these problems, in the order of `chosen`.
    """
    places = places_of(chosen, subject.problems)
    heads: dict[str, xr.DataArray] = {}
    parts: list[xr.Dataset] = []
    n_seen = 0
    for attention in attention_pieces(subject.blocks):
        here = places[n_seen : n_seen + attention.sizes["problem"]]
        n_seen += attention.sizes["problem"]
        _check_number(n_seen <= len(places), subject, f"{n_seen} or more")
        kept = attention.isel(problem=np.flatnonzero(here >= 0))
        sums = preference_sums(kept)
        add_weighted(heads, sums, weights.isel(problem=here[here >= 0]))
        parts.append(depth_sums(kept, sums).assign_coords(problem=here[here >= 0]))
    _check_number(n_seen == len(places) == np.size(subject.correct), subject, str(n_seen))
    correct = np.asarray(subject.correct, dtype=bool)[np.argsort(places)[(places < 0).sum() :]]
    sums = join_problems(parts).sortby("problem")
    return Seen(as_ratios(sums, correct), _profiles(xr.Dataset(heads)), sums.sizes["query"])


def places_of(chosen: Sequence[str], problems: Sequence[str]) -> np.ndarray:
    """Where each problem stands among the chosen; -1 for one that does not."""
    place = {name: number for number, name in enumerate(chosen)}
    return np.array([place.get(problem, -1) for problem in problems], dtype=np.int64)


def _check_number(right: bool, subject: Subject, n_seen: str) -> None:
    if not right:
        raise RunError(
            f"found attention of {n_seen} problems, names of {len(subject.problems)} and answers of "
            f"{np.size(subject.correct)}, expected one number; extract again."
        )


def _profiles(sums: xr.Dataset) -> xr.Dataset:
    # A layer at a time: the resampled preferences of all heads at once would be as large as the sums.
    some = [
        with_importance(preferences(sums.isel(layer=[layer])))[list(PROFILES)] for layer in range(sums.sizes["layer"])
    ]
    return xr.concat(some, "layer", data_vars="minimal", coords="minimal", compat="equals", join="exact")
