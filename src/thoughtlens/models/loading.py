"""A name, Hub id or folder becomes a reasoner.

1. The checkpoint's folder and the base's folder (configuration and tokenizer only) are found or fetched.
2. The official layout is merged once and kept on disk as safetensors; the next load starts at 3.
3. transformers loads the merged folder, and every missing, unexpected or misshapen key is an error.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from thoughtlens.errors import CheckpointError
from thoughtlens.models.activation import fuse_gelu
from thoughtlens.models.catalog import PUBLISHED, bundled
from thoughtlens.models.codi import Codi
from thoughtlens.models.hub import BASE_FILES, CHECKPOINT_FILES, fetch
from thoughtlens.models.markers import N_MARKERS, Markers
from thoughtlens.models.merged import merged_folder
from thoughtlens.models.planted import Strengths, planted
from thoughtlens.models.projection import projection
from thoughtlens.tracing.attention import ATTENTION

DTYPES: Final = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


AUTO: Final = "auto"


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        name: as the user gave it.
        folder: the checkpoint.
        base: configuration and tokenizer.
        revision: commit of a Hub checkpoint.
        base_revision: commit of a Hub base.
        asked: `model` and `base` as they were asked for, folders by their whole path: enough to find them again.
    """

    name: str
    folder: Path
    base: Path
    revision: str | None = None
    base_revision: str | None = None
    asked: Mapping[str, str | None] = field(default_factory=dict)


def load(
    model: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    base_revision: str | None = None,
    alpha: float | None = None,
    dtype: str = AUTO,
    device: str | None = None,
) -> Codi:
    """Load a reasoner.

    Args:
        model: a bundled name, a Hub id, or a folder in the official CODI layout.
        base: folder or Hub id of the base model, of which only configuration and tokenizer are read; the checkpoint's
            own folder, or the known base of a published checkpoint, if None.
        revision: branch, tag or commit of a Hub checkpoint.
        base_revision: branch, tag or commit of a Hub base.
        alpha: LoRA's alpha; what the folder's `thoughtlens.json` says, else 32, if None.
        dtype: `float32`, `float64`, `bfloat16` or `float16`; `auto` is half precision on CUDA (bfloat16 where the GPU
            has it) and float32 elsewhere. Patterns are float32 or wider in any case; TF32 stays as PyTorch has it, off.
        device: `cpu`, `cuda`, `cuda:1`, …; an accelerator if there is one, if None.

    Returns:
        The reasoner, in evaluation mode.

    Raises:
        CheckpointError: it can't be found, can't be read safely, or is not a CODI checkpoint.
    """
    where = _device(device)
    dtype = precision(dtype, where)
    if alpha is not None and not math.isfinite(alpha):
        raise CheckpointError(f"LoRA's alpha is {alpha}, expected a finite number; pass another --alpha.")
    source = locate(model, base=base, revision=revision, base_revision=base_revision)
    settings = _settings(source.folder)
    if settings.get("family") == "planted":
        return _plant(source, settings, DTYPES[dtype], where)
    scale = alpha if alpha is not None else float(settings.get("lora_alpha", 32))
    merged = merged_folder(source.folder, source.base, scale)
    lm = _load_lm(merged, DTYPES[dtype], source)
    prj = _load_projection(merged).to(device=where, dtype=DTYPES[dtype]).eval()
    markers = Markers(lm.config.vocab_size - N_MARKERS)
    tokenizer = _load_tokenizer(source.base, markers)
    recorded = json.loads((merged / "source.json").read_text("utf-8"))
    provenance = {"name": source.name, "revision": source.revision, "base_revision": source.base_revision} | recorded
    provenance |= {"dtype": dtype, "device": str(where), "architecture": lm.config.model_type}
    provenance |= {"source": dict(source.asked)}
    return Codi(lm.to(where).eval(), prj, tokenizer, markers, int(settings.get("n_thoughts", 6)), provenance=provenance)


def locate(
    model: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    base_revision: str | None = None,
) -> Source:
    """Find or fetch the files of a model; see `load`."""
    name = str(model)
    asked = {"model": name if name in bundled() else _whole(name), "base": None if base is None else _whole(str(base))}
    commit = None
    if revision is not None and (name in bundled() or Path(model).exists()):
        raise CheckpointError(f"{name} is here and has no revisions; leave --revision out, or name a Hub model.")
    if name in bundled():
        folder = bundled()[name]
    elif Path(model).is_dir():
        folder = Path(model)
    elif Path(model).exists():
        raise CheckpointError(f"{name} is a file; pass the folder that holds it.")
    elif _looks_like_path(name):
        raise CheckpointError(f"no model {name!r}: there is no such folder; see `thoughtlens models` for names.")
    else:
        folder, commit = fetch(name, revision, CHECKPOINT_FILES)
    wanted = base or (PUBLISHED[name].base if name in PUBLISHED else folder)
    if Path(wanted).is_dir():
        return Source(name, folder, Path(wanted), commit, asked=asked)
    fetched = fetch(str(wanted), base_revision, BASE_FILES)
    return Source(name, folder, fetched.folder, commit, fetched.commit, asked)


def _whole(name: str) -> str:
    """A folder by its whole path; a Hub id as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def precision(asked: str, device: torch.device) -> str:
    """The name of the precision asked for; for `auto` the one that suits the device."""
    if asked in DTYPES:
        return asked
    if asked != AUTO:
        raise CheckpointError(f"no precision {asked!r}; use {AUTO} or one of {', '.join(DTYPES)}.")
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"no device {name!r} here; use cpu, or cuda where there is an NVIDIA GPU.") from error


def _looks_like_path(name: str) -> bool:
    """Neither `name` nor `owner/name` of the Hub, or a bare word, which would be an official Hub model, never CODI."""
    return name.count("/") != 1 or name.startswith((".", "/", "~"))


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "thoughtlens.json"
    if not path.is_file():
        return {}
    try:
        settings: dict[str, Any] = dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is no JSON object ({error}); write the model again.") from error
    for name, kinds in (("n_thoughts", int), ("lora_alpha", (int, float))):
        if not isinstance(settings.get(name, 1), kinds):
            raise CheckpointError(
                f"{path} sets {name} to {settings[name]!r}, expected a number; write the model again."
            )
    return settings


def _plant(source: Source, settings: dict[str, Any], dtype: torch.dtype, where: torch.device) -> Codi:
    """A planted model: its folder holds strengths in the place of weights."""
    known = {strength.name for strength in fields(Strengths)}
    if odd := sorted(set(settings) - known - {"family", "n_thoughts"}):
        raise CheckpointError(
            f"{source.folder / 'thoughtlens.json'} sets {odd[0]!r}, expected of a planted model n_thoughts and "
            f"{', '.join(sorted(known))}; take it out."
        )
    strengths = Strengths(**{name: value for name, value in settings.items() if name in known})
    reasoner = planted(strengths, n_thoughts=int(settings.get("n_thoughts", 6)), dtype=dtype, device=where)
    own = {"name": source.name, "source": dict(source.asked)}
    return replace(reasoner, provenance={**reasoner.provenance, **own})


def _load_lm(merged: Path, dtype: torch.dtype, source: Source) -> Any:
    # What transformers would print as a table, `_check_report` says in a sentence.
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        lm, report = AutoModelForCausalLM.from_pretrained(
            merged, dtype=dtype, attn_implementation=ATTENTION, output_loading_info=True, local_files_only=True
        )
    except RuntimeError as error:
        raise CheckpointError(
            f"{source.folder} does not fit the base {source.base} ({str(error).splitlines()[0]})."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    for kind, verb in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has the unexpected key"),
        ("mismatched_keys", "misshapes"),
    ):
        if odd := sorted(map(str, report[kind])):
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            raise CheckpointError(
                f"{source.folder} {verb} {odd[0]!r}{more} of the decoder; is the checkpoint whole, and the base right?"
            )
    return fuse_gelu(lm)


def _load_projection(merged: Path) -> torch.nn.Sequential:
    state = load_file(merged / "projection.safetensors")
    inner, hidden = state["1.weight"].shape
    prj = projection(hidden, inner)
    prj.load_state_dict(state, strict=True)
    return prj


def _load_tokenizer(base: Path, markers: Markers) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{base} holds no tokenizer; copy the base model's tokenizer files there.") from error
    # The official code adds a padding token at V; nothing else may lie beyond the vocabulary.
    if len(tokenizer) > markers.vocabulary + 1:
        raise CheckpointError(
            f"the tokenizer in {base} has {len(tokenizer)} tokens, but the model's markers begin at "
            f"{markers.vocabulary}; pass the base model that the checkpoint was trained from."
        )
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"the tokenizer in {base} names no end token; pass the base model's own tokenizer.")
    return tokenizer
