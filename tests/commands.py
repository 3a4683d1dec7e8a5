"""The command line as a user calls it, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from unittest.mock import patch

import typer.testing
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from typer.testing import CliRunner

from thoughtlens import plots
from thoughtlens.cli import app

# Each call would build all commands anew; a user's process does it once.
typer.testing._get_command = cache(typer.testing._get_command)


@contextmanager
def unrendered(*formats: str) -> Iterator[None]:
    """Figures are made, but their files of these formats stay empty: rendering takes most of a command's time.

    Where all files stay empty, nothing is laid out either; tests/plots shows that what is laid out can be read.
    """
    render, lay_out = Figure.savefig, ConstrainedLayoutEngine.execute

    def save(figure, file, *, format, **options):
        if format not in formats:
            render(figure, file, format=format, **options)

    def execute(engine, figure):
        if {"png", "svg", "pdf"} - set(formats):
            lay_out(engine, figure)

    with patch.object(Figure, "savefig", save), patch.object(ConstrainedLayoutEngine, "execute", execute):
        yield


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures have their names and files, and show nothing, where a test does not look at how they come out."""
    names = [name for name in plots.__all__ if name != "save_figure"]
    with patch.multiple(plots, **{name: lambda *_, **__: Figure() for name in names}):
        yield


REPORTING = ("run", "intervene", "compare")
"""Commands that write a page, which tests/reports shows to be right."""


@contextmanager
def unread() -> Iterator[None]:
    """Extractions leave out what pages show of single problems, which takes most of the time of a small one."""
    with patch("thoughtlens.evaluation.write_readings"):
        yield


def call(*arguments, code=0, rendered=False):
    if arguments[0] in REPORTING and not rendered:
        arguments = (*arguments, "--no-report")
    with nullcontext() if rendered else unrendered("png", "svg", "pdf"), nullcontext() if rendered else unread():
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def sentence(*arguments):
    """The one sentence on stderr that a wrong call ends in, with exit code 2 and nothing on stdout."""
    result = call(*arguments, code=2)
    assert result.stdout == ""
    said = result.stderr.strip()
    assert said.startswith("Error: ")
    assert "\n" not in said
    assert "Traceback" not in said
    return said
