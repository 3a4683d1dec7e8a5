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
STRONGEST = ("hub", "sequential", "skip")


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


def closing(facts: Mapping[str, Any]) -> None:
    """The closing tables of a run: accuracy, preferences, what is beyond the nulls, and its top heads."""
    hub, hubs, even = facts["hub"], facts["hub_heads"], "of an even share"
    rows = [
        ("accuracy", with_interval(facts["accuracy"], percent=True)),
        ("answer rows", f"{facts['n_answer_rows']} (texts that reached the answer prefix)"),
        ("hub", f"{hub['thought']}: {with_interval(hub)} {even}" if hub["thought"] else UNDEFINED),
        ("sequential preference", f"{with_interval(facts['sequential'])} {even}"),
        ("skip preference", f"{with_interval(facts['skip'])} {even}"),
        ("heads with a hub", f"{hubs['n_heads']} of {hubs['of']} (beyond {hubs['least']} even shares, q < 0.05)"),
        ("types of heads", counted(facts["types"])),
        ("ranking of heads", _ranking(facts["ranking"])),
    ]
    title = f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}"
    table(("measure", "value"), rows, title=f"{title}, 95 % intervals over {facts['intervals_over']}")
    beyond_nulls(facts["evidence"], title="attention of a row beyond its null")
    _top_heads(facts)


def beyond_nulls(evidence: Mapping[str, Any], *, title: str) -> None:
    """The excess of each measure, and what it is over."""
    of_null: dict[str, list[str]] = {}
    for name, found in evidence.items():
        of_null.setdefault(found["null"], []).append(name)
    rows = [
        (f"{name} {found.get('thought') or ''}", with_interval(found), p_value(found["p"]), found["n_heads"])
        for name, found in evidence.items()
    ]
    title += ", mean of all heads; heads: 0.05 or more, q < 0.05"
    table(("measure", "excess", "p", "heads with it"), rows, title=title)
    tell({}, "; ".join(f"null of {', '.join(names)}: {null}" for null, names in of_null.items()), as_json=False)


def _top_heads(facts: Mapping[str, Any]) -> None:
    if not facts["top_heads"]:
        return
    columns = ("hub_preference", "sequential", "skip", "thought_mass", "importance")
    heads = [
        (h["name"], h["type"], h["hub"] or UNDEFINED, *(_number(h[name]) for name in columns))
        for h in facts["top_heads"]
    ]
    names = ("head", "type", "hub", "hub H", "sequential", "skip", "thought mass", "importance")
    table(names, heads, title="top heads by attention (not by cause)")
    lists = [(name, *(f"{h['name']} {h['preference']:.2f}" for h in facts["strongest"][name])) for name in STRONGEST]
    if all(len(row) > 1 for row in lists):
        places = ("strongest for", "first", "second", "third")
        table(places[: max(map(len, lists))], lists, title="strongest heads, with their preference")


def _ranking(ranking: Mapping[str, Any]) -> str:
    if ranking["unreliable"]:
        return str(ranking["unreliable"])
    overlap, chance = (_number(ranking[name], percent=True) for name in ("top_overlap", "top_overlap_by_chance"))
    return f"reliability {_number(ranking['reliability'])}; halves share {overlap} of the top heads (chance {chance})"


def p_value(value: float | None) -> str:
    """`0.012`, or `< 0.001`."""
    if value is None:
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(counts: Mapping[str, int]) -> str:
    """`3 hub, 1 sink`: what there is, with its number."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def with_interval(number: Mapping[str, Any], *, percent: bool = False) -> str:
    """`1.23 [1.20, 1.27]`, or the same in percent; `undefined` where there is no number."""
    if number["estimate"] is None:
        return UNDEFINED
    estimate, low, high = (_number(number[name], percent=percent) for name in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def _number(value: float | None, *, percent: bool = False) -> str:
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
