"""An address and an edit make an intervention: a tap that changes exactly what it names.

An experiment is site × address × edit, never a new class. An edit is a function `(tensor, moment) -> tensor` that
gives the edited tensor everywhere; the address says where it is taken.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtlens.errors import OptionError
from thoughtlens.tracing.taps import Moment, Site, Tap


@dataclass(frozen=True)
class Zero:
    """Nothing in the place of what was there."""

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Zeros of the same shape."""
        return torch.zeros_like(tensor)


@dataclass(frozen=True)
class Replace:
    """A given thought in the place of each thought: a mean, or another problem's.

    Attributes:
        thoughts: (problem, thought, hidden), aligned with the batch, or with one problem for all.
    """

    thoughts: Tensor

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The given vectors for the thought that is being fed."""
        which = int(moment.queries[0, 0]) - moment.slots["z1"]
        return self.thoughts[:, which].to(tensor).expand_as(tensor)


@dataclass(frozen=True)
class Intervention:
    """An edit, and where it is made. None in a part of the address means everywhere.

    Attributes:
        site: where the tensor is met.
        edit: what takes its place.
        layers: indices of layers.
        heads: indices of heads.
        queries: names of the slots that attend; of the thoughts themselves at site THOUGHT.
        keys: names of the slots attended to; only at sites SCORES and PATTERN.

    Raises:
        OptionError: the site is VALUE, which is recorded alone.
    """

    site: Site
    edit: Tap
    layers: frozenset[int] | None = None
    heads: frozenset[int] | None = None
    queries: frozenset[str] | None = None
    keys: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.site is Site.VALUE:
            # Its heads are key-value heads and its positions are keys: an address here would mean something else.
            raise OptionError("values can be recorded but not edited; edit thought, scores, pattern or head.")

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """The tensor, edited where it is addressed."""
        if moment.site is not self.site or (self.layers is not None and moment.layer not in self.layers):
            return tensor
        hit = self._hit(tensor, moment)
        return torch.where(hit, self.edit(tensor, moment), tensor) if hit.any() else tensor

    def _hit(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Boolean, broadcastable to the tensor."""
        queries = _named(moment.queries, self.queries, moment)
        if self.site is Site.THOUGHT:
            return queries
        every_head = torch.arange(tensor.shape[1], device=tensor.device)
        heads = torch.ones_like(every_head, dtype=torch.bool)
        if self.heads is not None:
            heads = torch.isin(every_head, torch.tensor(sorted(self.heads), device=tensor.device))
        hit = heads[None, :, None, None] & queries[:, None, :, None]
        if self.site is Site.HEAD:
            return hit
        return hit & _named(moment.keys, self.keys, moment)[:, None, None, :]


def _named(codes: Tensor, names: frozenset[str] | None, moment: Moment) -> Tensor:
    if names is None:
        return torch.ones_like(codes, dtype=torch.bool)
    return torch.isin(codes, torch.tensor([moment.slots[name] for name in sorted(names)], device=codes.device))
