"""The command line: one command a stage, the only place with terminal output, exit codes and default paths.

Results go to stdout, progress and errors to stderr. A user's mistake ends in one sentence and exit code 2.
Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from thoughtlens import stages, terminal
from thoughtlens.errors import OptionError, ThoughtLensError

DEFAULT_MODEL = "tiny-gpt2"
DEFAULT_PROBLEMS = "arithmetic"
DEFAULT_COUNT = 100


class OneSentence(TyperGroup):
    """Commands whose user errors end in one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ThoughtLensError as error:
            terminal.print_error(error)
            ctx.exit(2)


app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="See, measure and test how language models attend to their continuous thoughts.",
)

Model = Annotated[
    str, typer.Option("--model", help="A bundled name, a Hub id, or a folder in the official CODI layout.")
]
Base = Annotated[
    str | None, typer.Option("--base", help="The base model: folder or Hub id, for configuration and tokenizer.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub model.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="LoRA's alpha, if it is not 32.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, …; an accelerator if there is one.")]
Precision = Annotated[str, typer.Option("--dtype", help="float32, float64, bfloat16 or float16.")]
Problems = Annotated[str, typer.Option("--problems", help="A named set (`thoughtlens problems`) or a file.")]
Split = Annotated[str | None, typer.Option("--split", help="Split of a named set; prefix of the ids of a file.")]
Field = Annotated[
    list[str] | None, typer.Option("--field", help="Name of a field in a file: question=NAME, answer=NAME.")
]
SetRevision = Annotated[
    str | None, typer.Option("--problems-revision", help="Branch, tag or commit of a Hub data set.")
]
Count = Annotated[int | None, typer.Option("--n", help="How many problems; all if not given.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the sample.")]
Out = Annotated[Path, typer.Option("--out", help="The run folder; an unfinished run of the same options goes on.")]
Thoughts = Annotated[
    int | None, typer.Option("--thoughts", help="How many thoughts, 1 to 32; as trained if not given.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Problems a pass.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for machines.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]


@app.callback()
def _prepare(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")


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
    dtype: Precision = "float32",
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
    dtype: Precision = "float32",
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


@app.command()
def doctor(
    model: Model = DEFAULT_MODEL,
    base: Base = None,
    revision: Revision = None,
    alpha: Alpha = None,
    device: Device = None,
    dtype: Precision = "float32",
    as_json: AsJson = False,
) -> None:
    """Prove a loaded model: masks, positions, batches, taps, markers, tokenizer."""
    from thoughtlens.runs.doctor import doctor as examine

    checks = examine(stages.load_model(model, base, revision, alpha, dtype, device))
    if as_json:
        terminal.print_json({"model": model, "checks": [vars(check) for check in checks]})
    else:
        rows = [("✓" if check.passed else "✗ FAILED", check.name, check.measured) for check in checks]
        terminal.table(("", "check", "measured"), rows, title=model)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show this bundled model's card.")] = None,
    recompute: Annotated[
        int | None, typer.Option("--recompute", metavar="N", help="Measure the card's accuracies again on N problems.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What can be named with --model, and the cards of the bundled models."""
    from thoughtlens.models.catalog import PUBLISHED, bundled, read_card

    if name is not None:
        stages.show_card(name, recompute, as_json=as_json)
        return
    cards = {known: read_card(known) for known in bundled()}
    if as_json:
        terminal.print_json(
            {"bundled": cards, "published": {known: vars(published) for known, published in PUBLISHED.items()}}
        )
        return
    rows = [(known, "bundled", *stages.own_accuracy(card), card["about"]) for known, card in cards.items()]
    rows += [(known, "Hub", "", "", published.about) for known, published in PUBLISHED.items()]
    terminal.table(("name", "where", "accuracy", "n", "about"), rows)


@app.command(name="problems")
def list_problems(as_json: AsJson = False) -> None:
    """What can be named with --problems."""
    from thoughtlens.problems import known_sets

    sets = known_sets()
    if as_json:
        terminal.print_json({name: vars(named) for name, named in sets.items()})
        return
    rows = [(n, ", ".join(s.splits), s.hub_id or "bundled", s.about) for n, s in sets.items()]
    terminal.table(("name", "splits", "where", "about"), rows)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or file.")],
    to: Annotated[Path, typer.Option("--out", help="The model's folder; an unfinished training there goes on.")],
    base: Annotated[
        str | None, typer.Option("--base", help="Pretrained base instead of the recipe's: a folder or Hub id.")
    ] = None,
    problems: Annotated[
        str | None, typer.Option("--problems", help="Problems to learn from instead of the recipe's: a set or file.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="Folder of a model trained otherwise, for the card.")
    ] = None,
    seeds: Annotated[
        list[Path] | None, typer.Option("--seeds", help="Folder of this recipe from another seed, for the card.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model that thinks, and write its folder with a card."""
    try:
        from thoughtlens.training.run import Options
        from thoughtlens.training.run import train as train_recipe
    except ImportError as error:
        needed = "pip install 'thoughtlens[train]'"
        raise OptionError(f"training needs {error.name}, which is not installed; run `{needed}`.") from error
    options = Options(base, problems, seed, tuple(beside or ()), tuple(seeds or ()))
    card = train_recipe(recipe, to, counting=terminal.counting, options=options)
    if card is None:  # one of several processes, and not the one that writes
        return
    accuracy, n = stages.own_accuracy(card)
    terminal.tell(card, f"{to}: {accuracy} of {n} held-out problems; its card is {to / 'README.md'}", as_json=as_json)


def main() -> None:
    """Entry point."""
    app()
