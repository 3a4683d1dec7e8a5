"""A decoder becomes its heads' slices of the output projections, whatever the family calls and transposes them."""

from typing import Any

import torch
from torch import Tensor

from thoughtlens.errors import CheckpointError


def output_projections(lm: Any) -> list[Tensor]:
    """What turns each head's output into its part of the attention layer's output, biases apart.

    Args:
        lm: the causal language model of transformers.

    Returns:
        (head, channel, hidden) of each layer; the head's part is its output (…, channel) times its slice.

    Raises:
        CheckpointError: the architecture is not known.
    """
    n_heads = lm.config.num_attention_heads
    return [weight.reshape(n_heads, -1, weight.shape[-1]) for weight in _weights(lm)]


def head_width(config: Any) -> int:
    """Channels of one head, as the configuration of a model of transformers has it."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def norm_factors(lm: Any) -> list[Tensor]:
    """Small matrices that give the norm of a projected value without projecting it.

    ‖v F‖ = ‖v W‖ for every v: F Fᵀ = W Wᵀ, the Gram matrix of the head's slice W.  Computed in float32 at least, by QR
    decomposition of Wᵀ, which unlike the Gram matrix does not square W's condition.

    Args:
        lm: the causal language model of transformers.

    Returns:
        F (head, channel, rank) of each layer, on the model's device.

    Raises:
        CheckpointError: the architecture is not known.
    """
    return [_factor(output) for output in output_projections(lm)]


def _factor(output: Tensor) -> Tensor:
    wide = output.to(torch.promote_types(output.dtype, torch.float32))
    triangle: Tensor = torch.linalg.qr(wide.mT, mode="r").R
    return triangle.mT


def _weights(lm: Any) -> list[Tensor]:
    """(head · channel, hidden) of each layer: GPT-2's Conv1D is (in, out), a linear layer (out, in)."""
    kind = lm.config.model_type
    if kind == "gpt2":
        return [block.attn.c_proj.weight.detach() for block in lm.base_model.h]
    if kind == "llama":
        return [block.self_attn.o_proj.weight.detach().mT for block in lm.base_model.layers]
    raise CheckpointError(f"no output projection is known for {kind!r}, expected gpt2 or llama; leave values out.")
