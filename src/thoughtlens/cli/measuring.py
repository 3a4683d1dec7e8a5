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
    Alpha,
    AsJson,
    Base,
    BatchSize,
    Count,
    Device,
    Field,
    Model,
    Out,
    Precision,
    Problems,
    Revision,
    RunFolder,
    Seed,
    SetRevision,
    Split,
    Thoughts,
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
    as_json: AsJson = False,
) -> None:
    """Everything in order: sample, extract, analyze, plot."""
    chosen = stages.draw_problems(problems, split, n, seed, field, problems_revision, most=DEFAULT_COUNT)
    reasoner = stages.load_model(model, base, revision, alpha, dtype, device)
    done = stages.extract_run(reasoner, chosen, to, thoughts, batch_size)
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
    as_json: AsJson = False,
) -> None:
    """Let a model think about every problem and record its attention."""
    chosen = stages.draw_problems(problems, split, None, 0, field, problems_revision)
    reasoner = stages.load_model(model, base, revision, alpha, dtype, device)
    done = stages.extract_run(reasoner, chosen, to, thoughts, batch_size)
    facts = {"run": str(done.path), "n": len(chosen.problems), "seconds": done.manifest["seconds"]}
    terminal.tell(
        facts, f"{len(chosen.problems)} problems in {done.path}; next: thoughtlens analyze {done.path}", as_json=as_json
    )


@app.command()
def analyze(folder: RunFolder, as_json: AsJson = False) -> None:
    """Summarise a run: composition, hubs, sequential flow, skips, top heads."""
    from thoughtlens.runs.reading import open_run

    done = open_run(folder)
    stages.close(done, stages.analyze_and_write(done), {}, as_json=as_json)


@app.command()
def plot(folder: RunFolder, as_json: AsJson = False) -> None:
    """Draw the figures of a run."""
    from thoughtlens.outputs import analyze_run
    from thoughtlens.runs.reading import open_run

    done = open_run(folder)
    with terminal.working("analyze"):
        analysis = analyze_run(done)
    paths = [str(path) for path in stages.plot_and_write(done, analysis)]
    terminal.tell({"figures": paths}, "\n".join(paths), as_json=as_json)


@app.command()
def export(
    folder: RunFolder,
    format: Annotated[str, typer.Option("--format", help="npy: the arrays of the 2025 scripts.")] = "npy",
    to: Annotated[Path | None, typer.Option("--out", help="Folder; RUN/export if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run in the format of other tools."""
    from thoughtlens.outputs import STEP_INDEXED_NOTE, export_npy
    from thoughtlens.runs.reading import open_run

    if format != "npy":
        raise OptionError(f"no format {format!r}; the only one is npy.")
    paths = [str(path) for path in export_npy(open_run(folder), to)]
    terminal.tell({"files": paths, "note": STEP_INDEXED_NOTE}, "\n".join([*paths, STEP_INDEXED_NOTE]), as_json=as_json)
