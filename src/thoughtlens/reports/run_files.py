"""The tables and figures of a run, in its folder.

    RUN/analysis/        summary.json, and tidy tables as CSV, of the analysis with the default options
    RUN/analysis/NAME/   the same of another analysis, and where it was asked for:
        by_correct/, by_n_steps/    groups.csv, and the same files in a folder for each group: solved, failed; 2, 3, …
        over_null/                  summary.json, evidence_model.csv, evidence_layer.csv, evidence_head.csv
    RUN/analysis/question_attention.json   attention to each token of some questions
    RUN/figures/         each figure as PNG, SVG and PDF; its folder step_indexed/, what the 2025 scripts drew

in: a run and its analysis; out: these files, and their headline numbers as a dict. All of them can be made again from
the run; nothing here measures anything.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from thoughtlens import plots
from thoughtlens.analysis import (
    Analysis,
    analysis_tables,
    analyze,
    comparison_headline,
    group_table,
    headline,
    open_analysis,
    proportion_interval,
)
from thoughtlens.analysis.cautions import LEAST_SHOWN, shown_of_analysis, warnings_of
from thoughtlens.analysis.headlines_and_tables import evidence_tables, null_headline
from thoughtlens.files import Json, call_of, file_name, only_writer, read_json, unique, write_json, write_table, writing
from thoughtlens.notation import ANSWER, thought_names
from thoughtlens.progress import counting
from thoughtlens.published.step_indexed_scores import step_indexed
from thoughtlens.reports.sentences import counts_of, percent_with_interval, with_interval
from thoughtlens.runs.reader import ANALYSIS, DEFAULT, REPORT, STUDIES, Run
from thoughtlens.runs.writer import MANIFEST, made_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY: Final = "summary.json"
EFFECTS_SUMMARY: Final = "effects_summary.json"
FIGURES: Final = "figures"
STEP_INDEXED: Final = "step_indexed"


def write_reports(run: Run, analysis: Analysis | None = None, *, figures: bool = True) -> dict[str, Any]:
    """Write the tables and figures of a run, and give their headline numbers.

    Args:
        run: the run.
        analysis: of it; if None, that with the default options, made if it is not there yet.
        figures: whether figures are drawn.

    Returns:
        The headline numbers of `summary`, and with figures `figures`, the paths of their PNG files.

    Raises:
        RunError: the folder can't be written.

    Example:
        Write everything, and show the accuracy.

            write_reports(open_run("runs/first"))["accuracy"]
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
        `warnings`, `pattern`, `model`, `problems`, `intervals_over`, `n_thoughts`, `indexing`, `n_answer_rows`,
        `shares` (the mean share of each part of the context in the rows of the thoughts), all that `headline` gives;
        `groups`, a list, if the problems were grouped; `over_null` if there were null models; `precision`, how far half
        precision moves numbers, if the run has it;
        `flat`, the headline numbers as one row for `pandas.json_normalize`; and `made_by`, the call, seed, names and
        versions.

    Example:
        Accuracy with its interval.

            summary(run, analyze(run))["accuracy"]
    """
    options, n_blocks = run.manifest["options"], analysis.model.attrs.get("n_blocks")
    more = {"groups": [_groups_headline(analysis, by) for by in analysis.groups], "over_null": null_headline(analysis)}
    precision = run.manifest.get("precision")
    facts = {
        "warnings": warnings_of(analysis, dtype=str(options["model"].get("dtype", "")), precision=precision),
        "pattern": analysis.options["pattern"],
        "model": options["model"],
        "problems": options["problems"],
        "intervals_over": "problems" if n_blocks is None else f"{n_blocks} blocks of problems",
        "n_thoughts": options["n_thoughts"],
        "indexing": "thought-indexed: row z1 is the query made when z1 is the input; self-attention is apart",
        "n_answer_rows": int(analysis.composition["n"].sel(query=ANSWER)),
        "shares": shares_of(analysis),
        **headline(analysis),
        **{name: said for name, said in more.items() if said},
        **({"precision": precision} if precision else {}),
    }
    return {**facts, "flat": flat(facts), "made_by": _made_by(run, analysis)}


def summary_without_thoughts(run: Run) -> Json:
    """The headline numbers of a run in a mode without thoughts, of which there is nothing to analyze.

    Args:
        run: the run.

    Returns:
        `run`, its path, `n` problems, `n_thoughts`, which is 0, and `accuracy` with its interval.

    Example:
        How often does a model answer rightly without thoughts?

            summary_without_thoughts(extract(load(name, mode="direct"), problems, "runs/direct"))["accuracy"]
    """
    correct = run.correct()
    found = proportion_interval(int(correct.sum()), len(correct))
    accuracy = dict(zip(("estimate", "low", "high"), found.values.tolist(), strict=True))
    return {"run": str(run.path), "n": len(correct), "n_thoughts": 0, "accuracy": accuracy}


def contents(folder: Path) -> list[Json]:
    """What the folder of a run holds beside the run: analyses, studies, figures and the report.

    Args:
        folder: of the run, which may be unfinished.

    Returns:
        Of each its `kind`, `name`, `n` (None where it is not of problems), `date`, the `command` that made it, and a
        `headline`: what it says, in a line.

    Example:
        Which studies have been made?

            [of["name"] for of in contents(run.path) if of["kind"] == "study"]
    """
    return [*_analyses_in(folder), *_studies_in(folder), *_pages_in(folder)]


def _analyses_in(folder: Path) -> Iterator[Json]:
    for path in sorted(folder.glob(f"{ANALYSIS}/{SUMMARY}")) + sorted(folder.glob(f"{ANALYSIS}/*/{SUMMARY}")):
        name, facts = DEFAULT if path.parent.name == ANALYSIS else path.parent.name, _read(path)
        told = {"date": _date(path), "command": facts.get("made_by", {}).get("call", ""), "headline": _line_of(facts)}
        yield {"kind": "analysis", "name": name, "n": facts.get("n"), **told}


def _line_of(facts: Json) -> str:
    """What an analysis found."""
    if "accuracy" not in facts:
        return "made by another version"
    hub = facts["hub"]["thought"]
    said = [f"accuracy {percent_with_interval(facts['accuracy'])}", f"hub {hub}" if hub else "no hub shown"]
    said += [counts_of(facts["types"])] if facts["types"] else []
    return "; ".join([*said, *(f"by {of['by']}" for of in facts.get("groups", ()))])


def _studies_in(folder: Path) -> Iterator[Json]:
    for path in sorted(folder.glob(f"{STUDIES}/*/{MANIFEST}")):
        found, made = _read(path), path.parent / EFFECTS_SUMMARY
        finished, calls = found.get("finished"), [version["call"] for version in found.get("plans", ())]
        line = "not finished; the same command goes on with it"
        if finished and made.is_file():
            line = _line_of_study(_read(made))
        told = {"date": str(finished or _date(path))[:10], "command": "; then ".join(calls), "headline": line}
        yield {"kind": "study", "name": path.parent.name, "n": found.get("n"), **told}


def _line_of_study(facts: Json) -> str:
    """What a study found."""
    if "n_significant" not in facts:
        return "made by another version"
    said = f"{facts['n_cuts']} cuts, {facts['n_significant']['joint_logprob']} with an effect shown (Holm)"
    if facts["top"]:
        most = facts["top"][0]
        said += f"; {most['cut']} costs most, {with_interval(most['joint_logprob'])} nats"
    return said


def _pages_in(folder: Path) -> Iterator[Json]:
    if drawn := sorted((folder / FIGURES).glob("*.png")):
        told = {"command": f"thoughtlens plot {folder}", "headline": ", ".join(path.stem for path in drawn)}
        kind, name = f"{len(drawn)} figures in", str(folder / FIGURES)
        yield {"kind": kind, "name": name, "n": None, "date": _date(drawn[-1]), **told}
    if (page := folder / REPORT).is_file():
        told = {"command": f"thoughtlens report {folder}", "headline": "everything on one page, for a browser"}
        yield {"kind": "report", "name": str(page), "n": None, "date": _date(page), **told}


def _read(path: Path) -> Json:
    found = read_json(path, remedy="delete it")
    return found if isinstance(found, dict) else {}


def _date(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()


def _made_by(run: Run, analysis: Analysis) -> Json:
    call = call_of("analyze", **{name: of for name, of in analysis.options.items() if name != "null"})
    return made_by(call, run.manifest, seed=analysis.options["seed"])


def flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The headline numbers of a run as one row without nesting: numbers and names alone."""
    named = {name: facts[name].get("name") for name in ("model", "problems")}
    measured = {name: facts[name] for name in ("accuracy", "sequential", "skip")}
    numbers = {
        name + suffix: of[value]
        for name, of in measured.items()
        for value, suffix in (("estimate", ""), ("low", "_low"), ("high", "_high"))
    }
    hub, types = facts["hub"], facts["types"] or {}
    return {
        **named, "n": facts["n"], "n_thoughts": facts["n_thoughts"], **numbers,
        "hub": hub["thought"], "hub_strength": hub["strength"], "hub_p": hub["p"],
        "n_hub_heads": facts["hub_heads"]["n_heads"], "n_heads": facts["hub_heads"]["of"],
        **{f"n_{name.replace('-', '_').replace(' ', '_')}": n for name, n in types.items()},
        "reliability": facts["ranking"]["reliability"],
        "top_head": next((head["name"] for head in facts["top_heads"]), None),
    }  # fmt: skip


def shares_of(analysis: Analysis) -> dict[str, float | None]:
    """The mean share of each part in the rows of the thoughts."""
    rows = analysis.composition["composition"].sel(
        value="estimate", query=thought_names(analysis.last_thought.sizes["thought"] + 1)
    )
    means = zip(rows["part"].values, rows.mean("query").values.tolist(), strict=True)
    return {str(name): float(share) if np.isfinite(share) else None for name, share in means}


def write_analysis(run: Run, analysis: Analysis, facts: Mapping[str, Any], out: Path | None = None) -> list[Path]:
    """Write the headline numbers and the tables of an analysis.

    Args:
        run: the run.
        analysis: of it, or of some of its problems.
        facts: as `summary` gives them.
        out: folder; that of the analysis, `RUN/analysis` or `RUN/analysis/NAME`, if None.

    Returns:
        The paths of the files.

    Raises:
        RunError: the folder can't be written.

    Example:
        Tables of the pattern weighted by values.

            weighted = analyze(run, pattern="value-weighted")
            write_analysis(run, weighted, summary(run, weighted))
    """
    with only_writer(out or run.path / ANALYSIS / (analysis.options["name"] or "")) as folder:
        step = step_indexed(analysis.moments["mean"]).rename("mean").to_dataframe().reset_index()
        written = _write_tables(folder, facts, analysis_tables(analysis) | {"step_indexed": step})
        if analysis.over_null is not None:
            tables = evidence_tables(shown_of_analysis(analysis).over_null or analysis.over_null)
            of_nulls = {**facts["over_null"], "made_by": facts["made_by"]}
            written += _write_tables(folder / "over_null", of_nulls, tables)
    for by, grouped in analysis.groups.items():
        table = group_table(grouped, without=_empty(by))
        written += _write_tables(folder / f"by_{by}", None, {"groups": table})
        for name, alone in analysis.parts[by].items():
            written += write_analysis(run, alone, summary(run, alone), folder / f"by_{by}" / name)
    return written


def write_question_attention(run: Run, found: Sequence[xr.Dataset], *, n_top: int = 5) -> Json:
    """Write attention to the tokens of questions as JSON, and draw it, a figure a problem.

    Args:
        run: the run.
        found: a Dataset a problem, as `evaluation.question_attention` gives them.
        n_top: how many top tokens of each position are named.

    Returns:
        `file`, the path of `question_attention.json`, and what it holds: `measure`, in words, `model`, and `problems`,
        of each its id, question, tokens, attention by query (None where the row does not exist) and top tokens by
        query; `figures`, the paths of the figures.

    Raises:
        RunError: the folder can't be written.

    Example:
        Which tokens does z1 attend to most in the first problem of a run?

            found = question_attention(reasoner, run.problems()[:1])
            write_question_attention(run, found)["problems"][0]["top"]["z1"]
    """
    facts: Json = {
        "measure": "mean over layers and heads of the attention of each position to each token of the question",
        "problems": [_question_facts(of_problem, n_top) for of_problem in found],
    }
    with only_writer(run.path / ANALYSIS) as folder:
        path = folder / "question_attention.json"
        made = made_by(call_of("question_attention"), run.manifest)
        facts["made_by"] = made
        write_json(path, {"model": run.manifest["options"]["model"], **facts})
    names = unique([file_name(str(of_problem.attrs["problem"])) for of_problem in found])
    named = {name: run.manifest["options"][name]["name"] for name in ("model", "problems")}
    drawn = {
        f"question_tokens_{name}": plots.question_tokens(of_problem.assign_attrs(named))
        for name, of_problem in zip(names, found, strict=True)
    }
    figures = save_figures(run.path / FIGURES, drawn, made)
    return {"file": str(path), "figures": [str(figure) for figure in figures], **facts}


def _question_facts(found: xr.Dataset, n_top: int) -> Json:
    rows = zip(found["query"].values, found["attention"].values, strict=True)
    return {
        "id": found.attrs["problem"],
        "question": found.attrs["question"],
        "tokens": [str(token) for token in found["text"].values],
        "attention": {str(query): row.tolist() if np.isfinite(row).all() else None for query, row in rows},
        "top": top_tokens(found, n=n_top),
    }


def top_tokens(found: xr.Dataset, *, n: int = 5) -> dict[str, list[Json]]:
    """The tokens of a question that each position attends to most, by query; none where the row does not exist."""
    texts = [str(token) for token in found["text"].values]
    tops = {}
    for query, row in zip(found["query"].values, found["attention"].values, strict=True):
        order = np.argsort(-row, kind="stable")[:n].tolist() if np.isfinite(row).all() else []
        tops[str(query)] = [{"token": place, "text": texts[place], "attention": float(row[place])} for place in order]
    return tops


def save_figures(folder: Path, drawn: "Mapping[str, Figure]", made: Json) -> list[Path]:
    """Write figures, each in files of its name which say how they were `made`, into a folder; return their paths."""
    about, paths = json.dumps(made, ensure_ascii=False), []
    with only_writer(folder), counting("draw", len(drawn)) as advance:
        for name, figure in drawn.items():
            paths += plots.save_figure(figure, folder / name, about=about)
            advance(1)
    return paths


def write_figures(
    run: Run,
    analysis: Analysis | str | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[str] | None = None,
    top: int | None = None,
    metric: str = "importance",
    step_indexed: bool = False,
) -> list[Path]:
    """Draw the figures of an analysis, each in a file named like what it shows.

    Args:
        run: the run.
        analysis: of it, or the name of one in its folder; that with the default options if None.
        layers: layers whose maps are drawn; all if None.
        heads: names of the heads that are drawn, such as `L4H5`; the first by importance if None.
        top: how many heads are drawn where none are named; as many as each figure has by itself if None.
        metric: what the map and the ranking of heads show.
        step_indexed: draw what the 2025 scripts drew, as they indexed thoughts, into a folder of its own.

    Returns:
        The paths of the files, a PNG, an SVG and a PDF for each figure.

    Raises:
        OptionError: a layer, head or metric is unknown.
        RunError: the folder can't be written, or the run has no analysis of this name.

    Example:
        Draw two heads by the strength of their hubs.

            write_figures(run, heads=["L4H5", "L2H1"], metric="hub strength")
    """
    # Drawn with matplotlib, which is slow to import and needed nowhere else here.
    from thoughtlens.plots.attention_maps import pick_heads
    from thoughtlens.plots.heads import Choice
    from thoughtlens.published.step_indexed_files import step_figures

    chosen = None if layers is None else tuple(layers)
    choice = Choice(chosen, None if heads is None else tuple(heads), top, metric)
    if not isinstance(analysis, Analysis):
        analysis = analyze(run) if analysis is None else open_analysis(run, analysis)
    made = _made_by(run, analysis)
    if step_indexed:
        return save_figures(run.path / FIGURES / STEP_INDEXED, step_figures(analysis, choice), made)
    few: dict[str, Any] = {"heads": choice.heads} | ({} if top is None else {"top": top})
    analysis = shown_of_analysis(analysis)
    figures: dict[str, Callable[[], Figure]] = {
        "head_maps": partial(plots.head_maps, analysis, **few),
        "layer_means": partial(plots.layer_means, analysis, layers=choice.layers),
        "row_composition": partial(plots.row_composition, analysis),
        "composition_by_layer": partial(plots.composition_by_layer, analysis),
        "hub_profile": partial(plots.hub_profile, analysis),
        "lag_profile": partial(plots.lag_profile, analysis),
        "skip_profile": partial(plots.skip_profile, analysis),
        "depth_profile": partial(plots.depth_profile, analysis),
        "head_map": partial(plots.head_map, analysis, metric=metric),
        "head_ranking": partial(plots.head_ranking, analysis, metric=metric, **few),
        "metric_distributions": partial(plots.metric_distributions, analysis),
        "head_counts": partial(plots.head_counts, analysis),
    }
    if int(analysis.model["n"]) < LEAST_SHOWN:
        if heads is not None:
            pick_heads(analysis.ranking, heads)  # refuses unknown ones, as the figures that are left out would
        figures = {name: of for name, of in figures.items() if "head" not in name and name != "metric_distributions"}
    drawn = {name: draw() for name, draw in figures.items()}
    return save_figures(run.path / FIGURES, drawn, made)


def _groups_headline(analysis: Analysis, by: str) -> Json:
    """The headline numbers of each group and of the differences, with what was left out."""
    grouped = analysis.groups[by]
    return {"by": by, **comparison_headline(grouped, without=_empty(by)), "notes": list(grouped.notes)}


def _empty(by: str) -> tuple[str, ...]:
    """Measures that say nothing of groups: solved problems are solved."""
    return ("accuracy",) if by == "correct" else ()


def _write_tables(folder: Path, facts: Mapping[str, Any] | None, tables: Mapping[str, pd.DataFrame]) -> list[Path]:
    with writing(folder):
        written = [write_table(folder / f"{name}.csv", table) for name, table in tables.items()]
        if facts is not None:
            write_json(folder / SUMMARY, facts)
            written.insert(0, folder / SUMMARY)
        return written
