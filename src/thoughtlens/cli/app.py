"""The command-line application: how a user's mistake ends a command, and the options that commands share.

in: what a user types; out: values of options, and engines. The packages that the modules of `cli` import load their
parts when these are first used, so that `--help` answers at once.
"""

import logging
import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from thoughtlens import runs
from thoughtlens.cli import terminal
from thoughtlens.errors import OptionError, ThoughtLensError
from thoughtlens.files import COMMAND

_TYPED: Final = "thoughtlens.typed"


class OneSentence(TyperGroup):
    """Commands whose user errors end in one sentence and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what was typed, for manifests; then parse it."""
        ctx.meta[_TYPED] = shlex.join(["thoughtlens", *args])
        token = COMMAND.set(ctx.meta[_TYPED])
        ctx.call_on_close(lambda: COMMAND.reset(token))
        return super().parse_args(ctx, args)

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


@app.callback()
def _prepare(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")


def typed(ctx: typer.Context) -> str:
    """The command line of this call, as the user typed it."""
    return str(ctx.meta[_TYPED])


DEFAULT_MODEL = "tiny-gpt2"
DEFAULT_PROBLEMS = "arithmetic"
DEFAULT_COUNT = 100

Model = Annotated[str, typer.Option("--model", help="A bundled name, a Hub id, or a folder: CODI or Coconut.")]
Base = Annotated[
    str | None, typer.Option("--base", help="The base model: folder or Hub id, for configuration and tokenizer.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub model.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="LoRA's alpha, if it is not 32.")]
Mode = Annotated[
    str, typer.Option("--mode", help="latent; or direct, verbal: without thoughts, where the weights can.")
]
KnownAs = Annotated[
    str | None, typer.Option("--as", metavar="ID", help="Id of a known checkpoint whose facts hold for the folder.")
]
ReadingRule = Annotated[
    str, typer.Option("--answer-rule", help="How answers are read: strict, or official as in the family's own code.")
]
PaddingProtocol = Annotated[
    str, typer.Option("--protocol", help="exact, or official-padding-v4-cuda, -v4-cpu, -v5, for published numbers.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, …; an accelerator if there is one.")]
RandomWeights = Annotated[
    int | None, typer.Option("--random-weights", metavar="SEED", help="Draw the model's weights at random.")
]
Precision = Annotated[str, typer.Option("--dtype", help="float32, float64, bfloat16, float16, or auto: half on CUDA.")]
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
Out = Annotated[Path, typer.Option("--out", help="The run folder; an unfinished run with the same options goes on.")]
Thoughts = Annotated[
    int | None, typer.Option("--thoughts", help="How many thoughts, 1 to 32; as trained if not given.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Problems of a pass.")]
Record = Annotated[
    list[str] | None, typer.Option("--record", help="values: also how much each key gives (twice the space).")
]
ShardSize = Annotated[
    int | None, typer.Option("--shard-size", help="Problems of a shard, which a worker does at a time.")
]
Keep = Annotated[
    str, typer.Option("--keep", help="raw: attention of every problem; mean: sums over 512 blocks, of constant size.")
]
Pattern = Annotated[
    str, typer.Option("--pattern", help="attention, or value-weighted where the run was made with --record values.")
]
Holdout = Annotated[
    float | None,
    typer.Option(
        "--holdout", metavar="SHARE", help="Test this share of the problems; the others choose what is tested."
    ),
]
HoldoutSeed = Annotated[int, typer.Option("--holdout-seed", help="Of the halves; the same in all commands.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for machines.")]
RunModel = Annotated[
    str | None, typer.Option("--model", help="Where the run's model is now, if it is not where the run found it.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Leave out the HTML page of results.")]
EngineName = Annotated[str, typer.Option("--engine", help="Where the work is done: local, or ray (extra `ray`).")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Ray: how many; one for each GPU, or CPU, if not given.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray: address of a running cluster; one is started if not given.")
]


ENGINES: Final = ("local", "ray")


def engine_named(name: str, *, workers: int | None = None, address: str | None = None) -> "runs.Engine":
    """The engine of a name; asked for before anything is loaded, so that a mistake costs no time."""
    if name == "ray":
        try:
            return runs.Ray(workers=workers, address=address)
        except ImportError as error:
            raise OptionError(
                "--engine ray needs Ray, which is not installed; run `pip install 'thoughtlens[ray]'`."
            ) from error
    if name != "local":
        raise OptionError(f"no engine {name!r}; there are: {', '.join(ENGINES)}.")
    if workers is not None or address is not None:
        raise OptionError("--workers and --address belong to --engine ray; leave them out, or add --engine ray.")
    return runs.Local()
