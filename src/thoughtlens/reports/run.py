"""A run becomes what people open: tables and figures.

    RUN/analysis/  summary.json, and tidy tables as CSV; of another pattern than attention, in a folder of its name
    RUN/figures/   each figure as PNG and SVG; its folder step_indexed/, what the 2025 scripts drew

Everything here can be made again from the run; nothing here measures anything.

A run and a null run, such as one with random weights, become what the first has beyond the second, as files.

    RUN/analysis/over_null_run/  summary.json, evidence_model.csv, evidence_layer.csv, evidence_head.csv
    RUN/analysis/value-weighted/over_null_run/   the same of another pattern than attention

The two must be of one architecture and of the same problems; `thoughtlens extract --random-weights SEED` makes one.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd
import xarray as xr

from thoughtlens.analysis import (
    Analysis,
    analysis_tables,
    analyze,
    analyze_sums,
    headline,
    kept_rollout,
    mean_rollout,
    rollout_table,
    value_shares,
)
from thoughtlens.analysis.evidence import Levels, evidence_over_run, type_counts
from thoughtlens.analysis.tables import evidence_headline, evidence_tables
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, file_name, replacing, unique, write_json, writing
from thoughtlens.names import ANSWER
from thoughtlens.published.scores import step_indexed
from thoughtlens.runs.folder import ANALYSIS, Run
from thoughtlens.schema import VALUE_WEIGHTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thoughtlens.plots.heads import Choice

FIGURES: Final = "figures"
STEP_INDEXED: Final = "step_indexed"


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
    """Analyse a run from disk, some problems at a time; a pattern of `PATTERNS` in the place of attention.

    Of a run that keeps means the estimates are the same, and the intervals are over blocks of problems.
    """
    options = {"n_resamples": n_resamples, "seed": seed}
    if run.keeps_means and pattern == WEIGHTS:
        n_blocks = int(run.manifest["layout"]["n_blocks"])
        return analyze_sums(run.sums(), n_blocks=n_blocks, correct=run.correct(), **options)
    return analyze(pattern_blocks(run, pattern), correct=run.correct(), **options)


def write_analysis(run: Run, analysis: Analysis, out: Path | None = None, *, pattern: str = WEIGHTS) -> list[Path]:
    """Write `summary.json` and the tables of an analysis of a pattern; return their paths.

    Args:
        run: the run.
        analysis: of it, or of some of its problems.
        out: folder; `RUN/analysis` if None.
        pattern: what was analysed, of `PATTERNS`; all but attention have a folder of their own.
    """
    with writing((out or run.path / ANALYSIS) / ("" if pattern == WEIGHTS else pattern)) as folder:
        write_json(folder / "summary.json", {"pattern": pattern} | summary(run, analysis))
        frames = analysis_tables(analysis) | {
            "moments": _moments_table(analysis),
            "step_indexed": _step_indexed_table(analysis),
        }
        if out is None:
            frames["rollout"] = rollout_table(_rollout(run, pattern))
        for name, frame in frames.items():
            with replacing(folder / f"{name}.csv") as file:
                frame.to_csv(file, index=False)
        return [folder / "summary.json", *(folder / f"{name}.csv" for name in frames)]


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


def summary(run: Run, analysis: Analysis) -> dict[str, Any]:
    """The headline numbers of a run, with what was run."""
    options, n_blocks = run.manifest["options"], analysis.model.attrs.get("n_blocks")
    return {
        "model": options["model"],
        "problems": options["problems"],
        "intervals_over": "problems" if n_blocks is None else f"{n_blocks} blocks of problems",
        "n_thoughts": options["n_thoughts"],
        "indexing": "thought-indexed: row z1 is the query made when z1 is the input; self-attention is apart",
        "n_answer_rows": int(analysis.composition["n"].sel(query=ANSWER)),
        **headline(analysis),
    }


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


def _rollout(run: Run, pattern: str) -> xr.Dataset:
    return kept_rollout(run.sums()) if run.keeps_means else mean_rollout(pattern_blocks(run, pattern))


def _moments_table(analysis: Analysis) -> pd.DataFrame:
    # Dims of a Dataset are in the order in which its labels were read, which differs from time to time.
    table: pd.DataFrame = analysis.moments.to_dataframe(dim_order=["layer", "head", "query", "key"]).reset_index()
    return table


def _step_indexed_table(analysis: Analysis) -> pd.DataFrame:
    mean: xr.DataArray = step_indexed(analysis.moments["mean"])
    table: pd.DataFrame = mean.rename("mean").to_dataframe().reset_index()
    return table


OVER: Final = "over_null_run"

NOTE: Final = (
    "Each head against the mean head of its layer in the null run, problem by problem: excess over its nulls less the "
    "excess there; of rows that both have. p is one-sided, more than the null run. Intervals and p are over problems; "
    "the null run is one draw of weights."
)


class OverNullRun(NamedTuple):
    """What a run has beyond a null run."""

    null: Run
    pattern: str
    levels: Levels


def over_null_run(
    run: Run, null: Run, *, pattern: str = WEIGHTS, n_resamples: int = 1000, seed: int = 0
) -> OverNullRun:
    """Hold a run against a null run, a block of problems at a time.

    Args:
        run: the run.
        null: of the same architecture, number of thoughts and problems, such as one with random weights.
        pattern: what is held against each other, of `thoughtlens.reports.run.PATTERNS`.
        n_resamples: bootstrap resamples and sign flips.
        seed: same seed, same numbers.

    Raises:
        RunError: the two runs can't be compared, or one does not hold the pattern.
    """
    check_null(run, null)
    n = run.manifest["layout"]["n_problems"]
    levels = evidence_over_run(
        pattern_blocks(run, pattern),
        pattern_blocks(null, pattern),
        n_problems=n,
        n_resamples=n_resamples,
        n_flips=n_resamples,
        seed=seed,
    )
    return OverNullRun(null, pattern, levels)


def check_null(run: Run, null: Run) -> None:
    """Raise `RunError` where a run can't be the null of another: same weights, other architecture or problems."""
    one, other = _facts(run), _facts(null)
    for its in (run, null):
        its.require_attention()
    if run.manifest["options"]["model"]["sha256"] == null.manifest["options"]["model"]["sha256"]:
        raise RunError(
            f"{null.path} has the weights of {run.path}, which leaves nothing beyond it; make a null run with "
            "`thoughtlens extract --random-weights 0`."
        )
    apart = [f"{name} {other[name]} and not {one[name]}" for name in one if one[name] != other[name]]
    if apart:
        raise RunError(
            f"{null.path} can't be the null of {run.path}: it has {'; '.join(apart)}; make one from the same model and "
            "problems with `thoughtlens extract --random-weights 0`."
        )


def null_summary(found: OverNullRun) -> dict[str, Any]:
    """The headline numbers of what a run has beyond its null run, ready for JSON."""
    options = found.null.manifest["options"]
    return {
        "null_run": {"run": str(found.null.path), "model": options["model"]},
        "pattern": found.pattern,
        "n": int(found.levels.model["n"]),
        "evidence": evidence_headline(found.levels, null=str(options["model"]["name"])),
        "types": type_counts(found.levels.heads["type"]),
        "note": NOTE,
    }


def write_null(run: Run, found: OverNullRun) -> list[Path]:
    """Write `summary.json` and the tables of what a run has beyond its null run; return their paths."""
    folder = run.path / ANALYSIS / ("" if found.pattern == WEIGHTS else found.pattern) / OVER
    tables = evidence_tables(found.levels)
    with writing(folder):
        write_json(folder / "summary.json", null_summary(found))
        for name, table in tables.items():
            with replacing(folder / f"{name}.csv") as file:
                table.to_csv(file, index=False)
        return [folder / "summary.json", *(folder / f"{name}.csv" for name in tables)]


def _facts(run: Run) -> Json:
    layout, options = run.manifest["layout"], run.manifest["options"]
    return {
        "architecture": options["model"].get("architecture"),
        **{name.removeprefix("n_"): layout[name] for name in ("n_layers", "n_heads", "n_thoughts", "n_problems")},
        "problems of fingerprint": options["problems"]["fingerprint"][:12],
    }
