"""The weights of checkpoints: the keys of each family, sorted into a decoder, LoRA (merged into it) and a projection.

In: tensors by name as a file has them; out: a `Sorted`, every key accounted for.

    CODI       codi.[base_model.model.]NAME[.base_layer].weight   the decoder
               codi.base_model.model.NAME.lora_A.default.weight   (rank, in), and lora_B (out, rank)
               prj.{1,3}.{weight,bias}, prj.ln.{weight,bias}      the projection; without ln, or none at all
               decoder.*, pj_in.*, pj_out.*                       SIM-CoT's, for training alone: left out
    LatentTTS  NAME, projector.{1,3,4}.{weight,bias}              CODI, merged; or Coconut, without a projector
    Coconut    base_causallm.NAME, embedding.weight               the decoder, and its embedding once more
    plain      NAME                                               a language model that Coconut is compared with

Merging: W ← W + (alpha / rank) · B A, in float32; transposed for GPT-2, whose layers keep their weights as (in, out).
Source: Hu et al. 2021, arXiv 2106.09685, equation 3; layout of github.com/zhenyi4/codi.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from thoughtlens.errors import CheckpointError
from thoughtlens.models.codi_and_coconut import projection

CODI: Final = "CODI"
LATENT_TTS: Final = "LatentTTS"
COCONUT: Final = "Coconut"
PLAIN: Final = "plain language model"

_EMBEDDINGS: Final = {"gpt2": "transformer.wte.weight", "gpt_neox": "gpt_neox.embed_in.weight"}
_HEADS: Final = {"gpt_neox": "embed_out.weight"}
_PREFIX = re.compile(r"^codi\.(base_model\.model\.)?")
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<half>[AB])\.default\.weight$")
_LINEAR: Final = frozenset({"1.weight", "1.bias", "3.weight", "3.bias"})
_NORM: Final = frozenset({"ln.weight", "ln.bias"})
_TRAINING: Final = ("decoder.", "pj_in.", "pj_out.")


def embedding_key(kind: str) -> str:
    """The name of the embedding in a decoder of this type."""
    return _EMBEDDINGS.get(kind, "model.embed_tokens.weight")


def head_key(kind: str) -> str:
    """The name of the output layer in a decoder of this type."""
    return _HEADS.get(kind, "lm_head.weight")


@dataclass
class Sorted:
    """The tensors of a checkpoint by what they are for.

    Attributes:
        layout: which one it is.
        decoder: by the names that transformers gives them.
        lora: halves by module and `A` or `B`.
        projection: by the names that `projection` gives them; empty where there is none.
        beside: other tensors of the family, such as a pause vector.
        left_out: how many keys are for training alone, by their beginning.
    """

    layout: str
    decoder: dict[str, Tensor] = field(default_factory=dict)
    lora: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    projection: dict[str, Tensor] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def sort_keys(state: Mapping[str, Tensor], where: str, *, family: str | None = None) -> Sorted:
    """Sort the keys of a checkpoint; `family` is what is known of it, `where` names it in an error."""
    if any(key.startswith("codi.") for key in state):
        return _codi(state, where)
    if any(key.startswith("base_causallm.") for key in state):
        return _coconut(state, where)
    if any(".lora_A." in key for key in state):
        raise CheckpointError(
            f"{where} holds LoRA weights without the base they adapt (peft's own format), expected all weights "
            "in one checkpoint; load it with peft beside its base, and save the state_dict of the whole module."
        )
    if any(key.startswith("projector.") for key in state):
        return _latent_tts(state, where)
    if family == "coconut" and state:
        return Sorted(LATENT_TTS, decoder=dict(state))
    if family == "plain" and state:
        return Sorted(PLAIN, decoder=dict(state))
    example = next(iter(state), "nothing")
    raise CheckpointError(
        f"{where} has no key under `codi.` (it has {example!r}); is this the base model? Pass the CODI checkpoint, "
        "and the base model with --base."
    )


def _codi(state: Mapping[str, Tensor], where: str) -> Sorted:
    found = Sorted(CODI)
    # A single stray `decoder.` is no SIM-CoT: its auxiliary decoder comes with `pj_in` and `pj_out`.
    training = _TRAINING if any(key.startswith(_TRAINING[1:]) for key in state) else ()
    for key, tensor in state.items():
        if key.startswith("prj."):
            found.projection[key.removeprefix("prj.")] = tensor
        elif training and key.startswith(training):
            begins = key.partition(".")[0] + ".*"
            found.left_out[begins] = found.left_out.get(begins, 0) + 1
        elif not key.startswith("codi."):
            raise CheckpointError(f"{where} has the unexpected key {key!r}; expected only codi.* and prj.*.")
        elif match := _LORA.match(_PREFIX.sub("", key)):
            found.lora[match["module"], match["half"]] = tensor
        else:
            name = _PREFIX.sub("", key).replace(".base_layer.", ".")
            if name in found.decoder:
                raise CheckpointError(f"{where} has {name!r} twice, under two names; save the checkpoint again.")
            found.decoder[name] = tensor
    _check_projection(found.projection, where)
    return found


def _check_projection(found: Mapping[str, Tensor], where: str) -> None:
    if not found:
        return
    expected = _LINEAR | _NORM if _NORM & set(found) else _LINEAR
    for one, other, word in ((expected, set(found), "lacks"), (set(found), expected, "has the unexpected key")):
        if odd := sorted(set(one) - set(other)):
            raise CheckpointError(f"{where} {word} 'prj.{odd[0]}' of the projection; fetch the checkpoint again.")


def _coconut(state: Mapping[str, Tensor], where: str) -> Sorted:
    found = Sorted(COCONUT)
    for key, tensor in state.items():
        if key.startswith("base_causallm."):
            found.decoder[key.removeprefix("base_causallm.")] = tensor
        elif key != "embedding.weight":
            found.beside[key] = tensor
    odd = sorted(key for key in found.beside if "pause" not in key.lower())
    if odd:
        raise CheckpointError(
            f"{where} has the unexpected key {odd[0]!r}; expected only base_causallm.* and embedding.weight."
        )
    return found


def _latent_tts(state: Mapping[str, Tensor], where: str) -> Sorted:
    found = Sorted(LATENT_TTS)
    for key, tensor in state.items():
        if key.startswith("projector."):
            # Its layer norm is a number in the sequence.
            found.projection[key.removeprefix("projector.").replace("4.", "ln.")] = tensor
        else:
            found.decoder[key] = tensor
    _check_projection(found.projection, where)
    return found


def merged(found: Sorted, *, alpha: float, transposed: bool, where: str) -> dict[str, Tensor]:
    """The decoder with LoRA merged into it; `transposed`: whether its layers keep weights as (in, out)."""
    decoder = dict(found.decoder)
    for module in sorted({module for module, _ in found.lora}):
        a, b = (found.lora.get((module, half)) for half in "AB")
        if a is None or b is None:
            lacking = "A" if a is None else "B"
            raise CheckpointError(f"{where} lacks codi…{module}.lora_{lacking}.default.weight; fetch it again.")
        if f"{module}.weight" not in decoder:
            raise CheckpointError(f"{where} lacks codi…{module}.base_layer.weight, which LoRA adapts; fetch it again.")
        weight = decoder[f"{module}.weight"]
        # Before they are multiplied: thin factors may have a product larger than any memory.
        shape = (*b.shape[:1], *a.shape[1:])[:: -1 if transposed else 1]
        if shape != tuple(weight.shape) or b.shape[1:] != a.shape[:1]:
            raise CheckpointError(
                f"{where} has LoRA for {module} of shape {shape}, the layer is {tuple(weight.shape)}; "
                "is the base model's architecture the right one?"
            )
        update = (alpha / a.shape[0]) * (b.float() @ a.float())
        update = update.T if transposed else update
        decoder[f"{module}.weight"] = weight.float() + update
    return decoder


def tie(decoder: dict[str, Tensor], kind: str, n_markers: int, where: str) -> float:
    """Leave out the output layer of a decoder that ties it to its embedding; how far the two differed at most.

    The official code ties them again after loading, so that a difference in the rows of the markers alone is said and
    does no harm; any other means that the base is not the right one.
    """
    head = decoder.pop(head_key(kind), None)
    if head is None:
        return 0.0
    rows = decoder[embedding_key(kind)]
    n_words = len(rows) - n_markers
    if head.shape != rows.shape or not torch.equal(head[:n_words], rows[:n_words]):
        raise CheckpointError(
            f"{where} has an lm_head that differs from its embeddings, but the base ties them; pass a base whose "
            "configuration says tie_word_embeddings false."
        )
    apart = (head[n_words:].float() - rows[n_words:].float()).abs()
    return float(apart.max()) if n_markers else 0.0


def built_projection(state: Mapping[str, Tensor], where: str) -> nn.Module:
    """The projection with its weights; the identity where a checkpoint has none, and no norm where it has none."""
    if not state:
        return nn.Identity()
    inner, hidden = state["1.weight"].shape
    made = projection(hidden, inner)
    if "ln.weight" not in state:
        del made.ln
    try:
        made.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    except RuntimeError as error:
        line = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{where} has a projection that does not fit together ({line}); fetch it again."
        ) from error
    return made
