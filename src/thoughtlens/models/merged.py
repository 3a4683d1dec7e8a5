"""A checkpoint and its base's configuration become a merged model folder in the cache, made once.

The folder is an ordinary one of transformers, so that `from_pretrained` can load it and account for every key.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import cached_assets_path
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from thoughtlens.errors import CheckpointError
from thoughtlens.models.layout import merge
from thoughtlens.models.markers import N_MARKERS
from thoughtlens.models.weights import find_weights, read_weights

ARCHITECTURES: Final = ("gpt2", "llama")
_EMBEDDINGS: Final = {"gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight"}
_LAYOUT_VERSION: Final = 1  # changes when a merged folder would come out different


def merged_folder(checkpoint: Path, base: Path, alpha: float) -> Path:
    """The merged model's folder in the cache, made if it is not there yet.

    Args:
        checkpoint: folder in the official layout.
        base: folder with the base's configuration.
        alpha: LoRA's alpha.

    Returns:
        A folder for `from_pretrained`, with `projection.safetensors` and `source.json` beside the decoder.

    Raises:
        CheckpointError: the checkpoint or the configuration can't be used, or the cache can't be written.
    """
    weights = find_weights(checkpoint)
    config = _read_config(base)
    facts = weights.stat()
    key = [_LAYOUT_VERSION, str(weights.resolve()), facts.st_size, facts.st_mtime_ns, alpha, config.to_json_string()]
    cache = os.environ.get("THOUGHTLENS_CACHE")
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    try:
        folder = cached_assets_path("thoughtlens", "merged", fingerprint, assets_dir=cache)
        if not (folder / "source.json").is_file():
            _fill(folder, weights, config, alpha)
    except OSError as error:
        raise CheckpointError(
            f"can't write the cache of merged models ({error}); make room there, or set THOUGHTLENS_CACHE to a folder."
        ) from error
    return folder


def _fill(folder: Path, weights: Path, config: Any, alpha: float) -> None:
    # Written aside and renamed, so that a broken-off merge never looks like a finished one.
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        _write_merged(aside, weights, config, alpha)
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read_config(base: Path) -> Any:
    path = base / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{base} has no config.json; name the base model with --base (its weights are not needed)."
        )
    try:
        config = AutoConfig.from_pretrained(base)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is no configuration that transformers knows ({error}).") from error
    if config.model_type not in ARCHITECTURES:
        raise CheckpointError(
            f"{path} is of type {config.model_type!r}; CODI is read on {' and '.join(ARCHITECTURES)}."
        )
    if getattr(config, "reorder_and_upcast_attn", False):
        raise CheckpointError(
            f"{path} sets reorder_and_upcast_attn, which recorded attention can't follow; turn it off."
        )
    return config


def _write_merged(folder: Path, weights: Path, config: Any, alpha: float) -> None:
    merged = merge(read_weights(weights), alpha=alpha, transposed=config.model_type == "gpt2", where=str(weights))
    decoder = dict(merged.decoder)
    _fit_vocabulary(config, decoder, str(weights))
    if config.tie_word_embeddings:
        _drop_tied_head(config, decoder, str(weights))
    config.architectures = None
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_file(_contiguous(decoder), folder / "model.safetensors", metadata={"format": "pt"})
    save_file(_contiguous(merged.projection), folder / "projection.safetensors")
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {"weights": str(weights), "sha256": digest, "lora_alpha": alpha}
    (folder / "source.json").write_text(json.dumps(facts), "utf-8")


def _fit_vocabulary(config: Any, decoder: dict[str, Tensor], where: str) -> None:
    """The checkpoint decides how many embeddings there are; the base must be the vocabulary before the markers."""
    name = _EMBEDDINGS[config.model_type]
    if name not in decoder:
        raise CheckpointError(
            f"{where} lacks codi…{name}; is the base model's architecture ({config.model_type}) the right one?"
        )
    n_embeddings = decoder[name].shape[0]
    if config.vocab_size not in (n_embeddings, n_embeddings - N_MARKERS):
        raise CheckpointError(
            f"{where} has {n_embeddings} embeddings, expected the base's vocabulary of {config.vocab_size} and "
            f"{N_MARKERS} markers; pass the base model that the checkpoint was trained from."
        )
    config.vocab_size = n_embeddings


def _drop_tied_head(config: Any, decoder: dict[str, Tensor], where: str) -> None:
    head = decoder.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, decoder[_EMBEDDINGS[config.model_type]]):
        raise CheckpointError(
            f"{where} has an lm_head that differs from its embeddings, but the base ties them; pass a base whose "
            "configuration says tie_word_embeddings false."
        )


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}
