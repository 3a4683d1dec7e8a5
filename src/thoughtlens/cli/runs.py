"""Commands on whole runs: `compare` sets several side by side, `status` says how far one is."""

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens import reports, runs
from thoughtlens.cli import terminal
from thoughtlens.cli.app import AsJson, RunFolder, app
from thoughtlens.cli.measure import show_side_by_side


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN …", help="Run folders; the first is the base.")],
    to: Annotated[Path, typer.Option("--out", help="The folder to write to; it holds one comparison.")],
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of each run, in order; the models' names if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another comparison in the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs: where models attend, by depth, and how well they do."""
    compared = reports.labelled([runs.open_run(folder) for folder in folders], label or [])
    with terminal.working("compare"):
        facts = reports.write_comparison(to, compared, force=force)
    if as_json:
        terminal.print_json(facts)
        return
    show_side_by_side(facts, title=f"{' and '.join(compared)}, 95 % intervals over problems")
    terminal.tell({}, f"tables: {to}", as_json=False)


@app.command()
def status(folder: RunFolder, as_json: AsJson = False) -> None:
    """How far a run is, whoever is writing it."""
    found = runs.status(folder)
    if found.complete:
        ending = "complete"
    elif found.seconds_left is None:
        ending = "too early for an estimate"
    else:
        ending = f"about {terminal.duration(found.seconds_left)} left"
    said = (
        f"{found.n_done:,} of {found.n_problems:,} problems, {found.shards_done} of {found.n_shards} shards; {ending}"
    )
    named = {"studies": found.studies, "analyses": found.analyses}
    said += "".join(f"; {kind}: {', '.join(names)}" for kind, names in named.items() if names)
    terminal.tell({"run": str(folder), **found._asdict()}, said, as_json=as_json)
