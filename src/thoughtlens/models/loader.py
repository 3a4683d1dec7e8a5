"""Reasoners from a name, Hub id or folder; with random weights; and from the manifest of a run.

`load` takes four steps:

1. The checkpoint's folder and the base's folder (configuration and tokenizer only) are found or fetched.
2. What the weights do not say is looked up (`thoughtlens.models.checkpoint_settings`).
3. The weights are read, sorted by their layout and merged (`thoughtlens.models.checkpoint_weights`).
4. transformers builds the decoder from them; every missing, unexpected or misshapen key is an error.

A family of another package is found by the name that a folder's `thoughtlens.json` gives, among the entry points
`thoughtlens.families`.

`randomize` draws the weights of a loaded reasoner anew: what its architecture attends to without training.
`reasoner_of` loads the model of a run again, and refuses any other.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from thoughtlens.errors import CheckpointError, OptionError
from thoughtlens.models.base_model import (
    built,
    check_tokenizer,
    fit_vocabulary,
    load_tokenizer,
    markers_named,
    read_config,
    read_object,
)
from thoughtlens.models.catalog import (
    AUTO,
    BASE_FILES,
    CHECKPOINT_FILES,
    PRECISIONS,
    TF32,
    bundled,
    check_asked,
    fetch,
    no_device,
    no_lora,
)
from thoughtlens.models.checkpoint_files import digest, find_weights, free_memory, is_raw, read_weights
from thoughtlens.models.checkpoint_settings import Settings, folder_settings, known_checkpoints
from thoughtlens.models.checkpoint_weights import (
    COCONUT,
    CODI,
    LATENT_TTS,
    PLAIN,
    Sorted,
    built_projection,
    merged,
    sort_keys,
    tie,
)
from thoughtlens.models.checksum_cache import checksum
from thoughtlens.models.codi_and_coconut import Coconut, Codi, Pause, pause_vector, symbol_tokenizer
from thoughtlens.models.compiled_circuit import compiled_reasoner
from thoughtlens.models.planted import Strengths, planted_reasoner
from thoughtlens.models.reasoner import LATENT, LatentReasoner, Reasoner, Wording
from thoughtlens.notation import BOT, EOT
from thoughtlens.problems import STRICT, rule_named
from thoughtlens.taps import ATTENTION

DTYPES: Final[Mapping[str, torch.dtype]] = {name: getattr(torch, name) for name in PRECISIONS if name != TF32}
"""The types of number that a model can be loaded in, by name."""

_MAX_SEED: Final = 2**63 - 1

_IDENTITY: Final = {
    "name": False,
    "revision": False,
    "base_revision": False,
    "sha256": True,
    "lora_alpha": True,
    "architecture": True,
    "wording": True,
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
    mode: str = LATENT,
    known_as: str | None = None,
    answer_rule: str = STRICT,
) -> Reasoner:
    """Load a reasoner.

    Args:
        model: a bundled name, a Hub id, or a folder in a layout of `thoughtlens.models.checkpoint_weights`.
        base: folder or Hub id of the base model, of which only configuration and tokenizer are read; the known base of
            a known checkpoint, or the checkpoint's own folder, if None.
        revision: branch, tag or commit of a Hub checkpoint.
        base_revision: branch, tag or commit of a Hub base.
        alpha: LoRA's alpha; what the folder's `thoughtlens.json` or the table says, else 32, if None.
        dtype: `float32`, `float64`, `bfloat16`, `float16`, or `tf32` (float32 whose products are made in TF32, on CUDA
            alone; else TF32 is off). `auto` is half precision on CUDA (bfloat16 where the GPU has it), which `extract`
            replaces by float32 where it moves a cell of attention by more than 0.02, and float32 elsewhere. Patterns
            are float32 or wider in any case.
        device: `cpu`, `cuda`, `cuda:1`, `mps` (in float32), …; CUDA if there is a GPU, if None.
        mode: `latent`, or `direct` or `verbal` where the same weights also answer at once or in words.
        known_as: the id of a known checkpoint whose facts hold for this one, such as a copy of it in a folder.
        answer_rule: `strict`, `official` or `math-verify`.

    Returns:
        The reasoner, in evaluation mode.

    Raises:
        CheckpointError: it can't be found, can't be read safely, or is none of the known layouts.
        OptionError: there is no such answer rule.

    Example:
        >>> reasoner = load("tiny-gpt2", device="cpu")
        >>> reasoner.n_thoughts, reasoner.provenance["architecture"]
        (6, 'gpt2')
    """
    rule_named(answer_rule)
    check_asked(model, revision=revision, known_as=known_as, alpha=alpha, dtype=dtype, device=device)
    where, asked_dtype = _device(device), dtype
    place = locate(model, base, revision, base_revision, known_as)
    said = folder_settings(place.folder)
    settings = Settings.of(options={"lora_alpha": alpha}, folder=said, table=place.table)
    dtype = _float32(str(model), dtype) if settings["family"] == "compiled" else precision(dtype, where)
    kind = torch.float32 if dtype == TF32 else DTYPES[dtype]
    if settings["family"] in ("planted", "compiled") and alpha is not None:
        raise no_lora(str(model), alpha)
    if settings["family"] == "compiled":
        reasoner: Reasoner = _named_so(compiled_reasoner(twin=bool(said.get("twin")), device=where), place)
    elif settings["family"] == "planted":
        reasoner = _plant(place, said, kind, where)
    elif settings["family"] not in _FAMILIES:
        reasoner = _foreign(settings["family"], place, said, kind, where)
    else:
        reasoner = _read(place, settings, kind, where, mode)
    asked = {"known_as": known_as, "mode": None if mode == LATENT else mode}
    known = {**reasoner.provenance, "dtype": dtype, "asked_dtype": asked_dtype, "device": str(where)}
    known["source"] = {**place.provenance["source"], **{name: value for name, value in asked.items() if value}}
    return replace(reasoner, rule=answer_rule, provenance=known)


def precision(asked: str, device: torch.device) -> str:
    """Choose the precision of a model's weights.

    Args:
        asked: a name of `DTYPES`, or `auto`.
        device: where the model is to be.

    Returns:
        A name of `DTYPES`; `auto` is bfloat16 on CUDA where the GPU has it, else float16; elsewhere it is float32.

    Raises:
        CheckpointError: there is no such precision, or not on this device.

    Example:
        >>> precision("auto", torch.device("cpu"))
        'float32'
    """
    if asked not in (AUTO, *PRECISIONS):
        raise CheckpointError(f"no precision {asked!r}; use {AUTO} or one of {', '.join(PRECISIONS)}.")
    if asked == TF32 and device.type != "cuda":
        raise CheckpointError(f"tf32 is a mode of NVIDIA GPUs and the device is {device}; use float32 there.")
    if device.type == "mps" and asked not in (AUTO, "float32"):
        raise CheckpointError(f"{asked} is not measured on {device}, expected float32; use that, or another --device.")
    if asked != AUTO:
        return asked
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def randomize(reasoner: Reasoner, *, seed: int) -> Reasoner:
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
    answer_rule: str | None = None,
) -> Reasoner:
    """Load again the model that a run was made with.

    Args:
        manifest: of the run; `options.model` says what decides its numbers, `notes.model_source` where the model was.
        model: where the model is now, as for `load`; where the run found it if None.
        base: where its base is now; where the run found it if None.
        device: as for `load`.
        answer_rule: as for `load`; the run's if None.

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
        mode=source["mode"] or LATENT,
        known_as=source["known_as"],
        answer_rule=answer_rule or manifest["options"].get("answer_rule", STRICT),
    )
    if source["random_weights"] is not None:
        reasoner = randomize(reasoner, seed=int(source["random_weights"]))
    _check_same(made_with, identity(reasoner), str(source["model"]))
    return replace(reasoner, provenance={**reasoner.provenance, "name": made_with["name"]})


def identity(reasoner: LatentReasoner) -> dict[str, Any]:
    """What of a reasoner decides a run's numbers, as the run's manifest keeps it."""
    return {name: reasoner.provenance.get(name) for name in _IDENTITY}


def checked(manifest: Mapping[str, Any], reasoner: LatentReasoner) -> LatentReasoner:
    """The reasoner, if it is the model that a run was made with; else a `CheckpointError`.

    Where `auto` became another precision in the run, the model is loaded again in that.
    """
    found = identity(reasoner)
    there = manifest["options"]["model"].get("dtype")
    if there not in (None, found["dtype"]) and reasoner.provenance.get("asked_dtype") == AUTO:
        device = reasoner.provenance.get("device")
        return reasoner_of(manifest, device=device, answer_rule=reasoner.answer_rule.name)
    _check_same(manifest["options"]["model"], found, str(found["name"]))
    return reasoner


# Finding a model's files.


class Place(NamedTuple):
    """Where a model's files are: the checkpoint's and the base's folder, what is known of it, and of its source."""

    folder: Path
    base: Path | None
    table: Mapping[str, Any]
    provenance: dict[str, Any]


def locate(
    model: str | Path,
    base: str | Path | None = None,
    revision: str | None = None,
    base_revision: str | None = None,
    known_as: str | None = None,
) -> Place:
    """Find a model's files, here or on the Hub; `CheckpointError` if they are not there, or of a refused family."""
    name, commit, base_commit = str(model), None, None
    check_asked(model, revision=revision, known_as=known_as)
    table = known_checkpoints().get(known_as or name, {})
    if name in bundled():
        folder = bundled()[name]
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        files = (table["file"], *CHECKPOINT_FILES) if "file" in table else CHECKPOINT_FILES
        folder, commit = fetch(table.get("repository", name), revision or table.get("revision"), files)
    _refuse_by_name(folder)
    wanted = base or folder_settings(folder).get("base") or table.get("base") or (None if "config" in table else folder)
    base_folder = None if wanted is None else Path(wanted)
    if base_folder is not None and not base_folder.is_dir():
        base_folder, base_commit = fetch(str(wanted), base_revision, BASE_FILES)
    source = {"model": name if name in bundled() else _whole(name), "base": None if base is None else _whole(str(base))}
    known = {"name": name, "revision": commit, "base_revision": base_commit, "source": source}
    return Place(folder, base_folder, table, known)


def _refuse_by_name(folder: Path) -> None:
    """Refuse a folder of a family that can't be loaded, whose configuration or files give its name away."""
    config = read_object(folder / "config.json") or {}
    given = [config.get("model_type"), *(config.get("architectures") or []), *(path.name for path in folder.iterdir())]
    names = " ".join(str(name).lower() for name in given)
    for entry in known_checkpoints().values():
        if any(sign in names for sign in entry.get("signs", ())):
            raise CheckpointError(f"{folder} can't be loaded: {entry['refused']}; use a CODI or Coconut checkpoint.")


def _whole(name: str) -> str:
    """A folder by its whole path; a Hub id as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise no_device(name) from error


# Loading what was found.

_FAMILIES: Final = frozenset({"codi", "coconut", "compiled", "plain", "planted"})
_FAMILY_OF: Final = {CODI: "codi", COCONUT: "coconut", PLAIN: "plain", LATENT_TTS: None}


def _plant(place: Place, settings: Mapping[str, Any], dtype: torch.dtype, where: torch.device) -> Reasoner:
    """A planted model: its folder holds the strengths of its heads in the place of weights."""
    known = {strength.name for strength in fields(Strengths)}
    if odd := sorted(set(settings) - known - {"family", "n_thoughts"}):
        raise CheckpointError(
            f"{place.folder / 'thoughtlens.json'} sets {odd[0]!r}, expected of a planted model n_thoughts and "
            f"{', '.join(sorted(known))}; take it out."
        )
    strengths = Strengths(**{name: value for name, value in settings.items() if name in known})
    reasoner = planted_reasoner(strengths, n_thoughts=int(settings.get("n_thoughts", 6)), dtype=dtype, device=where)
    return _named_so(reasoner, place)


def _named_so(reasoner: Reasoner, place: Place) -> Reasoner:
    """A reasoner that was built, not read, under the name and source that it was asked for by."""
    own = {name: place.provenance[name] for name in ("name", "source")}
    return replace(reasoner, provenance={**reasoner.provenance, **own})


def _float32(model: str, asked: str) -> str:
    """The precision of a compiled model; `CheckpointError` where another is asked for."""
    if asked not in (AUTO, "float32"):
        raise CheckpointError(
            f"{model} was asked for in {asked}, expected float32, in which alone its written weights are right; "
            "pass --dtype float32."
        )
    return "float32"


def _foreign(family: str, place: Place, said: Mapping[str, Any], dtype: torch.dtype, where: torch.device) -> Reasoner:
    """A reasoner of another package's family, told apart by the name of its entry point."""
    found = entry_points(group="thoughtlens.families", name=family)
    if not found:
        raise CheckpointError(
            f"{place.folder} is of the family {family!r}, expected {', '.join(sorted(_FAMILIES))}, or "
            "one that an installed package offers as entry point `thoughtlens.families`; install that package."
        )
    reasoner: Reasoner = next(iter(found)).load()(place.folder, settings=said, dtype=dtype, device=where)
    known = {"architecture": reasoner.lm.config.model_type, "family": family, **reasoner.provenance}
    return replace(reasoner, provenance={**place.provenance, **known})


def _read(place: Place, settings: Settings, dtype: torch.dtype, where: torch.device, mode: str) -> Reasoner:
    """A reasoner of a family of this package, from its weights."""
    files = find_weights(place.folder, settings["file"])
    named, config = str(files[0]), read_config(place.base, settings)
    found = sort_keys(read_weights(*files), named, family=_named_family(place, settings, files))
    settings = settings.with_family(_FAMILY_OF[found.layout] or ("codi" if found.projection else "coconut"))
    n_embeddings, markers = fit_vocabulary(config, found, settings, named)
    tokenizer = symbol_tokenizer() if settings["tokenizer"] == "symbols" else load_tokenizer(place.base or place.folder)
    if found.layout == LATENT_TTS:
        markers = markers_named(tokenizer, n_embeddings, place.base or place.folder)
    check_tokenizer(tokenizer, markers, place.base or place.folder)
    if settings.facts.get("lora_alpha", (0, ""))[1] == "option" and not found.lora:
        raise no_lora(place.provenance["name"], settings["lora_alpha"])
    lora = settings["lora_alpha"] if found.lora else None
    decoder = merged(found, alpha=float(lora or 0), transposed=config.model_type == "gpt2", where=named)
    apart = tie(decoder, config.model_type, len(markers.names), named) if config.tie_word_embeddings else 0.0
    config.vocab_size = n_embeddings
    _check_room(decoder, dtype, where, named)
    # Copied, since what was read is a view of the file, which may change while the model is in use.
    decoder = {name: tensor.to(dtype, copy=True) for name, tensor in decoder.items()}
    lm = built(config, decoder, dtype, where=place.folder, base=place.base)
    modes = settings["modes"] or (["direct", "verbal"] if markers.names == (BOT, EOT) else [])
    if mode != LATENT and mode not in modes:
        trained = ", ".join([LATENT, *modes])
        raise CheckpointError(
            f"{place.folder} was not trained to answer in the mode {mode!r}, expected {trained}; leave it out."
        )
    facts = ["family", "n_thoughts", *(["lora_alpha"] if found.lora else []), "feedback"]
    facts += ["remove_eos"] if settings["family"] == "codi" and not settings["before"] else []
    provenance = {
        **place.provenance,
        "weights": named,
        "sha256": checksum(files),
        "lora_alpha": lora,
        "architecture": config.model_type,
        "family": settings["family"],
        "layout": found.layout,
        "wording": {**settings.wording(), **({} if mode == LATENT else {"mode": mode})} or None,
        "settings": settings.origins(facts),
        "left_out": found.left_out or None,
        "tied_again": apart or None,
    }
    made = Codi if settings["family"] == "codi" else Coconut
    return made(
        lm.to(where).eval(),
        _feedback(found, settings, lm, named).to(device=where, dtype=dtype).eval(),
        tokenizer,
        markers,
        int(settings["n_thoughts"]) if mode == LATENT else 0,
        _wording(settings, tokenizer, place),
        mode,
        provenance=provenance,
    )


def _check_room(weights: Mapping[str, torch.Tensor], dtype: torch.dtype, where: torch.device, named: str) -> None:
    """Refuse a model that does not fit the card, before anything is put there."""
    if where.type != "cuda":
        return  # of a CPU's memory, reading the weights has asked
    needed = dtype.itemsize * sum(tensor.numel() for tensor in {id(one): one for one in weights.values()}.values())
    free = free_memory(where)
    if needed > free:
        raise CheckpointError(
            f"{named} needs {needed / 2**30:,.1f} GiB on {where}, {free / 2**30:,.1f} are free; use another --device "
            "or --dtype, or a smaller checkpoint."
        )


def _named_family(place: Place, settings: Settings, files: Sequence[Path]) -> str | None:
    """The family that something names; keys without a prefix would else be taken for those of the base."""
    config = read_object(place.folder / "config.json") or {}
    if any("coconut" in str(name).lower() for name in config.get("architectures") or []):
        return "coconut"
    if settings.facts["family"][1] != "default":
        return str(settings["family"])
    return "plain" if is_raw(files[0]) else None


def _feedback(found: Sorted, settings: Settings, lm: Any, where: str) -> nn.Module:
    if settings["feedback"] != "pause":
        return built_projection(found.projection, where)
    vector = pause_vector(found.beside, lm.config.hidden_size)
    if vector is None:
        raise CheckpointError(
            f"{where} has no pause vector of width {lm.config.hidden_size}, expected one; fetch it again."
        )
    return Pause(vector)


def _wording(settings: Settings, tokenizer: Any, place: Place) -> Wording:
    def ids(tokens: Sequence[str]) -> tuple[int, ...]:
        known = tokenizer.get_vocab()
        if odd := [token for token in tokens if token != "eos" and token not in known]:
            raise CheckpointError(
                f"the tokenizer of {place.base} has no token {odd[0]!r}, expected it around the thoughts of "
                f"{place.folder}; pass the base model that the checkpoint was trained from."
            )
        return tuple(tokenizer.eos_token_id if token == "eos" else known[token] for token in tokens)

    ends = ["eos"] if settings["remove_eos"] is False else []
    return Wording(
        settings["suffix"],
        ids([*settings["before"], *ends]),
        ids([*settings["after"], *ends]),
        settings["prefix"],
    )


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
    asked = {name: noted.get(name) for name in ("random_weights", "mode", "known_as")}
    return {"model": place, "base": base or noted.get("base"), **asked}


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
