"""The command `intervene`, and the closing tables of a study.

in: options; out: what the library writes, and tables of its facts on stdout.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import thoughtlens as tl
from thoughtlens import cuts, models, reports
from thoughtlens.cli import terminal
from thoughtlens.cli.app import (
    Address,
    AsJson,
    Base,
    Device,
    EngineName,
    RunFolder,
    RunModel,
    Workers,
    app,
    engine_named,
    typed,
)


@app.command()
def intervene(
    ctx: typer.Context,
    folder: RunFolder,
    heads: Annotated[
        str | None, typer.Option("--heads", help="all, top:10 (by attention), or names such as L4H5,L0H1.")
    ] = None,
    kv_groups: Annotated[
        str | None, typer.Option("--kv-groups", help="Heads that share a key-value head: all, or L4G1,L0G0.")
    ] = None,
    thoughts: Annotated[str | None, typer.Option("--thoughts", help="all, or z1,z4.")] = None,
    edges: Annotated[
        str | None,
        typer.Option("--edges", help="all (thought to earlier thought), readout (eot and answer), or such as z4:z1."),
    ] = None,
    edit: Annotated[
        list[str] | None, typer.Option("--edit", help="zero, mean, resample, noise, scale:0.5; repeatable.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Where heads are cut: thoughts, eot, answer, …; everywhere if not given.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also all thoughts at once: by each edit, shuffled, stopped after each.")
    ] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Keep later thoughts as they were without cuts.")] = False,
    plan: Annotated[Path | None, typer.Option("--plan", help="A JSON file of further cuts.")] = None,
    order: Annotated[
        list[str] | None,
        typer.Option("--order", help="Cut the first 1, 2, … heads by attention, value-weighted or cause; repeatable."),
    ] = None,
    random_orders: Annotated[int, typer.Option("--random-orders", help="How many random orders to compare with.")] = 10,
    controls: Annotated[int, typer.Option("--controls", help="How many matched random cuts for each cut.")] = 0,
    match: Annotated[
        str, typer.Option("--match", help="What control heads share: layer, or mass (of attention to thoughts).")
    ] = "layer",
    study: Annotated[
        str | None,
        typer.Option(
            "--study", help="Name of the study; a digest if not given. Cuts added to a study are exploratory."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a study of this name with other problems, model or seed.")
    ] = False,
    n: Annotated[int | None, typer.Option("--n", help="How many problems of the run; all if not given.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of problems, controls and edits that draw.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Problems whose questions are read together.")] = 32,
    model: RunModel = None,
    base: Base = None,
    device: Device = None,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    answer_rule: Annotated[
        str | None, typer.Option("--answer-rule", help="strict or official; that of the run if not given.")
    ] = None,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Count and leave out what can't be run; do not stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate the passes and the time; cut nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cut heads, thoughts and edges, and measure what the answer loses against matched random cuts."""
    where = engine_named(engine, workers=workers, address=address)
    run = tl.open_run(folder)
    with terminal.working("load the run's model"):
        where_now = {"model": model, "base": base, "device": device}
        reasoner = models.reasoner_of(run.manifest, answer_rule=answer_rule, **where_now)
    with terminal.working("plan"):
        planned = tl.plan_cuts(
            run,
            heads=heads,
            kv_groups=kv_groups,
            thoughts=thoughts,
            edges=edges,
            edits=edit or ("zero",),
            at=at,
            whole=whole,
            frozen=frozen,
            file=plan,
            controls=controls,
            match=match,
            orders=order or (),
            random_orders=random_orders,
            seed=seed,
            reasoner=reasoner,
        )
    for note in planned.notes:
        terminal.warn(note)
    if dry_run:
        with terminal.working("try a few"):
            facts = cuts.estimate_study(run, planned, n=n, reasoner=reasoner, batch_size=batch_size)
        terminal.tell(facts, _estimate(facts), as_json=as_json)
        return
    n_passes = planned.n_passes(n or int(run.manifest["layout"]["n_problems"]))
    with terminal.counting("intervene", n_passes) as progress:
        effects = tl.intervene(
            run,
            planned,
            study=study,
            n=n,
            reasoner=reasoner,
            batch_size=batch_size,
            allow_failed=allow_failed,
            force=force,
            engine=where,
            call=typed(ctx),
            progress=progress,
        )
    with terminal.working("study"):
        facts = reports.write_study(run, tl.study(run, effects))
    if as_json:
        terminal.print_json(facts)
        return
    show_study(facts)
    terminal.tell({}, f"results and figures: {folder / 'studies' / facts['study']}", as_json=False)


def _estimate(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['n_cuts']} cuts, {facts['n_controls']} further ones as controls and {facts['n_orders']} steps of "
        f"orders on {facts['n_problems']} problems: {facts['n_passes']:,} passes, about "
        f"{terminal.duration(facts['seconds'])}"
    )


def show_study(facts: Mapping[str, Any]) -> None:
    """The closing tables of a study: what costs most, and whether attention predicted the cost."""
    exploratory = f" ({facts['n_exploratory']} of all exploratory)" if facts["n_exploratory"] else ""
    title = (
        f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}: {facts['n_cuts']} cuts, "
        f"{facts['n_controls']} further ones as controls{exploratory}, 95 % intervals over problems"
    )
    columns = ("cut", "accuracy", "log-probability, nats", "broken / mended", "p (Holm)", "p (controls)")
    terminal.table(columns, [_cut(row) for row in facts["top"]], title=title)
    terminal.table(("measure", "value"), _measures(facts))
    rows = [_verdict(family, row) for family, its in facts["verdict"].items() for row in its]
    if rows:
        columns = ("cut", "attention", "rho", "p", "in both tops", "reliability")
        terminal.table(columns, rows, title="does looking predict cutting?")
    for family, its in facts["verdict"].items():
        terminal.tell({}, f"{family}: {its[0]['reading']}", as_json=False)
    for row in facts["orders"]:
        terminal.tell({}, _order(row), as_json=False)
    if facts["transplants"]:
        answers = [name for name, share in facts["transplants"][0].items() if isinstance(share, dict)]
        rows = [_transplant(row, answers) for row in facts["transplants"]]
        title = "whose answer is given with another problem's thoughts? (n: problems whose two answers differ)"
        terminal.table(("transplant", "n", *answers, "p (follows)"), rows, title=title)


def _cut(row: Mapping[str, Any]) -> tuple[str, ...]:
    failed = f" ({row['n_failed']} failed)" if row["n_failed"] else ""
    return (
        f"{row['cut']}{failed}",
        terminal.with_interval(row["accuracy"], percent=True),
        terminal.with_interval(row["gold_logprob"]),
        f"{row['n_broken']} / {row['n_mended']}",
        _p(row["p_holm"]["gold_logprob"]),
        f"{_p(row['p_controls']['gold_logprob'])} of {row['n_controls']}" if row["n_controls"] else "no controls",
    )


def _transplant(row: Mapping[str, Any], answers: Sequence[str]) -> tuple[str, ...]:
    shares = (terminal.with_interval(row[name], percent=True) for name in answers)
    return row["cut"], str(row["n"]), *shares, "" if row["p"] is None else _p(row["p"])


def _measures(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, detectable = facts["n_significant"], facts["detectable"]
    accuracy = "undefined" if detectable["accuracy"] is None else f"{detectable['accuracy']:.1%}"
    return [
        ("accuracy without cuts", terminal.with_interval(facts["baseline"]["accuracy"], percent=True)),
        ("gold log-probability without cuts", terminal.with_interval(facts["baseline"]["gold_logprob"])),
        ("significant after Holm", f"{found['gold_logprob']} by log-probability, {found['accuracy']} by accuracy"),
        (
            "detectable with this n, median cut",
            f"{accuracy} accuracy, {_p(detectable['gold_logprob'])} nats (power 0.8, one cut)",
        ),
        ("pairs left out as failed", str(facts["n_failed"])),
    ]


def _verdict(family: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    shared = row["precision"]["estimate"]
    both = terminal.UNDEFINED
    if shared is not None:
        both = f"{shared * row['k']:.1f} of {row['k']} (chance {row['chance'] * row['k']:.1f})"
    rho = terminal.with_interval(row["rho"])
    return family, row["attention"], rho, _p(row["p"]), both, _p(row["reliability"])


def _order(row: Mapping[str, Any]) -> str:
    p, against = row["p"]["gold_logprob"], "no random orders to compare with"
    if p is not None:
        against = f"p = {_p(p)} against {row['n_random']} random orders"
    return f"cutting by {row['order']}: mean effect {_p(row['area']['gold_logprob'])} nats over the order, {against}"


def _p(number: float | None) -> str:
    return terminal.UNDEFINED if number is None else f"{number:.2g}"
