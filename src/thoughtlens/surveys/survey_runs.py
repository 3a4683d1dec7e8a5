"""Surveys made: each model on each problem set and draw as a run folder of its own, cut and resumed, then compared.

In: a `SurveyPlan` and a folder. Out:

    DIR/survey.json          what the survey asks for, and the folder of each run; its SHA-256 beside it
    DIR/MODEL/PROBLEMS/SEED/ the runs, each as the page on the run folder describes it, with a study of cuts
    DIR/MODEL/PROBLEMS/analysis   the analysis of all draws together, where there are several
    DIR/*.csv, survey_summary.json, figures and report.html   the comparison

1. A run that is complete, and a study of cuts that is finished, are opened; one that was killed goes on.
2. Draws of one set are pooled by the ids of problems: a problem that was drawn twice counts once, with its first run.
3. A process holds the lock of DIR while it works, and that of each run while it writes there.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Never, final

import numpy as np
import numpy.typing as npt
import xarray as xr

from thoughtlens import reports
from thoughtlens.analysis import Analysis, Subject, analyze, paired_differences
from thoughtlens.analysis.comparison_sides import check_replicates
from thoughtlens.analysis.effects import RANKED_BY
from thoughtlens.analysis.streamed_attention import patterned
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import (
    LOCK,
    Json,
    call_of,
    digest_of,
    file_name,
    only_writer,
    read_json,
    unique,
    write_json,
    write_table,
)
from thoughtlens.notation import HEADS, KV_GROUPS, text
from thoughtlens.plots.comparison import PANELS, Words, draw_models
from thoughtlens.problems import Problem, ProblemSet, draw, load_set
from thoughtlens.reports.run_files import save_figures
from thoughtlens.runs.reader import STUDIES, Run, open_run, read_readings, status
from thoughtlens.runs.writer import MANIFEST, differences, made_by, read_manifest
from thoughtlens.schema import ATTENTION
from thoughtlens.surveys.survey_comparison import DRAWS, Cell, SurveyComparison, compare_cells
from thoughtlens.surveys.survey_file import (
    FORMAT,
    MOST_PROBLEMS,
    SURVEY,
    SurveyPlan,
    SurveyRun,
    read_survey,
    read_survey_folder,
    same_survey,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thoughtlens.models import LatentReasoner
    from thoughtlens.runs import Engine

log: Final = logging.getLogger(__name__)

SUMMARY: Final = "survey_summary.json"
REPORT: Final = "report.html"

TRIED: Final = 8
"""Problems on which a survey is tried for its time."""

_MOST_CUTS: Final = 12
"""Cuts that a figure shows."""

Say = Callable[[str], None]


def survey(
    plan: SurveyPlan | str | Path,
    out: str | Path,
    *,
    force: bool = False,
    report: bool = True,
    n_draws: int = DRAWS,
    say: Say = log.info,
) -> Json:
    """Measure, cut and compare every model on every problem set and draw; go on where an earlier call stopped.

    Args:
        plan: the survey, or its file.
        out: the folder of the survey, made if it is not there.
        force: compare other models or sets than the folder's survey did, or with other options. Runs and studies that
            both ask for stay as they are, and others are made beside them.
        report: also write `report.html`, and the readings of each run that it shows.
        n_draws: resamples, sign flips and permutations of each difference.
        say: told which run is at work.

    Returns:
        The content of `survey_summary.json`: `runs`, a row each as `survey_status` gives them; `findings`, the answers
        in sentences; `warnings`; `on_all`, the rows of `claims_on_all.csv`; `made_by`; beside it `files`, the paths of
        the tables and figures, and with a report `report`.

    Raises:
        OptionError: the folder holds another survey, or a plan asks for what a model does not have.
        ProblemSetError, CheckpointError: a set or a model can't be loaded.
        RunError: a folder can't be written, is foreign, or another process writes it; or two models of a group have
            the same weights.

    Example:
        What holds on every model and set?

            survey("survey.toml", "runs/survey")["on_all"]
    """
    plan = plan if isinstance(plan, SurveyPlan) else read_survey(plan)
    folder = Path(out)
    _check_folder(folder, plan, force=force)
    _engine(plan)
    drawn = _drawn(plan)
    call = call_of("surveys.survey", out=str(out))
    with only_writer(folder):
        if not (folder / SURVEY).is_file() or force:
            asked = {"format": FORMAT, **plan.as_json(), "made_by": made_by(call)}
            write_json(folder / SURVEY, asked, sealed=True)
        runs, cells = _measured(plan, folder, drawn, report=report, say=say)
        for members in plan.groups.values():
            check_replicates({name: runs[name, plan.problems[0].name, plan.seeds[0]] for name in members})
        say("compare")
        compared = compare_cells(cells, plan.groups, n_draws=n_draws)
        facts = _write(folder, plan, runs, cells, compared, call)
        if report:
            labels = {key: f"{key[0]} on {key[1]}" + f", draw {key[2]}" * (len(plan.seeds) > 1) for key in runs}
            page = reports.write_report(
                {labels[key]: run for key, run in runs.items()}, folder / REPORT, compared=_page_of(compared)
            )  # fmt: skip
            facts |= {"report": str(page.path)}
    return facts


def survey_status(out: str | Path) -> list[Json]:
    """How far each run of a survey is; nothing is compared with what was written.

    Args:
        out: the folder of the survey.

    Returns:
        A row a run: `model`, `problems`, `seed`, `folder`; `state`: missing, begun, measured (not cut yet) or done;
        `n_done`, problems in finished shards; `n`, problems of the run, None where it is missing; `accuracy`, None
        until the run is complete.

    Raises:
        RunError: the folder holds no survey, or a file of it was altered.

    Example:
        How many runs are done?

            sum(run["state"] == "done" for run in survey_status("runs/survey"))
    """
    folder = Path(out)
    if not (folder / SURVEY).is_file():
        raise RunError(
            f"{folder} has no {SURVEY}, expected the folder of a survey; make one with `thoughtlens survey`."
        )
    asked = read_survey_folder(folder)
    return [_state(folder, run, asked["study"]) for run in asked["runs"]]


def _state(folder: Path, run: Json, name: str | None) -> Json:
    path = folder / run["folder"]
    if not (path / MANIFEST).is_file():
        return run | {"state": "missing", "n_done": 0, "n": None, "accuracy": None}
    found = status(path)
    state, accuracy = "begun", None
    if found.complete:
        accuracy = float(Run(path, read_manifest(path)).correct().mean())
        state = "done" if name is None or _is_cut(path, name) else "measured"
    return run | {"state": state, "n_done": found.n_done, "n": found.n_problems, "accuracy": accuracy}


def _is_cut(path: Path, name: str) -> bool:
    """Whether a study of cuts of a run is finished; its effects are compared with their seal when they are opened."""
    manifest = path / STUDIES / name / MANIFEST
    return manifest.is_file() and read_json(manifest, remedy="delete the folder").get("finished") is not None


def estimate_survey(plan: SurveyPlan | str | Path, out: str | Path | None = None, *, say: Say = log.info) -> Json:
    """How many passes a survey takes, how long, and how much space; nothing is kept.

    Each model thinks about a few problems of each set, and some of the cuts are made in them. Times are of this machine
    and of small batches, so that larger ones take less.

    Args:
        plan: the survey, or its file.
        out: the folder of the survey, whose finished runs are not counted; none if None.
        say: told which model and set are tried.

    Returns:
        `n_runs`, `n_passes`, `seconds` and `bytes` in all, of attention before it is compressed; and `cells`, the same
        of each model and set.

    Raises:
        OptionError, ProblemSetError, CheckpointError: as `survey`.

    Example:
        How many hours will it take?

            estimate_survey("survey.toml")["seconds"] / 3600
    """
    plan = plan if isinstance(plan, SurveyPlan) else read_survey(plan)
    drawn = _drawn(plan)
    done: set[str] = set()
    if out is not None and (Path(out) / SURVEY).is_file():
        done = {run["folder"] for run in survey_status(out) if run["state"] == "done"}
    cells = []
    for model in plan.models:
        left: dict[str, list[SurveyRun]] = {of.name: [] for of in plan.problems}
        for run in plan.runs:
            if run.model == model.name and run.folder not in done:
                left[run.problems].append(run)
        reasoner = _load(plan, model.name) if any(left.values()) else None
        for of, runs in left.items():
            if runs and reasoner is not None:
                say(f"try {model.name} on {of}")
                cells.append(_tried(plan, reasoner, runs, drawn))
    totals = {name: sum(cell[name] for cell in cells) for name in ("n_runs", "n_passes", "seconds", "bytes")}
    return {**totals, "cells": cells}


def _tried(
    plan: SurveyPlan, reasoner: "LatentReasoner", runs: Sequence[SurveyRun], drawn: Mapping[tuple[str, int], ProblemSet]
) -> Json:
    """What the runs of one model on one set take, from a few of their problems."""
    from thoughtlens.cuts import estimate_study

    first = runs[0]
    chosen = drawn[first.problems, first.seed]
    few = replace(chosen, problems=chosen.problems[: min(TRIED, len(chosen.problems))])
    n = sum(len(drawn[run.problems, run.seed].problems) for run in runs)
    with TemporaryDirectory() as temporary:
        run = _extract(plan, first, few, reasoner, Path(temporary) / "run", local=True)
        layout = run.manifest["layout"]
        passes, seconds = n, n * float(run.manifest["seconds"]) / len(few.problems)
        if plan.intervene is not None:
            planned = _planned(plan, run, reasoner, halves=False)
            tried = estimate_study(run, planned, reasoner=reasoner, batch_size=plan.intervene.batch_size)
            of_each = [min(len(drawn[run.problems, run.seed].problems), plan.intervene.n or n) for run in runs]
            tested = [round(count * (plan.intervene.holdout or 1.0)) for count in of_each]
            whole = replace(planned, holdout=plan.intervene.holdout)
            cut = sum(whole.n_passes(some, count - some) for some, count in zip(tested, of_each, strict=True))
            passes += cut
            seconds += cut * tried["seconds"] / tried["n_passes"]
    cells = run.manifest["layout"]
    size = 2 * (1 + len(plan.run.record)) * n * cells["n_layers"] * cells["n_heads"]
    size *= (layout["n_thoughts"] + 3) * (layout["n_thoughts"] + 5)
    about = {"model": first.model, "problems": first.problems, "n_runs": len(runs), "n": n}
    return about | {"n_passes": passes, "seconds": seconds, "bytes": size}


def _drawn(plan: SurveyPlan) -> dict[tuple[str, int], ProblemSet]:
    """The problems of each set and draw; a set that is not there is told of before anything is made."""
    found: dict[tuple[str, int], ProblemSet] = {}
    for of in plan.problems:
        how = plan.problem_options(of.name)
        fields = dict(option.split("=", 1) for option in how.field)
        whole = load_set(of.problems, how.split, fields=fields, revision=how.problems_revision)
        if how.n_steps is not None:
            of_length = tuple(problem for problem in whole.problems if len(problem.steps) == how.n_steps)
            if not of_length:
                lengths = sorted({len(problem.steps) for problem in whole.problems})
                raise OptionError(
                    f"{of.problems} has no problem of {how.n_steps} steps, expected one of {lengths}; "
                    "set another n-steps."
                )
            whole = replace(whole, problems=of_length)
        n = min(MOST_PROBLEMS, len(whole.problems)) if how.n is None else how.n
        found |= {(of.name, seed): draw(whole, n, seed) for seed in plan.seeds}
    return found


def _check_folder(folder: Path, plan: SurveyPlan, *, force: bool) -> None:
    """Raise where the folder holds something else, or another survey that is not to be replaced."""
    if not (folder / SURVEY).is_file():
        if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()):
            raise RunError(f"{folder} holds files and no {SURVEY}, expected a survey or an empty folder; name another.")
        return
    if force:
        return
    found, asked = read_survey_folder(folder), plan.as_json()
    if not same_survey(found, asked):
        kept = ("models", "problems", "seeds", "groups", "run", "analyze", "intervene")
        apart = differences(*({key: of[key] for key in kept} for of in (found, asked)))
        raise OptionError(f"{folder} holds another survey ({'; '.join(apart)}); name another --out, or pass --force.")


def _load(plan: SurveyPlan, name: str) -> "LatentReasoner":
    from thoughtlens.models import load, randomize  # imports torch

    how = plan.model_options(name)
    reasoner = load(
        plan.source(name),
        base=how.base,
        revision=how.revision,
        alpha=how.alpha,
        dtype=how.dtype,
        device=how.device,
        known_as=how.known_as,
        answer_rule=plan.run.answer_rule,
    )
    return reasoner if how.random_weights is None else randomize(reasoner, seed=how.random_weights)


def _measured(
    plan: SurveyPlan, folder: Path, drawn: Mapping[tuple[str, int], ProblemSet], *, report: bool, say: Say
) -> tuple[dict[tuple[str, str, int], Run], list[Cell]]:
    """The runs, made or opened, and the cells that they are compared as; one model is loaded at a time."""
    runs: dict[tuple[str, str, int], Run] = {}
    cells, n_runs = [], len(plan.runs)
    for model in plan.models:
        load = cache(lambda name=model.name: _load(plan, name))
        for of in plan.problems:
            its = []
            for run in (run for run in plan.runs if (run.model, run.problems) == (model.name, of.name)):
                say(f"run {len(runs) + 1} of {n_runs}: {run.model} on {run.problems}, draw {run.seed}")
                made = _made(plan, run, drawn[run.problems, run.seed], load, folder / run.folder)
                if report and not read_readings(made):
                    from thoughtlens.evaluation import write_readings

                    write_readings(made, load())
                if plan.intervene is not None:
                    _cut(plan, made, load)
                runs[run.model, run.problems, run.seed] = made
                its.append(made)
            cells.append(_cell(plan, model.name, of.name, its))
    return runs, cells


def _made(
    plan: SurveyPlan, run: SurveyRun, chosen: ProblemSet, load: Callable[[], "LatentReasoner"], path: Path
) -> Run:
    """A run, opened where it is complete."""
    if (path / MANIFEST).is_file() and status(path).complete:
        done = open_run(path)
        if done.manifest["options"]["problems"]["fingerprint"] != chosen.fingerprint:
            raise RunError(
                f"{path} has other problems than {run.problems} has now; put the file back as it was, or name another "
                "--out."
            )
        return done
    return _extract(plan, run, chosen, load(), path)


def _extract(
    plan: SurveyPlan, run: SurveyRun, chosen: ProblemSet, reasoner: "LatentReasoner", path: Path, *, local: bool = False
) -> Run:
    from thoughtlens.reasoning.loop import MAX_NEW_TOKENS  # imports torch
    from thoughtlens.runs import extract

    how = plan.model_options(run.model)
    return extract(
        reasoner,
        chosen,
        path,
        n_thoughts=how.thoughts,
        batch_size=how.batch_size,
        shard_size=plan.run.shard_size,
        record=plan.run.record,
        protocol=plan.run.protocol,
        max_new_tokens=plan.run.max_new_tokens or MAX_NEW_TOKENS,
        engine=None if local else _engine(plan),
    )


def _engine(plan: SurveyPlan) -> "Engine | None":
    if plan.run.engine == "local":
        return None
    try:
        from thoughtlens.runs import Ray

        return Ray(workers=plan.run.workers, address=plan.run.address)
    except ImportError as error:
        raise OptionError(
            "the survey asks for the engine ray, which is not installed; run `pip install 'thoughtlens[ray]'`."
        ) from error


def _planned(plan: SurveyPlan, run: Run, reasoner: "LatentReasoner", *, halves: bool = True) -> Any:
    """The plan of cuts of a run; without halves where it is only tried."""
    from thoughtlens.cuts import plan_cuts  # imports torch

    how = plan.intervene
    assert how is not None
    names = (
        "heads", "kv_groups", "thoughts", "edges", "at", "whole", "frozen", "together", "leave_out", "restore",
        "controls", "caliper", "random_orders", "donors", "seed", "holdout_seed",
    )  # fmt: skip
    return plan_cuts(
        run,
        **{name: getattr(how, name) for name in names},
        edits=how.edit,
        paths=how.effects,
        file=None if how.plan is None else Path(how.plan),
        orders=how.order,
        holdout=how.holdout if halves else None,
        reasoner=reasoner,
    )


def _cut(plan: SurveyPlan, run: Run, load: Callable[[], "LatentReasoner"]) -> None:
    """Make the study of cuts of a run, unless it is finished."""
    from thoughtlens.cuts import intervene  # imports torch
    from thoughtlens.reasoning.loop import MAX_NEW_TOKENS

    name, how = plan.study, plan.intervene
    assert name is not None
    assert how is not None
    if not _is_cut(run.path, name):
        intervene(
            run,
            _planned(plan, run, load()),
            study=name,
            n=how.n,
            reasoner=load(),
            batch_size=how.batch_size,
            max_new_tokens=how.max_new_tokens or MAX_NEW_TOKENS,
            margin=how.margin,
            accuracy_margin=how.accuracy_margin,
            allow_failed=how.allow_failed,
            engine=_engine(plan),
        )
    if not (run.path / STUDIES / name / "effects_summary.json").is_file():
        reports.write_study(run, reports.study(run, name), figures=False)


@final
@dataclass(frozen=True)
class Pool:
    """The runs of a model on several draws of a set as one; a problem that was drawn twice is that of its first run."""

    path: Path
    runs: tuple[Run, ...]
    chosen: tuple[npt.NDArray[np.bool_], ...]
    """which problems of each run count"""

    @property
    def manifest(self) -> Json:
        """What was run, the same for all; and which runs these are."""
        first = self.runs[0].manifest
        pooled = [digest_of(run.manifest) for run in self.runs]
        return {"layout": first["layout"], "options": first["options"], "pooled": pooled}

    @property
    def keeps_means(self) -> bool:
        """No: surveys keep the attention of every problem."""
        return False

    def require_attention(self) -> None:
        """Every run holds attention."""

    def blocks(self, *, pattern: str = ATTENTION, chosen: npt.ArrayLike | None = None) -> Iterator[xr.Dataset]:
        """The attention Dataset of the chosen problems, some problems at a time."""
        left = np.ones(sum(map(np.sum, self.chosen)), dtype=bool) if chosen is None else np.asarray(chosen, dtype=bool)
        for run, mask in zip(self.runs, self.chosen, strict=True):
            these = mask.copy()
            these[mask], left = left[: mask.sum()], left[mask.sum() :]
            yield from run.blocks(pattern=pattern, chosen=these)

    def sums(self) -> Never:
        """Not asked for, as none are kept."""
        raise AssertionError("a pool keeps no sums")

    kept_blocks = sums

    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each problem was solved, in order."""
        return np.concatenate([run.correct()[mask] for run, mask in zip(self.runs, self.chosen, strict=True)])

    def problems(self) -> tuple[Problem, ...]:
        """The problems, each once."""
        return tuple(
            problem
            for run, mask in zip(self.runs, self.chosen, strict=True)
            for problem, here in zip(run.problems(), mask, strict=True)
            if here
        )


def pooled(runs: Sequence[Run], path: Path) -> Pool:
    """The runs of several draws as one, by the ids of their problems."""
    seen: set[str] = set()
    chosen = []
    for run in runs:
        ids = [problem.id for problem in run.problems()]
        chosen.append(np.array([name not in seen for name in ids], dtype=bool))
        seen |= set(ids)
    return Pool(path, tuple(runs), tuple(chosen))


def _cell(plan: SurveyPlan, model: str, of: str, runs: Sequence[Run]) -> Cell:
    """The runs of one model on one set as one cell, analysed and with the effects of their cuts."""
    from thoughtlens.runs import random_weight_runs

    pool = pooled(runs, runs[0].path.parent)
    how = plan.analyze
    nulls = random_weight_runs(runs[0], how.null_draws, pattern=how.pattern) if how.null_draws else []
    options: dict[str, Any] = {"pattern": how.pattern, "null": nulls}
    options |= {"holdout": how.holdout, "holdout_seed": how.holdout_seed}
    if len(runs) == 1:
        analysis: Analysis = analyze(runs[0], **options)
        reports.write_reports(runs[0], analysis, figures=False)
    else:
        analysis = analyze(pool, **options)
    problems = pool.problems()
    tokens = [run.attention["n_question_tokens"].values[mask] for run, mask in zip(pool.runs, pool.chosen, strict=True)]
    subject = Subject(
        patterned(pool, how.pattern),
        [f"{problem.id}: {problem.question}" for problem in problems],
        pool.correct(),
        np.concatenate(tokens),
        ids=[problem.id for problem in problems],
        problem_set=of,
    )
    effects = None if plan.study is None else _effects(pool, plan.study)
    return Cell(model, of, subject, analysis, effects, str(runs[0].manifest["options"]["model"]["dtype"]))


def _effects(pool: Pool, name: str) -> xr.DataArray:
    """What the cuts that all draws made do to each problem."""
    parts = []
    for run, mask in zip(pool.runs, pool.chosen, strict=True):
        made = reports.open_effects(run, name)
        changed = paired_differences(made)[RANKED_BY]
        counting = {problem.id for problem, here in zip(run.problems(), mask, strict=True) if here}
        kept = changed.isel(
            intervention=np.flatnonzero(changed["kind"].values == "cut"),
            problem=np.flatnonzero([name in counting for name in changed["problem"].values]),
        )
        others = [name for name in kept.coords if name not in ("intervention", "problem", "family", "unit")]
        parts.append(kept.drop_vars(others))
    shared = [name for name in parts[0]["intervention"].values if all(name in of["intervention"] for of in parts)]
    return xr.concat([of.sel(intervention=shared) for of in parts], "problem", coords="minimal", compat="override")


def _write(
    folder: Path,
    plan: SurveyPlan,
    runs: Mapping[tuple[str, str, int], Run],
    cells: Sequence[Cell],
    compared: SurveyComparison,
    call: str,
) -> Json:
    """Write the comparison: tables, figures and their summary."""
    import pandas as pd

    rows = survey_status(folder)
    facts: Json = {
        "runs": rows,
        "findings": [{"about": of.about, "text": of.text} for of in compared.findings],
        "warnings": compared.warnings,
        "on_all": compared.tables["claims_on_all"].to_dict("records"),
        "made_by": made_by(call, *(run.manifest for run in runs.values()), seed=0),
    }
    # What an interrupted command leaves must not pass for the comparison that was there before.
    (folder / SUMMARY).unlink(missing_ok=True)
    written = [write_table(folder / "runs.csv", pd.DataFrame(rows))]
    written += [write_table(folder / f"{name}.csv", table) for name, table in compared.tables.items()]
    written += save_figures(folder, _figures(plan, compared), facts["made_by"])
    write_json(folder / SUMMARY, facts)
    return facts | {"files": [str(path) for path in (folder / SUMMARY, *written)]}


_EFFECT: Final = Words("cut", "What cutting costs", "change of log-probability, nats", in_rows=True)


def _figures(plan: SurveyPlan, compared: SurveyComparison) -> dict[str, "Figure"]:
    """A figure of the models for each set, and of the sets for each model, where there are two or more of them."""
    models, sets = ([of.name for of in its] for its in (plan.models, plan.problems))
    asked: list[tuple[str, str, list[str], list[str]]] = []
    if len(models) > 1:
        asked += [(f"models_on_{file_name(of)}", of, [f"{name} on {of}" for name in models], models) for of in sets]
    if len(sets) > 1:
        asked += [(f"sets_of_{file_name(name)}", name, [f"{name} on {of}" for of in sets], sets) for name in models]
    effects = compared.tables["cut_effects"]
    heads = effects["cut"][effects["family"].isin([HEADS, KV_GROUPS])].tolist()
    found = {}
    for name, (_, where, labels, shown) in zip(unique([of[0] for of in asked]), asked, strict=True):
        kept = [of for of in (*PANELS, "effect") if of in compared.values]
        numbers = compared.values[[*kept, "n"]].sel(cell=labels).rename(cell="model")
        numbers = numbers.assign_coords(model=text(shown))
        numbers = numbers.sel(part=(numbers["composition"].fillna(0.0) != 0.0).any(["model", "value"]).values)
        if "effect" in numbers:
            if shown is models:  # whose heads are not matched
                numbers = numbers.isel(cut=~np.isin(numbers["cut"].values, heads))
            size = abs(numbers["effect"].sel(value="estimate")).max("model").fillna(-1.0)
            most = [
                place for place in np.argsort(-size.values, kind="stable")[:_MOST_CUTS] if size.values[place] >= 0.0
            ]
            numbers = numbers.isel(cut=sorted(most))
        notes = ("lines: 95 % intervals over problems", "dashed: an even share")
        title = f"Models on {where}" if shown is models else f"{where} on each set"
        found[name] = draw_models(numbers, title=title, notes=notes, words=PANELS | {"effect": _EFFECT})
    return found


def _page_of(compared: SurveyComparison) -> Json:
    """The comparison as the page shows it beside the runs."""
    own: Json = {}
    names = ("estimate", "low", "high")
    table = compared.tables["cells"]
    for row in table[table["position"] == ""].to_dict("records"):
        side = own.setdefault(f"{row['model']} on {row['problems']}", {"n": row["n"]})
        side[row["measure"]] = {name: row[name] for name in names}
    rows = table[table["measure"] == "preference"]
    for _, its in rows.groupby(["model", "problems"]):
        row = max(its.to_dict("records"), key=lambda of: of["estimate"])
        most = {"thought": row["position"]} | {name: row[name] for name in names}
        own[f"{row['model']} on {row['problems']}"]["preferred"] = most
    pairs: dict[tuple[str, str, str], Json] = {}
    table = compared.tables["differences"]
    for row in table[table["position"] == ""].to_dict("records"):
        key = (row["where"], row["side"], row["minus"])
        pair = pairs.setdefault(key, {"of": f"{row['where']}: {row['side']}", "minus": row["minus"]})
        if not row["accuracy_enough"]:
            pair["minus"] = f"{row['minus']} (accuracy too low for all but itself)"
        pair[row["measure"]] = {name: row[name] for name in (*names, "p", "p_holm")}
    profiles = {
        name: {
            "positions": [str(place) for place in compared.values[name][dim].values],
            "of": {
                str(cell): compared.values[name].sel(cell=cell).transpose(dim, "value").values
                for cell in compared.values["cell"].values
            },
        }
        for name, dim in (("preference", "thought"), ("lag_preference", "lag"), ("composition", "part"))
    }
    from thoughtlens.reports.page_data import clean  # imports torch

    shown: Json = clean({"own": own, "differences": list(pairs.values()), "profiles": profiles})
    lead = "Each model on each set, problems of all draws together; then sets within a model, and models within a set."
    return shown | {"notes": compared.warnings, "findings": compared.findings, "lead": lead}
