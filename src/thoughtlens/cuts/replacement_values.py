"""Replacement values: thoughts and head outputs of passes without any cut, which edits put in the place of others.

in: the thoughts of all problems of a study and, where heads are edited, the outputs of heads at each position of the
thinking and of the gold answer; out: for a batch of problems, the values of every edit of `cuts.edits.Drawn`. A
problem gets the same values in every batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple, assert_never

import numpy as np
import torch
from torch import Tensor

from thoughtlens.cuts.edits import Donor, Drawn, Mean, Noise, Noisy, Own, Plus, Received, Replace, Resample, Shuffle
from thoughtlens.cuts.interventions import Intervention
from thoughtlens.errors import OptionError
from thoughtlens.notation import TEXT, query_names, thought_names
from thoughtlens.taps import Site, Tap

Parts = tuple[Intervention, ...]

NEAREST: Final = 10
"""Problems of like question length among which a donor is drawn where there is none of as many steps."""


class DonorPool(NamedTuple):
    """The problems of a study, as the values that edits put in place depend on them."""

    ids: tuple[str, ...]
    n_steps: tuple[int, ...]
    """worked steps of each; 0 where its set does not say"""
    lengths: tuple[int, ...]
    """tokens of each question"""
    choosing: tuple[bool, ...]
    """whether its mean is taken, all where every problem is tested too"""

    def donors(self, seed: int, rank: int = 0) -> Tensor:
        """As `donors` gives them, each from the problem's own side where some are tested and others choose."""
        chosen = torch.empty(len(self.ids), dtype=torch.long)
        for side in sorted(set(self.choosing)):
            places = [place for place, its in enumerate(self.choosing) if its == side]
            n_steps, lengths = ([values[place] for place in places] for values in (self.n_steps, self.lengths))
            chosen[places] = torch.tensor(places)[donors(n_steps, seed, lengths=lengths, rank=rank)]
        return chosen


@dataclass(frozen=True)
class RecordedValues:
    """What was kept of a pass in which nothing was cut; NaN for a problem that could not be run.

    Positions are bot, z1 … zT, eot, answer and text, the last the mean over all other tokens of the told answer.
    """

    pool: DonorPool
    thoughts: Tensor  # (problem, thought, hidden)
    heads: Tensor | None = None  # (problem, layer, head, position, channel), where edits need them
    edges: Tensor | None = None  # (problem, layer, head, position, thought, channel), likewise
    _sums: dict[Site, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def others_mean(self, site: Site, problems: Tensor) -> Tensor:
        """For each of these problems the mean over the problems that choose, itself left out."""
        kept = self.heads if site is Site.HEAD else self.thoughts
        assert kept is not None, "heads are measured where an edit needs them"
        choosing = torch.tensor(self.pool.choosing)
        if site not in self._sums:
            chosen = kept[choosing]
            self._sums[site] = chosen.nansum(0, dtype=torch.float64), (~chosen.isnan()).sum(0)
        total, count = self._sums[site]
        own = kept[problems].double()
        own[~choosing[problems]] = torch.nan
        mean: Tensor = (total - own.nan_to_num()) / (count - (~own.isnan()).long())
        return mean.float()


def bind(recorded: RecordedValues | None, cuts: Sequence[Sequence[Intervention]], places: Sequence[int]) -> list[Parts]:
    """Cuts whose edits have their values, for the problems at these places of the study."""
    problems = torch.tensor(places)
    # Many cuts of a plan share an edit, whose values are found once a batch.
    known: dict[tuple[Drawn, Site], Tap] = {}

    def bound(part: Intervention) -> Intervention:
        edit = part.edit
        if not isinstance(edit, Drawn):
            return part
        assert recorded is not None, "values are recorded for the edits of the plan"
        if isinstance(edit, Own) and part.site is Site.HEAD:
            # For `text` only a mean over tokens is kept, which would alter single tokens, so it is not frozen.
            named = frozenset(query_names(recorded.thoughts.shape[1])) if part.queries is None else part.queries
            part = replace(part, queries=named - {TEXT})
        if (edit, part.site) not in known:
            known[edit, part.site] = _values(edit, recorded, part.site, problems)
        return replace(part, edit=known[edit, part.site])

    return [tuple(map(bound, parts)) for parts in cuts]


def _values(edit: Drawn, recorded: RecordedValues, site: Site, problems: Tensor) -> Tap:
    kept = recorded.heads if site is Site.HEAD else recorded.thoughts
    if isinstance(edit, Received):
        assert recorded.edges is not None, "edges are recorded where an edit needs them"
        return Plus(recorded.edges[problems][..., thought_names(recorded.thoughts.shape[1]).index(edit.key), :])
    assert kept is not None, "heads are measured where an edit needs them"
    match edit:
        case Mean():
            return Replace(recorded.others_mean(site, problems))
        case Own():
            return Replace(kept[problems])
        case Donor():
            return Replace(kept[[recorded.pool.ids.index(edit.problem)]])
        case Resample():
            return Replace(kept[recorded.pool.donors(edit.seed, edit.rank)[problems]])
        case Shuffle():
            return Replace(kept[problems][:, derangement(kept.shape[1], edit.seed)])
        case Noise():
            return Noisy(_directions(kept.shape, edit.seed)[problems])
        case _:
            assert_never(edit)


def donors(n_steps: Sequence[int], seed: int, *, lengths: Sequence[int] = (), rank: int = 0) -> Tensor:
    """The index (problem,) of each problem's donor of this rank, drawn by seed; a problem's donors differ.

    Problems with as many steps come first, in random order; then the `NEAREST` of like question length, in random
    order, and the others by length. Steps of 0 are not known, and alike to none; without lengths all are alike.
    """
    if len(n_steps) < 2:
        raise OptionError("found one problem, which has no other to take from; study at least 2.")
    if not 0 <= rank < len(n_steps) - 1:
        raise OptionError(
            f"found {rank + 1} donors a problem, but only {len(n_steps) - 1} other problems; pass fewer --donors."
        )
    return _donors(tuple(n_steps), tuple(lengths) or (0,) * len(n_steps), seed, rank)


@lru_cache(maxsize=64)  # asked for in every batch and by every cut
def _donors(n_steps: tuple[int, ...], lengths: tuple[int, ...], seed: int, rank: int) -> Tensor:
    rng = np.random.default_rng(seed)
    steps, sizes = np.array(n_steps), np.array(lengths)
    chosen = []
    for place, own in enumerate(n_steps):
        drawn = rng.permutation(len(steps))
        drawn = drawn[drawn != place]
        alike = (steps[drawn] == own) & (own > 0)
        rest = drawn[~alike]
        by_length = rest[np.argsort(abs(sizes[rest] - sizes[place]), kind="stable")]
        # `rest` is in random order, so that those that are near keep it.
        near = rest[np.isin(rest, by_length[:NEAREST])]
        chosen.append(np.concatenate([drawn[alike], near, by_length[NEAREST:]])[rank])
    return torch.tensor(np.array(chosen))


def donor_rule(pool: DonorPool, seed: int, n_donors: int = 1) -> str:
    """Whose values are put in place, in a sentence's words, counted over the problems."""
    first = pool.donors(seed).tolist()
    alike = sum(steps > 0 and steps == pool.n_steps[donor] for steps, donor in zip(pool.n_steps, first, strict=True))
    kinds = {"as many steps": alike, f"like question length (one of the {NEAREST} nearest)": len(first) - alike}
    said = ", ".join(f"for {count} problems one of {kind}" for kind, count in kinds.items() if count)
    many = "" if n_donors == 1 else f"; log-probabilities are means over {n_donors} donors, answers those of the first"
    return f"another problem's values, drawn by seed {seed}: {said}{many}"


def derangement(n: int, seed: int) -> list[int]:
    """An order of n things in which none is in its own place, at random; `OptionError` where there is only one."""
    if n < 2:
        raise OptionError(f"found {n} thoughts, which have no other order; think at least 2.")
    rng = torch.Generator().manual_seed(seed)
    while True:
        order: list[int] = torch.randperm(n, generator=rng).tolist()
        if all(place != where for place, where in enumerate(order)):
            return order


@lru_cache(maxsize=2)  # one a site: as large as what was recorded, and needed for every few cuts of every batch
def _directions(shape: torch.Size, seed: int) -> Tensor:
    """Random directions of length 1 along the last axis, uniform over the sphere."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    directions: Tensor = drawn / drawn.norm(dim=-1, keepdim=True)
    return directions
