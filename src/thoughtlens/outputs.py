"""A run becomes what people open: tables and figures.

    RUN/analysis/  summary.json, and tidy tables as CSV
    RUN/figures/   each figure as PNG and SVG

Everything here can be made again from the run; nothing here measures anything.
"""

from pathlib import Path
from typing import Any, Final

import pandas as pd
import xarray as xr

from thoughtlens.analysis import Analysis, analyze, head_maps, headline, layer_maps, step_indexed, tables
from thoughtlens.files import replacing, write_json, writing
from thoughtlens.labels import ANSWER
from thoughtlens.runs.reading import Run

ANALYSIS: Final = "analysis"
FIGURES: Final = "figures"


def analyze_run(run: Run, *, n_resamples: int = 1000, seed: int = 0) -> Analysis:
    """Analyse a run from disk, a block of problems at a time."""
    return analyze(run.blocks(), correct=run.attention["correct"].values, n_resamples=n_resamples, seed=seed)


def write_analysis(run: Run, analysis: Analysis) -> list[Path]:
    """Write `summary.json` and the tables of an analysis; return their paths."""
    with writing(run.path / ANALYSIS) as folder:
        write_json(folder / "summary.json", summary(run, analysis))
        frames = tables(analysis) | {"moments": _moments_table(analysis), "step_indexed": _step_indexed_table(analysis)}
        for name, frame in frames.items():
            with replacing(folder / f"{name}.csv") as file:
                frame.to_csv(file, index=False)
        return [folder / "summary.json", *(folder / f"{name}.csv" for name in frames)]


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
    with writing(run.path / FIGURES) as folder:
        return [path for name, ax in figures.items() for path in plots.save_figure(ax, folder / name)]


def _moments_table(analysis: Analysis) -> pd.DataFrame:
    table: pd.DataFrame = analysis.moments.to_dataframe().reset_index()
    return table


def _step_indexed_table(analysis: Analysis) -> pd.DataFrame:
    mean: xr.DataArray = step_indexed(analysis.moments["mean"])
    table: pd.DataFrame = mean.rename("mean").to_dataframe().reset_index()
    return table
