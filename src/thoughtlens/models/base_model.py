"""The decoder of a checkpoint, built by transformers; its vocabulary with the markers, and its tokenizer.

In: a base's configuration and tokenizer, and a checkpoint's tensors by name; out: a language model, and which ids are
markers. Every missing, unexpected or misshapen key is an error, and so is a tokenizer that does not fit.
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoTokenizer, logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from thoughtlens.errors import CheckpointError, first_line
from thoughtlens.models.checkpoint_settings import Settings
from thoughtlens.models.checkpoint_weights import CODI, LATENT_TTS, Sorted, embedding_key
from thoughtlens.models.reasoner import Markers, fuse_gelu
from thoughtlens.notation import BOT, EOT
from thoughtlens.taps import ATTENTION

ARCHITECTURES: Final = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "phi", "gpt_neox", "gemma")
"""Types of bases whose attention the recorder can follow; the tests run each against transformers' own."""

_UNFIT: Final = {
    "gemma2": "caps its attention scores (attn_logit_softcapping), which recorded attention does not",
}
_MARKER_NAMES: Final = {
    "pad": ("[PAD]", "<|pad|>", "<pad>"),
    BOT: ("<|bocot|>", "<|start-latent|>", "<|bot|>", "<bot>"),
    EOT: ("<|eocot|>", "<|end-latent|>", "<|eot|>", "<eot>"),
    "latent": ("<|latent|>",),
}
"""What tokenizers call the markers, where they know them."""


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object of a file; None where there is no such file, or something else in it."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_config(base: Path | None, settings: Settings) -> Any:
    """The base's configuration; that of the table where there is no base."""
    if settings["config"]:
        return AutoConfig.for_model(**settings["config"])
    assert base is not None  # there is one or the other
    path = base / "config.json"
    if not path.is_file() or not path.stat().st_size:
        empty = "an empty config.json" if path.is_file() else "no config.json"
        raise CheckpointError(f"{base} has {empty}; name the base model with --base (its weights are not needed).")
    said = read_object(path) or {}
    if {"COCONUTGPT2", "CODIGPT2"} & set(said.get("architectures") or []):
        # LatentTTS' own classes are GPT-2 with more methods; none of their code is run.
        said = {name: value for name, value in said.items() if name not in ("auto_map", "architectures")}
        return AutoConfig.for_model(**said | {"model_type": "gpt2"})
    try:
        config = AutoConfig.from_pretrained(base)
    except Exception as error:  # values of a wrong type make transformers raise nearly anything
        raise CheckpointError(f"{path} is no configuration that transformers knows ({first_line(error)}).") from error
    if config.model_type in _UNFIT:
        raise CheckpointError(
            f"{path} is of type {config.model_type!r}, which {_UNFIT[config.model_type]}; use another base."
        )
    if config.model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} is of type {config.model_type!r}; CODI is read on {' and '.join(ARCHITECTURES[:2])}, "
            f"and on {', '.join(ARCHITECTURES[2:])}."
        )
    if getattr(config, "reorder_and_upcast_attn", False):
        raise CheckpointError(
            f"{path} sets reorder_and_upcast_attn, which recorded attention can't follow; turn it off."
        )
    return config


def fit_vocabulary(config: Any, found: Sorted, settings: Settings, where: str) -> tuple[int, Markers]:
    """The number of embeddings and the markers among them: the base has as many rows, or as many less the markers."""
    name = embedding_key(config.model_type)
    if name not in found.decoder:
        raise CheckpointError(
            f"{where} lacks {_long(found, name)}; is the base model's architecture the right one "
            f"(it is {config.model_type})?"
        )
    n_embeddings = int(found.decoder[name].shape[0])
    usual = (BOT, EOT, "latent") if settings["family"] == "coconut" else ("pad", BOT, EOT)
    names = usual if settings["markers"] is None else tuple(settings["markers"])
    beyond = n_embeddings - int(config.vocab_size)
    if settings["markers"] is None and settings["family"] == "codi" and beyond == 2:
        names = (BOT, EOT)
    if beyond not in (0, len(names)) and found.layout != LATENT_TTS:
        raise CheckpointError(
            f"{where} has {n_embeddings} embeddings, expected the base's vocabulary of {config.vocab_size} and "
            f"{len(names)} markers; pass the base model that the checkpoint was trained from."
        )
    return n_embeddings, Markers(n_embeddings - len(names), names)


def _long(found: Sorted, name: str) -> str:
    return f"codi…{name}" if found.layout == CODI else name


def markers_named(tokenizer: Any, n_embeddings: int, folder: Path) -> Markers:
    """The markers of a LatentTTS folder, which are tokens of its tokenizer."""
    known = tokenizer.get_vocab()
    ids = {kind: known.get(_MARKER_NAMES[kind][place]) for kind, place in ((BOT, 1), (EOT, 1), ("latent", 0))}
    order = sorted((identity, kind) for kind, identity in ids.items() if identity is not None)
    if [identity for identity, _ in order] != list(range(n_embeddings - 3, n_embeddings)):
        raise CheckpointError(
            f"the tokenizer in {folder} has start-latent, end-latent and latent tokens {[*ids.values()]}, expected "
            f"the last three of {n_embeddings}; take the checkpoint's own tokenizer files."
        )
    return Markers(n_embeddings - 3, tuple(kind for _, kind in order))


def built(config: Any, decoder: dict[str, Any], dtype: torch.dtype, *, where: Path, base: Path | None) -> Any:
    """The decoder of transformers with these weights."""
    config.architectures = None
    # The report that transformers would print as a table is turned into a sentence below.
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        lm, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=decoder,
            dtype=dtype,
            attn_implementation=ATTENTION,
            output_loading_info=True,
        )
    except Exception as error:  # sizes of 0, and names that are unknown, make transformers raise nearly anything
        raise CheckpointError(
            f"{where} does not fit the base {base} ({first_line(error)}); pass the base model that the "
            "checkpoint was trained from."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    for kind, verb in (("missing_keys", "lacks"), ("unexpected_keys", "has the unexpected key")):
        if odd := sorted(map(str, report[kind])):
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise CheckpointError(
                f"{where} {verb} {odd[0]!r}{more} of the decoder; is the checkpoint whole, and the base right?"
            )
    return fuse_gelu(lm)


def load_tokenizer(base: Path) -> Any:
    """The tokenizer of a base's folder."""
    missing = f"{base} holds no tokenizer; copy the base model's tokenizer files there."
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (ValueError, OSError) as error:
        raise CheckpointError(missing) from error
    except Exception as error:  # a damaged tokenizer.json ends in errors of tokenizers, which are of no kind
        raise CheckpointError(
            f"the tokenizer in {base} can't be read ({first_line(error)}); copy the base model's tokenizer files there."
        ) from error
    # Where GPT-2's files are missing, transformers makes a tokenizer that knows the end token alone.
    if len(tokenizer) < 2:
        raise CheckpointError(missing)
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"the tokenizer in {base} names no end token; pass the base model's own tokenizer.")
    return tokenizer


def check_tokenizer(tokenizer: Any, markers: Markers, base: Path) -> None:
    """Nothing may lie beyond the vocabulary but markers, and the padding token that the official code adds at V."""
    known = tokenizer.get_vocab()
    for place, kind in enumerate(markers.names):
        for name in _MARKER_NAMES[kind][: 2 if kind != "pad" else 0]:
            if known.get(name, markers.vocabulary + place) != markers.vocabulary + place:
                raise CheckpointError(
                    f"the tokenizer in {base} has {name} at {known[name]}, expected {markers.vocabulary + place} "
                    f"as the model has `{kind}`; pass the base model that the checkpoint was trained from."
                )
    beyond = {identity: name for name, identity in known.items() if identity > markers.vocabulary}
    markers_there = {markers.vocabulary + place: _MARKER_NAMES[kind] for place, kind in enumerate(markers.names)}
    if any(name not in markers_there.get(identity, ()) for identity, name in beyond.items()):
        raise CheckpointError(
            f"the tokenizer in {base} has {len(tokenizer)} tokens, but the model's markers begin at "
            f"{markers.vocabulary}; pass the base model that the checkpoint was trained from."
        )
