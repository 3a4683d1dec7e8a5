"""The command that shows which tokens of a question each thought looks at."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from thoughtlens.cli import terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import AsJson, Base, Device, RunFolder, RunModel

_N_TOP = 5


@app.command()
def tokens(
    folder: RunFolder,
    problem: Annotated[
        list[str] | None, typer.Option("--problem", metavar="ID", help="A problem of the run; may be given again.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Without --problem: the first n problems.")] = 5,
    model: RunModel = None,
    base: Base = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Which tokens of the question each thought attends to, over all layers and heads."""
    from thoughtlens.models.rerun import reasoner_of
    from thoughtlens.outputs import draw_question_attention, write_question_attention
    from thoughtlens.runs.reading import open_run
    from thoughtlens.runs.tokens import as_json as told
    from thoughtlens.runs.tokens import choose_problems, question_attention

    run = open_run(folder)
    chosen = choose_problems(run, problem or (), n=n)
    with terminal.working("load the run's model"):
        reasoner = reasoner_of(run.manifest, model=model, base=base, device=device)
    with terminal.working("tokens"):
        n_thoughts = run.manifest["options"]["n_thoughts"]
        measured = question_attention(reasoner, chosen, n_thoughts=n_thoughts)
    found = told(measured, n_top=_N_TOP)
    path = write_question_attention(run, found)
    figures = [str(figure) for figure in draw_question_attention(run, measured)]
    if as_json:
        terminal.print_json({"file": str(path), "figures": figures, **found})
        return
    for of_problem in found["problems"]:
        _show(of_problem)
    terminal.tell({}, "\n".join([f"all tokens: {path}", *figures]), as_json=False)


def _show(of_problem: Mapping[str, Any]) -> None:
    columns = ("position", *(f"top {place}" for place in range(1, _N_TOP + 1)))
    rows = [
        (query, *(f"{named['text']!r} {named['attention']:.3f}" for named in top), *[""] * (_N_TOP - len(top)))
        for query, top in of_problem["top"].items()
    ]
    terminal.table(columns, rows, title=f"{of_problem['id']}: {of_problem['question']}")
