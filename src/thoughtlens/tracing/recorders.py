"""Taps that keep what they see: attention and what it moves, pooled by slot, heads' outputs, and the thoughts."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.labels import BOT, PAD_CODE
from thoughtlens.tracing.taps import Moment, Site


class _Places(NamedTuple):
    """Where the rows of one pass go, worked out once for all its layers.

    Attributes:
        queries: the codes it was worked out from.
        keys: the codes it was worked out from.
        problem: index of the problem of each row that is kept.
        step: its index among the queries.
        row: its index on the query axis.
        in_slot: (problem, key, slot), 1 where a key is of a slot.
    """

    queries: Tensor
    keys: Tensor
    problem: Tensor
    step: Tensor
    row: Tensor
    in_slot: Tensor


class AttentionRecorder:
    """Keeps the pattern of every named query, its keys pooled by slot, on the model's device until it is asked for."""

    def __init__(self, *, n_problems: int, n_layers: int, n_heads: int, n_thoughts: int, dtype: torch.dtype) -> None:
        shape = (n_problems, n_layers, n_heads, n_thoughts + 3, n_thoughts + 5)
        self._kept = torch.full(shape, torch.nan, dtype=torch.promote_types(dtype, torch.float32))
        self._places: _Places | None = None

    @property
    def attention(self) -> Tensor:
        """(problem, layer, head, query, key) float32 or wider; NaN in a row that was never met."""
        return self._kept.cpu()

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the pattern's rows; a later row of the same query takes the place of an earlier one."""
        if moment.site is Site.PATTERN:
            self._keep(tensor, moment)
        return tensor

    def _keep(self, pattern: Tensor, moment: Moment) -> None:
        problem, step, row, in_slot = self._places_of(moment, pattern.dtype)[2:]
        if not len(row):
            return
        self._kept = self._kept.to(pattern.device)
        # Heads beside queries: a product for each problem, where broadcasting would copy `in_slot` for each head.
        pooled = (pattern.flatten(1, 2) @ in_slot).view(*pattern.shape[:3], -1)
        self._kept[moment.rows[problem], moment.layer, :, row] = pooled[problem, :, step].to(self._kept.dtype)

    def _places_of(self, moment: Moment, dtype: torch.dtype) -> _Places:
        known = self._places
        if known is None or known.queries is not moment.queries or known.keys is not moment.keys:
            rows = moment.queries - moment.slots[BOT]
            problem, step = ((rows >= 0) & (rows < self._kept.shape[-2])).nonzero(as_tuple=True)
            slots = torch.arange(self._kept.shape[-1], device=rows.device)
            in_slot = (moment.keys[:, :, None] == slots).to(dtype)
            known = _Places(moment.queries, moment.keys, problem, step, rows[problem, step], in_slot)
            self._places = known
        return known


def _named_rows(moment: Moment, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index of problem and of step of each query that has a row, and its row."""
    rows = moment.queries.cpu() - moment.slots[BOT]
    problem, step = ((rows >= 0) & (rows < n_rows)).nonzero(as_tuple=True)
    return problem, step, rows[problem, step]


class QuestionRecorder:
    """Keeps how each named query attends to each token of the question, averaged over heads.

    Attributes:
        attention: (problem, layer, query, token) float32 or wider; tokens as they lie in the batch, padding first; NaN
            in a row that was never met.
    """

    def __init__(self, *, n_problems: int, n_layers: int, n_thoughts: int, n_tokens: int, dtype: torch.dtype) -> None:
        shape = (n_problems, n_layers, n_thoughts + 3, n_tokens)
        self.attention = torch.full(shape, torch.nan, dtype=torch.promote_types(dtype, torch.float32))

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the pattern's first columns; a later row of the same query takes the place of an earlier one."""
        if moment.site is Site.PATTERN:
            problem, step, row = _named_rows(moment, self.attention.shape[-2])
            mean = tensor[..., : self.attention.shape[-1]].mean(1).cpu()
            self.attention[moment.rows.cpu()[problem], moment.layer, row] = mean[problem, step]
        return tensor


class ValueRecorder:
    """Keeps how much each query is given by each key: the norm of the weighted, projected value, pooled by slot.

    ‖α[q, k] · v[k] · W_O‖, W_O being the head's slice of the output projection; a slot of several tokens has the sum
    of their norms, which is not the norm of their sum.  From 0, no null: a weight on a small value moves little.
    Source: Kobayashi et al. 2020, arXiv 2004.10102.

    Args:
        rows: keeps the weighted rows, as it would keep those of a pattern.
        factors: F (head, channel, rank) of each layer, with ‖v F‖ = ‖v W_O‖ for every v.
    """

    def __init__(self, rows: AttentionRecorder, factors: Sequence[Tensor]) -> None:
        self._rows = rows
        self._factors = factors
        self._norms = torch.empty(0)

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Take the norms of the values, and weigh them by the pattern that follows."""
        if moment.site is Site.VALUE and moment.layer is not None:
            factor = self._factors[moment.layer]
            # Neighbouring heads share the values of one key-value head, each with its own projection.
            values = tensor.repeat_interleave(len(factor) // tensor.shape[1], dim=1)
            self._norms = (values.to(factor.dtype) @ factor).norm(dim=-1)
        elif moment.site is Site.PATTERN:
            self._rows(tensor * self._norms[:, :, None], moment)
        return tensor


class PaddingWatch:
    """Keeps the largest attention weight that any query has put on padding: it must be 0."""

    def __init__(self) -> None:
        self.worst = 0.0

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Look at the pattern's padded columns."""
        if moment.site is Site.PATTERN:
            on_padding = tensor * (moment.keys == PAD_CODE)[:, None, None]
            self.worst = max(self.worst, float(on_padding.max()))
        return tensor


class ThoughtRecorder:
    """Keeps the thoughts as they are fed back.

    Attributes:
        thoughts: one (problem, hidden) tensor a thought, in order.
    """

    def __init__(self) -> None:
        self.thoughts: list[Tensor] = []

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep a thought."""
        if moment.site is Site.THOUGHT:
            self.thoughts.append(tensor)
        return tensor


class HeadRecorder:
    """Keeps each head's output, before the output projection, at every position from `bot` on.

    Positions are bot, z1 … zT, eot, answer and text; the last is the mean over all other generated tokens.
    """

    def __init__(self, *, n_problems: int, n_layers: int, n_heads: int, n_thoughts: int, n_channels: int) -> None:
        self._sums = torch.zeros(n_problems, n_layers, n_heads, n_thoughts + 4, n_channels)
        self._counts = torch.zeros(n_problems, n_layers, n_thoughts + 4)

    @property
    def heads(self) -> Tensor:
        """(problem, layer, head, position, channel) float32; NaN at a position that was never met."""
        return self._sums / self._counts[:, :, None, :, None]

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the outputs of one step of one layer."""
        if moment.site is Site.HEAD:
            problem, step, place = _named_rows(moment, self._counts.shape[-1])
            rows = moment.rows.cpu()[problem]
            # One step has each problem once, so that nothing is added twice to one place.
            self._sums[rows, moment.layer, :, place] += tensor[problem, :, step].float().cpu()
            self._counts[rows, moment.layer, place] += 1
        return tensor
