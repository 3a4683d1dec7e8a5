"""A run folder becomes a `Run`, once every one of its files has been compared with what was written.

Zarr itself reads a missing file as fill values without a word, and a flipped bit only stops it when that very chunk
is read. So the comparison comes first and covers everything: the cost is one reading of the files.

A run folder that is being written becomes how far it is, from its markers alone: nothing is read that is large.

Whoever writes it, on whichever machine, a finished shard leaves a marker; their times give the pace.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from thoughtlens.errors import RunError
from thoughtlens.files import Json, fingerprint
from thoughtlens.problems import Problem, load_set
from thoughtlens.runs.layout import ATTENTION_GROUP, BLOCK, AnyLayout, BlockLayout, Layout
from thoughtlens.runs.layout import SUMS_GROUP as SUMS
from thoughtlens.runs.store import (
    RESULTS,
    Store,
    check_files,
    fault_of,
    marker_name,
    read_manifest,
    read_marker,
    unfinished,
)
from thoughtlens.schema import ATTENTION, PATTERNS

ANALYSIS: Final = "analysis"
"""The folder of a run for what is made from it."""

PROBLEMS: Final = "problems.jsonl"


@final
@dataclass(frozen=True)
class Run:
    """A complete run on disk.

    Attributes:
        path: the run folder.
        manifest: what was run, on what, by which versions.
    """

    path: Path
    manifest: Json

    @property
    def keeps_means(self) -> bool:
        """Whether sums over blocks of problems were kept in the place of their attention."""
        return bool(self.manifest["layout"].get("keep") == "mean")

    def require_attention(self) -> None:
        """Raise `RunError` unless the run holds the attention of every problem; to be asked before much is done."""
        if self.keeps_means:
            raise RunError(
                f"{self.path} was made with --keep mean and holds no single problem's attention, which this needs; "
                "extract it anew with --keep raw."
            )

    @property
    def attention(self) -> xr.Dataset:
        """The attention Dataset, opened lazily, as it is on disk.

        Raises:
            RunError: the run kept means alone.
        """
        self.require_attention()
        dataset: xr.Dataset = xr.open_zarr(self.path / ATTENTION_GROUP, consolidated=False)
        return dataset

    def results(self) -> list[Json]:
        """One row a problem: id, generated text, parsed answer, correct."""
        return list(self._rows())

    def problems(self) -> tuple[Problem, ...]:
        """The problems of the run, in order, as they were extracted.

        Raises:
            RunError: the file of problems is not what the run was made from.
        """
        found = load_set(str(self.path / PROBLEMS))
        if found.fingerprint != self.manifest["options"]["problems"]["fingerprint"]:
            raise RunError(f"{self.path / PROBLEMS} is not what the run was made from; extract the run again.")
        return found.problems

    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each problem was solved, in order."""
        return np.fromiter((row["correct"] for row in self._rows()), dtype=bool)

    def _rows(self) -> Iterator[Json]:
        with (self.path / RESULTS).open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    def sums(self) -> Iterator[xr.Dataset]:
        """What a run that keeps means holds, a shard at a time, as it was added up: dims (block, …), floats widened.

        Raises:
            RunError: the run holds attention instead.
        """
        if not self.keeps_means:
            raise RunError(f"{self.path} holds attention and no sums, expected a run made with --keep mean.")
        dataset: xr.Dataset = xr.open_zarr(self.path / SUMS, consolidated=False).drop_vars(["assigned", "problem"])
        size = int(self.manifest["layout"]["shard_size"])
        for shard in range(dataset.sizes["shard"]):
            blocks = slice(shard * size, (shard + 1) * size)
            found = dataset.isel(shard=shard, block=blocks).load()
            yield found.map(lambda values: values.astype(np.float64) if values.dtype.kind == "f" else values)

    def blocks(
        self, n_problems: int = BLOCK, *, pattern: str = ATTENTION, chosen: npt.ArrayLike | None = None
    ) -> Iterator[xr.Dataset]:
        """The attention Dataset in pieces of at most `n_problems`, each in memory and in float32.

        Attention is widened since numpy's standard deviation of float16 is wrong.

        Args:
            n_problems: the most problems of a piece.
            pattern: the variable to read, of `thoughtlens.schema.PATTERNS`; the others are left on disk.
            chosen: bool, one a problem of the run: which to give; all if None.

        Raises:
            RunError: the run does not hold that pattern.
        """
        dataset = self.attention
        if pattern not in dataset:
            raise RunError(f"{self.path} holds no {pattern}; extract it anew with --record, or ask for attention.")
        dataset = dataset.drop_vars([name for name in PATTERNS if name != pattern], errors="ignore")
        if chosen is not None:
            dataset = dataset.isel(problem=np.flatnonzero(chosen))
        for start in range(0, dataset.sizes["problem"], n_problems):
            block = dataset.isel(problem=slice(start, start + n_problems)).load()
            yield block.assign({pattern: block[pattern].astype(np.float32)})


def open_run(path: str | Path) -> Run:
    """Open a complete run, or say in one sentence what it lacks."""
    folder = Path(path)
    manifest = read_manifest(folder)
    if "files" not in manifest:
        raise RunError(f"{folder} has only just been begun, expected a complete run; run the same extraction again.")
    check_files(folder, manifest["files"])
    _check_shards(Store(folder, _read_layout(folder, manifest)), manifest)
    if not manifest["complete"] or fingerprint(folder / RESULTS) != manifest["results"]:
        raise RunError(f"{folder / RESULTS} is missing or altered; run the same extraction again to put it together.")
    return Run(folder, manifest)


def _check_shards(store: Store, manifest: Json) -> None:
    missing = store.missing()
    if missing and not manifest["complete"]:
        raise RunError(unfinished(store, missing))
    if missing:
        file = store.path / str(fault_of(store.path, store.layout, missing[0]))
        raise RunError(f"{file} is missing or altered; run the same extraction again to redo its shard.")


def _read_layout(folder: Path, manifest: Json) -> AnyLayout:
    if manifest["layout"].get("keep") == "mean":
        return _read_blocks(folder, manifest["layout"])
    group = zarr.open_group(folder / ATTENTION_GROUP, mode="r", use_consolidated=False)
    ids = tuple(str(name) for name in group["problem"][:])
    sizes = {name: value for name, value in manifest["layout"].items() if name not in ("n_problems", "problem_ids")}
    return Layout(ids, **sizes | {"record": tuple(sizes.get("record", ()))})


def _read_blocks(folder: Path, layout: Json) -> BlockLayout:
    dataset = xr.open_zarr(folder / SUMS, consolidated=False)
    ids = tuple(str(name) for name in dataset["problem"].values)
    template = dataset.drop_vars(["assigned", "problem"]).isel(block=slice(1), shard=0)
    sizes = {name: int(layout[name]) for name in ("n_layers", "n_heads", "n_thoughts", "n_blocks", "shard_size")}
    return BlockLayout(ids, assigned=dataset["assigned"].values, template=template, **sizes)


class Status(NamedTuple):
    """How far a run is.

    Attributes:
        n_done: problems in finished shards.
        n_problems: problems of the run.
        shards_done: finished shards.
        n_shards: shards of the run.
        complete: whether the run has been put together.
        seconds_left: estimated from the pace of the markers; None with fewer than two of them, 0 when complete.
    """

    n_done: int
    n_problems: int
    shards_done: int
    n_shards: int
    complete: bool
    seconds_left: float | None


def status(folder: str | Path) -> Status:
    """How far a run is, as its markers say; they are not compared with the files, as `open_run` does.

    Args:
        folder: the run folder.

    Raises:
        RunError: the folder holds no run.
    """
    path = Path(folder)
    manifest = read_manifest(path)
    layout = manifest["layout"]
    n_problems = int(layout["n_problems"])
    # A shard is so many problems, or so many blocks of them where sums are kept.
    n_shards = ceil(int(layout.get("n_blocks", n_problems)) / int(layout["shard_size"]))
    written = [shard for shard in range(n_shards) if (path / marker_name(shard)).is_file()]
    rows = {shard: int(read_marker(path, shard).get("rows", 0)) for shard in written}
    complete = bool(manifest["complete"])
    left = 0.0 if complete else _seconds_left(path, rows, n_problems)
    return Status(sum(rows.values()), n_problems, len(written), n_shards, complete, left)


def _seconds_left(path: Path, rows: dict[int, int], n_problems: int) -> float | None:
    """Problems left over problems a second, between the first marker and the last; a pause makes it pessimistic."""
    times = sorted(((path / marker_name(shard)).stat().st_mtime, n) for shard, n in rows.items())
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return None
    # What the first marker stands for was done before the clock of the markers began.
    pace = sum(n for _, n in times[1:]) / (times[-1][0] - times[0][0])
    return (n_problems - sum(rows.values())) / pace
