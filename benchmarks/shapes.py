"""A name becomes a CODI reasoner of that model's true shape with random weights; prompts are token ids as text.

Speed does not depend on the values of weights. LoRA is applied as a fresh adapter gives it (B = 0), so that the merged
weights are those of the base and every method must find the same attention.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from thoughtlens.models import Codi, Markers, fuse_gelu, projection
from thoughtlens.taps import ATTENTION

LORA_TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


class TokenIds:
    """A tokenizer of texts that are token ids, apart by blanks; any other word is token 1."""

    eos_token_id = 0

    def __call__(self, text: str, **options: Any) -> dict[str, list[Any]]:
        words = list(re.finditer(r"\S+", text))
        ids = [int(word[0]) if word[0].isdigit() else 1 for word in words]
        return {"input_ids": ids, "offset_mapping": [word.span() for word in words]}

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def _llama(**sizes: int) -> PreTrainedConfig:
    usual = {"vocab_size": 128256 + 3, "num_attention_heads": 32, "num_key_value_heads": 8}
    return LlamaConfig(**usual, max_position_embeddings=4096, rms_norm_eps=1e-5, **sizes)


CONFIGS = {
    "gpt2": lambda: GPT2Config(vocab_size=50257 + 3),
    "llama": lambda: _llama(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, head_dim=64, tie_word_embeddings=True
    ),
    "llama-8b": lambda: _llama(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, head_dim=128),
}
"""GPT-2 124M, LLaMA-3.2-1B and LLaMA-3.1-8B; two markers and padding are in the vocabulary."""


def config_of(model: str, n_layers: int | None = None) -> PreTrainedConfig:
    """One of `CONFIGS`; fewer layers if asked."""
    config = CONFIGS[model]()
    if n_layers is not None:
        config.num_hidden_layers = n_layers
    return config


def reasoner_of(model: str, n_layers: int | None = None) -> Codi:
    """A reasoner of the shape as transformers makes it, in evaluation mode, with eager attention."""
    torch.manual_seed(0)
    config = config_of(model, n_layers)
    lm = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    width = config.hidden_size
    return Codi(lm, projection(width, width).eval(), TokenIds(), Markers(config.vocab_size - 3))


def sharing(lm: Any) -> Any:
    """A model of its own with the same weights in memory."""
    return copy.deepcopy(lm, {id(weight): weight for weight in lm.parameters()})


def as_loaded(lm: Any) -> Any:
    """The same weights as this package loads them."""
    own = fuse_gelu(sharing(lm))
    own.set_attn_implementation(ATTENTION)
    return own


def with_lora(lm: Any, rank: int = 128) -> Any:
    """The same weights under an adapter that is not merged."""
    from peft import LoraConfig, get_peft_model

    family = lm.config.model_type
    lora = LoraConfig(r=rank, lora_alpha=32, target_modules=LORA_TARGETS[family], fan_in_fan_out=family == "gpt2")
    return get_peft_model(sharing(lm), lora).eval()


def questions_of(lengths: Sequence[int], vocabulary: int) -> list[str]:
    """Random token ids as text, one question for each length."""
    random = torch.Generator().manual_seed(0)
    return [" ".join(map(str, torch.randint(1, vocabulary, (n,), generator=random).tolist())) for n in lengths]


def linear_layers(lm: Any) -> list[tuple[nn.Module, tuple[int, int]]]:
    """Every linear layer that each token meets in the decoder stack, with its (inner, columns)."""
    layers = [layer for layer in lm.base_model.modules() if isinstance(layer, nn.Linear | Conv1D)]
    return [(layer, _inner_first(layer)) for layer in layers]


def _inner_first(layer: Any) -> tuple[int, int]:
    # GPT-2 keeps its weights as (inner, columns), the others as (columns, inner).
    first, second = layer.weight.shape
    return (first, second) if isinstance(layer, Conv1D) else (second, first)
