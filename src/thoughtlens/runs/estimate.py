"""A plan of cuts becomes how many passes it is and how long they would take, from a few of them made."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from thoughtlens.models.base import LatentReasoner
from thoughtlens.runs.cut_job import Target
from thoughtlens.runs.cutting import Cutting, Parts, batch_of, copies_at_once
from thoughtlens.tracing.cuts import Cut
from thoughtlens.tracing.edits import Zero
from thoughtlens.tracing.material import needs_material

_TRIED: Final = 12
"""Cuts that are made to see how long one takes."""


class Estimate(NamedTuple):
    """What a plan would take.

    Attributes:
        n_passes: problems under a cut, the baseline being one.
        seconds: on this machine, as busy as it is now.
    """

    n_passes: int
    seconds: float


def estimate(reasoner: LatentReasoner, target: Target, cuts: Sequence[Cut]) -> Estimate:
    """Make a few cuts, evenly spaced over the plan, of the batch of middling length, and reckon the rest from it.

    Values of other passes are not measured for it: zeros stand in their place, which may make answers longer.
    """
    batch = target.of(target.batches[len(target.batches) // 2])
    tried = [_plain(cut) for cut in cuts[:: max(1, len(cuts) // _TRIED)]]
    began = time.monotonic()
    cutting = Cutting(reasoner, batch_of(reasoner, batch, target.n_thoughts), target.n_thoughts)
    read = time.monotonic()
    n_copies = copies_at_once(reasoner, [len(reasoner.prompt(p.question)) for p in batch], target.n_thoughts)
    for start in range(0, len(tried), n_copies):
        cutting.outcomes(tried[start : start + n_copies])
    made = time.monotonic()
    of_problem = (read - began) + (made - read) / len(tried) * len(cuts)
    seconds = of_problem / len(batch) * len(target.problems)
    return Estimate(len(target.problems) * (1 + len(cuts)), seconds)


def _plain(cut: Cut) -> Parts:
    return tuple(replace(part, edit=Zero()) if needs_material(part) else part for part in cut.parts)
