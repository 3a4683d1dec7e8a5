"""The command line as a user calls it, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

from matplotlib.figure import Figure
from typer.testing import CliRunner

from thoughtlens.cli import app


@contextmanager
def unrendered(*formats: str) -> Iterator[None]:
    """Figures are laid out, but their files of these formats stay empty: rendering takes most of a command's time."""
    render = Figure.savefig

    def save(figure, file, *, format, **options):
        if format not in formats:
            render(figure, file, format=format, **options)

    with patch.object(Figure, "savefig", save):
        yield


def call(*arguments, code=0, rendered=False):
    with nullcontext() if rendered else unrendered("png", "svg"):
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
