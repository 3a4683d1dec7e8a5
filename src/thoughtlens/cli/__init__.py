"""The command line: one command a stage, the only place with terminal output, exit codes and default paths.

Results go to stdout, progress and errors to stderr. A user's mistake ends in one sentence and exit code 2.
Heavy modules are imported inside the commands, so that `--help` answers at once.
"""

from thoughtlens.cli import intervene, measure, models, runs
from thoughtlens.cli.app import app

__all__ = ["app", "intervene", "main", "measure", "models", "runs"]


def main() -> None:
    """Entry point."""
    app()
