"""The files of a run folder that is being written: manifest, markers of shards, and results; resumed after a kill.

in: the Dataset and the result rows of each shard; out: a run folder that is whole, or says what it lacks.

    RUN/manifest.json    what was run, on what and by which versions; its SHA-256 is in manifest.json.sha256
    RUN/attention.zarr   the attention Dataset, or RUN/sums.zarr in its place (see `thoughtlens.runs.storage_layout`)
    RUN/results.jsonl    a row a problem, put together at the end
    RUN/shards/000012.jsonl  the rows of shard 12
    RUN/shards/000012.json   its marker: shard, SHA-256 of the problem ids, rows, SHA-256 of every file, seconds, …

1. `Store.open` begins a run, or goes on with one of the same layout and options.
2. `Store.write` writes the arrays and rows of a shard and, last, its marker, so that a kill costs at most the shard in
   progress. A shard without a marker, or whose files are not those that its marker names, counts as missing. Shards may
   be written by several processes, each shard by one.
3. `Store.finish` puts the results together and marks the run complete.

The manifest has these entries:

    format    the version of this folder's layout
    complete  true once every shard is there and verified
    created, versions   when the run was begun, and by which packages
    batching  the size of batches, in problems and in tokens, and why
    precision where a run has half precision or TF32: how far that moves numbers (`thoughtlens.runs.model_precision`)
    call, seed  the command line, or the call from Python; by which seed the problems were drawn, None if they were not
    layout    sizes, shard size, what is stored, fingerprint of the problem ids
    options   what decides the numbers: a run is only resumed under equal options
    resumed   when and by which packages it was resumed, where these differ from `versions`
    files     SHA-256 of the files written at the start
    seconds, rounding, results, notes   written at the end: time over all shards, the largest difference between
              attention (or sums) in memory and on disk, SHA-256 of the results, what the caller adds
    markers   written at the end: SHA-256 of what the markers say
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Annotated, Any, Final, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thoughtlens.errors import RunError
from thoughtlens.files import (
    LOCK,
    PARTIAL,
    SEAL,
    Alone,
    Json,
    as_model,
    check_seal,
    digest_of,
    fingerprint,
    fingerprints,
    now,
    one_of_writers,
    only_writer,
    read_json,
    replacing,
    write_json,
    write_json_lines,
    writing,
)
from thoughtlens.notation import MAX_THOUGHTS
from thoughtlens.runs.engines import Part

if TYPE_CHECKING:
    # Slow to import, and not needed to say that a folder holds no run.
    import xarray as xr

    from thoughtlens.runs.storage_layout import Layout

MANIFEST: Final = "manifest.json"
RESULTS: Final = "results.jsonl"
SHARDS: Final = "shards"
FORMAT: Final = 2
PACKAGES: Final = ("thoughtlens", "torch", "transformers", "numpy", "xarray", "zarr")

_CALLED: Final = "the run folder "
AGAIN: Final = "delete the folder and extract the run again"
_short = Repr()
_short.maxstring = 60


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, without importing any of them."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    # Metadata is read from disk and parsed at each call.
    return metadata.version(package)


def made_by(call: str, *manifests: Json, seed: int | None = None) -> Json:
    """From what a file was made: the call, its seed, the names of the models and problem sets of runs, and packages."""
    told = [
        {name: manifest["options"].get(name, {}).get("name") for name in ("model", "problems")}
        for manifest in manifests
    ]
    named = told[0] if len(told) == 1 else {"runs": told}
    return {"call": call, "seed": seed, **named, "versions": versions()}


class Found(BaseModel):
    """What is read back: these entries and others, without coercion, and no number that is not finite."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=1, lt=2**31)]


class _Sizes(Found):
    n_problems: Count
    n_layers: Count
    n_heads: Count
    n_thoughts: Annotated[int, Field(ge=0, le=MAX_THOUGHTS)]
    shard_size: Count
    n_blocks: Count | None = None
    stored: dict[str, str]


class _Manifest(Found):
    complete: bool
    created: str
    versions: dict[str, str]
    layout: _Sizes
    options: dict[str, Any]
    files: dict[str, str] | None = None
    markers: str | None = None
    results: str | None = None
    seconds: float = 0.0
    rounding: float = 0.0
    notes: dict[str, Any] | None = None
    precision: dict[str, Any] | None = None


class _Marker(Found):
    shard: int
    problem_ids: str
    rows: int
    files: dict[str, str]
    seconds: float
    rounding: float
    out_of_memory: int = 0


def read_manifest(folder: Path) -> Json:
    """Read the manifest of a run folder, or say that it is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RunError(f"{folder} has no {MANIFEST}, expected a run folder; make one with `thoughtlens extract`.")
    manifest = read_json(path, remedy=AGAIN)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise RunError(
            f"{path} has format {_short.repr(found)}, expected {FORMAT}; "
            "use the thoughtlens that made it, or another folder."
        )
    as_model(path, manifest, _Manifest, remedy=AGAIN)
    check_seal(path, remedy=AGAIN)
    return manifest


def begun(folder: Path) -> Json:
    """The manifest of a run that has been begun; empty if there is none."""
    return read_manifest(folder) if (folder / MANIFEST).is_file() else {}


def differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """One phrase for each entry in which two JSON objects differ, nested names joined by dots."""
    there, here = dict(_flat(found)), dict(_flat(asked))
    names = sorted(there.keys() | here.keys())
    return [
        f"{name} is {_said(there, name)} there and {_said(here, name)} here"
        for name in names
        if _said(there, name, full=True) != _said(here, name, full=True)
    ]


_OPTIONS: Final = {
    "options.model": "--model {}",
    "options.model.name": "--model {}",
    "options.model.dtype": "--dtype {}",
    "options.model.lora_alpha": "--alpha {}",
    "options.problems.name": "--problems {}",
    "options.problems.split": "--split {}",
    "options.problems.revision": "--problems-revision {}",
    "layout.n_problems": "{} problems",
    "options.n_thoughts": "--thoughts {}",
    "options.answer_rule": "--answer-rule {}",
    "options.protocol": "--protocol {}",
    "options.batch_size": "--batch-size {}",
    "options.max_new_tokens": "--max-new-tokens {}",
    "layout.record": "--record {}",
    "layout.keep": "--keep {}",
    "layout.shard_size": "--shard-size {}",
    "options.problems.fingerprint": "problems {:.12} (drawn by another --seed, or of another file)",
}
"""How a user asks for what the manifest calls so, in the order in which it is said."""

_UNSAID: Final = {"layout.keep": "raw", "layout.record": "none", "options.max_new_tokens": "256"}
"""What a manifest leaves out where it is usual."""

_FOLLOWS: Final = {
    "options.model.name": ("options.model.", "options.n_thoughts", "layout."),
    "options.problems.name": ("options.problems.", "layout.problem_ids", "layout.shard_size"),
    "layout.n_problems": ("options.problems.fingerprint", "layout.problem_ids", "layout.shard_size"),
    "options.n_thoughts": ("layout.n_thoughts", "layout.shard_size"),
    "layout.keep": ("layout.",),
    "layout.record": ("layout.stored.",),
    "options.problems.fingerprint": ("layout.problem_ids",),
}
"""What differs because something else does, and need not be said."""

_ASKED: Final = ("options.model.dtype", "layout.n_problems", "layout.record", "layout.keep")
"""What a user asks for whatever the model is."""


def _under_one_name(found: Mapping[str, Any], asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was found, with the model's name as asked for where its weights are the same, wherever they lie."""
    there, here = found["options"].get("model"), asked["options"].get("model")
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)) or there.get("sha256") != here.get("sha256"):
        return found
    names = {name: here[name] for name in ("name", "revision", "base_revision") if name in here}
    return {**found, "options": {**found["options"], "model": {**there, **names}}}


def _in_words(found: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """How two runs differ, as a user asks for it: `there: --model tiny-llama, 60 problems; here: …`."""
    there, here = dict(_flat(found)), dict(_flat(asked))
    apart = [name for name in there | here if _said(there, name, full=True) != _said(here, name, full=True)]
    hidden = [
        name
        for name in apart
        for cause, effects in _FOLLOWS.items()
        if cause in apart and cause != name and name.startswith(effects) and name not in _ASKED
    ]
    known = [*(name for name in _OPTIONS if name in apart), *(name for name in apart if name not in _OPTIONS)]
    told = [name for name in known if name not in hidden]

    def side(values: Mapping[str, Any]) -> str:
        return ", ".join(
            _OPTIONS.get(name, name + " {}").format(_plain(values.get(name, _UNSAID.get(name, "absent"))))
            for name in told
        )

    return f"there: {side(there)}; here: {side(here)}"


def _plain(value: object) -> str:
    """A value as a user types it: a list joined by commas, `none` where nothing is asked for."""
    return (",".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"


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


@contextmanager
def writing_run(folder: Path, part: Part | None = None) -> Iterator[Alone]:
    """Make or find the folder of a run and be the only process that writes it, or the only one that does a part.

    `RunError` if the folder is foreign.
    """
    with writing(folder, called=_CALLED, make=False):
        check_free(folder)
    if part is not None:
        with one_of_writers(folder, part.name, called=_CALLED) as alone:
            yield alone
    else:
        with only_writer(folder, called=_CALLED):
            yield nullcontext


def marker_name(shard: int) -> str:
    """The marker of a shard, relative to the run folder."""
    return f"{SHARDS}/{shard:06d}.json"


def rows_name(shard: int) -> str:
    """The rows of a shard, relative to the run folder."""
    return f"{SHARDS}/{shard:06d}.jsonl"


def promise(folder: Path, layout: "Layout", shard: int) -> Json:
    """What the marker of a shard must say for the files as they are now."""
    from thoughtlens.runs.storage_layout import ids_fingerprint  # imports xarray

    ids = layout.ids_of(shard)
    files = fingerprints(folder, [*layout.array_files(shard), rows_name(shard)])
    return {"shard": shard, "problem_ids": ids_fingerprint(ids), "rows": len(ids), "files": files}


def read_marker(folder: Path, shard: int) -> Json:
    """The marker of a shard; empty if it is missing, torn or altered."""
    try:
        marker = json.loads((folder / marker_name(shard)).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(marker, dict) or marker.pop("sha256", "") != digest_of(marker):
        return {}
    try:
        _Marker.model_validate(marker)
    except ValidationError:
        return {}
    return marker


def fault_of(folder: Path, layout: "Layout", shard: int) -> str | None:
    """The first file of a shard that is missing or altered; None if the shard is whole."""
    marker = read_marker(folder, shard)
    if not marker:
        return marker_name(shard)
    found = promise(folder, layout, shard)
    if any(marker.get(name) != found[name] for name in ("shard", "problem_ids", "rows")):
        return marker_name(shard)
    written, present = marker.get("files", {}), found["files"]
    return next((name for name in present if present[name] is None or present[name] != written.get(name)), None)


@final
@dataclass(frozen=True)
class Store:
    """A run folder that is being written; small enough to send to workers."""

    path: Path
    layout: "Layout"
    # Shards that this process has written or compared with their markers.
    verified: set[int] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def open(
        cls,
        path: str | Path,
        layout: "Layout",
        *,
        options: Mapping[str, Any],
        asked_by: Mapping[str, Any] | None = None,
    ) -> "Store":
        """Begin a run where nothing is, or go on with one of the same layout and options.

        `asked_by` is kept of who began it. `RunError` if the folder can't be written, is foreign, holds another run, or
        is damaged beyond its shards.
        """
        folder = Path(path).absolute()
        new = {"format": FORMAT, "complete": False, "created": now(), "versions": versions(), **(asked_by or {})}
        # As JSON gives it back, where tuples are lists.
        asked = json.loads(json.dumps({"layout": layout.summary(), "options": dict(options)}, allow_nan=False))
        with writing(folder, called=_CALLED, make=False):
            _claim(folder, new | asked)
            found = read_manifest(folder)
            there = _under_one_name({name: found[name] for name in asked}, asked)
            if differences(there, asked):
                raise RunError(
                    f"{folder} is another run: {_in_words(there, asked)}; ask for the same, or name another folder."
                )
            _prepare(folder, layout, found)
        return cls(folder, layout)

    def check_reachable(self) -> None:
        """Raise `RunError` unless the run folder is seen from here, as a worker on another machine must."""
        if not (self.path / MANIFEST).is_file():
            raise RunError(
                f"{self.path} is not seen from {platform.node()}, expected the run folder under the same path on every "
                "node; put it on a file system that they share."
            )

    def missing(self, shards: Sequence[int] | None = None) -> list[int]:
        """Which of these shards, or of all, are still to be written; every file of the others fits its marker."""
        shards = range(self.layout.n_shards) if shards is None else shards
        self.verified.clear()
        self.verified.update(shard for shard in shards if not fault_of(self.path, self.layout, shard))
        return [shard for shard in shards if shard not in self.verified]

    def unmarked(self) -> list[int]:
        """The shards without a marker; no file is compared."""
        return [shard for shard in range(self.layout.n_shards) if not (self.path / marker_name(shard)).is_file()]

    def markers(self) -> list[Json]:
        """What the marker of each shard says, in order."""
        return [read_marker(self.path, shard) for shard in range(self.layout.n_shards)]

    def write(
        self,
        shard: int,
        dataset: "xr.Dataset",
        rows: Sequence[Mapping[str, Any]],
        *,
        seconds: float = 0.0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one shard whole, its marker last, which also says `seconds` and `facts`.

        `RunError` if the Dataset (attention, or sums) or the rows are not those of this shard, or can't be written.
        """
        self.layout.check_fits(shard, dataset)
        ids = self.layout.ids_of(shard)
        if (found := [row.get("id") for row in rows]) != ids:
            raise RunError(
                f"the rows of shard {shard} are of {found[:3]}…, expected {ids[:3]}…; give one row a problem."
            )
        with writing(self.path, called=_CALLED, make=False):
            # Zarr merges a shard with the file that is there, and fails on a torn one.
            for name in (marker_name(shard), *self.layout.array_files(shard)):
                (self.path / name).unlink(missing_ok=True)
            rounding = self.layout.write(self.path, shard, dataset)
            write_json_lines(self.path / rows_name(shard), rows)
            said = dict(facts or {}) | {"seconds": round(seconds, 3), "rounding": rounding}
            marker = said | promise(self.path, self.layout, shard)
            write_json(self.path / marker_name(shard), marker | {"sha256": digest_of(marker)})
        self.verified.add(shard)

    def finish(self, notes: Mapping[str, Any] | None = None) -> Json:
        """Put the results together, mark the run complete and return its manifest; `RunError` if shards are missing.

        Shards of other processes are compared with their markers. A second call changes nothing but the `notes`.
        """
        others = set(range(self.layout.n_shards)) - self.verified
        if missing := [shard for shard in others if fault_of(self.path, self.layout, shard)]:
            raise RunError(unfinished(self, missing))
        with writing(self.path, called=_CALLED, make=False):
            with replacing(self.path / RESULTS) as file:
                file.writelines(self.layout.in_order(map(self._rows, range(self.layout.n_shards))))
            manifest, markers = read_manifest(self.path), self.markers()
            ending = {
                "complete": True,
                "seconds": round(sum(float(marker["seconds"]) for marker in markers), 3),
                "rounding": max(float(marker["rounding"]) for marker in markers),
                "results": fingerprint(self.path / RESULTS),
                "markers": digest_of(markers),
                "notes": manifest.get("notes", {}) | dict(notes or {}),
            }
            write_json(self.path / MANIFEST, manifest | ending, sealed=True)
        return manifest | ending

    def _rows(self, shard: int) -> Iterator[str]:
        with (self.path / rows_name(shard)).open(encoding="utf-8", newline="\n") as file:
            yield from file


def check_files(folder: Path, written: Mapping[str, str]) -> None:
    """Raise `RunError` unless the files made at the start of a run are as they were written."""
    if altered := [name for name, digest in written.items() if fingerprint(folder / name) != digest]:
        raise RunError(f"{folder / altered[0]} is missing or altered; delete the run and extract it again.")


def unfinished(store: Store, missing: Sequence[int]) -> str:
    """The sentence about a run that lacks shards."""
    n_shards = store.layout.n_shards
    return (
        f"{store.path} has {n_shards - len(missing)} of {n_shards} shards, expected all; "
        "run the same extraction again to go on."
    )


def check_free(folder: Path) -> None:
    """Raise `RunError` where a folder can be neither a run nor become one."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file, expected a run folder or a new name; name another.")
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return
    # What another process, which has just begun, has written by now; `.lock.0-of-3` among it.
    names = [path.name for path in folder.iterdir() if not path.name.startswith(LOCK)]
    foreign = [name for name in names if name != MANIFEST + SEAL and not name.endswith(PARTIAL)]
    if foreign:
        raise RunError(
            f"{folder} holds {min(foreign)!r} but no {MANIFEST}, expected a run or an empty folder; name another."
        )


def _claim(folder: Path, manifest: Json) -> None:
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).exists():
        # First of all, so that a kill from here on leaves a folder known as ours.
        write_json(folder / MANIFEST, manifest, sealed=True)


def _prepare(folder: Path, layout: "Layout", manifest: Json) -> None:
    (folder / SHARDS).mkdir(exist_ok=True)
    if "files" not in manifest:
        files = fingerprints(folder, layout.allocate(folder))
        write_json(folder / MANIFEST, manifest | {"files": files}, sealed=True)
        return
    check_files(folder, manifest["files"])
    if not manifest["complete"] and (present := versions()) != manifest["versions"]:
        again = [*manifest.get("resumed", []), {"at": now(), "versions": present}]
        write_json(folder / MANIFEST, manifest | {"resumed": again}, sealed=True)
