"""Taps that keep what they see: attention pooled by slot, and the thoughts."""

import torch
from torch import Tensor

from thoughtlens.labels import BOT, PAD_CODE
from thoughtlens.tracing.taps import Moment, Site


class AttentionRecorder:
    """Keeps the pattern of every named query, its keys pooled by slot.

    Attributes:
        attention: (problem, layer, head, query, key) float32 or wider; NaN in a row that was never met.
    """

    def __init__(self, *, n_problems: int, n_layers: int, n_heads: int, n_thoughts: int, dtype: torch.dtype) -> None:
        shape = (n_problems, n_layers, n_heads, n_thoughts + 3, n_thoughts + 5)
        self.attention = torch.full(shape, torch.nan, dtype=torch.promote_types(dtype, torch.float32))

    def __call__(self, tensor: Tensor, moment: Moment) -> Tensor:
        """Keep the pattern's rows; a later row of the same query takes the place of an earlier one."""
        if moment.site is Site.PATTERN:
            self._keep(tensor, moment)
        return tensor

    def _keep(self, pattern: Tensor, moment: Moment) -> None:
        rows = moment.queries.cpu() - moment.slots[BOT]
        named = (rows >= 0) & (rows < self.attention.shape[-2])
        if not named.any():
            return
        slots = torch.arange(self.attention.shape[-1], device=pattern.device)
        in_slot = (moment.keys[:, :, None] == slots).to(pattern.dtype)
        pooled = (pattern @ in_slot[:, None]).cpu()
        problem, step = named.nonzero(as_tuple=True)
        self.attention[problem, moment.layer, :, rows[problem, step]] = pooled[problem, :, step]


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
