"""The command line as a user calls it, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from typer.testing import CliRunner

from thoughtlens.cli import app


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


REPORTING = ("run", "intervene", "compare")
"""Commands that write a page, which tests/reports shows to be right."""


def call(*arguments, code=0, rendered=False):
    if arguments[0] in REPORTING and not rendered:
        arguments = (*arguments, "--no-report")
    with nullcontext() if rendered else unrendered("png", "svg", "pdf"):
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
