"""The files of a shard become a marker: the promise that they are whole, checked whenever they are read again.

    shards/000012.jsonl  the rows of the shard
    shards/000012.json   its marker: shard, SHA-256 of the problem ids, rows, SHA-256 of every file, seconds, rounding

A shard without a marker, or with files other than its marker says, counts as missing.
"""

import json
from pathlib import Path
from typing import Final

from thoughtlens.files import Json, fingerprints
from thoughtlens.runs.block_layout import AnyLayout
from thoughtlens.runs.layout import ids_fingerprint

SHARDS: Final = "shards"


def marker_name(shard: int) -> str:
    """The marker of a shard, relative to the run folder."""
    return f"{SHARDS}/{shard:06d}.json"


def rows_name(shard: int) -> str:
    """The rows of a shard, relative to the run folder."""
    return f"{SHARDS}/{shard:06d}.jsonl"


def promise(folder: Path, layout: AnyLayout, shard: int) -> Json:
    """What the marker of a shard must say for the files as they are now."""
    ids = layout.ids_of(shard)
    files = fingerprints(folder, [*layout.array_files(shard), rows_name(shard)])
    return {"shard": shard, "problem_ids": ids_fingerprint(ids), "rows": len(ids), "files": files}


def read_marker(folder: Path, shard: int) -> Json:
    """The marker of a shard; empty if it is missing or torn."""
    try:
        marker = json.loads((folder / marker_name(shard)).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def fault_of(folder: Path, layout: AnyLayout, shard: int) -> str | None:
    """The first file of a shard that is missing or altered; None if the shard is whole."""
    marker = read_marker(folder, shard)
    if not marker:
        return marker_name(shard)
    found = promise(folder, layout, shard)
    if any(marker.get(name) != found[name] for name in ("shard", "problem_ids", "rows")):
        return marker_name(shard)
    written, present = marker.get("files", {}), found["files"]
    return next((name for name in present if present[name] is None or present[name] != written.get(name)), None)
