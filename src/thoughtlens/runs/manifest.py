"""What was run, on what and by which versions becomes `manifest.json`, and is compared when a run goes on.

    format    the version of this folder's layout
    complete  true once every shard is there and verified
    created, versions   when the run was begun, and by which packages
    layout    sizes, dtype, shard size, fingerprint of the problem ids
    options   what decides the numbers: a run only goes on under equal options
    resumed   when and by which packages it went on, where these differ from `versions`
    files     SHA-256 of the files written at the start
    seconds, rounding, results, notes   written at the end: time over all shards, the largest difference between
              attention (or sums) in memory and on disk, SHA-256 of the results, what the caller adds

The manifest knows nothing about attention.
"""

import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from reprlib import Repr
from typing import Any, Final

from thoughtlens.errors import RunError
from thoughtlens.files import Json

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
PACKAGES: Final = ("thoughtlens", "torch", "transformers", "numpy", "xarray", "zarr")

_short = Repr()
_short.maxstring = 60


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, without importing any of them."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_manifest(layout: Mapping[str, Any], options: Mapping[str, Any]) -> Json:
    """The manifest of a run that has just been begun, as JSON would give it back (tuples are lists)."""
    manifest = {
        "format": FORMAT,
        "complete": False,
        "created": now(),
        "versions": versions(),
        "layout": dict(layout),
        "options": dict(options),
    }
    copied: Json = json.loads(json.dumps(manifest, allow_nan=False))
    return copied


def read_manifest(folder: Path) -> Json:
    """Read the manifest of a run folder, or say that it is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RunError(f"{folder} has no {MANIFEST}, expected a run folder; make one with `thoughtlens extract`.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not readable JSON ({error}); delete the folder and extract the run again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise RunError(
            f"{path} has format {_short.repr(found)}, expected {FORMAT}; "
            "use the thoughtlens that made it, or another folder."
        )
    if lacking := [name for name in ("layout", "options", "complete") if name not in manifest]:
        raise RunError(f"{path} lacks {lacking[0]!r}; delete the folder and extract the run again.")
    return manifest


def differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One phrase for each entry in which two JSON objects differ, nested names joined by dots."""
    there, here = dict(_flat(found)), dict(_flat(asked))
    names = sorted(there.keys() | here.keys())
    return [
        f"{name} is {_said(there, name)} there and {_said(here, name)} here"
        for name in names
        if _said(there, name, full=True) != _said(here, name, full=True)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _said(values: Mapping[str, Any], name: str, *, full: bool = False) -> str:
    if name not in values:
        return "absent"
    return repr(values[name]) if full else _short.repr(values[name])
