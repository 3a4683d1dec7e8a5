"""The processes of one training, as torchrun and accelerate start them: how many, which one this is, what all hold.

A training without a launcher is one process; nothing is gathered and no number changes.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor


def n_processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process; process 0 alone writes files."""
    return int(os.environ.get("RANK", "0"))


def gathered(states: Tensor, dim: int) -> Tensor:
    """The states of every process side by side, as constants; all must have the same shape."""
    if not _together():
        return states
    others = [torch.empty_like(states) for _ in range(dist.get_world_size())]
    dist.all_gather(others, states.contiguous())
    return torch.cat(others, dim=dim)


def averaged(values: Tensor) -> Tensor:
    """The mean of each value over the processes."""
    if not _together():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
