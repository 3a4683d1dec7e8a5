"""Runs side by side, as tables and a figure in a folder of their own.

    DIR/comparison.json, models.csv, differences.csv, rank_correlations.csv, type_counts.csv, head_types.csv

Two runs share a problem if its id and its question are the same: `test_0` of two sets is not one problem. Everything
here can be made again from the runs; nothing here measures anything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis import (
    Comparison,
    Subject,
    compare,
    comparison_headline,
    comparison_overview,
    comparison_tables,
)
from thoughtlens.analysis.evidence import find_types, type_counts
from thoughtlens.analysis.shared_problems import common_problems
from thoughtlens.errors import OptionError
from thoughtlens.files import replacing, write_json, writing
from thoughtlens.runs.folder import Run


def compare_runs(runs: Mapping[str, Run], *, n_resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare runs from disk, each read twice, a block of problems at a time: for types of heads, and for the rest.

    Args:
        runs: two or more, by the labels that the result has (see `labelled`); differences are to the first.
        n_resamples: bootstrap resamples, sign flips and permutations.
        seed: same seed, same numbers.
    """
    subjects = {label: _subject(run) for label, run in runs.items()}
    common = set(common_problems(subjects)) if len(subjects) > 1 else set()
    typed = {
        label: replace(subjects[label], head_types=_head_types(run, subjects[label].problems, common, seed))
        for label, run in runs.items()
    }
    return compare(typed, n_resamples=n_resamples, seed=seed)


def labelled(runs: Sequence[Run], labels: Sequence[str] = ()) -> dict[str, Run]:
    """Runs by the labels given; without any by their models' names, or by their folders' where models repeat."""
    names = [str(run.manifest["options"]["model"]["name"]) for run in runs]
    if labels and len(labels) != len(runs):
        raise OptionError(f"found {len(labels)} labels for {len(runs)} runs; give each run one with --label, or none.")
    if not labels:
        labels = names if len(set(names)) == len(names) else [run.path.resolve().name for run in runs]
    label, times = Counter(labels).most_common(1)[0] if labels else ("", 1)
    if times > 1:
        raise OptionError(f"{times} runs are called {label!r}, expected different labels; give each run a --label.")
    return dict(zip(labels, runs, strict=True))


def comparison_summary(runs: Mapping[str, Run], comparison: Comparison) -> dict[str, Any]:
    """The headline numbers of a comparison, with what was run and what could not be compared."""
    options = {label: run.manifest["options"] for label, run in runs.items()}
    correlations = comparison_tables(comparison)["rank_correlations"]
    facts = comparison_headline(comparison.models, comparison.differences, comparison.p_values)
    return {
        "runs": {
            label: {
                "run": str(run.path),
                **{name: options[label][name] for name in ("model", "problems", "n_thoughts")},
            }
            for label, run in runs.items()
        },
        **{name: comparison.models.attrs[name] for name in ("paired", "confidence", "n_resamples", "seed")},
        **_with_types(facts, comparison.head_types),
        "rank_correlations": correlations.to_dict("records"),
        "notes": list(comparison.notes),
    }


def write_comparison(out: Path, runs: Mapping[str, Run], comparison: Comparison) -> list[Path]:
    """Write `comparison.json`, the tables and the figure of a comparison; return their paths."""
    from thoughtlens import plots  # draws with matplotlib, which is slow to import and needed nowhere else here

    with writing(out) as folder:
        write_json(folder / "comparison.json", comparison_summary(runs, comparison))
        written = [_write_table(folder / f"{name}.csv", of) for name, of in comparison_tables(comparison).items()]
        drawn = plots.model_comparison(comparison_overview(comparison))
        return [folder / "comparison.json", *written, *plots.save_figure(drawn, folder / "model_comparison")]


def _with_types(facts: dict[str, Any], types: Mapping[str, xr.DataArray]) -> dict[str, Any]:
    """The headline, each model's or group's number of heads of each type beside its own numbers."""
    for name, of in types.items():
        facts["own"][name]["types"] = type_counts(of)
    return facts


def _head_types(run: Run, problems: Sequence[str], common: Set[str], seed: int) -> xr.DataArray:
    """The types of a run's heads as `analyze` finds them, on the problems that are compared."""
    chosen = np.array([not common or problem in common for problem in problems])
    return find_types(run.blocks(chosen=chosen), n_problems=int(chosen.sum()), seed=seed)


def _subject(run: Run) -> Subject:
    attention = run.attention
    return Subject(
        run.blocks(),
        [f"{row['id']}: {row['question']}" for row in run.results()],
        attention["correct"].values,
        attention["n_question_tokens"].values,
    )


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    with replacing(path) as file:
        table.to_csv(file, index=False)
    return path
