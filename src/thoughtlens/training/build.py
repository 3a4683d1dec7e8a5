"""A recipe becomes a `CodiModule` ready for training, with its tokenizer and markers."""

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

from thoughtlens.errors import RecipeError
from thoughtlens.models.markers import Markers
from thoughtlens.training.objective import CodiModule
from thoughtlens.training.pretrained import Decoder, load_pretrained, with_lora
from thoughtlens.training.recipe import NewBase, PretrainedBase, Recipe
from thoughtlens.training.tokenizer import build_tokenizer

ARCHITECTURES = ("gpt2", "llama")


class Untrained(NamedTuple):
    """A module ready for training, with what is needed to feed it."""

    module: CodiModule
    tokenizer: PreTrainedTokenizerFast
    markers: Markers


def build(recipe: Recipe) -> Untrained:
    """Make the recipe's model, from its seed; all that is new in it is drawn at random.

    Raises:
        RecipeError: the family is unknown, or its configuration refuses a setting.
    """
    set_seed(recipe.seed)
    base = recipe.base
    decoder = _pretrained(base, recipe) if isinstance(base, PretrainedBase) else _new(base, recipe.name)
    hidden, bot = decoder.lm.config.hidden_size, decoder.markers.bot
    lm = with_lora(decoder.lm, recipe.lora) if recipe.lora else decoder.lm
    module = CodiModule(lm, hidden=hidden, inner=base.inner or hidden, bot=bot, n_thoughts=recipe.thoughts)
    return Untrained(module, decoder.tokenizer, decoder.markers)


def _pretrained(base: PretrainedBase, recipe: Recipe) -> Decoder:
    # Weights that are trained stay in float32: bfloat16's eight bits would lose most of an update.
    return load_pretrained(base, dtype=torch.bfloat16 if recipe.bf16 and recipe.lora else torch.float32)


def _new(base: NewBase, name: str) -> Decoder:
    if base.type not in ARCHITECTURES:
        raise RecipeError(f"{name} asks for a base of type {base.type!r}; use one of {', '.join(ARCHITECTURES)}.")
    tokenizer = build_tokenizer(base.vocabulary)
    markers = Markers(len(tokenizer))
    lm = AutoModelForCausalLM.from_config(_config(base, tokenizer, markers), attn_implementation="sdpa")
    if base.type == "gpt2":
        start_as_sinusoids(lm.transformer.wpe)
    return Decoder(lm, tokenizer, markers)


def _config(base: NewBase, tokenizer: PreTrainedTokenizerFast, markers: Markers) -> Any:
    ids = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": markers.pad}
    settings = dict(base.config) | ids | {"vocab_size": markers.n_embeddings, "tie_word_embeddings": True}
    return AutoConfig.for_model(base.type, **settings)


@torch.no_grad()
def start_as_sinusoids(positions: nn.Embedding, scale: float = 0.1, longest: float = 200.0) -> None:
    """Start learned positions as sinusoids: near positions begin alike, which a small model need not learn first."""
    n_positions, width = positions.weight.shape
    rates = torch.exp(-math.log(longest) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(n_positions)[:, None] * rates
    positions.weight.copy_(scale * torch.cat([angles.sin(), angles.cos()], dim=1))
