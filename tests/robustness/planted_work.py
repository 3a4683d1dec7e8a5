"""What tests of faults let processes do, and the bytes that it must leave whatever happens meanwhile."""

import hashlib
from pathlib import Path

import thoughtlens as tl
from thoughtlens.files import LOCK
from thoughtlens.models import load, planted_problems
from thoughtlens.runs.extraction import KEEPS


def extract_planted(keep: str, folder: Path) -> None:
    """A run of twelve problems in two shards."""
    tl.extract(load("planted"), planted_problems(12), folder, shard_size=6, keep=KEEPS[keep])


def cut_planted(folder: Path) -> None:
    """A study of one cut."""
    run = tl.open_run(folder)
    tl.intervene(run, tl.plan_cuts(run, heads="L0H0", edits=["resample"]), study="s", reasoner=load("planted"))


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but those that tell times: manifests, the markers of shards, and locks.

    A saved analysis has the digest of the run's manifest, by which it is known to be of this run.
    """
    timed = {*folder.rglob("manifest.json*"), *folder.glob("shards/*.json"), *folder.rglob(LOCK)}
    timed |= set(folder.rglob("analysis.npz*"))
    files = {path for path in folder.rglob("*") if path.is_file()} - timed
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
