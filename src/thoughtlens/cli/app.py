"""The command-line application: how commands are registered, configured and ended.

in: what a user types; out: a call of a command (`cli.runs`, `cli.intervene`, `cli.models`), and an exit code.
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
from typing import Annotated, Any, Final, get_type_hints

import typer
from typer.core import TyperGroup
from typer.models import CommandFunctionType

from thoughtlens import __version__
from thoughtlens.cli import terminal
from thoughtlens.errors import OptionError, ThoughtLensError
from thoughtlens.files import COMMAND
from thoughtlens.models.checksum_cache import settle_caches

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
