"""A Hub id or folder becomes a pretrained base as CODI trains it: three more embeddings, LoRA around its layers.

Its tokenizer stays as it is: the markers are ids, not words (github.com/zhenyi4/codi, `src/model.py`).
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from thoughtlens.errors import RecipeError
from thoughtlens.models.hub import BASE_FILES, fetch
from thoughtlens.models.markers import Markers
from thoughtlens.training.recipe import Lora, PretrainedBase

TARGETS: Final = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""The layers that the official code updates, by family."""
_WEIGHTS: Final = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")


class Decoder(NamedTuple):
    """A language model with room for the markers, its tokenizer, and the markers."""

    lm: Any
    tokenizer: Any
    markers: Markers


def load_pretrained(base: PretrainedBase, *, dtype: torch.dtype) -> Decoder:
    """Load a base and resize its embeddings by the markers.

    Raises:
        RecipeError: it is of another family, lacks weights, or its tokenizer can't be used.
        CheckpointError: a Hub base can't be fetched.
    """
    folder = _folder(base)
    lm = _load_lm(folder, dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    markers = Markers(lm.config.vocab_size)
    if tokenizer.eos_token_id is None or not tokenizer.is_fast or len(tokenizer) > markers.vocabulary:
        raise RecipeError(
            f"the tokenizer of {folder} has {len(tokenizer)} tokens and the end token {tokenizer.eos_token!r}, "
            f"expected a fast one with an end token and at most {markers.vocabulary} tokens; "
            "take the base model's own files."
        )
    lm.resize_token_embeddings(markers.n_embeddings, mean_resizing=False)
    return Decoder(lm, tokenizer, markers)


def with_lora(lm: Any, lora: Lora) -> Any:
    """Wrap a base in low-rank updates; its own weights are trained no more."""
    family = lm.config.model_type
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets or TARGETS[family]),
        bias="none",
        fan_in_fan_out=family == "gpt2",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(lm, config)
    except ValueError as error:
        raise RecipeError(f"[lora] does not fit a {family} base ({error}); name some of {TARGETS[family]}.") from error


def _folder(base: PretrainedBase) -> Path:
    if Path(base.pretrained).is_dir():
        return Path(base.pretrained)
    return fetch(base.pretrained, base.revision, (*BASE_FILES, *_WEIGHTS)).folder


def _load_lm(folder: Path, dtype: torch.dtype) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in TARGETS:
            raise RecipeError(f"{folder} is of type {config.model_type!r}; CODI is trained on {' and '.join(TARGETS)}.")
        lm, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{folder} can't be loaded as a base ({reason}); pass a folder of transformers.") from error
    if missing := sorted(map(str, report["missing_keys"])):
        raise RecipeError(f"{folder} lacks {missing[0]!r}; pass the whole base model, not a checkpoint of CODI.")
    return lm
