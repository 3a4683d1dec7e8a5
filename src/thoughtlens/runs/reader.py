"""A complete run on disk, opened and verified, and the progress of one that is still being written.

`open_run`: in: a folder; out: a `Run`, after each of its files was compared with what was written. Zarr reads a missing
file as fill values without a word, and notices a flipped bit only when that chunk is read; so everything is compared
first, at the cost of reading the files once.

`status`: in: a folder; out: a `Status`, from the markers of finished shards alone, whoever writes them.

`read_readings`: in: a run; out: the JSON of `RUN/readings.json`, which `evaluation.write_readings` made of some
problems while the model was loaded, for the report, which loads no model:

    results   SHA-256 of the results that it belongs to
    stage     the stage of a thought that was read (`evaluation.decode_thoughts`)
    problems  by id: `tokens` of the question, `attention` to each by query (None where the row does not exist), and
              `decoded`, of each thought its likeliest tokens with their probabilities
    checks    what `evaluation.doctor` found of the model: `name`, `passed`, `measured`
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt
import xarray as xr
from pydantic import BaseModel

from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import (
    Json,
    as_model,
    check_not_written,
    check_seal,
    digest_of,
    fingerprint,
    read_json,
    writer_of,
)
from thoughtlens.problems import Problem, ProblemSet, draw, read_rows
from thoughtlens.problems.sets import rows_fingerprint
from thoughtlens.runs.storage_layout import ATTENTION_GROUP, PIECE, SUMS_GROUP, layout_on_disk
from thoughtlens.runs.writer import (
    AGAIN,
    MANIFEST,
    RESULTS,
    SHARDS,
    Count,
    Found,
    Store,
    check_files,
    fault_of,
    marker_name,
    read_manifest,
    read_marker,
    unfinished,
)
from thoughtlens.schema import ATTENTION, PATTERNS

if TYPE_CHECKING:
    import pandas as pd

    import thoughtlens

PROBLEMS: Final = "problems.jsonl"
ANALYSIS: Final = "analysis"
"""The folder of a run for what is made from it; an analysis with other options has a folder in it."""

DEFAULT: Final = "default"
"""What the analysis with the default options is called where analyses are listed."""

REPORT: Final = "report.html"
"""The page of everything in a run, which its folder holds once it has been written."""

STUDIES: Final = "studies"
"""The folder of a run for studies of cuts, a folder each."""


@final
@dataclass(frozen=True, repr=False)
class Run:
    """A complete run on disk, as `extract` and `open_run` return it.

    Attributes:
        path: the run folder.
        manifest: what was run, on what, by which versions (see `thoughtlens.runs.writer`).

    Example:
        How does z2 attend to z1 in one problem, and how many problems were solved?

            run = open_run("runs/small")
            run.attention["attention"].sel(problem="test-3", query="z2", key="z1").mean("layer")
            run.correct().mean()
    """

    path: Path
    manifest: Json

    def __repr__(self) -> str:
        layout, options = self.manifest["layout"], self.manifest["options"]
        return (
            f"<Run {self.path}: {options['model']['name']}, {layout['n_problems']:,} problems of "
            f"{options['problems']['name']}, {layout['n_layers']} layers × {layout['n_heads']} heads, "
            f"{layout['n_thoughts']} thoughts>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        import thoughtlens  # the package's face, as from outside: reports are above this and slow to import

        return thoughtlens.reports.notebook_view(self)

    def report(self, out: str | Path | None = None) -> "thoughtlens.reports.Page":
        """Write the report of the run as `RUN/report.html`, or to `out`; in a notebook it is shown inline."""
        import thoughtlens  # as above

        return thoughtlens.reports.write_report(self, out)

    def heads_table(self) -> "pd.DataFrame":
        """A row a head, the first by attention to thoughts first: the table `heads.csv` of the page on the run folder.

        It is of the analysis with the default options, which is made and saved if it is not there.
        """
        # Imported when it is needed: progress and problems of a run are read without it.
        from thoughtlens.analysis import analysis_tables, analyze

        return analysis_tables(analyze(self))["heads"]

    @property
    def keeps_means(self) -> bool:
        """Whether sums over blocks of problems were kept in the place of their attention."""
        return bool(self.manifest["layout"].get("keep") == "mean")

    def require_attention(self) -> None:
        """Raise `RunError` unless the run holds the attention of every problem; ask this before long work."""
        if self.keeps_means:
            raise RunError(
                f"{self.path} was made with --keep mean and holds no single problem's attention, which this needs; "
                "extract it anew with --keep raw."
            )

    @property
    def attention(self) -> xr.Dataset:
        """The attention Dataset (see `thoughtlens.schema`), opened lazily; `RunError` if the run kept means alone.

        `attention` (problem, layer, head, query, key), rows sum to 1; `correct`, `n_question_tokens` (problem). Its
        numbers are float32, whatever the `precision` that they were rounded to.
        """
        self.require_attention()
        dataset: xr.Dataset = xr.open_zarr(self.path / ATTENTION_GROUP, consolidated=False)
        return dataset

    def mean_attention(self) -> xr.DataArray:
        """The mean of attention over the problems, read a few at a time, in float64: dims (layer, head, query, key).

        A row is the mean over the problems that have it. Of a run that kept means it is that of all its problems too.
        """
        # Imported when it is needed: progress and problems of a run are read without it.
        from thoughtlens.analysis import analyze, moments

        if self.keeps_means:
            return analyze(self).moments["mean"]
        return moments(piece[ATTENTION] for piece in self.blocks())["mean"]

    def problems(self, ids: Sequence[str] = (), *, n: int | None = None, seed: int = 0) -> tuple[Problem, ...]:
        """The problems that the run was made from, compared with the fingerprint that was taken then.

        Args:
            ids: which problems, in this order; all if empty.
            n: how many to draw of them, without repetition and in their order; all if None.
            seed: of the draw.

        Raises:
            OptionError: the run has no problem of an id, or n is below 1.
            ProblemSetError: `problems.jsonl` is not there or not readable, or has fewer than n problems.
            RunError: `problems.jsonl` was edited since.
        """
        path, asked = self.path / PROBLEMS, self.manifest["options"]["problems"]["fingerprint"]
        rows: list[Any] = [row.fields for row in read_rows(path)]
        # Of the rows as they are: read as anybody's file, an answer such as "1,000" would be tidied.
        if (found := rows_fingerprint(rows)) != asked:
            raise RunError(
                f"{path} has other problems than {self.path} measured (SHA-256 {found[:12]}, expected {asked[:12]}), "
                "so it is not what the run was made from; run the same extraction again to restore it."
            )
        known = {row["id"]: Problem(**row | {"steps": tuple(row["steps"])}) for row in rows}
        if unknown := [name for name in ids if name not in known]:
            raise OptionError(
                f"no problem {unknown[0]!r} in {self.path}, expected one such as {next(iter(known))!r}; pass another."
            )
        chosen = tuple(known[name] for name in ids or known)
        return draw(ProblemSet(chosen, path.stem, None, str(path)), n, seed).problems

    def results(self) -> list[Json]:
        """One row a problem, in order: `id`, `question`, `gold`, generated `text`, parsed `answer`, `correct`, ….

        `answer` is None where the text has none; `n_tokens` counts the generated tokens, the end token left out.
        """
        return list(self._rows())

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
        whole: xr.Dataset = xr.open_zarr(self.path / SUMS_GROUP, consolidated=False)
        dataset = whole.drop_vars(["assigned", "problem"])
        size = int(self.manifest["layout"]["shard_size"])
        for shard in range(dataset.sizes["shard"]):
            blocks = slice(shard * size, (shard + 1) * size)
            found = dataset.isel(shard=shard, block=blocks).load()
            yield found.map(lambda values: values.astype(np.float64) if values.dtype.kind == "f" else values)

    def kept_blocks(self) -> npt.NDArray[np.int64]:
        """The block of each problem, in order, in a run that keeps means."""
        blocks: npt.NDArray[np.int64] = xr.open_zarr(self.path / SUMS_GROUP, consolidated=False)["assigned"].values
        return blocks

    def blocks(
        self, n_problems: int = PIECE, *, pattern: str = ATTENTION, chosen: npt.ArrayLike | None = None
    ) -> Iterator[xr.Dataset]:
        """The attention Dataset in pieces of at most `n_problems`, each in memory and in float32.

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
            yield dataset.isel(problem=slice(start, start + n_problems)).load()


class _Named(Found):
    name: str | None  # None of a reasoner that was built by hand


class _Problems(_Named):
    fingerprint: str


class _Options(Found):
    """What a run's manifest must say of what was run to be believed."""

    model: _Named
    problems: _Problems
    n_thoughts: int
    max_new_tokens: Count | None = None
    answer_rule: str | None = None


class _WithOptions(Found):
    options: _Options


def open_run(path: str | Path) -> Run:
    """Open a complete run, or say in one sentence what it lacks; every file is compared with what was written.

    Args:
        path: the run folder.

    Returns:
        The run: `Run.attention` (problem, layer, head, query, key), `Run.results()`, `Run.problems()`.

    Raises:
        RunError: the folder holds no run, or one that is incomplete or damaged, or another process writes it.

    Example:
        The mean pattern of a run.

            open_run("runs/small").attention["attention"].mean("problem")
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    as_model(folder / MANIFEST, manifest, _WithOptions, remedy=AGAIN)
    check_not_written(folder)
    if "files" not in manifest:
        raise RunError(f"{folder} has only just been begun, expected a complete run; run the same extraction again.")
    check_files(folder, manifest["files"])
    store = Store(folder, layout_on_disk(folder, manifest["layout"]))
    if missing := store.missing():
        if not manifest["complete"]:
            raise RunError(unfinished(store, missing))
        file = folder / str(fault_of(store.path, store.layout, missing[0]))
        raise RunError(f"{file} is missing or altered; run the same extraction again to redo its shard.")
    if manifest["complete"] and digest_of(store.markers()) != manifest["markers"]:
        raise RunError(f"{folder / SHARDS} holds markers of another run; put back what was written, or extract again.")
    if not manifest["complete"] or fingerprint(folder / RESULTS) != manifest["results"]:
        raise RunError(f"{folder / RESULTS} is missing or altered; run the same extraction again to put it together.")
    return Run(folder, manifest)


class Status(NamedTuple):
    """How far a run is.

    Attributes:
        n_done: problems in finished shards.
        n_problems: problems of the run.
        shards_done: finished shards.
        n_shards: shards of the run.
        complete: whether the run has been put together.
        seconds_left: estimated from the pace of the markers; None with fewer than two of them, 0 when complete.
        studies: names of the studies of cuts, sorted: folders of `RUN/studies` that hold a manifest or a summary.
        analyses: likewise of `RUN/analysis`, after "default" for that folder itself.
        report: the path of the run's HTML page; None if there is none.
        running: whether another process is writing it.
    """

    n_done: int
    n_problems: int
    shards_done: int
    n_shards: int
    complete: bool
    seconds_left: float | None
    studies: tuple[str, ...]
    analyses: tuple[str, ...]
    report: str | None
    running: bool = False


def status(folder: str | Path) -> Status:
    """How far a run is and what was made of it, from its markers; they are not compared with files as in `open_run`.

    Args:
        folder: the run folder.

    Returns:
        Numbers of problems and shards, done and in all, the time left, and the names of studies and analyses.

    Raises:
        RunError: the folder holds no run.

    Example:
        How many problems are done?

            status("runs/small").n_done
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
    analyses = ((DEFAULT,) if _is_finished(path / ANALYSIS) else ()) + _finished(path / ANALYSIS)
    done = sum(rows.values()), n_problems, len(written), n_shards
    report = str(path / REPORT) if (path / REPORT).is_file() else None
    return Status(*done, complete, left, _finished(path / STUDIES), analyses, report, writer_of(path) is not None)


def _finished(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.glob("*/") if _is_finished(path)))


def _is_finished(folder: Path) -> bool:
    """Whether a folder of a study or an analysis holds the file that sums it up."""
    return any((folder / name).is_file() for name in (MANIFEST, "summary.json"))


def _seconds_left(path: Path, rows: dict[int, int], n_problems: int) -> float | None:
    """Problems left over problems a second, between the first marker and the last; a pause makes it pessimistic."""
    times = sorted(((path / marker_name(shard)).stat().st_mtime, n) for shard, n in rows.items())
    if len(times) < 2 or times[-1][0] <= times[0][0]:
        return None
    # What the first marker stands for was done before the clock of the markers began.
    pace = sum(n for _, n in times[1:]) / (times[-1][0] - times[0][0])
    return (n_problems - sum(rows.values())) / pace


READINGS: Final = "readings.json"

MOST_PROBLEMS: Final = 200
"""Problems that the report shows one by one."""


def chosen_problems(n_problems: int, most: int = MOST_PROBLEMS) -> list[int]:
    """The places of at most so many problems, at equal distances in the order of the run: a set may be sorted."""
    n_chosen = min(n_problems, most)
    return [place * n_problems // n_chosen for place in range(n_chosen)]


class _Readings(BaseModel):
    """What `readings.json` must have to be believed."""

    results: str
    stage: str
    problems: dict[str, dict[str, Any]]
    checks: list[dict[str, Any]]


def read_readings(run: Run) -> Json:
    """The readings of a run; empty where there are none, or where they are of other results."""
    path, remedy = run.path / READINGS, "delete it, and run the same `thoughtlens run` again"
    if not path.is_file():
        return {}
    check_seal(path, remedy=remedy)
    found: Json = read_json(path, remedy=remedy)
    as_model(path, found, _Readings, remedy=remedy)
    return found if found.get("results") == run.manifest["results"] else {}
