"""A recipe becomes an untrained `CodiModule` with its tokenizer and markers."""

import math
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

from thoughtlens.errors import RecipeError
from thoughtlens.models.markers import Markers
from thoughtlens.training.objective import CodiModule
from thoughtlens.training.recipe import Recipe
from thoughtlens.training.tokenizer import build_tokenizer

ARCHITECTURES = ("gpt2", "llama")


class Untrained(NamedTuple):
    """A module ready for training, with what is needed to feed it."""

    module: CodiModule
    tokenizer: PreTrainedTokenizerFast
    markers: Markers


def build(recipe: Recipe) -> Untrained:
    """Make the recipe's model, from its seed.

    Raises:
        RecipeError: the family is unknown, or its configuration refuses a setting.
    """
    if recipe.base.type not in ARCHITECTURES:
        raise RecipeError(f"{recipe.name} asks for a base of type {recipe.base.type!r}; use one of {ARCHITECTURES}.")
    set_seed(recipe.seed)
    tokenizer = build_tokenizer(recipe.base.vocabulary)
    markers = Markers(len(tokenizer))
    lm = AutoModelForCausalLM.from_config(_config(recipe, tokenizer, markers), attn_implementation="sdpa")
    if recipe.base.type == "gpt2":
        start_as_sinusoids(lm.transformer.wpe)
    hidden = lm.config.hidden_size
    module = CodiModule(lm, hidden=hidden, inner=hidden, bot=markers.bot, n_thoughts=recipe.thoughts)
    return Untrained(module, tokenizer, markers)


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, markers: Markers) -> Any:
    ids = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": markers.pad}
    settings = dict(recipe.base.config) | ids | {"vocab_size": markers.n_embeddings, "tie_word_embeddings": True}
    return AutoConfig.for_model(recipe.base.type, **settings)


@torch.no_grad()
def start_as_sinusoids(positions: nn.Embedding, scale: float = 0.1, longest: float = 200.0) -> None:
    """Start learned positions as sinusoids: near positions begin alike, which a small model need not learn first."""
    n_positions, width = positions.weight.shape
    rates = torch.exp(-math.log(longest) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(n_positions)[:, None] * rates
    positions.weight.copy_(scale * torch.cat([angles.sin(), angles.cos()], dim=1))
