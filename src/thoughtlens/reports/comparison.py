"""Comparisons on disk: of runs, in a folder of their own, and of groups of one run's problems, in the run's folder.

    DIR/comparison.json, models.csv, differences.csv, rank_correlations.csv, type_counts.csv, head_types.csv
    DIR/model_comparison.png, .svg
    RUN/analysis/by_correct/groups.csv, and the tables of `analyze` in a folder for each group: solved, failed
    RUN/analysis/by_n_steps/…           the same by the number of steps: 2, 3, 4, …

In: runs. Out: these files, and their headline numbers as a dict. All of them can be made again from the runs.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from thoughtlens.analysis import (
    Analysis,
    Comparison,
    analyze,
    collect_depth_sums,
    compare,
    compare_groups,
    comparison_headline,
    comparison_overview,
    comparison_tables,
    group_seed,
    group_table,
)
from thoughtlens.analysis.comparison import enough
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, replacing, write_json, writing
from thoughtlens.reports.run import write_analysis
from thoughtlens.runs.folder import ANALYSIS, Run
from thoughtlens.runs.store import differences

BY: Final = ("correct", "n_steps")
"""What the problems of a run can be grouped by."""

COMPARISON: Final = "comparison.json"
FIGURE: Final = "model_comparison"
RECORDED: Final = ("model", "problems", "n_thoughts")
"""What a comparison records of each run, beside its folder."""


def labelled(runs: Sequence[Run], labels: Sequence[str] = ()) -> dict[str, Run]:
    """Runs by the labels given; without any by their models' names, or by their folders' where models repeat.

    Args:
        runs: any number.
        labels: none, or one for each run, all different.

    Returns:
        The runs in their order, as `compare` and `write_comparison` take them.

    Raises:
        OptionError: there are more or fewer labels than runs, or two runs have the same one.

    Example:
        `labelled([open_run("runs/a"), open_run("runs/b")], ["trained", "control"])`
    """
    names = [str(run.manifest["options"]["model"]["name"]) for run in runs]
    if labels and len(labels) != len(runs):
        raise OptionError(f"found {len(labels)} labels for {len(runs)} runs; give each run one with --label, or none.")
    if not labels:
        labels = names if len(set(names)) == len(names) else [run.path.resolve().name for run in runs]
    label, times = Counter(labels).most_common(1)[0] if labels else ("", 1)
    if times > 1:
        raise OptionError(f"{times} runs are called {label!r}, expected different labels; give each run a --label.")
    return dict(zip(labels, runs, strict=True))


def write_comparison(
    out: str | Path, runs: Mapping[str, Run], *, n_resamples: int = 1000, seed: int = 0, force: bool = False
) -> Json:
    """Compare runs, and write the headline numbers, tables and figure to a folder that holds this comparison alone.

    Args:
        out: the folder; made if it is not there. The same comparison may be written there again.
        runs: two or more, by their labels (see `labelled`); differences are to the first.
        n_resamples: bootstrap resamples, sign flips and permutations.
        seed: same seed, same numbers.
        force: replace a comparison of other runs or with other options.

    Returns:
        The content of `comparison.json`, and `files`, the paths of all files. It holds `runs`, what each run was;
        `paired`, `confidence`, `n_resamples`, `seed`; the `own` numbers and `differences` of `comparison_headline`;
        `rank_correlations`; and `notes`.

    Raises:
        OptionError: fewer than two runs, or the folder holds another comparison.
        RunError: a run kept means, or the folder can't be written.

    Example:
        `write_comparison("runs/both", labelled([open_run("runs/a"), open_run("runs/b")]))["differences"]`
    """
    from thoughtlens import plots  # draws with matplotlib, which is slow to import and needed nowhere else here

    folder = Path(out)
    asked: Json = {
        "runs": {
            label: {"run": str(run.path), **{name: run.manifest["options"][name] for name in RECORDED}}
            for label, run in runs.items()
        },
        "n_resamples": n_resamples,
        "seed": seed,
    }
    if not force:
        _check_same(folder, asked)
    comparison = compare(runs, n_resamples=n_resamples, seed=seed)
    tables = comparison_tables(comparison)
    facts: Json = {
        "runs": asked["runs"],
        **{name: comparison.measures.attrs[name] for name in ("paired", "confidence", "n_resamples", "seed")},
        **comparison_headline(comparison),
        "rank_correlations": tables["rank_correlations"].to_dict("records"),
        "notes": list(comparison.notes),
    }
    with writing(folder):
        # What an interrupted command leaves must not pass for the comparison that was there before.
        (folder / COMPARISON).unlink(missing_ok=True)
        written = [_write_table(folder / f"{name}.csv", of) for name, of in tables.items()]
        drawn = plots.model_comparison(comparison_overview(comparison))
        written += plots.save_figure(drawn, folder / FIGURE)
        write_json(folder / COMPARISON, facts)
    return facts | {"files": [str(path) for path in (folder / COMPARISON, *written)]}


def _check_same(folder: Path, asked: Json) -> None:
    """Raise `OptionError` where the folder holds another comparison.

    Runs are the same if their model, problems and thoughts are, wherever their folders lie.
    """
    path = folder / COMPARISON
    if not path.is_file():
        return
    try:
        found = _identity(json.loads(path.read_text("utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} can't be read as a comparison ({error!r}); name another --out, or pass --force."
        ) from None
    expected = _identity(asked)
    # Order counts: differences are to the first.
    there, here = (" and ".join(facts["runs"]) for facts in (found, expected))
    if differing := [f"it is of {there} and not of {here}"] if there != here else differences(found, expected):
        raise OptionError(
            f"{folder} holds another comparison: {'; '.join(differing)}; name another --out, or pass --force."
        )


def _identity(facts: Json) -> Json:
    runs = {label: {name: run[name] for name in RECORDED} for label, run in facts["runs"].items()}
    return {"n_resamples": facts["n_resamples"], "seed": facts["seed"], "runs": runs}


class GroupedRun(NamedTuple):
    """A run by groups of its problems."""

    by: str
    comparison: Comparison
    analyses: dict[str, Analysis]
    """of each group that has two problems or more"""


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
    kept = enough(groups)
    analyses = {
        name: analyze(run.blocks(chosen=of), correct=correct[of], n_resamples=n_resamples, seed=group_seed(seed, place))
        for place, (name, of) in enumerate(kept.items())
    }
    types = {name: analysis.evidence["type"] for name, analysis in analyses.items()}
    sums = collect_depth_sums(run.blocks())
    compared = compare_groups(sums, groups, correct=correct, n_resamples=n_resamples, seed=seed, head_types=types)
    without = int((~np.any(list(groups.values()), axis=0)).sum())
    notes = (f"{without} problems have no steps and are in no group.",) if without else ()
    return GroupedRun(by, compared._replace(notes=(*notes, *compared.notes)), analyses)


def groups_summary(of: GroupedRun) -> Json:
    """The headline numbers of each group and of the differences, with what was left out."""
    facts = comparison_headline(of.comparison, without=_empty(of.by))
    return {"by": of.by, **facts, "notes": list(of.comparison.notes)}


def write_groups(run: Run, of: GroupedRun) -> list[Path]:
    """Write `groups.csv`, and the analysis of each group to a folder of its name; return their paths."""
    with writing(run.path / ANALYSIS / f"by_{of.by}") as folder:
        written = [_write_table(folder / "groups.csv", group_table(of.comparison, without=_empty(of.by)))]
    return written + [
        path for name, analysis in of.analyses.items() for path in write_analysis(run, analysis, folder / name)
    ]


def _empty(by: str) -> tuple[str, ...]:
    """Measures that say nothing of groups: solved problems are solved."""
    return ("accuracy",) if by == "correct" else ()


def _n_steps(run: Run) -> np.ndarray:
    counts = np.array([len(problem.steps) for problem in run.problems()])
    if not counts.any():
        raise RunError(f"the problems of {run.path} have no steps, so that n_steps groups nothing; use --by correct.")
    return counts


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    with replacing(path) as file:
        table.to_csv(file, index=False)
    return path
