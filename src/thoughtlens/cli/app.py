"""What the command line shows: results on stdout, progress and errors on stderr, each in one way.

Text from data, from a model or from a file is escaped: it can't be read as markup or move the cursor.

The application: how its commands begin, and how a user's mistake ends them, in one sentence and exit code 2.

The options that commands share, each said once.

A name becomes an engine; Ray, which is large and may not be there, is imported only where it is asked for.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.control import strip_control_codes
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from thoughtlens.errors import OptionError, ThoughtLensError
from thoughtlens.runs.engines import Engine, Local

out, err = Console(), Console(stderr=True)

UNDEFINED = "undefined"


def shown(value: object) -> str:
    """Any text as it may be printed."""
    return escape(strip_control_codes(str(value)).replace("\x1b", ""))


def print_error(error: Exception) -> None:
    """One sentence on stderr."""
    err.print(f"[bold red]Error:[/] {shown(error)}", soft_wrap=True, highlight=False)


def warn(sentence: str) -> None:
    """One sentence on stderr about what goes on all the same."""
    err.print(f"[bold yellow]Note:[/] {shown(sentence)}", soft_wrap=True, highlight=False)


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))  # noqa: T201 (rich would wrap and colour it)


def tell(facts: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """A result, for machines or for people."""
    if as_json:
        print_json(facts)
    else:
        out.print(shown(sentence), soft_wrap=True, highlight=False)


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr; yields a function that takes how many more are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda n_more: progress.advance(task, n_more)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on stderr for work that can't be counted."""
    if err.is_terminal:
        with err.status(what):
            yield
    else:
        yield


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """A table on stdout."""
    drawn = Table(*columns, title=shown(title) or None, title_justify="left")
    for row in rows:
        drawn.add_row(*map(shown, row))
    out.print(drawn)


def p_value(value: float | None) -> str:
    """`0.012`, or `< 0.001`."""
    if value is None:
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(counts: Mapping[str, int]) -> str:
    """`3 hub, 1 sink`: what there is, with its number."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def with_interval(of: Mapping[str, Any], *, percent: bool = False) -> str:
    """`1.23 [1.20, 1.27]`, or the same in percent; `undefined` where there is no number."""
    if of["estimate"] is None:
        return UNDEFINED
    estimate, low, high = (number(of[name], percent=percent) for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def number(value: float | None, *, percent: bool = False) -> str:
    """`1.23`, or `12.3%`; `undefined` where there is none."""
    if value is None:
        return UNDEFINED
    return f"{value:.1%}" if percent else f"{value:.2f}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class OneSentence(TyperGroup):
    """Commands whose user errors end in one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ThoughtLensError as error:
            print_error(error)
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


DEFAULT_MODEL = "tiny-gpt2"
DEFAULT_PROBLEMS = "arithmetic"
DEFAULT_COUNT = 100

Model = Annotated[
    str, typer.Option("--model", help="A bundled name, a Hub id, or a folder in the official CODI layout.")
]
Base = Annotated[
    str | None, typer.Option("--base", help="The base model: folder or Hub id, for configuration and tokenizer.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub model.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="LoRA's alpha, if it is not 32.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, …; an accelerator if there is one.")]
RandomWeights = Annotated[
    int | None,
    typer.Option(
        "--random-weights", metavar="SEED", help="Draw the model's weights anew: what its architecture gives."
    ),
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
Out = Annotated[Path, typer.Option("--out", help="The run folder; an unfinished run of the same options goes on.")]
Thoughts = Annotated[
    int | None, typer.Option("--thoughts", help="How many thoughts, 1 to 32; as trained if not given.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Problems a pass.")]
Record = Annotated[
    list[str] | None, typer.Option("--record", help="Beside attention: values, what each key gives (twice the space).")
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size",
        help="Problems a shard: what a kill can cost and a worker takes at a time.",
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        help="raw: the attention of every problem; mean: sums over 512 blocks of problems, whose disk does not grow.",
    ),
]
Pattern = Annotated[
    str, typer.Option("--pattern", help="attention, or value-weighted where the run was made with --record values.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for machines.")]
RunModel = Annotated[
    str | None, typer.Option("--model", help="Where the run's model is now, if it is not where the run found it.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
EngineName = Annotated[str, typer.Option("--engine", help="Where the work is done: local, or ray (extra `ray`).")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Ray: how many; one a GPU, or one a CPU without, if not given.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray: of a running cluster; one here is started if not given.")
]


NAMES: Final = ("local", "ray")


def engine_named(name: str, *, workers: int | None = None, address: str | None = None) -> Engine:
    """The engine that the command line means.

    Args:
        name: `local` or `ray`.
        workers: Ray: how many; one a GPU, or one a CPU where there is none, if None.
        address: Ray: of a running cluster; one on this machine is started and stopped if None.

    Raises:
        OptionError: the name is unknown, Ray is not installed, or local work is given Ray's options.
    """
    if name == "ray":
        try:
            from thoughtlens.runs.ray_engine import Ray  # an extra, large and slow to import
        except ImportError as error:
            raise OptionError(
                "--engine ray needs Ray, which is not installed; run `pip install 'thoughtlens[ray]'`."
            ) from error
        return Ray(workers=workers, address=address)
    if name != "local":
        raise OptionError(f"no engine {name!r}; there are: {', '.join(NAMES)}.")
    if workers is not None or address is not None:
        raise OptionError("--workers and --address belong to --engine ray; leave them out, or add --engine ray.")
    return Local()


Row = tuple[str, str, Callable[[Any], str]]
"""What a table says of some facts: the label, where it stands in the facts (`hub.p`), and how it is written."""


def show_facts(sides: Mapping[str, Mapping[str, Any]], rows: Sequence[Row], *, title: str = "") -> None:
    """A table of facts: a row for each of `rows` that is known of all sides, a column for each side."""
    known = [row for row in rows if all(_at(facts, row[1]) is not _MISSING for facts in sides.values())]
    shown_rows = [(label, *(how(_at(facts, path)) for facts in sides.values())) for label, path, how in known]
    table(("measure", *sides), shown_rows, title=title)


def show_items(items: Sequence[Mapping[str, Any]], columns: Sequence[Row], *, title: str = "") -> None:
    """A table of things of one kind: a row for each, a column for each of `columns`; nothing where there are none."""
    if items:
        rows = [[how(_at(item, path)) for _, path, how in columns] for item in items]
        table([label for label, _, _ in columns], rows, title=title)


_MISSING: Final = object()


def _at(facts: Any, path: str) -> Any:
    """What stands in facts at a path such as `hub.p`; an empty path is the whole."""
    for name in filter(None, path.split(".")):
        if not isinstance(facts, Mapping) or name not in facts:
            return _MISSING
        facts = facts[name]
    return facts
