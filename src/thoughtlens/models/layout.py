"""The official CODI layout becomes plain weights: names stripped, LoRA merged, every key accounted for.

    codi.[base_model.model.]NAME[.base_layer].weight      the decoder
    codi.base_model.model.NAME.lora_A.default.weight      (rank, in)
    codi.base_model.model.NAME.lora_B.default.weight      (out, rank)
    prj.{1,3}.{weight,bias}, prj.ln.{weight,bias}         the projection

Merging: W ← W + (alpha / rank) · B A, in float32; transposed for GPT-2, whose layers keep their weights as (in, out).
Source: Hu et al. 2021, arXiv 2106.09685, equation 3; layout of github.com/zhenyi4/codi.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.errors import CheckpointError

_PREFIX = re.compile(r"^codi\.(base_model\.model\.)?")
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<half>[AB])\.default\.weight$")
PROJECTION_KEYS = frozenset({"1.weight", "1.bias", "3.weight", "3.bias", "ln.weight", "ln.bias"})


class Merged(NamedTuple):
    """Plain weights of the decoder and of the projection, in float32."""

    decoder: dict[str, Tensor]
    projection: dict[str, Tensor]


def merge(state: Mapping[str, Tensor], *, alpha: float, transposed: bool, where: str) -> Merged:
    """Merge a checkpoint in the official layout.

    Args:
        state: the checkpoint.
        alpha: LoRA's alpha; the scale is alpha / rank.
        transposed: whether the decoder's layers keep weights as (in, out).
        where: what to call the checkpoint in an error.

    Raises:
        CheckpointError: a key is missing or unexpected, or a shape does not fit.
    """
    decoder, lora, projection = _sorted(state, where)
    for module in sorted({module for module, _ in lora}):
        halves = [lora.get((module, half)) for half in "AB"]
        if halves[0] is None or halves[1] is None:
            lacking = "A" if halves[0] is None else "B"
            raise CheckpointError(f"{where} lacks codi…{module}.lora_{lacking}.default.weight; fetch it again.")
        if f"{module}.weight" not in decoder:
            raise CheckpointError(f"{where} lacks codi…{module}.base_layer.weight, which LoRA adapts; fetch it again.")
        update = (alpha / halves[0].shape[0]) * (halves[1].float() @ halves[0].float())
        update = update.T if transposed else update
        weight = decoder[f"{module}.weight"]
        if update.shape != weight.shape:
            raise CheckpointError(
                f"{where} has LoRA for {module} of shape {tuple(update.shape)}, the layer is {tuple(weight.shape)}; "
                "is the base model's architecture the right one?"
            )
        decoder[f"{module}.weight"] = weight + update
    return Merged(decoder, projection)


def _sorted(
    state: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], dict[tuple[str, str], Tensor], dict[str, Tensor]]:
    """Sort keys into decoder, LoRA halves by (module, half), and projection."""
    if not any(key.startswith("codi.") for key in state):
        example = next(iter(state), "nothing")
        raise CheckpointError(
            f"{where} has no key under `codi.` (it has {example!r}); is this the base model? Pass the CODI checkpoint, "
            "and the base model with --base."
        )
    decoder: dict[str, Tensor] = {}
    lora: dict[tuple[str, str], Tensor] = {}
    projection: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith("prj."):
            projection[key.removeprefix("prj.")] = tensor.float()
        elif not key.startswith("codi."):
            raise CheckpointError(f"{where} has the unexpected key {key!r}; expected only codi.* and prj.*.")
        elif match := _LORA.match(_PREFIX.sub("", key)):
            lora[match["module"], match["half"]] = tensor
        else:
            name = _PREFIX.sub("", key).replace(".base_layer.", ".")
            if name in decoder:
                raise CheckpointError(f"{where} has {name!r} twice, under two names; save the checkpoint again.")
            decoder[name] = tensor.to(torch.float32)
    _check_projection(projection, where)
    return decoder, lora, projection


def _check_projection(projection: Mapping[str, Tensor], where: str) -> None:
    for found, expected, word in (
        (PROJECTION_KEYS, set(projection), "lacks"),
        (set(projection), PROJECTION_KEYS, "has the unexpected key"),
    ):
        if odd := sorted(set(found) - set(expected)):
            raise CheckpointError(f"{where} {word} 'prj.{odd[0]}' of the projection; fetch the checkpoint again.")
