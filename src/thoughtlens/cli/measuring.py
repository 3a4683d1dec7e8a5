"""Commands that measure: a sample, a run, its analysis, its figures, its export."""

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli import stages, terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import (
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
    Engine,
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
)
from thoughtlens.errors import OptionError


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
    engine: Engine = "local",
    workers: Workers = None,
    address: Address = None,
    random_weights: RandomWeights = None,
    record: Record = None,
    keep: Keep = "raw",
    shard_size: ShardSize = None,
    as_json: AsJson = False,
) -> None:
    """Everything in order: sample, extract, analyze, plot."""
    where, kept = stages.choose_engine(engine, workers, address), stages.choose_keep(keep)
    chosen = stages.draw_problems(problems, split, n, seed, field, problems_revision, most=DEFAULT_COUNT)
    reasoner = stages.load_model(model, base, revision, alpha, dtype, device, random_weights)
    how = {"n_thoughts": thoughts, "batch_size": batch_size, "record": record or (), "shard_size": shard_size}
    done = stages.extract_run(reasoner, chosen, to, where, keep=kept, **how)
    analysis = stages.analyze_and_write(done)
    figures = stages.plot_and_write(done, analysis)
    stages.close(done, analysis, {"figures": [str(path) for path in figures if path.suffix == ".png"]}, as_json=as_json)


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

    chosen = stages.draw_problems(problems, split, n, seed, field, problems_revision)
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
    engine: Engine = "local",
    workers: Workers = None,
    address: Address = None,
    random_weights: RandomWeights = None,
    record: Record = None,
    keep: Keep = "raw",
    shard_size: ShardSize = None,
    as_json: AsJson = False,
) -> None:
    """Let a model think about every problem and record its attention."""
    where, kept = stages.choose_engine(engine, workers, address), stages.choose_keep(keep)
    chosen = stages.draw_problems(problems, split, None, 0, field, problems_revision)
    reasoner = stages.load_model(model, base, revision, alpha, dtype, device, random_weights)
    how = {"n_thoughts": thoughts, "batch_size": batch_size, "record": record or (), "shard_size": shard_size}
    done = stages.extract_run(reasoner, chosen, to, where, keep=kept, **how)
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
    from thoughtlens.runs.reading import open_run

    done = open_run(folder)
    # Before anything is written: what can't be grouped is a wrong call.
    grouped = stages.group_run(done, by or [])
    over_null = stages.over_null(done, null, pattern)
    groups = stages.write_groups(done, grouped)
    asked = {"groups": groups, "over_null": over_null}
    more = {"pattern": pattern, **{name: facts for name, facts in asked.items() if facts}}
    stages.close(done, stages.analyze_and_write(done, pattern), more, as_json=as_json)
    if over_null and not as_json:
        stages.show_over_null(over_null)
    for facts in groups if not as_json else []:
        stages.show_side_by_side(facts, title=f"by {facts['by']}, 95 % intervals over problems")


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
    from thoughtlens.outputs import analyze_run
    from thoughtlens.runs.reading import open_run

    choice = stages.choose(layers, heads, top, metric)
    done = open_run(folder)
    with terminal.working("analyze"):
        analysis = analyze_run(done)
    drawn = stages.plot_and_write(done, analysis, choice, step_indexed=step_indexed)
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
    paths, note = stages.export_runs(folders, to)
    terminal.tell({"files": paths, "note": note}, "\n".join([*paths, note]), as_json=as_json)
