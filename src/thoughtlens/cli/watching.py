"""The command that looks at a run from another terminal."""

from thoughtlens.cli import terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import AsJson, RunFolder


@app.command()
def status(folder: RunFolder, as_json: AsJson = False) -> None:
    """How far a run is, whoever is writing it."""
    from thoughtlens.runs.progress import status as look

    found = look(folder)
    if found.complete:
        ending = "complete"
    elif found.seconds_left is None:
        ending = "too early for an estimate"
    else:
        ending = f"about {terminal.duration(found.seconds_left)} left"
    said = (
        f"{found.n_done:,} of {found.n_problems:,} problems, {found.shards_done} of {found.n_shards} shards; {ending}"
    )
    terminal.tell({"run": str(folder), **found._asdict()}, said, as_json=as_json)
