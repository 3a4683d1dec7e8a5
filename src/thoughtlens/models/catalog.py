"""Models that can be asked for by name: those bundled with the package, with their cards, and those on the Hub.

The Hub is the Hugging Face Hub.

`fetch`: an id and a revision in, a local folder and a commit out. Only named files are fetched, never code. Without a
network, what an earlier call left in the cache is used.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

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
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever httpx the installed version speaks

from thoughtlens.errors import CheckpointError

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


class Fetched(NamedTuple):
    """A local copy of a repository's files, and its commit."""

    folder: Path
    commit: str


def fetch(repo: str, revision: str | None, files: tuple[str, ...]) -> Fetched:
    """Fetch the files of a repository that match the patterns, or find them in the cache.

    Raises `CheckpointError` where the repository is missing, private, gated, or out of reach and not in the cache.
    """
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
            "see `thoughtlens models`."
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError):
        return _cached(repo, revision, files)
    return Fetched(Path(folder), Path(folder).name)


def _cached(repo: str, revision: str | None, files: tuple[str, ...]) -> Fetched:
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
        ['planted', 'tiny-gpt2', 'tiny-gpt2-control', 'tiny-llama']
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
