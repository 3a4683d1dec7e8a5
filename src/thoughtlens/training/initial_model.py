"""What a recipe trains, before training: a decoder, new or pretrained, with tokenizer, markers and LoRA.

- A new decoder gets a small byte-level tokenizer made from the generator's problems: every number below 100, every
  common word and the marks `<<` and `>>` are one token; anything else falls back to pieces of words and at last to
  bytes. Words include the spaces on both sides, so that a number is the same token wherever it stands, and decoding
  returns exactly the text that was encoded.
- A pretrained decoder keeps its tokenizer: the markers are three more embeddings, not words, and LoRA surrounds its
  layers (github.com/zhenyi4/codi, `src/model.py`).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, set_seed

from thoughtlens.errors import RecipeError, first_line
from thoughtlens.models.catalog import BASE_FILES, fetch
from thoughtlens.models.checkpoint_settings import ANSWER_PREFIX, CODI
from thoughtlens.models.reasoner import PAD, Markers, answer_text
from thoughtlens.notation import BOT, EOT
from thoughtlens.problems.generators import LIMIT, arithmetic_problem
from thoughtlens.training.objective import CodiModule
from thoughtlens.training.recipe import Lora, NewBase, PretrainedBase, Recipe

END: Final = "<|endoftext|>"
"""The end token of the tokenizers made here."""
_PIECES = r"<<|>> ?|\d{1,2}| ?[A-Za-z]+ ?|[^A-Za-z\d\s] ?|\s"
_N_PROBLEMS = 20_000


def build_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer of a new decoder; the same arguments always give the same one.

    Args:
        vocabulary: the most tokens it may have, at least 357: 256 bytes, 100 numbers and the end token.

    Returns:
        The tokenizer, with the end token `END`. It does not contain the markers: their ids come after its vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)


def _corpus() -> Iterator[str]:
    n_steps = dict.fromkeys(range(2, 7), 1.0)
    for index in range(_N_PROBLEMS):
        problem = arithmetic_problem(index, split="train", seed=-1, n_steps=n_steps)
        yield problem.question
        yield " ".join(problem.steps) + " " + answer_text(problem.answer)
    # Repeated often enough that each number becomes one token, whether or not it occurs in problems.
    yield from (f"{ANSWER_PREFIX} {number}" for number in range(100) for _ in range(LIMIT))


TARGETS: Final = {
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""The layers that the official code updates by LoRA, by family."""
_WEIGHTS: Final = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")


class Decoder(NamedTuple):
    """A language model with room for the markers, its tokenizer, and the markers."""

    lm: Any
    tokenizer: Any
    markers: Markers


def load_pretrained(base: PretrainedBase, *, dtype: torch.dtype, names: tuple[str, ...] = Markers.names) -> Decoder:
    """Load a base and add the markers to its embeddings; `RecipeError` where it or its tokenizer can't be used."""
    folder = _folder(base)
    lm = _load_lm(folder, dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    markers = Markers(lm.config.vocab_size, names)
    # Where GPT-2's files are missing, transformers makes a tokenizer that knows the end token alone.
    if tokenizer.eos_token_id is None or not tokenizer.is_fast or not 1 < len(tokenizer) <= markers.vocabulary:
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
        reason = first_line(error)
        raise RecipeError(f"{folder} can't be loaded as a base ({reason}); pass a folder of transformers.") from error
    if missing := sorted(map(str, report["missing_keys"])):
        raise RecipeError(f"{folder} lacks {missing[0]!r}; pass the whole base model, not a checkpoint of CODI.")
    return lm


class Untrained(NamedTuple):
    """A module ready for training, with what is needed to feed it."""

    module: CodiModule
    tokenizer: PreTrainedTokenizerFast
    markers: Markers


def build(recipe: Recipe) -> Untrained:
    """Make the module that a recipe trains; its new weights are drawn at random from the recipe's seed.

    Args:
        recipe: from `read_recipe`.

    Returns:
        The module, its tokenizer and its markers.

    Raises:
        RecipeError: a pretrained base is of another family, lacks weights or has another tokenizer, or LoRA does not
            fit it.
        CheckpointError: a Hub base can't be fetched.
    """
    set_seed(recipe.seed)
    base = recipe.base
    names = (PAD, BOT, EOT) if recipe.family == CODI else (BOT, EOT, "latent")
    decoder = _pretrained(base, recipe, names) if isinstance(base, PretrainedBase) else _new(base, names)
    hidden, bot = decoder.lm.config.hidden_size, decoder.markers.bot
    lm = with_lora(decoder.lm, recipe.lora) if recipe.lora else decoder.lm
    inner = (base.inner or hidden) if recipe.family == CODI else None
    module = CodiModule(lm, hidden=hidden, inner=inner, bot=bot, n_thoughts=recipe.thoughts)
    return Untrained(module, decoder.tokenizer, decoder.markers)


def _pretrained(base: PretrainedBase, recipe: Recipe, names: tuple[str, ...]) -> Decoder:
    # Weights that are trained stay in float32: bfloat16's eight bits would lose most of an update.
    dtype = torch.bfloat16 if recipe.bf16 and recipe.lora else torch.float32
    return load_pretrained(base, dtype=dtype, names=names)


def _new(base: NewBase, names: tuple[str, ...]) -> Decoder:
    tokenizer = build_tokenizer(base.vocabulary)
    markers = Markers(len(tokenizer), names)
    lm = AutoModelForCausalLM.from_config(_config(base, tokenizer, markers), attn_implementation="sdpa")
    if base.type == "gpt2":
        start_as_sinusoids(lm.transformer.wpe)
    return Decoder(lm, tokenizer, markers)


def _config(base: NewBase, tokenizer: PreTrainedTokenizerFast, markers: Markers) -> Any:
    ids = {
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": padding(tokenizer, markers),
    }
    settings = dict(base.config) | ids | {"vocab_size": markers.n_embeddings, "tie_word_embeddings": True}
    return AutoConfig.for_model(base.type, **settings)


def padding(tokenizer: Any, markers: Markers) -> int:
    """The token id that batches are padded with: the marker for it, or the end token."""
    return markers.pad if PAD in markers.names else int(tokenizer.eos_token_id)


@torch.no_grad()
def start_as_sinusoids(positions: nn.Embedding, scale: float = 0.1, longest: float = 200.0) -> None:
    """Initialise learned positions as sinusoids: neighbours start out similar, which a small model need not learn."""
    n_positions, width = positions.weight.shape
    rates = torch.exp(-math.log(longest) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(n_positions)[:, None] * rates
    positions.weight.copy_(scale * torch.cat([angles.sin(), angles.cos()], dim=1))
