"""The command line as a user calls it, in this process."""

from typer.testing import CliRunner

from thoughtlens.cli import app


def call(*arguments, code=0):
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
