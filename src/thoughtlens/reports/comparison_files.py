"""Comparisons of runs on disk: tables and a figure in a folder of their own.

    DIR/comparison.json, models.csv, differences.csv, rank_correlations.csv, type_counts.csv, head_types.csv
    DIR/model_comparison.png, .svg, .pdf

Of recipes, recipes.csv stands in the place of models.csv.

In: runs. Out: these files, and their headline numbers as a dict. All of them can be made again from the runs.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from thoughtlens import plots
from thoughtlens.analysis import compare, compare_recipes, comparison_headline, comparison_tables
from thoughtlens.analysis.cautions import shown_of_comparison
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import Json, call_of, only_writer, write_json, write_table, writing
from thoughtlens.reports.run_files import save_figures
from thoughtlens.runs.reader import Run
from thoughtlens.runs.writer import differences, made_by

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
        Two runs of one model under names of their own.

            labelled([open_run("runs/a"), open_run("runs/b")], ["trained", "control"])
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
    out: str | Path,
    runs: Mapping[str, Run],
    *,
    recipes: Mapping[str, Sequence[str]] | None = None,
    holdout: float | None = None,
    holdout_seed: int = 0,
    n_resamples: int = 1000,
    seed: int = 0,
    force: bool = False,
) -> Json:
    """Compare runs, and write the headline numbers, tables and figure to a folder that holds this comparison alone.

    Args:
        out: the folder; made if it is not there. The same comparison may be written there again.
        runs: two or more, by their labels (see `labelled`); differences are to the first.
        recipes: the labels of the runs of each recipe, to compare recipes and not single runs (see `compare_recipes`).
        holdout: the share of the problems that is compared, the others giving the types of heads; None for all.
        holdout_seed: of the halves, the same in all commands.
        n_resamples: bootstrap resamples, sign flips and permutations.
        seed: same seed, same numbers.
        force: replace a comparison of other runs or with other options.

    Returns:
        The content of `comparison.json`, and `files`, the paths of all files. It holds `runs`, what each run was;
        `holdout` and `selected_on`; `paired`, `confidence`, `n_resamples`, `seed`; the `own` numbers, `differences` and
        `warnings` of `comparison_headline`; `rank_correlations`; `notes`; and `made_by`.

    Raises:
        OptionError: fewer than two runs, or the folder holds another comparison.
        RunError: a run kept means, or the folder can't be written.

    Example:
        How does the second run differ from the first?

            write_comparison("runs/both", labelled([open_run("runs/a"), open_run("runs/b")]))["differences"]
    """
    folder = Path(out)
    asked: Json = {
        "runs": {
            label: {"run": str(run.path), **{name: run.manifest["options"][name] for name in RECORDED}}
            for label, run in runs.items()
        },
        "holdout": None if holdout is None else {"share": holdout, "seed": holdout_seed},
        "n_resamples": n_resamples,
        "seed": seed,
    }
    if recipes is not None:
        asked["recipes"] = {name: list(labels) for name, labels in recipes.items()}
    if folder.exists():
        with writing(folder):  # a file in its place is told of before the work
            pass
    if not force:
        _check_same(folder, asked)
    how: dict[str, Any] = {"holdout": holdout, "holdout_seed": holdout_seed, "n_resamples": n_resamples, "seed": seed}
    comparison = compare(runs, **how) if recipes is None else compare_recipes(runs, recipes, **how)
    tables = comparison_tables(comparison)
    correlations = tables["rank_correlations"].astype(object)
    facts: Json = {
        **{name: of for name, of in asked.items() if name in ("runs", "recipes", "holdout")},
        # Types of heads are what is selected, and recipes have none.
        "selected_on": None if recipes else f"selected on {'these' if holdout is None else 'other'} problems",
        **{name: comparison.measures.attrs[name] for name in ("paired", "confidence", "n_resamples", "seed")},
        **comparison_headline(comparison),
        "rank_correlations": correlations.where(correlations.notna(), None).to_dict("records"),
        "notes": list(comparison.notes),
        "made_by": made_by(
            call_of("compare", holdout=holdout, n_resamples=n_resamples, seed=seed),
            *(run.manifest for run in runs.values()),
            seed=seed,
        ),
    }
    with only_writer(folder):
        # What an interrupted command leaves must not pass for the comparison that was there before.
        (folder / COMPARISON).unlink(missing_ok=True)
        written = [write_table(folder / f"{name}.csv", table) for name, table in tables.items()]
        drawn = {FIGURE: plots.model_comparison(shown_of_comparison(comparison))}
        written += save_figures(folder, drawn, facts["made_by"])
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
    same = {name: facts[name] for name in ("holdout", "n_resamples", "seed")}
    return {**same, "runs": runs, "recipes": facts.get("recipes")}
