"""Keys and values in tensors with room to grow, so that a step writes one position and copies none of the earlier ones.

transformers' own layer joins old and new into a new tensor at every step: it reads and writes the whole cache to add
one position. Here that happens once in `ROOM` steps. Where gradients may be wanted its way stays: what a backward pass
has kept must not be written over.
"""

from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM: Final = 32
"""Positions that a tensor can grow by before it is copied."""


class _Growing:
    """One tensor (problem, head, position, channel) with room after its last position."""

    def __init__(self) -> None:
        self.whole, self.shown = torch.empty(0), torch.empty(0)

    def append(self, kept: Tensor, new: Tensor) -> Tensor:
        """Kept and new positions, one after the other.

        Args:
            kept: what `append` gave last, or anything else, which is copied: rows were chosen, positions forgotten.
            new: the positions to add.
        """
        start = kept.shape[-2] if kept.numel() else 0
        end = start + new.shape[-2]
        if kept is not self.shown or end > self.whole.shape[-2]:
            self.whole = new.new_empty(*new.shape[:-2], end + ROOM, new.shape[-1])
            if start:
                self.whole[..., :start, :] = kept
        self.whole[..., start:end, :] = new
        self.shown = self.whole[..., :end, :]
        return self.shown


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """The cache of one layer; elsewhere than in inference mode it is transformers' own."""

    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self._keys, self._values = _Growing(), _Growing()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Append new positions; all keys and values so far."""
        if not torch.is_inference_mode_enabled():
            joined: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **options)
            return joined
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._keys.append(self.keys, key_states)
        self.values = self._values.append(self.values, value_states)
        return self.keys, self.values


def roomy_cache() -> Cache:
    """An empty cache of such layers."""
    return Cache(layer_class_to_replicate=RoomyLayer)
