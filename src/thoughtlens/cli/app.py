"""The application: how its commands begin, and how a user's mistake ends them, in one sentence and exit code 2."""

import logging
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from thoughtlens.cli import terminal
from thoughtlens.errors import ThoughtLensError


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


@app.callback()
def _prepare(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
