"""CODI checkpoints: weights read safely, merged from the official layout, and kept as plain model folders.

In: a checkpoint's folder and its base's configuration; out: a folder in the cache, made once, that transformers can
load like any other. Reading runs no code, and no file takes more memory than its own size.

    codi.[base_model.model.]NAME[.base_layer].weight      the decoder
    codi.base_model.model.NAME.lora_A.default.weight      (rank, in)
    codi.base_model.model.NAME.lora_B.default.weight      (out, rank)
    prj.{1,3}.{weight,bias}, prj.ln.{weight,bias}         the projection

Merging: W ← W + (alpha / rank) · B A, in float32; transposed for GPT-2, whose layers keep their weights as (in, out).
Source: Hu et al. 2021, arXiv 2106.09685, equation 3; layout of github.com/zhenyi4/codi.
"""

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

from thoughtlens.errors import CheckpointError, first_line
from thoughtlens.files import fingerprint, replacing_folder
from thoughtlens.models.reasoner import N_MARKERS

WEIGHT_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""The weights files that a model folder may have; the first one that it has is read."""
ARCHITECTURES: Final = ("gpt2", "llama")
_EMBEDDINGS: Final = {"gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight"}
_LAYOUT_VERSION: Final = 1  # changes when a merged folder would come out different
_PREFIX = re.compile(r"^codi\.(base_model\.model\.)?")
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<half>[AB])\.default\.weight$")
_PROJECTION_KEYS: Final = frozenset({"1.weight", "1.bias", "3.weight", "3.bias", "ln.weight", "ln.bias"})


def find_weights(folder: Path) -> Path:
    """Find the weights file of a model folder.

    Args:
        folder: the folder.

    Returns:
        Its `model.safetensors`, else its `pytorch_model.bin`.

    Raises:
        CheckpointError: there is neither.

    Example:
        >>> from thoughtlens.models import bundled
        >>> find_weights(bundled()["tiny-gpt2"]).name
        'model.safetensors'
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}; pass the folder of a CODI checkpoint.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weights file onto the CPU, safely.

    Args:
        path: a `.safetensors` or `.bin` file.

    Returns:
        Its tensors by name.

    Raises:
        CheckpointError: the file is damaged, would run code, or holds more than its size allows.

    Example:
        >>> from thoughtlens.models import bundled
        >>> tuple(read_weights(bundled()["tiny-gpt2"] / "model.safetensors")["prj.ln.weight"].shape)
        (64,)
    """
    state: dict[str, Tensor] = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path} holds {name!r}, which is no tensor; save the module's state_dict alone.")
    return state


def digest(*modules: nn.Module) -> str:
    """SHA-256 of the weights of modules on the CPU, by name; identifies a model that has no weights file."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} can't be read as safetensors ({error}); fetch it again.") from error
    return state


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _check_archive(path)
    try:
        state = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} asks to run code or holds more than tensors, and was not loaded; save its state_dict instead."
        ) from error
    except (RuntimeError, OSError, EOFError) as error:
        raise CheckpointError(
            f"{path} can't be read as a PyTorch file ({first_line(error)}); fetch it again."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, expected a state_dict; save the state_dict alone."
        )
    for name, tensor in state.items():
        _check_size(path, name, tensor)
    return dict(state)


def _check_archive(path: Path) -> None:
    """Refuse compressed members before torch reads them: they may grow a thousandfold."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is not a PyTorch archive; save it with torch 1.6 or later, or as safetensors.")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    if not stored or sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path} holds compressed data, which torch never writes; it was not loaded.")


def _check_size(path: Path, name: object, tensor: object) -> None:
    """Refuse a tensor that repeats its storage: a file of 1.5 kB may claim terabytes."""
    if isinstance(tensor, Tensor) and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path} holds {name!r} of shape {tuple(tensor.shape)} but not its data; it was not loaded."
        )


def merge(
    state: Mapping[str, Tensor], *, alpha: float, transposed: bool, where: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Plain float32 weights of the decoder and of the projection, from those in the official layout.

    `transposed`: whether the decoder's layers keep weights as (in, out); `where` names the checkpoint in an error.
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
    return decoder, projection


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
    for found, expected, word in (
        (_PROJECTION_KEYS, set(projection), "lacks"),
        (set(projection), _PROJECTION_KEYS, "has the unexpected key"),
    ):
        if odd := sorted(set(found) - set(expected)):
            raise CheckpointError(f"{where} {word} 'prj.{odd[0]}' of the projection; fetch the checkpoint again.")
    return decoder, lora, projection


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
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    try:
        folder = cached_assets_path("thoughtlens", "merged", name, assets_dir=cache)
        if not (folder / "source.json").is_file():
            with replacing_folder(folder) as partial:
                _write_merged(partial, weights, config, alpha)
    except OSError as error:
        raise CheckpointError(
            f"can't write the cache of merged models ({error}); make room there, or set THOUGHTLENS_CACHE to a folder."
        ) from error
    return folder


def _read_config(base: Path) -> Any:
    path = base / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{base} has no config.json; name the base model with --base (its weights are not needed)."
        )
    try:
        config = AutoConfig.from_pretrained(base)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is no configuration that transformers knows ({first_line(error)}).") from error
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
    where, transposed = str(weights), config.model_type == "gpt2"
    decoder, projection = merge(read_weights(weights), alpha=alpha, transposed=transposed, where=where)
    _fit_vocabulary(config, decoder, where)
    if config.tie_word_embeddings:
        _drop_tied_head(config, decoder, where)
    config.architectures = None
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_file(_contiguous(decoder), folder / "model.safetensors", metadata={"format": "pt"})
    save_file(_contiguous(projection), folder / "projection.safetensors")
    facts = {"weights": where, "sha256": fingerprint(weights), "lora_alpha": alpha}
    (folder / "source.json").write_text(json.dumps(facts), "utf-8")


def _fit_vocabulary(config: Any, decoder: dict[str, Tensor], where: str) -> None:
    """Take the number of embeddings from the checkpoint; the base has as many, or as many less the markers."""
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
