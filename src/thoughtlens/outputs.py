"""A run becomes what people open: tables, figures, and the files of earlier scripts.

    RUN/analysis/  summary.json, and tidy tables as CSV; of another pattern than attention, in a folder of its name
    RUN/figures/   each figure as PNG and SVG
    RUN/export/    arrays under the names that the 2025 scripts gave them

Everything here can be made again from the run; nothing here measures anything.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis import (
    Analysis,
    analyze,
    head_maps,
    headline,
    layer_maps,
    mean_rollout,
    rollout_table,
    step_indexed,
    tables,
    value_shares,
)
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import PARTIAL, replacing, write_json
from thoughtlens.labels import ANSWER
from thoughtlens.runs.reading import Run
from thoughtlens.schema import VALUE_WEIGHTED

ANALYSIS: Final = "analysis"
FIGURES: Final = "figures"
EXPORT: Final = "export"

STEP_INDEXED_NOTE: Final = (
    "Step-indexed, as in the 2025 scripts: row s is the query of thought z{s} and column j the key z{j+1}, so that "
    "[s, s-1] is a thought's attention to itself; row 0 and the last column are empty."
)


WEIGHTS: Final = "attention"
VALUES: Final = "value-weighted"
PATTERNS: Final = (WEIGHTS, VALUES)
"""What can be analysed: attention weights, or what they move (`thoughtlens.analysis.value_shares`)."""


def pattern_blocks(run: Run, pattern: str = WEIGHTS) -> Iterator[xr.Dataset]:
    """A run's problems block by block, the pattern in the place of attention.

    Raises:
        OptionError: there is no such pattern.
        RunError: the run does not hold it.
    """
    if pattern not in PATTERNS:
        raise OptionError(f"no pattern {pattern!r}, expected one of {', '.join(PATTERNS)}; pass another --pattern.")
    return run.blocks() if pattern == WEIGHTS else map(value_shares, run.blocks(pattern=VALUE_WEIGHTED))


def analyze_run(run: Run, *, pattern: str = WEIGHTS, n_resamples: int = 1000, seed: int = 0) -> Analysis:
    """Analyse a run from disk, a block of problems at a time; a pattern of `PATTERNS` in the place of attention."""
    blocks = pattern_blocks(run, pattern)
    return analyze(blocks, correct=run.attention["correct"].values, n_resamples=n_resamples, seed=seed)


def write_analysis(run: Run, analysis: Analysis, *, pattern: str = WEIGHTS) -> list[Path]:
    """Write `summary.json` and the tables of an analysis of a pattern; return their paths."""
    with _writing(run.path / ANALYSIS / ("" if pattern == WEIGHTS else pattern)) as folder:
        write_json(folder / "summary.json", {"pattern": pattern} | summary(run, analysis))
        frames = tables(analysis) | {"moments": _moments_table(analysis), "step_indexed": _step_indexed_table(analysis)}
        frames["rollout"] = rollout_table(mean_rollout(pattern_blocks(run, pattern)))
        for name, frame in frames.items():
            with replacing(folder / f"{name}.csv") as file:
                frame.to_csv(file, index=False)
        return [folder / "summary.json", *(folder / f"{name}.csv" for name in frames)]


def write_question_attention(run: Run, found: Mapping[str, Any]) -> Path:
    """Write attention to the question's tokens as `question_attention.json`, in the place of what was there."""
    with _writing(run.path / ANALYSIS) as folder:
        path = folder / "question_attention.json"
        write_json(path, {"model": run.manifest["options"]["model"], **found})
        return path


def summary(run: Run, analysis: Analysis) -> dict[str, Any]:
    """The headline numbers of a run, with what was run."""
    options = run.manifest["options"]
    return {
        "model": options["model"],
        "problems": options["problems"],
        "n_thoughts": options["n_thoughts"],
        "indexing": "thought-indexed: row z1 is the query made when z1 is the input; self-attention is apart",
        "n_answer_rows": int(analysis.composition["n"].sel(query=ANSWER)),
        **headline(analysis),
    }


def write_figures(run: Run, analysis: Analysis) -> list[Path]:
    """Draw the figures of an analysis; return their paths."""
    from thoughtlens import plots  # draws with matplotlib, which is slow to import and needed nowhere else here

    figures = {
        "head_maps": plots.head_maps(head_maps(analysis.moments, analysis.ranking)),
        "layer_means": plots.layer_means(layer_maps(analysis.moments)),
        "row_composition": plots.row_composition(analysis.composition),
        "hub_profile": plots.hub_profile(analysis.model),
    }
    with _writing(run.path / FIGURES) as folder:
        return [path for name, ax in figures.items() for path in plots.save_figure(ax, folder / name)]


def export_npy(run: Run, out: Path | None = None) -> list[Path]:
    """Write the raw and mean step-indexed maps under the names and shapes of the 2025 scripts.

    Args:
        run: the run.
        out: folder; `RUN/export` if None.

    Returns:
        `attention_patterns_raw.npy` (problem, layer, head, T, T) and `attention_patterns_avg.npy` (layer, head, T, T),
        both float16, and `README.txt`, which says what the indices mean.
    """
    attention = run.attention["attention"]
    n_thoughts = run.manifest["options"]["n_thoughts"]
    shape = (attention.sizes["layer"], attention.sizes["head"], n_thoughts, n_thoughts)
    with _writing(out or run.path / EXPORT) as folder:
        raw, average = folder / "attention_patterns_raw.npy", folder / "attention_patterns_avg.npy"
        total = np.zeros(shape)
        with _array(raw, (attention.sizes["problem"], *shape)) as maps:
            start = 0
            for block in run.blocks():
                values = step_indexed(block["attention"]).values
                maps[start : start + len(values)] = values
                total += values.sum(0, dtype=np.float64)
                start += len(values)
        with _array(average, shape) as mean:
            mean[:] = total / attention.sizes["problem"]
        with replacing(folder / "README.txt") as file:
            file.write(f"{STEP_INDEXED_NOTE}\n")
        return [raw, average, folder / "README.txt"]


def _moments_table(analysis: Analysis) -> pd.DataFrame:
    table: pd.DataFrame = analysis.moments.to_dataframe().reset_index()
    return table


def _step_indexed_table(analysis: Analysis) -> pd.DataFrame:
    mean: xr.DataArray = step_indexed(analysis.moments["mean"])
    table: pd.DataFrame = mean.rename("mean").to_dataframe().reset_index()
    return table


@contextmanager
def _array(path: Path, shape: tuple[int, ...]) -> Iterator[np.memmap]:
    """A float16 array on disk that takes its name only when it is full."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
    try:
        yield array
        array.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise RunError(
            f"can't write {folder} ({error.strerror or error}); make room there, or name another."
        ) from error
