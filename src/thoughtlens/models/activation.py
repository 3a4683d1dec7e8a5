"""GPT-2's activation becomes one kernel in the place of eight: the same formula, rounded differently in the last bits.

transformers spells `gelu_new` out (power, products, tanh), each step a pass over the widest tensor of the model;
PyTorch has it whole. Models with other activations are left as they are.
"""

from typing import Any

from torch import nn
from transformers.activations import NewGELUActivation


def fuse_gelu(lm: Any) -> Any:
    """Replace every spelled-out tanh GELU of a model in place, and return the model.

    gelu(x) = x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).  Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    for module in list(lm.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    return lm
