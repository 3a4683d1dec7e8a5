"""CODI's projection from a hidden state to the next thought, with the official parameter names."""

from torch import nn


def projection(hidden: int, inner: int) -> nn.Sequential:
    """Dropout, linear, exact GELU, linear, LayerNorm: `prj.1`, `prj.3` and `prj.ln` of an official checkpoint.

    Source: github.com/zhenyi4/codi, `src/model.py`; dropout is 0 there and here.
    """
    layers = nn.Sequential(nn.Dropout(0.0), nn.Linear(hidden, inner), nn.GELU(), nn.Linear(inner, hidden))
    layers.add_module("ln", nn.LayerNorm(hidden))
    return layers
