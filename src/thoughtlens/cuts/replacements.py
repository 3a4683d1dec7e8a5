"""Material: thoughts and head outputs recorded without any cut, from which edits take their replacement values.

in: the thoughts of all problems of a study and, where heads are edited, the outputs of heads at each position of the
thinking and of the gold answer; out: for a batch of problems, the values of every edit of `cuts.edits.Drawn`. A problem
gets the same values in every batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import assert_never

import torch
from torch import Tensor

from thoughtlens.cuts.edits import Donor, Drawn, Mean, Noise, Noisy, Own, Replace, Resample, Shuffle
from thoughtlens.cuts.intervention import Intervention
from thoughtlens.errors import OptionError
from thoughtlens.notation import TEXT, query_names
from thoughtlens.taps import Site, Tap

Parts = tuple[Intervention, ...]


@dataclass(frozen=True)
class Material:
    """What was kept of a pass in which nothing was cut; NaN for a problem that could not be run.

    Positions are bot, z1 … zT, eot, answer and text, the last the mean over all other tokens of the told answer.
    """

    problem_ids: tuple[str, ...]
    n_steps: tuple[int, ...]  # worked steps of each problem; 0 where its set does not say
    thoughts: Tensor  # (problem, thought, hidden)
    heads: Tensor | None = None  # (problem, layer, head, position, channel), where edits need them

    @cached_property
    def head_means(self) -> Tensor:
        """(1, layer, head, position, channel), over the problems that could be run."""
        assert self.heads is not None, "heads are measured where an edit needs them"
        return self.heads.nanmean(0, keepdim=True)


def bind(cuts: Sequence[Sequence[Intervention]], material: Material | None, places: Sequence[int]) -> list[Parts]:
    """Cuts whose edits have their values, for the problems at these places of the study."""
    problems = torch.tensor(places)
    # Many cuts of a plan share an edit, whose values are found once a batch.
    known: dict[tuple[Drawn, Site], Tap] = {}

    def bound(part: Intervention) -> Intervention:
        edit = part.edit
        if not isinstance(edit, Drawn):
            return part
        assert material is not None, "material is measured for the edits of the plan"
        if isinstance(edit, Own) and part.site is Site.HEAD:
            # For `text` only a mean over tokens is kept, which would alter single tokens, so it is not frozen.
            named = frozenset(query_names(material.thoughts.shape[1])) if part.queries is None else part.queries
            part = replace(part, queries=named - {TEXT})
        if (edit, part.site) not in known:
            known[edit, part.site] = _values(edit, material, part.site, problems)
        return replace(part, edit=known[edit, part.site])

    return [tuple(map(bound, parts)) for parts in cuts]


def _values(edit: Drawn, material: Material, site: Site, problems: Tensor) -> Tap:
    kept = material.heads if site is Site.HEAD else material.thoughts
    assert kept is not None, "heads are measured where an edit needs them"
    match edit:
        case Mean():
            return Replace(material.head_means if site is Site.HEAD else kept.nanmean(0, keepdim=True))
        case Own():
            return Replace(kept[problems])
        case Donor():
            return Replace(kept[[material.problem_ids.index(edit.problem)]])
        case Resample():
            return Replace(kept[donors(material.n_steps, edit.seed)[problems]])
        case Shuffle():
            return Replace(kept[problems][:, derangement(kept.shape[1], edit.seed)])
        case Noise():
            return Noisy(_directions(kept.shape, edit.seed)[problems])
        case _:
            assert_never(edit)


def donors(n_steps: Sequence[int], seed: int) -> Tensor:
    """The index (problem,) of each problem's donor: one with as many steps, at random; any other where none has."""
    if len(n_steps) < 2:
        raise OptionError("found one problem, which has no other to take from; study at least 2.")
    rng = torch.Generator().manual_seed(seed)
    steps = torch.tensor(n_steps)
    chosen = []
    for place, own in enumerate(n_steps):
        others = ((steps == own) & (torch.arange(len(steps)) != place)).nonzero().flatten()
        if not len(others):
            others = torch.tensor([other for other in range(len(steps)) if other != place])
        chosen.append(int(others[torch.randint(len(others), (), generator=rng)]))
    return torch.tensor(chosen)


def derangement(n: int, seed: int) -> list[int]:
    """An order of n things in which none is in its own place, at random; `OptionError` where there is only one."""
    if n < 2:
        raise OptionError(f"found {n} thoughts, which have no other order; think at least 2.")
    rng = torch.Generator().manual_seed(seed)
    while True:
        order: list[int] = torch.randperm(n, generator=rng).tolist()
        if all(place != where for place, where in enumerate(order)):
            return order


@lru_cache(maxsize=2)  # one a site: as large as the material, and needed for every few cuts of every batch
def _directions(shape: torch.Size, seed: int) -> Tensor:
    """Random directions of length 1 along the last axis, uniform over the sphere."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    directions: Tensor = drawn / drawn.norm(dim=-1, keepdim=True)
    return directions
