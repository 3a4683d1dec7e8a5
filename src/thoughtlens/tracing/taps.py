"""What a tap is, where taps are met, and how several of them follow one another.

A tap is a function `(tensor, moment) -> tensor`. A recorder is a tap that returns what it got; an intervention is a tap
that edits where it is addressed. Taps travel as a plain argument of the forward call, so that there are no hooks and
no state on the model.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from torch import Tensor


class Site(StrEnum):
    """The five places where a tensor meets the taps."""

    THOUGHT = "thought"
    """(problem, hidden): a thought, just before it is fed back."""
    SCORES = "scores"
    """(problem, head, query, key): before the softmax."""
    VALUE = "value"
    """(problem, key-value head, key, channel): what each key offers, before the weighted sum; met before PATTERN."""
    PATTERN = "pattern"
    """(problem, head, query, key): after the softmax, in float32 at least."""
    HEAD = "head"
    """(problem, head, query, channel): a head's output, before the output projection."""


class Moment(NamedTuple):
    """Where in the computation a tensor was met.

    Attributes:
        site: which of the five places.
        layer: index of the layer; None for a thought, which is met between passes.
        queries: codes (problem, query) of the positions that attend.
        keys: codes (problem, key) of the positions that can be attended to; PAD_CODE on padding.
        slots: code of each named slot.
        rows: index (problem,) of each problem in the batch as it was begun; finished problems leave it.
    """

    site: Site
    layer: int | None
    queries: Tensor
    keys: Tensor
    slots: Mapping[str, int]
    rows: Tensor


Tap = Callable[[Tensor, Moment], Tensor]


class Taps(tuple[Tap, ...]):
    """Taps in the order in which a tensor passes them."""

    __slots__ = ()

    def __new__(cls, taps: Iterable[Tap] = ()) -> "Taps":
        """Keep the order given."""
        return super().__new__(cls, taps)

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Pass a tensor through every tap, from left to right."""
        for tap in self:
            tensor = tap(tensor, moment)
        return tensor
