"""The command line: one command a stage, the only place with terminal output, exit codes and default paths.

in: what a user types; out: results on stdout, progress and errors on stderr. A user's mistake ends in one sentence and
exit code 2. A command reads its options, calls the library, and shows what that returns.
"""

from thoughtlens.cli import intervene, models, runs, terminal
from thoughtlens.cli.app import app

__all__ = ["app", "intervene", "main", "models", "runs"]


def main() -> None:
    """Entry point."""
    terminal.take_streams()
    app()
