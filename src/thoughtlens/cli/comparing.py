"""Commands that set runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli import stages, terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import AsJson


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN …", help="Run folders; the first is the base.")],
    to: Annotated[Path, typer.Option("--out", help="The folder to write to.")],
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of each run, in order; the models' names if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: where models look, by depth, and how well they do."""
    from thoughtlens.comparisons import compare_runs, comparison_summary, labelled, write_comparison
    from thoughtlens.runs.reading import open_run

    runs = labelled([open_run(folder) for folder in folders], label or [])
    with terminal.working("compare"):
        comparison = compare_runs(runs)
        paths = write_comparison(to, runs, comparison)
    facts = comparison_summary(runs, comparison)
    if as_json:
        terminal.print_json(facts | {"files": [str(path) for path in paths]})
        return
    stages.show_side_by_side(facts, title=f"{' and '.join(runs)}, 95 % intervals over problems")
    terminal.tell({}, f"tables: {to}", as_json=False)
