"""Reasoners from a name, Hub id or folder; with random weights; and from the manifest of a run.

`load` takes three steps:

1. The checkpoint's folder and the base's folder (configuration and tokenizer only) are found or fetched.
2. The official layout is merged once and kept on disk as safetensors; the next load starts at 3.
3. transformers loads the merged folder; every missing, unexpected or misshapen key is an error.

`randomize` draws the weights of a loaded reasoner anew: what its architecture attends to without training.
`reasoner_of` loads the model of a run again, and refuses any other.
"""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from thoughtlens.errors import CheckpointError, OptionError, first_line
from thoughtlens.models.catalog import BASE_FILES, CHECKPOINT_FILES, PUBLISHED, bundled, fetch
from thoughtlens.models.checkpoint import digest, merged_folder
from thoughtlens.models.planted import Strengths, planted_reasoner
from thoughtlens.models.reasoner import N_MARKERS, Codi, LatentReasoner, Markers, fuse_gelu, projection
from thoughtlens.taps import ATTENTION

DTYPES: Final = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The precisions that a model can be loaded in, by name."""

AUTO: Final = "auto"
_MAX_SEED: Final = 2**63 - 1

_IDENTITY: Final = {
    "name": False,
    "revision": False,
    "base_revision": False,
    "sha256": True,
    "lora_alpha": True,
    "architecture": True,
    "dtype": True,
}
"""What of a reasoner's `provenance` decides a run's numbers, and whether it must be the same in a model loaded again.

The digest of the weights stands for their name and revision; the base's revision is compared where both are known."""


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

    Example:
        >>> reasoner = load("tiny-gpt2", device="cpu")
        >>> reasoner.n_thoughts, reasoner.provenance["architecture"]
        (6, 'gpt2')
    """
    where = _device(device)
    dtype = precision(dtype, where)
    if alpha is not None and not math.isfinite(alpha):
        raise CheckpointError(f"LoRA's alpha is {alpha}, expected a finite number; pass another --alpha.")
    place = _locate(model, base, revision, base_revision)
    settings = _settings(place.folder)
    if settings.get("family") == "planted":
        return _plant(place, settings, DTYPES[dtype], where)
    scale = alpha if alpha is not None else float(settings.get("lora_alpha", 32))
    merged = merged_folder(place.folder, place.base, scale)
    lm = _load_lm(merged, DTYPES[dtype], place)
    prj = _load_projection(merged).to(device=where, dtype=DTYPES[dtype]).eval()
    markers = Markers(lm.config.vocab_size - N_MARKERS)
    tokenizer = _load_tokenizer(place.base, markers)
    provenance = {
        **place.provenance,
        **json.loads((merged / "source.json").read_text("utf-8")),
        "dtype": dtype,
        "device": str(where),
        "architecture": lm.config.model_type,
    }
    return Codi(lm.to(where).eval(), prj, tokenizer, markers, int(settings.get("n_thoughts", 6)), provenance=provenance)


def precision(asked: str, device: torch.device) -> str:
    """Choose the precision of a model's weights.

    Args:
        asked: a name of `DTYPES`, or `auto`.
        device: where the model is to be.

    Returns:
        A name of `DTYPES`; `auto` is bfloat16 on CUDA where the GPU has it, else float16; elsewhere it is float32.

    Raises:
        CheckpointError: there is no such precision.

    Example:
        >>> precision("auto", torch.device("cpu"))
        'float32'
    """
    if asked in DTYPES:
        return asked
    if asked != AUTO:
        raise CheckpointError(f"no precision {asked!r}; use {AUTO} or one of {', '.join(DTYPES)}.")
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def randomize(reasoner: Codi, *, seed: int) -> Codi:
    """Draw a reasoner's weights anew: the null of every claim about training.

    The decoder is initialised as transformers does it for its configuration, the projection as PyTorch does it;
    tokenizer, markers and words stay. How far the weights spread is the configuration's `initializer_range`, which
    small models may set above GPT-2's 0.02.

    Args:
        reasoner: the model; it stays as it is.
        seed: same seed, same weights, in whatever precision and on whatever device; 0 to 2⁶³ − 1.

    Returns:
        A reasoner on the same device, in the same precision, with a name and a digest of its own.

    Raises:
        OptionError: the seed is out of range.

    Example:
        >>> randomize(load("tiny-gpt2"), seed=1).provenance["name"]
        'tiny-gpt2-random-weights-1'
    """
    if not 0 <= seed <= _MAX_SEED:
        raise OptionError(f"the seed of the random weights is {seed}, expected 0 to 2^63 - 1; pass another.")
    # Drawn on the CPU in float32, then moved: other devices and precisions draw other numbers.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        config = copy.deepcopy(reasoner.lm.config)
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=ATTENTION)
        projection = _drawn_anew(reasoner.projection)
    known = {**reasoner.provenance, "sha256": digest(lm, projection), "random_weights": seed}
    known["name"] = f"{reasoner.provenance.get('name', 'model')}-random-weights-{seed}"
    known["source"] = {**(reasoner.provenance.get("source") or {}), "random_weights": seed}
    lm, projection = (
        module.to(device=reasoner.lm.device, dtype=reasoner.lm.dtype).eval() for module in (lm, projection)
    )
    return replace(reasoner, lm=lm, projection=projection, provenance=known)


def reasoner_of(
    manifest: Mapping[str, Any],
    *,
    model: str | Path | None = None,
    base: str | Path | None = None,
    device: str | None = None,
) -> Codi:
    """Load again the model that a run was made with.

    Args:
        manifest: of the run; `options.model` says what decides its numbers, `notes.model_source` where the model was.
        model: where the model is now, as for `load`; where the run found it if None.
        base: where its base is now; where the run found it if None.
        device: as for `load`.

    Returns:
        The reasoner, in the run's precision and under the name that it has in the run.

    Raises:
        CheckpointError: it can't be found, or is not the model of the run.

    Example:
        >>> manifest = {"options": {"model": identity(load("tiny-gpt2"))}}
        >>> reasoner_of(manifest).provenance["name"]
        'tiny-gpt2'
    """
    made_with = manifest["options"]["model"]
    source = _source(manifest, model, base)
    moved = model is not None
    reasoner = load(
        source["model"],
        base=source["base"],
        revision=None if moved else made_with.get("revision"),
        base_revision=made_with.get("base_revision"),
        alpha=made_with.get("lora_alpha"),
        dtype=made_with["dtype"],
        device=device,
    )
    if source["random_weights"] is not None:
        reasoner = randomize(reasoner, seed=int(source["random_weights"]))
    _check_same(made_with, identity(reasoner), str(source["model"]))
    return replace(reasoner, provenance={**reasoner.provenance, "name": made_with["name"]})


def identity(reasoner: LatentReasoner) -> dict[str, Any]:
    """What of a reasoner decides a run's numbers, as the run's manifest keeps it."""
    return {name: reasoner.provenance.get(name) for name in _IDENTITY}


def checked(manifest: Mapping[str, Any], reasoner: LatentReasoner) -> LatentReasoner:
    """The reasoner, if it is the model that a run was made with; else a `CheckpointError`."""
    found = identity(reasoner)
    _check_same(manifest["options"]["model"], found, str(found["name"]))
    return reasoner


# Finding a model's files.


class _Place(NamedTuple):
    """Where the files of a model are: the checkpoint's folder, the base's folder, and what is known of their source."""

    folder: Path
    base: Path
    provenance: dict[str, Any]


def _locate(model: str | Path, base: str | Path | None, revision: str | None, base_revision: str | None) -> _Place:
    name, commit, base_commit = str(model), None, None
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
    base_folder = Path(wanted)
    if not base_folder.is_dir():
        base_folder, base_commit = fetch(str(wanted), base_revision, BASE_FILES)
    source = {"model": name if name in bundled() else _whole(name), "base": None if base is None else _whole(str(base))}
    known = {"name": name, "revision": commit, "base_revision": base_commit, "source": source}
    return _Place(folder, base_folder, known)


def _whole(name: str) -> str:
    """A folder by its whole path; a Hub id as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"no device {name!r} here; use cpu, or cuda where there is an NVIDIA GPU.") from error


def _looks_like_path(name: str) -> bool:
    """Whether a name can't be `owner/name` on the Hub; a bare word could be, but such models are never CODI."""
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


# Loading what was found.


def _plant(place: _Place, settings: dict[str, Any], dtype: torch.dtype, where: torch.device) -> Codi:
    """A planted model: its folder holds the strengths of its heads in the place of weights."""
    known = {strength.name for strength in fields(Strengths)}
    if odd := sorted(set(settings) - known - {"family", "n_thoughts"}):
        raise CheckpointError(
            f"{place.folder / 'thoughtlens.json'} sets {odd[0]!r}, expected of a planted model n_thoughts and "
            f"{', '.join(sorted(known))}; take it out."
        )
    strengths = Strengths(**{name: value for name, value in settings.items() if name in known})
    reasoner = planted_reasoner(strengths, n_thoughts=int(settings.get("n_thoughts", 6)), dtype=dtype, device=where)
    own = {name: place.provenance[name] for name in ("name", "source")}
    return replace(reasoner, provenance={**reasoner.provenance, **own})


def _load_lm(merged: Path, dtype: torch.dtype, place: _Place) -> Any:
    # The report that transformers would print as a table is turned into a sentence below.
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        lm, report = AutoModelForCausalLM.from_pretrained(
            merged, dtype=dtype, attn_implementation=ATTENTION, output_loading_info=True, local_files_only=True
        )
    except RuntimeError as error:
        raise CheckpointError(
            f"{place.folder} does not fit the base {place.base} ({first_line(error)}); pass the base model that the "
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
                f"{place.folder} {verb} {odd[0]!r}{more} of the decoder; is the checkpoint whole, and the base right?"
            )
    return fuse_gelu(lm)


def _load_projection(merged: Path) -> torch.nn.Sequential:
    state = load_file(merged / "projection.safetensors")
    inner, hidden = state["1.weight"].shape
    prj = projection(hidden, inner)
    prj.load_state_dict(state, strict=True)
    return prj


def _load_tokenizer(base: Path, markers: Markers) -> Any:
    missing = f"{base} holds no tokenizer; copy the base model's tokenizer files there."
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (ValueError, OSError) as error:
        raise CheckpointError(missing) from error
    # Where GPT-2's files are missing, transformers makes a tokenizer that knows the end token alone.
    if len(tokenizer) < 2:
        raise CheckpointError(missing)
    # The official code adds a padding token at V; nothing else may lie beyond the vocabulary.
    if len(tokenizer) > markers.vocabulary + 1:
        raise CheckpointError(
            f"the tokenizer in {base} has {len(tokenizer)} tokens, but the model's markers begin at "
            f"{markers.vocabulary}; pass the base model that the checkpoint was trained from."
        )
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"the tokenizer in {base} names no end token; pass the base model's own tokenizer.")
    return tokenizer


def _drawn_anew(projection: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(projection).to(device="cpu", dtype=torch.float32)
    for layer in fresh.modules():
        if isinstance(layer, (nn.Linear, nn.LayerNorm)):
            layer.reset_parameters()
    return fresh


# Loading the model of a run again.


def _source(manifest: Mapping[str, Any], model: str | Path | None, base: str | Path | None) -> Mapping[str, Any]:
    """Where to look for a run's model and base; by its name where the run does not say where they were."""
    made_with, noted = manifest["options"]["model"], manifest.get("notes", {}).get("model_source") or {}
    place = model or noted.get("model") or made_with.get("name")
    if place is None or made_with.get("dtype") is None:
        raise CheckpointError(
            "the run does not say which model it was made with, expected one loaded by name, Hub id or folder; "
            "extract it again with such a model."
        )
    if model is None and Path(place).is_absolute() and not Path(place).is_dir():
        raise CheckpointError(f"the model of the run was in {place}, which is no folder now; pass --model, its place.")
    return {"model": place, "base": base or noted.get("base"), "random_weights": noted.get("random_weights")}


def _check_same(made_with: Mapping[str, Any], found: Mapping[str, Any], place: str) -> None:
    compared = [name for name, must in _IDENTITY.items() if must]
    # A base given as a folder has no revision to compare.
    if None not in (made_with.get("base_revision"), found["base_revision"]):
        compared.append("base_revision")
    for name in compared:
        if made_with.get(name) != found[name]:
            raise CheckpointError(
                f"{place} is not the model of the run: its {name} is {found[name]!r}, expected "
                f"{made_with.get(name)!r} as in the run; pass the run's model with --model."
            )
