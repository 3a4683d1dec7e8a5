"""Checksums of weights files, and the folder on this machine that keeps them: the cache of the package.

In: a weights file; out: its SHA-256, computed once for each file as it is (path, size and time of change): hashing
large files takes longer than loading them. Merged weights are not kept: they are merged at every load.
The folder is what the environment variable `THOUGHTLENS_CACHE` says, else the user's cache folder of the platform
(`~/.cache/thoughtlens` on Linux). Checkpoints fetched from the Hugging Face Hub lie in the Hub's own cache.
Where a home is missing, a file or read-only, the command line keeps all of these in a temporary folder.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from platformdirs import user_cache_path

from thoughtlens.errors import CheckpointError
from thoughtlens.files import fingerprint

log = logging.getLogger(__name__)

_CHECKSUMS: Final = "checksums.json"


def cache_folder() -> Path:
    """The folder of the cache; it need not exist.

    Returns:
        What `THOUGHTLENS_CACHE` says, else the user's cache folder; a temporary one where that can't be written.

    Example:
        >>> cache_folder().is_absolute()
        True
    """
    named = os.environ.get("THOUGHTLENS_CACHE")
    return Path(named).absolute() if named else _folder_of("thoughtlens")


def settle_caches() -> None:
    """Name folders that can be written to libraries that keep something at home; before they are imported."""
    # Empty or relative it would name a folder in the current one to huggingface_hub.
    if not Path(os.environ.get("XDG_CACHE_HOME", "/")).is_absolute():
        del os.environ["XDG_CACHE_HOME"]
    for variable, name in (("HF_HOME", "huggingface"), ("MPLCONFIGDIR", "matplotlib")):
        if variable not in os.environ and not _usable(user_cache_path(name)):
            os.environ[variable] = str(_folder_of(name))


def _folder_of(name: str) -> Path:
    folder = user_cache_path(name)
    return folder if _usable(folder) else _temporary(folder.parent) / name


def _usable(folder: Path) -> bool:
    """Whether a folder can be written or made, in a home that is there."""
    there = next((path for path in (folder, *folder.parents) if os.access(path, os.F_OK)), folder)
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.expanduser raises where there is no home)
    at_home = there.is_relative_to(home) or not folder.is_relative_to(home)
    return folder.is_absolute() and at_home and os.access(there, os.W_OK | os.X_OK) and there.is_dir()


@cache
def _temporary(wanted: Path) -> Path:
    """A folder in the place of one that can't be used, this user's own and the same in every process."""
    folder = Path(tempfile.gettempdir()) / f"thoughtlens-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        own = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
    except OSError:
        own = False
    found = folder if own else Path(tempfile.mkdtemp(prefix="thoughtlens-"))
    log.warning("nothing can be kept in %s; caches are in %s, which the system may empty", wanted, found)
    return found


def checksum(files: Sequence[Path]) -> str:
    """SHA-256 of a weights file, or of the lines of several files' own; `CheckpointError` if it can't be kept."""
    path = cache_folder() / _CHECKSUMS
    known = _known(path)
    keys = [f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    fresh = {key: str(fingerprint(file)) for key, file in zip(keys, files, strict=True) if key not in known}
    if fresh:
        _keep(path, known | fresh)
    found = [(known | fresh)[key] for key in keys]
    return found[0] if len(found) == 1 else hashlib.sha256("\n".join(found).encode()).hexdigest()


def cached() -> list[dict[str, Any]]:
    """What the package keeps in the cache.

    Returns:
        A dict for each file: `path`, `bytes`, and `holds`, what it is for.

    Example:
        >>> {name for item in cached() for name in item} <= {"path", "bytes", "holds"}
        True
    """
    path = cache_folder() / _CHECKSUMS
    if not path.is_file():
        return []
    holds = f"checksums of {len(_known(path))} weights files"
    return [{"path": str(path), "bytes": path.stat().st_size, "holds": holds}]


def clear_cache() -> int:
    """Remove what the package keeps in the cache; other files in the folder stay.

    Returns:
        The bytes that were freed.

    Raises:
        CheckpointError: something can't be removed.

    Example:
        >>> clear_cache() >= 0  # doctest: +SKIP
        True
    """
    items = cached()
    for item in items:
        try:
            Path(item["path"]).unlink()
        except OSError as error:
            raise CheckpointError(f"{item['path']} can't be removed ({error}); remove it by hand.") from error
    return sum(item["bytes"] for item in items)


def _known(path: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def _keep(path: Path, known: dict[str, str]) -> None:
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known, indent=1), "utf-8")
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"can't write the cache of checksums ({error}); make room there, or set THOUGHTLENS_CACHE to a folder."
        ) from error
