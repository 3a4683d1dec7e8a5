"""What the commands share: each stage, with its progress on stderr, from options to what it leaves.

Heavy modules are imported inside the functions, so that `--help` answers at once.

Commands that measure: a sample, a run, its analysis, its figures, its export.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtlens.cli import terminal
from thoughtlens.cli.app import (
    DEFAULT_COUNT,
    DEFAULT_MODEL,
    DEFAULT_PROBLEMS,
    Address,
    Alpha,
    AsJson,
    Base,
    BatchSize,
    Count,
    Device,
    EngineName,
    Field,
    Keep,
    Model,
    Out,
    Pattern,
    Precision,
    Problems,
    RandomWeights,
    Record,
    Revision,
    RunFolder,
    Seed,
    SetRevision,
    ShardSize,
    Split,
    Thoughts,
    Workers,
    app,
)
from thoughtlens.errors import OptionError

if TYPE_CHECKING:
    from thoughtlens.analysis import Analysis
    from thoughtlens.models.reasoner import Codi
    from thoughtlens.plots.heads import Choice
    from thoughtlens.problems import ProblemSet
    from thoughtlens.reports.comparison import GroupedRun
    from thoughtlens.runs.engines import Engine
    from thoughtlens.runs.folder import Run
    from thoughtlens.runs.layout import Keep as RunKeep


SIDE_BY_SIDE = {
    "accuracy": "accuracy",
    "hub": "hub preference",
    "sequential": "sequential preference",
    "skip": "skip preference",
    "thought_mass": "thought mass",
}


def draw_problems(
    name: str,
    split: str | None,
    n: int | None,
    seed: int,
    field: list[str] | None,
    revision: str | None,
    *,
    most: int | None = None,
) -> "ProblemSet":
    """Load a set and draw n of it; without n all, or `most` of them."""
    from thoughtlens.problems import draw, load_set

    fields = dict(_field(given) for given in field or [])
    whole = load_set(name, split, fields=fields, revision=revision)
    if n is None and most is not None:
        n = min(most, len(whole.problems))
    return draw(whole, n, seed)


def _field(given: str) -> tuple[str, str]:
    what, equals, name = given.partition("=")
    if not equals or not name:
        raise OptionError(f"--field is {given!r}, expected for instance question=NAME; give both sides.")
    return what, name


def load_model(
    model: str,
    base: str | None,
    revision: str | None,
    alpha: float | None,
    dtype: str,
    device: str | None,
    random_weights: int | None = None,
) -> "Codi":
    """A reasoner, loaded as the options say; with a seed, its architecture with random weights."""
    with terminal.working(f"load {model}"):
        from thoughtlens.models.loader import load, randomize

        reasoner = load(model, base=base, revision=revision, alpha=alpha, dtype=dtype, device=device)
        return reasoner if random_weights is None else randomize(reasoner, seed=random_weights)


def choose_engine(name: str, workers: int | None, address: str | None) -> "Engine":
    """Where the work is done; before anything is loaded, so that a mistake costs no time."""
    from thoughtlens.cli.app import engine_named

    return engine_named(name, workers=workers, address=address)


def choose_keep(name: str) -> "RunKeep | None":
    """What the run keeps; None for all attention, which takes no analysis: that is slow to import."""
    if name == "raw":
        return None
    from thoughtlens.runs.extraction import keep_named

    return keep_named(name)


def extract_run(
    reasoner: "Codi", problems: "ProblemSet", to: Path, engine: "Engine", *, keep: "RunKeep | None", **how: Any
) -> "Run":
    """A run folder with what is kept of every problem; `how` is what else `extract` takes."""
    from thoughtlens.runs.extraction import extract

    with terminal.counting("extract", len(problems.problems)) as progress:
        return extract(reasoner, problems, to, keep=keep, engine=engine, progress=progress, **how)


def analyze_and_write(done: "Run", pattern: str = "attention") -> "Analysis":
    """A run's analysis, also written to its folder."""
    from thoughtlens.reports.run import analyze_run, write_analysis

    with terminal.working("analyze"):
        analysis = analyze_run(done, pattern=pattern)
        write_analysis(done, analysis, pattern=pattern)
    return analysis


def plot_and_write(
    done: "Run", analysis: "Analysis", choice: "Choice | None" = None, *, step_indexed: bool = False
) -> list[Path]:
    """The paths of a run's figures, drawn anew, or of their step-indexed twins."""
    from thoughtlens.reports.run import write_figures

    with terminal.working("plot"):
        return write_figures(done, analysis, choice, step_indexed=step_indexed)


def choose(layers: str | None, heads: str | None, top: int | None, metric: str) -> "Choice":
    """What to draw, from lists such as `0,4,8` and `L4H5,L2H1`."""
    from thoughtlens.plots.heads import Choice

    numbers = _listed(layers)
    if numbers is not None and not all(number.isdecimal() for number in numbers):
        raise OptionError(f"--layers is {layers!r}, expected numbers such as 0,4,8; write them so.")
    return Choice(
        layers=None if numbers is None else tuple(int(number) for number in numbers),
        heads=_listed(heads),
        top=top,
        metric=metric,
    )


def _listed(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(part.strip() for part in given.split(","))


def export_runs(folders: list[Path], to: Path | None) -> tuple[list[str], str]:
    """The files of the 2025 scripts, as their paths, and what their indices mean; `to` is needed for several runs."""
    from thoughtlens.published import export as exports
    from thoughtlens.runs.folder import open_run

    runs = [open_run(folder) for folder in folders]
    with terminal.working("export"):
        paths = exports.export_npy(runs[0], to) if to is None or len(runs) == 1 else exports.export_runs(runs, to)
    return [str(path) for path in paths], exports.STEP_INDEXED_NOTE


def close(done: "Run", analysis: "Analysis", more: dict[str, Any], *, as_json: bool) -> None:
    """The closing table: accuracy, hub, sequential and skip preference, the top heads."""
    from thoughtlens.reports.run import summary

    facts = summary(done, analysis)
    if as_json:
        terminal.print_json({"run": str(done.path), **facts, **more})
        return
    terminal.closing(facts)
    terminal.tell({}, f"results: {done.path}", as_json=False)


def group_run(done: "Run", by: Sequence[str]) -> list["GroupedRun"]:
    """A run's problems in groups, each analysed, for each thing to group by."""
    from thoughtlens.reports.comparison import analyze_groups

    with terminal.working("analyze groups"):
        return [analyze_groups(done, what) for what in dict.fromkeys(by)]


def write_groups(done: "Run", grouped: list["GroupedRun"]) -> list[dict[str, Any]]:
    """The headlines of groups, their tables also written to the run's folder."""
    from thoughtlens.reports import comparison as comparisons

    for of in grouped:
        comparisons.write_groups(done, of)
    return [comparisons.groups_summary(of) for of in grouped]


def over_null(done: "Run", folder: Path | None, pattern: str) -> dict[str, Any] | None:
    """What a run has beyond a null run, its tables also written to the run's folder; nothing without a null run."""
    from thoughtlens.reports.run import null_summary, over_null_run, write_null
    from thoughtlens.runs.folder import open_run

    if folder is None:
        return None
    with terminal.working("hold against the null run"):
        found = over_null_run(done, open_run(folder), pattern=pattern)
        write_null(done, found)
    return null_summary(found)


def show_over_null(facts: dict[str, Any]) -> None:
    """The table of what a run has beyond its null run."""
    terminal.beyond_nulls(facts["evidence"], title="attention of a row beyond that of the null run")
    terminal.tell({}, f"types of heads beyond it: {terminal.counted(facts['types'])}", as_json=False)
    terminal.tell({}, facts["note"], as_json=False)


def show_side_by_side(facts: dict[str, Any], *, title: str) -> None:
    """Tables of models or groups beside each other, of their differences, and the notes."""
    own = facts["own"]
    words = {name: said for name, said in SIDE_BY_SIDE.items() if all(name in numbers for numbers in own.values())}
    rows = [(said, *(_side(numbers, name) for numbers in own.values())) for name, said in words.items()]
    rows.append(("types of heads", *(terminal.counted(of["types"]) for of in own.values())))
    terminal.table(("measure", *own), [("problems", *(of["n"] for of in own.values())), *rows], title=title)
    for pair in facts["differences"]:
        rows = [(said, _side(pair, name), *map(terminal.p_value, _tests(pair[name]))) for name, said in words.items()]
        what = f"{facts['by']}: " if "by" in facts else ""
        title = f"{what}{pair['of']} − {pair['minus']}"
        terminal.table(("measure", "difference", "p", "p (Holm)"), rows, title=title)
    for note in facts["notes"]:
        terminal.tell({}, note, as_json=False)


def _side(numbers: dict[str, Any], name: str) -> str:
    shown = terminal.with_interval(numbers[name], percent=name in ("accuracy", "thought_mass"))
    thought = numbers[name].get("thought")
    return f"{thought}: {shown}" if thought else shown


def _tests(number: dict[str, Any]) -> tuple[float | None, float | None]:
    return number["p"], number["p_holm"]


@app.command()
def run(
    model: Model = DEFAULT_MODEL,
    problems: Problems = DEFAULT_PROBLEMS,
    n: Annotated[int | None, typer.Option("--n", help="How many problems; 100 at most if not given.")] = None,
    seed: Seed = 42,
    to: Out = Path("runs/first"),
    base: Base = None,
    revision: Revision = None,
    alpha: Alpha = None,
    split: Split = None,
    field: Field = None,
    problems_revision: SetRevision = None,
    thoughts: Thoughts = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    dtype: Precision = "auto",
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    random_weights: RandomWeights = None,
    record: Record = None,
    keep: Keep = "raw",
    shard_size: ShardSize = None,
    as_json: AsJson = False,
) -> None:
    """Everything in order: sample, extract, analyze, plot."""
    where, kept = choose_engine(engine, workers, address), choose_keep(keep)
    chosen = draw_problems(problems, split, n, seed, field, problems_revision, most=DEFAULT_COUNT)
    reasoner = load_model(model, base, revision, alpha, dtype, device, random_weights)
    how = {"n_thoughts": thoughts, "batch_size": batch_size, "record": record or (), "shard_size": shard_size}
    done = extract_run(reasoner, chosen, to, where, keep=kept, **how)
    analysis = analyze_and_write(done)
    figures = plot_and_write(done, analysis)
    close(done, analysis, {"figures": [str(path) for path in figures if path.suffix == ".png"]}, as_json=as_json)


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
    from thoughtlens.problems import write_problems

    chosen = draw_problems(problems, split, n, seed, field, problems_revision)
    write_problems(to, chosen.problems)
    facts = {"file": str(to), "n": len(chosen.problems), "fingerprint": chosen.fingerprint, "revision": chosen.revision}
    terminal.tell(facts, f"{len(chosen.problems)} problems of {chosen.name} in {to}", as_json=as_json)


@app.command()
def extract(
    problems: Problems,
    to: Out,
    model: Model = DEFAULT_MODEL,
    base: Base = None,
    revision: Revision = None,
    alpha: Alpha = None,
    split: Split = None,
    field: Field = None,
    problems_revision: SetRevision = None,
    thoughts: Thoughts = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    dtype: Precision = "auto",
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    random_weights: RandomWeights = None,
    record: Record = None,
    keep: Keep = "raw",
    shard_size: ShardSize = None,
    as_json: AsJson = False,
) -> None:
    """Let a model think about every problem and record its attention."""
    where, kept = choose_engine(engine, workers, address), choose_keep(keep)
    chosen = draw_problems(problems, split, None, 0, field, problems_revision)
    reasoner = load_model(model, base, revision, alpha, dtype, device, random_weights)
    how = {"n_thoughts": thoughts, "batch_size": batch_size, "record": record or (), "shard_size": shard_size}
    done = extract_run(reasoner, chosen, to, where, keep=kept, **how)
    facts = {"run": str(done.path), "n": len(chosen.problems), "seconds": done.manifest["seconds"]}
    terminal.tell(
        facts, f"{len(chosen.problems)} problems in {done.path}; next: thoughtlens analyze {done.path}", as_json=as_json
    )


@app.command()
def analyze(
    folder: RunFolder,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="Also for groups of problems: correct, n_steps; repeatable.")
    ] = None,
    pattern: Pattern = "attention",
    null: Annotated[
        Path | None,
        typer.Option("--null", metavar="RUN", help="Also beyond this run: same architecture, --random-weights."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Summarise a run: composition, hubs, sequential flow, skips, top heads."""
    from thoughtlens.runs.folder import open_run

    done = open_run(folder)
    # Before anything is written: what can't be grouped is a wrong call.
    grouped = group_run(done, by or [])
    excess = over_null(done, null, pattern)
    groups = write_groups(done, grouped)
    asked = {"groups": groups, "over_null": excess}
    more = {"pattern": pattern, **{name: facts for name, facts in asked.items() if facts}}
    close(done, analyze_and_write(done, pattern), more, as_json=as_json)
    if excess and not as_json:
        show_over_null(excess)
    for facts in groups if not as_json else []:
        show_side_by_side(facts, title=f"by {facts['by']}, 95 % intervals over problems")


@app.command()
def plot(
    folder: RunFolder,
    layers: Annotated[str | None, typer.Option("--layers", help="Layers whose maps are drawn: 0,4,8.")] = None,
    heads: Annotated[str | None, typer.Option("--heads", help="Heads that are drawn, not the top: L4H5,L2H1.")] = None,
    top: Annotated[int | None, typer.Option("--top", help="How many top heads are drawn; 20 if not given.")] = None,
    metric: Annotated[str, typer.Option("--metric", help="What the map and ranking of heads show.")] = "importance",
    step_indexed: Annotated[
        bool, typer.Option("--step-indexed", help="Draw the figures of the 2025 scripts, as they indexed thoughts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Draw the figures of a run."""
    from thoughtlens.reports.run import analyze_run
    from thoughtlens.runs.folder import open_run

    choice = choose(layers, heads, top, metric)
    done = open_run(folder)
    with terminal.working("analyze"):
        analysis = analyze_run(done)
    drawn = plot_and_write(done, analysis, choice, step_indexed=step_indexed)
    paths = [str(path) for path in drawn]
    terminal.tell({"figures": paths}, "\n".join(paths), as_json=as_json)


@app.command()
def export(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN…", help="A run folder, or several.")],
    format: Annotated[str, typer.Option("--format", help="npy: the files of the 2025 scripts.")] = "npy",
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder; RUN/export if not given. Several runs need one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write runs as the files of other tools; several also side by side."""
    if format != "npy":
        raise OptionError(f"no format {format!r}; the only one is npy.")
    if len(folders) > 1 and to is None:
        raise OptionError(f"{len(folders)} runs were given without a folder for them; name one with --out.")
    paths, note = export_runs(folders, to)
    terminal.tell({"files": paths, "note": note}, "\n".join([*paths, note]), as_json=as_json)
