"""The tables and figures of a run, in its folder.

    RUN/analysis/        summary.json, and tidy tables as CSV, of the analysis with the default options
    RUN/analysis/NAME/   the same of another analysis, and where it was asked for:
        by_correct/, by_n_steps/    groups.csv, and the same files in a folder for each group: solved, failed; 2, 3, …
        over_null_run/              summary.json, evidence_model.csv, evidence_layer.csv, evidence_head.csv
    RUN/figures/         each figure as PNG and SVG; its folder step_indexed/, what the 2025 scripts drew

In: a run and its analysis. Out: these files, and their headline numbers as a dict. All of them can be made again from
the run; nothing here measures anything.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import xarray as xr

from thoughtlens.analysis import Analysis, analysis_tables, analyze, comparison_headline, group_table, headline
from thoughtlens.analysis.tables import evidence_tables, null_headline
from thoughtlens.files import Json, file_name, replacing, unique, write_json, writing
from thoughtlens.names import ANSWER
from thoughtlens.published.scores import step_indexed
from thoughtlens.runs.folder import ANALYSIS, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thoughtlens.plots.heads import Choice

FIGURES: Final = "figures"
STEP_INDEXED: Final = "step_indexed"


def write_reports(run: Run, analysis: Analysis | None = None, *, figures: bool = True) -> dict[str, Any]:
    """Write the tables and figures of a run, and give their headline numbers.

    Args:
        run: the run.
        analysis: of it; if None, that with the default options, made if it is not there yet.
        figures: whether figures are drawn.

    Returns:
        What `summary` gives, and with figures `figures`, the paths of their PNG files.

    Raises:
        RunError: the folder can't be written.

    Example:
        `write_reports(open_run("runs/first"))["accuracy"]`
    """
    analysis = analyze(run) if analysis is None else analysis
    facts = summary(run, analysis)
    write_analysis(run, analysis, facts)
    if not figures:
        return facts
    drawn = write_figures(run, analysis)
    return facts | {"figures": [str(path) for path in drawn if path.suffix == ".png"]}


def summary(run: Run, analysis: Analysis) -> dict[str, Any]:
    """The headline numbers of a run, with what was run, ready for JSON.

    Args:
        run: the run.
        analysis: of it, or of some of its problems.

    Returns:
        `pattern`, `model`, `problems`, `intervals_over`, `n_thoughts`, `indexing`, `n_answer_rows`, everything that
        `headline` gives; `groups`, a list, if the problems were grouped; `over_null` if there was a null run.
    """
    options, n_blocks = run.manifest["options"], analysis.model.attrs.get("n_blocks")
    more = {"groups": [_groups_headline(analysis, by) for by in analysis.groups], "over_null": null_headline(analysis)}
    return {
        "pattern": analysis.options["pattern"],
        "model": options["model"],
        "problems": options["problems"],
        "intervals_over": "problems" if n_blocks is None else f"{n_blocks} blocks of problems",
        "n_thoughts": options["n_thoughts"],
        "indexing": "thought-indexed: row z1 is the query made when z1 is the input; self-attention is apart",
        "n_answer_rows": int(analysis.composition["n"].sel(query=ANSWER)),
        **headline(analysis),
        **{name: said for name, said in more.items() if said},
    }


def write_analysis(run: Run, analysis: Analysis, facts: Mapping[str, Any], out: Path | None = None) -> list[Path]:
    """Write the headline numbers and the tables of an analysis; return their paths.

    Args:
        run: the run.
        analysis: of it, or of some of its problems.
        facts: as `summary` gives them.
        out: folder; that of the analysis, `RUN/analysis` or `RUN/analysis/NAME`, if None.

    Raises:
        RunError: the folder can't be written.
    """
    with writing(out or run.path / ANALYSIS / (analysis.options["name"] or "")) as folder:
        step = step_indexed(analysis.moments["mean"]).rename("mean").to_dataframe().reset_index()
        written = _write_tables(folder, facts, analysis_tables(analysis) | {"step_indexed": step})
        if analysis.over_null is not None:
            tables = evidence_tables(analysis.over_null)
            written += _write_tables(folder / "over_null_run", facts["over_null"], tables)
    for by, grouped in analysis.groups.items():
        table = group_table(grouped, without=_empty(by))
        written += _write_tables(folder / f"by_{by}", None, {"groups": table})
        for name, alone in analysis.parts[by].items():
            written += write_analysis(run, alone, summary(run, alone), folder / f"by_{by}" / name)
    return written


def write_question_attention(run: Run, found: Mapping[str, Any]) -> Path:
    """Write attention to the question's tokens as `question_attention.json`, in the place of what was there."""
    with writing(run.path / ANALYSIS) as folder:
        path = folder / "question_attention.json"
        write_json(path, {"model": run.manifest["options"]["model"], **found})
        return path


def draw_question_attention(run: Run, found: Sequence[xr.Dataset]) -> list[Path]:
    """Draw attention to the question's tokens, `question_tokens_{problem}` for each problem; return the paths.

    Args:
        run: the run.
        found: a Dataset a problem, as `runs.tokens.question_attention` gives them.
    """
    from thoughtlens import plots  # draws with matplotlib, which is slow to import and needed nowhere else here

    names = unique([file_name(str(of_problem.attrs["problem"])) for of_problem in found])
    with writing(run.path / FIGURES) as folder:
        return [
            path
            for name, of_problem in zip(names, found, strict=True)
            for path in plots.save_figure(plots.question_tokens(of_problem), folder / f"question_tokens_{name}")
        ]


def write_figures(
    run: Run, analysis: Analysis, choice: "Choice | None" = None, *, step_indexed: bool = False
) -> list[Path]:
    """Draw the figures of an analysis, each in a file named like what it shows; return their paths.

    Args:
        run: the run.
        analysis: of it.
        choice: which layers, heads and metric are drawn; all layers and the top 20 heads if None.
        step_indexed: draw what the 2025 scripts drew, as they indexed thoughts, into a folder of its own.
    """
    # Drawn with matplotlib, which is slow to import and needed nowhere else here.
    from thoughtlens.plots import save_figure
    from thoughtlens.published.panels import step_figures

    drawn = step_figures(analysis, choice) if step_indexed else _figures(analysis, choice)
    with writing(run.path / FIGURES / STEP_INDEXED if step_indexed else run.path / FIGURES) as folder:
        return [path for name, ax in drawn.items() for path in save_figure(ax, folder / name)]


def _figures(analysis: Analysis, choice: "Choice | None") -> "dict[str, Axes]":
    """Every figure of one run, by the name of its file."""
    from thoughtlens import plots
    from thoughtlens.plots.heads import Choice

    choice = choice or Choice()
    top: dict[str, Any] = {"heads": choice.heads} | ({} if choice.top is None else {"top": choice.top})
    return {
        "head_maps": plots.head_maps(analysis, **top),
        "layer_means": plots.layer_means(analysis, layers=choice.layers),
        "row_composition": plots.row_composition(analysis),
        "composition_by_layer": plots.composition_by_layer(analysis),
        "hub_profile": plots.hub_profile(analysis),
        "lag_profile": plots.lag_profile(analysis),
        "skip_profile": plots.skip_profile(analysis),
        "depth_profile": plots.depth_profile(analysis),
        "head_map": plots.head_map(analysis, metric=choice.metric),
        "head_ranking": plots.head_ranking(analysis, metric=choice.metric, **top),
        "metric_distributions": plots.metric_distributions(analysis),
        "head_counts": plots.head_counts(analysis),
    }


def _groups_headline(analysis: Analysis, by: str) -> Json:
    """The headline numbers of each group and of the differences, with what was left out."""
    grouped = analysis.groups[by]
    return {"by": by, **comparison_headline(grouped, without=_empty(by)), "notes": list(grouped.notes)}


def _empty(by: str) -> tuple[str, ...]:
    """Measures that say nothing of groups: solved problems are solved."""
    return ("accuracy",) if by == "correct" else ()


def _write_tables(folder: Path, facts: Mapping[str, Any] | None, tables: Mapping[str, pd.DataFrame]) -> list[Path]:
    with writing(folder):
        written = [] if facts is None else [folder / "summary.json"]
        if facts is not None:
            write_json(folder / "summary.json", facts)
        for name, table in tables.items():
            written.append(folder / f"{name}.csv")
            with replacing(written[-1]) as file:
                table.to_csv(file, index=False)
        return written
