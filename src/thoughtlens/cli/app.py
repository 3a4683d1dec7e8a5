"""The command-line application: how commands end and are configured, and the options that they share.

in: what a user types; out: values of options, and the problems, models and engines that they name. The packages that
the modules of `cli` import load their parts when these are first used, so that `--help` answers at once.
"""

import inspect
import logging
import os
import shlex
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_type_hints

import typer
from typer.core import TyperGroup
from typer.models import CommandFunctionType

import thoughtlens as tl
from thoughtlens import __version__, models, runs
from thoughtlens.cli import terminal
from thoughtlens.errors import OptionError, ThoughtLensError
from thoughtlens.files import COMMAND
from thoughtlens.models.disk_cache import settle_caches
from thoughtlens.runs.engines import Part, part_named

_TYPED: Final = "thoughtlens.typed"


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise `_Terminated` on SIGTERM, unless whoever started the process has it ignored."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is not signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class OneSentence(TyperGroup):
    """Commands whose user errors end in one sentence and exit code 2; Ctrl-C and SIGTERM in one and 130 or 143."""

    def main(self, *args: Any, **how: Any) -> Any:
        """Read what was typed and run the command."""
        try:
            return super().main(*args, **how)
        except ThoughtLensError as error:
            terminal.print_error(error)
            sys.exit(2)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what was typed, for manifests; then parse it."""
        ctx.meta[_TYPED] = shlex.join(["thoughtlens", *args])
        token = COMMAND.set(ctx.meta[_TYPED])
        ctx.call_on_close(lambda: COMMAND.reset(token))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _terminable():
                return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            terminal.warn("stopped; what was finished is kept, and the same command goes on from there.")
            # As shells expect it: 128 and the number of the signal.
            ctx.exit(128 + (signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT))


class _Visible(logging.Formatter):
    """Log lines whose control characters are written out."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return terminal.visible(super().format(record))


def _read_config(ctx: typer.Context, file: str | None) -> str | None:
    """Take the options of a file as the defaults of a command."""
    if file is None:
        return None
    try:
        given = tomllib.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"{file} can't be read ({error.strerror}), expected a TOML file; check --config.") from error
    except (ValueError, RecursionError) as error:  # a ValueError too where an integer has too many digits
        raise OptionError(f"{file} is not readable as TOML ({error}); correct it.") from error
    known = {
        name.removeprefix("--"): option
        for option in ctx.command.params
        for name in option.opts
        if name.startswith("--") and name not in ("--config", "--help")
    }
    for name, value in given.items():
        if name not in known:
            raise OptionError(f"{file} sets {name!r}, expected options of {ctx.info_name}: {', '.join(known)}.")
        several, is_flag = known[name].multiple, known[name].is_flag  # type: ignore[attr-defined]  # arguments have none
        expected = bool if is_flag else list if several else (str, int, float)
        if not isinstance(value, expected) or (isinstance(value, bool) and not is_flag):
            words = "true or false" if is_flag else "a list" if several else "one text or number"
            raise OptionError(f"{file} sets {name} to {value!r}, expected {words}; correct it.")
    ctx.default_map = {str(known[name].name): value for name, value in given.items()}
    return file


def _say_more(wanted: bool) -> None:
    if wanted:
        logging.getLogger().setLevel(logging.INFO)


Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=_read_config,
        help="Options by their names, such as n = 20, in a TOML file; what is typed goes first.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=_say_more, help="Log what is done.")]


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The options of a parameter: itself, or the fields of a dataclass of options."""
    kind = inspect.Parameter.KEYWORD_ONLY
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=kind)]
    known, found = get_type_hints(parameter.annotation, include_extras=True), []
    for of in fields(parameter.annotation):
        default = of.default if of.default_factory is MISSING else of.default_factory()
        default = parameter.empty if default is MISSING else default
        found.append(inspect.Parameter(of.name, kind, default=default, annotation=known[of.name]))
    return found


class _App(typer.Typer):
    """The application, all of whose commands also take `--config` and `--verbose`.

    A parameter of a command that is a dataclass stands for options: its fields.
    """

    def command(self, *args: Any, **how: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Register a command."""
        register = super().command(*args, **how)

        def add(function: CommandFunctionType) -> CommandFunctionType:
            signature = inspect.signature(function)
            groups = {
                of.name: of.annotation
                for of in signature.parameters.values()
                if isinstance(of.annotation, type) and is_dataclass(of.annotation)
            }

            @wraps(function)
            def called(config: Any, verbose: Any, **options: Any) -> None:
                for name, group in groups.items():
                    options[name] = group(**{of.name: options.pop(of.name) for of in fields(group)})
                function(**options)

            found = [one for of in signature.parameters.values() for one in _options_of(of)]
            found += [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                for name, kind, default in (("config", Config, None), ("verbose", Verbose, False))
            ]
            called.__signature__ = signature.replace(parameters=found)  # type: ignore[attr-defined]  # typer reads both
            called.__annotations__ = {of.name: of.annotation for of in found}
            register(called)
            return function

        return add


app = _App(
    cls=OneSentence,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
    help="See, measure and test how language models attend to their continuous thoughts.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        terminal.tell({}, f"thoughtlens {__version__}", as_json=False)
        raise typer.Exit


@app.callback()
def _prepare(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(_Visible("%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[to_stderr])
    settle_caches()


def typed(ctx: typer.Context) -> str:
    """The command line of this call, as the user typed it."""
    return str(ctx.meta[_TYPED])


DEFAULT_MODEL = "tiny-gpt2"
DEFAULT_PROBLEMS = "arithmetic"
PLANTED = "planted"
"""The model whose truth is known, and the problems that it can solve."""
OWN_PROBLEMS: Final = {PLANTED: PLANTED, "compiled": "graphs", "compiled-twin": "graphs"}
"""Models that can do one task alone, and its problems."""
DEFAULT_COUNT = 100


def within(option: str, least: int, most: int | None = None) -> Callable[[Any], Any]:
    """A check of a whole number, which costs no time."""

    def check(value: Any) -> Any:
        if value is not None and (value < least or (most is not None and value > most)):
            allowed = f"at least {least}" if most is None else f"{least} to {most}"
            raise OptionError(f"{option} is {value}, expected {allowed}; pass another.")
        return value

    return check


def one_of(option: str, *names: str) -> Callable[[str], str]:
    """A check of a word, which costs no time."""

    def check(value: str) -> str:
        if value not in names:
            raise OptionError(f"no {option} {value!r}, expected one of {', '.join(names)}; pass another.")
        return value

    return check


def _is_run(folder: Path) -> Path:
    # Here and not at the top, like all that a command needs and `--help` does not.
    from thoughtlens.runs.writer import read_manifest

    read_manifest(folder)
    return folder


def are_runs(folders: list[Path] | None) -> list[Path] | None:
    """Refuse folders that hold no run."""
    return folders and [_is_run(folder) for folder in folders]


def _may_be_run(folder: Path) -> Path:
    from thoughtlens.runs.writer import check_free

    check_free(folder)
    return folder


def is_file(path: Path | None) -> Path | None:
    """Refuse a file that is not there."""
    if path is not None and not path.is_file():
        raise OptionError(f"{path} is no file, expected a plan of cuts; check --plan.")
    return path


PROTOCOLS: Final = ("exact", "official-padding-v4-cuda", "official-padding-v4-cpu", "official-padding-v5")

Model = Annotated[str, typer.Option("--model", help="A bundled name, a Hub id, or a folder: CODI or Coconut.")]
Base = Annotated[
    str | None, typer.Option("--base", help="The base model: folder or Hub id, for configuration and tokenizer.")
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub model.")]
Alpha = Annotated[float | None, typer.Option("--alpha", help="LoRA's alpha, if it is not 32.")]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        callback=one_of("mode", "latent", "direct", "verbal"),
        help="latent; or direct, verbal: without thoughts, where the weights can.",
    ),
]
KnownAs = Annotated[
    str | None, typer.Option("--as", metavar="ID", help="Id of a known checkpoint whose facts hold for the folder.")
]
ReadingRule = Annotated[
    str,
    typer.Option(
        "--answer-rule",
        callback=one_of("answer rule", "strict", "official", "math-verify"),
        help="How answers are read: strict, official as in the family's own code, or math-verify for MATH.",
    ),
]
PaddingProtocol = Annotated[
    str,
    typer.Option(
        "--protocol",
        callback=one_of("protocol", *PROTOCOLS),
        help="exact, or official-padding-v4-cuda, -v4-cpu, -v5, for published numbers.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda, cuda:1, … or mps (float32); CUDA if there is a GPU. Several: --engine ray."
    ),
]
RandomWeights = Annotated[
    int | None, typer.Option("--random-weights", metavar="SEED", help="Draw the model's weights at random.")
]
Precision = Annotated[
    str,
    typer.Option(
        "--dtype",
        help=(
            "float32, float64, bfloat16, float16 or, on NVIDIA GPUs, tf32. Half precision is faster, but its rounding "
            "grows from thought to thought; how far is measured and said. auto: float32, but half on CUDA if that "
            "moves no cell of attention by more than 0.02."
        ),
    ),
]
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
Out = Annotated[
    Path,
    typer.Option(
        "--out", callback=_may_be_run, help="The run folder; an unfinished run with the same options goes on."
    ),
]
Thoughts = Annotated[
    int | None,
    typer.Option(
        "--thoughts",
        callback=within("--thoughts", 1, 32),
        help="How many thoughts, 1 to 32; as trained if not given.",
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        callback=within("--max-new-tokens", 1),
        help="Tokens after which an answer is cut short; 256 if not given.",
    ),
]


def batch_size_named(given: str) -> int | Literal["auto"]:
    """What `--batch-size` means."""
    if given == "auto":
        return "auto"
    try:
        size = int(given)
    except ValueError as error:
        raise OptionError(f"--batch-size is {given!r}, expected auto or a number such as 32; pass another.") from error
    return int(within("--batch-size", 1)(size))


def _is_batch_size(given: str) -> str:
    batch_size_named(given)
    return given


BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="auto|N",
        callback=_is_batch_size,
        help="Problems of a pass; auto: what fits into the memory of a GPU, else 32.",
    ),
]
Record = Annotated[
    list[str] | None, typer.Option("--record", help="values: also how much each key gives (twice the space).")
]
ShardSize = Annotated[
    int | None,
    typer.Option(
        "--shard-size",
        callback=within("--shard-size", 1),
        help="Problems of a shard, which a worker does at a time.",
    ),
]


Shard = Annotated[
    Part | None,
    typer.Option(
        "--shard",
        metavar="i/n",
        parser=part_named,
        help="Be one of n processes that share the work, i from 0 to n - 1: do every n-th shard; the last one closes.",
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        callback=one_of("--keep", "raw", "mean"),
        help="raw: attention of every problem; mean: sums over 512 blocks, of constant size.",
    ),
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
Full = Annotated[bool, typer.Option("--full", help="Every table, in the place of the summary.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, for machines.")]
RunModel = Annotated[
    str | None, typer.Option("--model", help="Where the run's model is now, if it is not where the run found it.")
]
AnalysisName = Annotated[
    str | None, typer.Option("--analysis", metavar="NAME", help="The analysis of this name, not the default one.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", callback=_is_run, help="A run folder.")]
NoReport = Annotated[bool, typer.Option("--no-report", help="Leave out the HTML page of results.")]
EngineName = Annotated[str, typer.Option("--engine", help="Where the work is done: local, or ray (extra `ray`).")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Ray: how many; one for each GPU, which a model does not share, or CPU, if not given."
    ),
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


def fields_of(given: list[str] | None) -> dict[str, str]:
    """What `--field` means: the names of fields in a file."""
    return dict(_field(each) for each in given or ())


def _field(given: str) -> tuple[str, str]:
    what, equals, name = given.partition("=")
    if not equals or not name:
        raise OptionError(f"--field is {given!r}, expected for instance question=NAME; give both sides.")
    return what, name


def check_model(name: str, **how: Any) -> None:
    """Refuse what of a model's options can't be right, before torch is imported."""
    from thoughtlens.models.catalog import check_asked  # not needed for `--help`

    check_asked(
        name, **{name: how[name] for name in ("revision", "known_as", "alpha", "dtype", "device") if name in how}
    )


def load_model(name: str, random_weights: int | None = None, **how: Any) -> "models.LatentReasoner":
    """A reasoner, loaded as the options say; with a seed, its architecture with random weights."""
    with terminal.working(f"load {name}"):
        reasoner = tl.load(name, **how)
        return reasoner if random_weights is None else models.randomize(reasoner, seed=random_weights)
