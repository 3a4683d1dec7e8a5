"""The commands on runs, from `run` and `sample` to `compare` and `status`.

In: options. Out: what the library writes, and on stdout what it found.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import thoughtlens as tl
from thoughtlens import evaluation, published, reports, runs, surveys
from thoughtlens import problems as problem_sets
from thoughtlens.cli import closing_texts, terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import (
    DEFAULT_COUNT,
    DEFAULT_MODEL,
    DEFAULT_PROBLEMS,
    OWN_PROBLEMS,
    Address,
    Alpha,
    AnalysisName,
    AsJson,
    Base,
    BatchSize,
    Count,
    Device,
    EngineName,
    Field,
    Full,
    Holdout,
    HoldoutSeed,
    Keep,
    KnownAs,
    MaxNewTokens,
    Mode,
    Model,
    NoReport,
    Out,
    PaddingProtocol,
    Pattern,
    Precision,
    Problems,
    RandomWeights,
    ReadingRule,
    Record,
    Revision,
    RunFolder,
    Seed,
    SetRevision,
    Shard,
    ShardSize,
    Split,
    Thoughts,
    Workers,
    are_runs,
    batch_size_named,
    check_model,
    engine_named,
    fields_of,
    load_model,
    within,
)
from thoughtlens.errors import OptionError


@dataclass(frozen=True)
class Extraction:
    """The options of an extraction: the model, how problems are read, and what is recorded where."""

    model: Model = DEFAULT_MODEL
    base: Base = None
    revision: Revision = None
    alpha: Alpha = None
    split: Split = None
    field: Field = None
    problems_revision: SetRevision = None
    thoughts: Thoughts = None
    batch_size: BatchSize = "auto"
    device: Device = None
    dtype: Precision = "auto"
    engine: EngineName = "local"
    workers: Workers = None
    address: Address = None
    random_weights: RandomWeights = None
    record: Record = None
    keep: Keep = "raw"
    shard_size: ShardSize = None
    shard: Shard = None
    mode: Mode = "latent"
    known_as: KnownAs = None
    protocol: PaddingProtocol = "exact"
    answer_rule: ReadingRule = "strict"
    max_new_tokens: MaxNewTokens = None


def _extracted(
    asked: Extraction,
    problems: str,
    to: Path,
    *,
    n: int | None = None,
    seed: int = 0,
    most: int | None = None,
    readings: bool = True,
    as_json: bool,
) -> "runs.Run | None":
    """The run, if asked with the readings that its report shows; None where other processes have shards to do yet."""
    engine = engine_named(asked.engine, workers=asked.workers, address=asked.address)
    names = ("base", "revision", "alpha", "dtype", "device", "mode", "known_as", "answer_rule")
    which = {name: getattr(asked, name) for name in names}
    check_model(asked.model, **which)
    whole = tl.load_set(problems, asked.split, fields=fields_of(asked.field), revision=asked.problems_revision)
    chosen = tl.draw(whole, n, seed, most=most)
    reasoner = load_model(asked.model, asked.random_weights, **which)
    from thoughtlens.reasoning.loop import MAX_NEW_TOKENS  # imports torch
    from thoughtlens.runs.extraction import KEEPS

    done = runs.extract_part(
        asked.shard,
        reasoner,
        chosen,
        to,
        n_thoughts=asked.thoughts,
        batch_size=batch_size_named(asked.batch_size),
        shard_size=asked.shard_size,
        record=asked.record or (),
        keep=KEEPS[asked.keep],
        max_new_tokens=asked.max_new_tokens or MAX_NEW_TOKENS,
        engine=engine,
        protocol=asked.protocol,
    )
    if done is not None and readings and done.manifest["options"]["n_thoughts"]:
        with terminal.working("read thoughts"):
            evaluation.write_readings(done, reasoner)
    closing_texts.tell_assumptions(reasoner, as_json=as_json)
    if done is None:
        closing_texts.tell_part(to, asked.shard, runs.status(to), as_json=as_json)
    return done


def _group(given: str) -> tuple[str, list[str]]:
    name, equals, places = given.partition("=")
    if not equals or not name or not all(_listed(places)):
        raise OptionError(f"--group is {given!r}, expected NAME=RUN,RUN,…, such as codi=runs/a0,runs/a1; write it so.")
    return name, list(_listed(places))


def _listed(given: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in given.split(","))


@app.command()
def run(
    *,
    problems: Annotated[
        str | None,
        typer.Option(
            "--problems", help="A named set (`thoughtlens problems`) or a file; arithmetic, or a written model's own."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many problems; 100 at most if not given.")] = None,
    seed: Seed = 42,
    to: Out = Path("runs/first"),
    asked: Extraction,
    no_report: NoReport = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Everything in order: sample, extract, analyze, plot, report."""
    named = problems or OWN_PROBLEMS.get(asked.model, DEFAULT_PROBLEMS)
    how: dict[str, Any] = {"n": n, "seed": seed, "most": DEFAULT_COUNT, "readings": not no_report}
    done = _extracted(asked, named, to, **how, as_json=as_json)
    if done is None:
        return
    if (mass := evaluation.padding_mass(done)) is not None and not as_json:
        told = f"{asked.protocol}: the thoughts give {mass:.1%} of their attention to padding."
        terminal.tell({}, told, as_json=False)
    if not done.manifest["options"]["n_thoughts"]:
        closing_texts.close_without_thoughts(reports.summary_without_thoughts(done), as_json=as_json)
        return
    with terminal.working("analyze"):
        found = tl.analyze(done)
    facts = reports.write_reports(done, found)
    if not no_report:
        with terminal.working("report"):
            facts |= {"report": str(reports.write_report(done).path)}
    from thoughtlens.reports.sentences import cut_short  # imports xarray

    closing_texts.close_run(done, found, facts, full=full, as_json=as_json, short=cut_short(done))


@app.command()
def sample(
    problems: Problems,
    to: Annotated[Path, typer.Option("--out", help="The .jsonl file to write.")],
    n: Count = None,
    seed: Seed = 42,
    split: Split = None,
    field: Field = None,
    problems_revision: SetRevision = None,
    as_json: AsJson = False,
) -> None:
    """Draw problems from a set and write them to a file."""
    chosen = tl.draw(tl.load_set(problems, split, fields=fields_of(field), revision=problems_revision), n, seed)
    problem_sets.write_problems(to, chosen.problems)
    facts = {"file": str(to), "n": len(chosen.problems), "fingerprint": chosen.fingerprint, "revision": chosen.revision}
    terminal.tell(facts, f"{len(chosen.problems)} problems of {chosen.name} in {to}", as_json=as_json)


@app.command()
def extract(*, problems: Problems, to: Out, asked: Extraction, as_json: AsJson = False) -> None:
    """Let a model think about every problem and record its attention."""
    done = _extracted(asked, problems, to, as_json=as_json)
    if done is None:
        return
    from thoughtlens.analysis.cautions import precision_in_words, precision_warnings  # imports xarray
    from thoughtlens.reports.sentences import cut_short

    facts = {"run": str(done.path), "n": done.manifest["layout"]["n_problems"], "seconds": done.manifest["seconds"]}
    said = f"{facts['n']} problems in {done.path}; next: thoughtlens analyze {done.path}"
    if precise := done.manifest.get("precision"):
        facts["precision"] = precise
        same = precise["dtype"] == done.manifest["options"]["model"]["dtype"]
        warned = [f"Warning: {warning}" for warning in precision_warnings(precise) if same]
        said = "\n".join([*warned, precision_in_words(precise), said])
    if short := cut_short(done):
        said = f"{short}\n{said}"
    terminal.tell(facts, said, as_json=as_json)


@app.command()
def analyze(
    folder: RunFolder,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="Also for groups of problems: correct, n_steps; repeatable.")
    ] = None,
    pattern: Pattern = "attention",
    null: Annotated[
        list[Path] | None,
        typer.Option(
            "--null", metavar="RUN", callback=are_runs, help="Also beyond this run of random weights; repeatable."
        ),
    ] = None,
    null_draws: Annotated[
        int,
        typer.Option(
            "--null-draws",
            metavar="N",
            callback=within("--null-draws", 0),
            help="Also beyond N models of random weights, made in RUN/nulls.",
        ),
    ] = 0,
    holdout: Holdout = None,
    holdout_seed: HoldoutSeed = 0,
    name: Annotated[
        str | None, typer.Option("--name", help="Of RUN/analysis/NAME; a digest of the options if they are given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another analysis of this name.")] = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Summarise a run: composition, hubs, sequential flow, skips, top heads."""
    done, over = tl.open_run(folder), [tl.open_run(each) for each in null or ()]
    if null_draws:
        over += runs.random_weight_runs(done, null_draws, pattern=pattern)
    with terminal.working("analyze"):
        held: dict[str, Any] = {"holdout": holdout, "holdout_seed": holdout_seed}
        found = tl.analyze(done, by=by or (), pattern=pattern, null=over, name=name, force=force, **held)
        facts = tl.reports.write_reports(done, found, figures=False)
    closing_texts.close_run(done, found, facts, full=full, as_json=as_json)


@app.command()
def plot(
    folder: RunFolder,
    layers: Annotated[str | None, typer.Option("--layers", help="Layers whose maps are drawn: 0,4,8.")] = None,
    heads: Annotated[str | None, typer.Option("--heads", help="Heads that are drawn, not the top: L4H5,L2H1.")] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", callback=within("--top", 1), help="How many top heads are drawn; 9 if not given."),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="What the map and ranking of heads show.")] = "importance",
    step_indexed: Annotated[
        bool, typer.Option("--step-indexed", help="Draw the figures of the 2025 scripts, as they indexed thoughts.")
    ] = False,
    analysis: AnalysisName = None,
    as_json: AsJson = False,
) -> None:
    """Draw the figures of a run."""
    if layers is not None and not all(number.isdecimal() for number in _listed(layers)):
        raise OptionError(f"--layers is {layers!r}, expected numbers such as 0,4,8; write them so.")
    chosen: dict[str, Any] = {"heads": None if heads is None else _listed(heads), "top": top, "metric": metric}
    numbers = None if layers is None else [*map(int, _listed(layers))]
    done = tl.open_run(folder)
    drawn = reports.write_figures(done, analysis, layers=numbers, step_indexed=step_indexed, **chosen)
    paths = [str(path) for path in drawn]
    terminal.tell({"figures": paths}, "\n".join(paths), as_json=as_json)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN…", callback=are_runs, help="A run folder, or several to compare.")
    ],
    to: Annotated[
        Path | None, typer.Option("--out", help="The file; RUN/report.html if not given. Several runs need one.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of each run, in order; the models' names if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One HTML page of everything in a run, or in several, which opens anywhere and needs no network."""
    found = reports.labelled([tl.open_run(folder) for folder in folders], label or [])
    with terminal.working("report"):
        page = reports.write_report(found, to)
    terminal.tell({"report": str(page.path), "bytes": page.n_bytes}, f"report: {page.path}", as_json=as_json)


def _known_format(name: str) -> str:
    if name != "npy":
        raise OptionError(f"no format {name!r}; the only one is npy.")
    return name


@app.command()
def export(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN…", callback=are_runs, help="A run folder, or several.")],
    format: Annotated[
        str,
        typer.Option("--format", is_eager=True, callback=_known_format, help="npy: the files of the 2025 scripts."),
    ] = "npy",
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder; RUN/export if not given. Several runs need one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write runs as the files of other tools; several also side by side."""
    if len(folders) > 1 and to is None:
        raise OptionError(f"{len(folders)} runs were given without a folder for them; name one with --out.")
    found, note = [tl.open_run(folder) for folder in folders], published.STEP_INDEXED_NOTE
    with terminal.working("export"):
        if to is None or len(found) == 1:
            paths = published.export_npy(found[0], to)
        else:
            paths = published.export_runs(found, to)
    facts = {"files": [str(path) for path in paths], "note": note}
    terminal.tell(facts, "\n".join([*facts["files"], note]), as_json=as_json)


@app.command()
def compare(
    to: Annotated[Path, typer.Option("--out", help="The folder to write to; it holds one comparison.")],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN RUN …", callback=are_runs, help="Run folders; the first is the base."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME=RUN,RUN,…", help="Seeds of a recipe, in the place of runs; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of each run, in order; the models' names if not given.")
    ] = None,
    holdout: Holdout = None,
    holdout_seed: HoldoutSeed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace another comparison in the folder.")] = False,
    no_report: NoReport = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs: where models attend, by depth, and how well they do."""
    if group and (folders or label):
        raise OptionError("found --group beside runs or --label; name runs alone, or groups alone.")
    recipes = dict(_group(given) for given in group or ())
    places = [Path(place) for its in recipes.values() for place in its] if recipes else folders or []
    names = [place for its in recipes.values() for place in its] or label or []
    compared = reports.labelled([runs.open_run(place) for place in places], names)
    with terminal.working("compare"):
        held: dict[str, Any] = {"holdout": holdout, "holdout_seed": holdout_seed}
        facts = reports.write_comparison(to, compared, recipes=recipes or None, force=force, **held)
    if not (no_report or recipes):
        with terminal.working("report"):
            page = reports.write_report(compared, to / "report.html", **held)
        facts |= {"report": str(page.path)}
    shown = {"recipes": bool(recipes), "full": full, "as_json": as_json}
    closing_texts.close_comparison(to, [*(recipes or compared)], places[-1], facts, **shown)


@app.command()
def survey(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Models, problems, seeds, groups and options.")],
    to: Annotated[Path, typer.Option("--out", help="The folder of the survey; one that was stopped goes on.")] = Path(
        "runs/survey"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try a few problems, and say how many passes, hours and bytes.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the comparison of another survey in the folder; its runs stay.")
    ] = False,
    no_report: NoReport = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Measure and cut every model on every problem set of a file, and compare them all."""
    asked = surveys.read_survey(file)

    def say(what: str) -> None:
        typer.echo(terminal.visible(what), err=True)

    if dry_run:
        facts = surveys.estimate_survey(asked, to, say=say)
        closing_texts.tell_forecast(facts, as_json=as_json)
        return
    facts = surveys.survey(asked, to, force=force, report=not no_report, say=say)
    closing_texts.close_survey(to, facts, full=full, as_json=as_json)


def _run_or_survey(folder: Path) -> Path:
    if (folder / "survey.json").is_file():
        return folder
    return are_runs([folder])[0]  # type: ignore[index]  # a list is given


@app.command()
def status(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", callback=_run_or_survey, help="A run folder, or that of a survey.")
    ],
    as_json: AsJson = False,
) -> None:
    """How far a run is, and what has been made of it; of a survey the table of its runs."""
    if (folder / "survey.json").is_file():
        closing_texts.tell_survey(folder, surveys.survey_status(folder), as_json=as_json)
        return
    closing_texts.tell_status(folder, runs.status(folder), reports.contents(folder), as_json=as_json)
