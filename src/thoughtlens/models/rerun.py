"""The manifest of a run becomes the reasoner that it was made with, loaded again and known to be the same.

It knows nothing of run folders: a manifest is any mapping with `options.model`, what decides the numbers, and, in
`notes.model_source`, where the model was. The place may have changed since; the weights may not.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from thoughtlens.errors import CheckpointError
from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.codi import Codi
from thoughtlens.models.loading import load
from thoughtlens.models.random_weights import randomize

IDENTITY: Final = ("name", "revision", "base_revision", "sha256", "lora_alpha", "architecture", "dtype")
"""What of a model's provenance decides a run's numbers; the device and the file's place do not."""

_SAME: Final = ("sha256", "lora_alpha", "architecture", "dtype")
"""What must be equal for two loaded models to be one: the weights' digest stands for their name and revision."""


def identity(reasoner: LatentReasoner) -> dict[str, Any]:
    """What decides a run's numbers, as the run's manifest keeps it."""
    return {name: reasoner.provenance.get(name) for name in IDENTITY}


def reasoner_of(
    manifest: Mapping[str, Any],
    *,
    model: str | Path | None = None,
    base: str | Path | None = None,
    device: str | None = None,
) -> Codi:
    """Load again the model that a run was made with.

    Args:
        manifest: of the run.
        model: where the model is now, as for `load`; where the run found it if None.
        base: where its base is now; where the run found it if None.
        device: as for `load`.

    Returns:
        The reasoner, in the run's precision and under the name that it has in the run.

    Raises:
        CheckpointError: it can't be found, or is not the model of the run.
    """
    made_with = manifest["options"]["model"]
    asked = _asked(manifest, made_with, model, base)
    moved = model is not None
    reasoner = load(
        asked["model"],
        base=asked["base"],
        revision=None if moved else made_with.get("revision"),
        base_revision=made_with.get("base_revision"),
        alpha=made_with.get("lora_alpha"),
        dtype=made_with["dtype"],
        device=device,
    )
    if asked["random_weights"] is not None:
        reasoner = randomize(reasoner, seed=int(asked["random_weights"]))
    _check_same(made_with, identity(reasoner), str(asked["model"]))
    return replace(reasoner, provenance={**reasoner.provenance, "name": made_with["name"]})


def checked(manifest: Mapping[str, Any], reasoner: LatentReasoner) -> LatentReasoner:
    """The reasoner, if it is the model that a run was made with.

    Raises:
        CheckpointError: it is another.
    """
    found = identity(reasoner)
    _check_same(manifest["options"]["model"], found, str(found["name"]))
    return reasoner


def _asked(
    manifest: Mapping[str, Any], made_with: Mapping[str, Any], model: str | Path | None, base: str | Path | None
) -> Mapping[str, Any]:
    """Where to look for the model and its base; a run that does not say where is asked for by its name."""
    noted = manifest.get("notes", {}).get("model_source") or {}
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
    names = [name for name in _SAME if made_with.get(name) != found[name]]
    # A base given as a folder has no revision to compare.
    if None not in (made_with.get("base_revision"), found["base_revision"]):
        names += [name for name in ("base_revision",) if made_with[name] != found[name]]
    if names:
        raise CheckpointError(
            f"{place} is not the model of the run: its {names[0]} is {found[names[0]]!r}, expected "
            f"{made_with.get(names[0])!r} as in the run; pass the run's model with --model."
        )
