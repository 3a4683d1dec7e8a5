"""Runs side by side, or groups of one run's problems, become tables.

    DIR/comparison.json, models.csv, differences.csv, rank_correlations.csv, type_counts.csv, head_types.csv
    RUN/analysis/by_correct/groups.csv, and the tables of `analyze` in a folder for each group: solved, failed
    RUN/analysis/by_n_steps/…           the same by the number of steps: 2, 3, 4, …

Two runs share a problem if its id and its question are the same: `test_0` of two sets is not one problem. Everything
here can be made again from the runs; nothing here measures anything.
"""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens.analysis import (
    Analysis,
    Comparison,
    Grouped,
    Subject,
    analyze,
    compare,
    compare_groups,
    comparison_headline,
    comparison_tables,
    group_table,
)
from thoughtlens.analysis.comparison import enough, group_seed
from thoughtlens.analysis.evidence import type_counts
from thoughtlens.analysis.ratios import collect_depth_sums
from thoughtlens.analysis.shared_problems import UNTESTED_TYPES, common_problems
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import replacing, write_json, writing
from thoughtlens.problems import load_set
from thoughtlens.reports.run import write_analysis
from thoughtlens.runs.folder import ANALYSIS, Run

BY: Final = ("correct", "n_steps")
"""What the problems of a run can be grouped by."""

PROBLEMS: Final = "problems.jsonl"


class GroupedRun(NamedTuple):
    """A run by groups of its problems."""

    by: str
    grouped: Grouped
    analyses: dict[str, Analysis]
    """of each group that has two problems or more"""


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
        drawn = plots.model_comparison(comparison)
        return [folder / "comparison.json", *written, *plots.save_figure(drawn, folder / "model_comparison")]


def groups_by(run: Run, by: str) -> dict[str, np.ndarray]:
    """Which problems of a run belong to which group.

    Args:
        run: the run.
        by: `correct`, for solved and failed, or `n_steps`, for the number of worked steps.

    Returns:
        bool for each problem, by the group's name.

    Raises:
        OptionError: there is no such grouping.
        RunError: the problems have no steps, or are not those of the run.
    """
    if by not in BY:
        raise OptionError(f"no grouping {by!r}, expected {' or '.join(BY)}; choose one.")
    if by == "correct":
        correct = run.attention["correct"].values
        return {"solved": correct, "failed": ~correct}
    counts = _n_steps(run)
    return {str(count): counts == count for count in np.unique(counts[counts > 0])}


def analyze_groups(run: Run, by: str, *, n_resamples: int = 1000, seed: int = 0) -> GroupedRun:
    """Analyse each group of a run's problems as the whole run is, and compare the groups.

    Args:
        run: the run.
        by: as in `groups_by`.
        n_resamples: bootstrap resamples of each group, and permutations of their labels.
        seed: same seed, same numbers.

    Raises:
        RunError: no group has two problems, besides what `groups_by` raises.
    """
    groups, correct = groups_by(run, by), run.attention["correct"].values
    sums = collect_depth_sums(run.blocks())
    grouped = compare_groups(sums, groups, correct=correct, n_resamples=n_resamples, seed=seed)
    analyses = {
        name: analyze(run.blocks(chosen=of), correct=correct[of], n_resamples=n_resamples, seed=group_seed(seed, place))
        for place, (name, of) in enumerate(enough(groups).items())
    }
    without = int((~np.any(list(groups.values()), axis=0)).sum())
    notes = (f"{without} problems have no steps and are in no group.",) if without else ()
    return GroupedRun(by, grouped._replace(notes=(*notes, *grouped.notes)), analyses)


def groups_summary(of: GroupedRun) -> dict[str, Any]:
    """The headline numbers of each group and of the differences, with what was left out."""
    grouped = of.grouped
    facts = comparison_headline(grouped.groups, grouped.differences, grouped.p_values, without=_empty(of.by))
    types = {name: analysis.evidence["type"] for name, analysis in of.analyses.items()}
    return {"by": of.by, **_with_types(facts, types), "notes": [*grouped.notes, UNTESTED_TYPES]}


def write_groups(run: Run, of: GroupedRun) -> list[Path]:
    """Write `groups.csv`, and the analysis of each group to a folder of its name; return their paths."""
    table = group_table(of.grouped, without=_empty(of.by))
    with writing(run.path / ANALYSIS / f"by_{of.by}") as folder:
        written = [_write_table(folder / "groups.csv", table)]
    return written + [
        path for name, analysis in of.analyses.items() for path in write_analysis(run, analysis, folder / name)
    ]


def _empty(by: str) -> tuple[str, ...]:
    """Measures that say nothing of groups: solved problems are solved."""
    return ("accuracy",) if by == "correct" else ()


def _with_types(facts: dict[str, Any], types: Mapping[str, xr.DataArray]) -> dict[str, Any]:
    """The headline, each model's or group's number of heads of each type beside its own numbers."""
    for name, of in types.items():
        facts["own"][name]["types"] = type_counts(of)
    return facts


def _head_types(run: Run, problems: Sequence[str], common: Set[str], seed: int) -> xr.DataArray:
    """The types of a run's heads as `analyze` finds them, on the problems that are compared."""
    chosen = np.array([not common or problem in common for problem in problems])
    correct = run.attention["correct"].values[chosen]
    # Types come from sign flips: there is nothing to resample.
    return analyze(run.blocks(chosen=chosen), correct=correct, n_resamples=1, seed=seed).evidence["type"]


def _subject(run: Run) -> Subject:
    attention = run.attention
    return Subject(
        run.blocks(),
        [f"{row['id']}: {row['question']}" for row in run.results()],
        attention["correct"].values,
        attention["n_question_tokens"].values,
    )


def _n_steps(run: Run) -> np.ndarray:
    problems = load_set(str(run.path / PROBLEMS))
    if problems.fingerprint != run.manifest["options"]["problems"]["fingerprint"]:
        raise RunError(f"{run.path / PROBLEMS} is not what the run was made from; extract the run again.")
    counts = np.array([len(problem.steps) for problem in problems.problems])
    if not counts.any():
        raise RunError(f"the problems of {run.path} have no steps, so that n_steps groups nothing; use --by correct.")
    return counts


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    with replacing(path) as file:
        table.to_csv(file, index=False)
    return path
