"""The one attention function, registered with transformers together with its mask.

transformers hands unknown keyword arguments of a forward call down to the attention function, so `taps=` and the codes
of the positions arrive here as arguments. Without taps (the question's pass) PyTorch's fused attention runs and
nothing is kept; with taps the arithmetic is that of transformers' eager attention, with every site in the open.

Registering the function without the mask would make it silently not causal: transformers then passes no mask at all.
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from thoughtlens.tracing.taps import Moment, Site, Taps

ATTENTION: Final = "thoughtlens"
"""Name of the attention implementation to load a model with."""


def tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    taps: Taps | None = None,
    queries: Tensor | None = None,
    keys: Tensor | None = None,
    slots: Mapping[str, int] | None = None,
    rows: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Scaled dot-product attention that shows its scores, pattern and head outputs to the taps.

    Args:
        module: the attention layer, for its `layer_idx`.
        query: (problem, head, query, channel).
        key: (problem, key-value head, key, channel).
        value: (problem, key-value head, key, channel).
        attention_mask: additive, broadcastable to (problem, head, query, key).
        scaling: factor on the scores; 1 / √channels if None.
        dropout: probability; only without taps.
        taps: what watches or edits; None or empty for the fused function.
        queries: codes (problem, query).
        keys: codes (problem, key).
        slots: code of each named slot.
        rows: index (problem,) of each problem in the batch as it was begun.
        rest: what transformers passes to every attention function.

    Returns:
        The output (problem, query, head, channel) and the pattern (problem, head, query, key) or None.
    """
    if not taps:
        fused: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return fused
    # The loop passes all of them with the taps.
    assert queries is not None and keys is not None and slots is not None and rows is not None
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # nn.Module types every attribute as Tensor or Module

    def see(site: Site, tensor: Tensor) -> Tensor:
        return taps(tensor, Moment(site, layer, queries, keys, slots, rows))

    scores = _grouped(query, key.mT) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    scores = see(Site.SCORES, scores)
    value = see(Site.VALUE, value)
    # Never below float32, never above the scores' own precision: a float32 softmax of float64 scores turns the
    # mask's minimum into -inf and a fully masked row into NaN.
    pattern = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    pattern = see(Site.PATTERN, pattern)
    heads = see(Site.HEAD, _grouped(pattern.to(value.dtype), value))
    return heads.transpose(1, 2).contiguous(), pattern


def _grouped(left: Tensor, right: Tensor) -> Tensor:
    """Product of every head's matrix with that of its key-value head, which is read once for the group, not copied.

    Args:
        left: (problem, head, query, inner).
        right: (problem, key-value head, inner, column); neighbouring heads share one.

    Returns:
        (problem, head, query, column).
    """
    n_problems, n_groups = right.shape[:2]
    folded = left.reshape(n_problems, n_groups, -1, left.shape[-1]) @ right
    return folded.view(*left.shape[:-1], right.shape[-1])


AttentionInterface.register(ATTENTION, tapped_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
