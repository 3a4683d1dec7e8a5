"""Models that can be asked for by name: those bundled with the package, with their cards, and those on the Hub.

The Hub is the Hugging Face Hub. `check_asked` refuses what can be refused before torch is imported.

`fetch`: an id and a revision in, a local folder and a commit out. Only named files are fetched, never code. Without a
network, what an earlier call left in the cache is used.
"""

import difflib
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from thoughtlens.errors import CheckpointError
from thoughtlens.models.checkpoint_settings import known_checkpoints

CHECKPOINT_FILES: Final = (
    "model.safetensors",
    "pytorch_model.bin",
    "*-of-*.safetensors",
    "*-of-*.bin",
    "checkpoint_*",
    "thoughtlens.json",
    "config.json",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
)
BASE_FILES: Final = ("config.json", "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json")


TF32: Final = "tf32"
"""float32 whose matrix products are made in TF32, on NVIDIA GPUs alone."""

PRECISIONS: Final = ("float32", "float64", "bfloat16", "float16", TF32)
AUTO: Final[Literal["auto"]] = "auto"
"""The precision that is chosen by the device, and on CUDA by what it moves (`thoughtlens.runs.model_precision`)."""

_DEVICE: Final = re.compile(r"(cpu|cuda|mps|xpu|hpu|npu|xla|meta)(:\d+)?")


def check_asked(
    model: str | Path,
    *,
    revision: str | None = None,
    known_as: str | None = None,
    alpha: float | None = None,
    dtype: str = AUTO,
    device: str | None = None,
) -> None:
    """Raise `CheckpointError` where these arguments of `load` can't be right, whatever the weights are."""
    if device is not None and not _DEVICE.fullmatch(device):
        raise no_device(device)
    if dtype not in (AUTO, *PRECISIONS):
        raise CheckpointError(f"no precision {dtype!r}; use {AUTO} or one of {', '.join(PRECISIONS)}.")
    if alpha is not None and not math.isfinite(alpha):
        raise CheckpointError(f"LoRA's alpha is {alpha}, expected a finite number; pass another --alpha.")
    name = str(model)
    if known_as is not None and known_as not in known_checkpoints():
        raise CheckpointError(
            f"no known checkpoint {known_as!r}; {_nearest(known_as, known=())}see `thoughtlens models --known`."
        )
    if "refused" in (table := known_checkpoints().get(known_as or name, {})):
        raise CheckpointError(
            f"{known_as or name} can't be loaded: {table['refused']}; use a CODI or Coconut checkpoint."
        )
    if revision is not None and (name in bundled() or Path(model).exists()):
        raise CheckpointError(f"{name} is here and has no revisions; leave --revision out, or name a Hub model.")
    if name in bundled() or Path(model).is_dir():
        if alpha is not None and not may_have_lora(bundled().get(name, Path(model))):
            raise no_lora(name, alpha)
    elif Path(model).exists():
        raise CheckpointError(f"{name} is a file; pass the folder that holds it.")
    elif _looks_like_path(name) and name not in known_checkpoints():
        raise CheckpointError(
            f"no model {name!r}: there is no such folder; {_nearest(name)}see `thoughtlens models` for names."
        )


def no_device(name: str) -> CheckpointError:
    """The error of a device that is not there."""
    return CheckpointError(f"no device {name!r} here; use cpu, or cuda where there is an NVIDIA GPU.")


def no_lora(name: str, alpha: float) -> CheckpointError:
    """The error of an alpha that would scale nothing."""
    return CheckpointError(f"--alpha is {alpha:g}, but {name} has no LoRA weights that it would scale; leave it out.")


def may_have_lora(folder: Path) -> bool:
    """Whether a folder may hold LoRA weights: false where the names of its weights, or the lack of any, say no."""
    if (path := folder / "model.safetensors").is_file():
        with path.open("rb") as file:
            # The file begins with the length of its header, which names the weights.
            return b"lora" in file.read(min(int.from_bytes(file.read(8), "little"), path.stat().st_size))
    return not (folder / "card.json").is_file()


def _nearest(name: str, known: Collection[str] | None = None) -> str:
    """`did you mean tiny-gpt2? `, or nothing where no known name is near."""
    names = [*(bundled() if known is None else known), *known_checkpoints()]
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}? " if near else ""


def _looks_like_path(name: str) -> bool:
    """Whether a name can't be `owner/name` on the Hub; a bare word could be, but such models are never CODI."""
    return name.count("/") != 1 or name.startswith((".", "/", "~"))


class Fetched(NamedTuple):
    """A local copy of a repository's files, and its commit."""

    folder: Path
    commit: str


def fetch(repo: str, revision: str | None, files: tuple[str, ...]) -> Fetched:
    """Fetch the files of a repository that match the patterns, or find them in the cache.

    Raises `CheckpointError` where the repository is missing, private, gated, or out of reach and not in the cache.
    """
    # Slow to import, and only models on the Hub need it.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # which the installed version speaks

    try:
        commit = HfApi().model_info(repo, revision=revision, timeout=10).sha or "main"
        folder = snapshot_download(repo, revision=commit, allow_patterns=list(files))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated; accept its licence on its page and run `hf auth login`, or pass a local folder."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision!r}; name a branch, tag or commit of it.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"no model {repo!r}: neither a folder here, nor a bundled name, nor a public model of the Hub; "
            f"{_nearest(repo)}see `thoughtlens models`."
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError):
        return _cached(repo, revision, files)
    return Fetched(Path(folder), Path(folder).name)


def _cached(repo: str, revision: str | None, files: tuple[str, ...]) -> Fetched:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=list(files), local_files_only=True)
    except (LocalEntryNotFoundError, OSError) as error:
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "there is no network"
        raise CheckpointError(
            f"can't reach the Hugging Face Hub for {repo} ({why}) and it is not in the cache; pass a local folder or a "
            "bundled model's name (`thoughtlens models`)."
        ) from error
    return Fetched(Path(folder), Path(folder).name)


@cache
def bundled() -> Mapping[str, Path]:
    """List the models in the package.

    Returns:
        The folder of each, by name.

    Example:
        >>> list(bundled())
        ['compiled', 'compiled-twin', 'planted', 'tiny-coconut', 'tiny-gpt2', 'tiny-gpt2-control', 'tiny-llama']
    """
    root = Path(str(resources.files("thoughtlens.models"))) / "bundled"
    return {folder.name: folder for folder in sorted(root.glob("*")) if (folder / "card.json").is_file()}


def read_card(name: str) -> dict[str, Any]:
    """Read the card of a model in the package: what it is, how it was trained, and how well it does.

    Args:
        name: a name of `bundled`.

    Returns:
        The card, as JSON values.

    Example:
        >>> card = read_card("tiny-gpt2")
        >>> card["parameters"], card["accuracy"]["own"]["n"]
        (310976, 2400)
    """
    card: dict[str, Any] = json.loads((bundled()[name] / "card.json").read_text("utf-8"))
    return card
