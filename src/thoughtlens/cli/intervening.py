"""The command that cuts: a plan from options, made, estimated or studied."""

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli import stages, studying, terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import Address, AsJson, Base, Device, Engine, RunFolder, RunModel, Workers


@app.command()
def intervene(
    folder: RunFolder,
    heads: Annotated[str | None, typer.Option("--heads", help="all, top:10 by attention, or L4H5,L0H1.")] = None,
    kv_groups: Annotated[
        str | None, typer.Option("--kv-groups", help="Heads that share a key-value head: all, or L4G1,L0G0.")
    ] = None,
    thoughts: Annotated[str | None, typer.Option("--thoughts", help="all, or z1,z4.")] = None,
    edges: Annotated[
        str | None,
        typer.Option("--edges", help="all (thought to earlier thought), readout (eot and answer), z4:z1."),
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
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Later thoughts stay what they were; thought anew if not given.")
    ] = False,
    plan: Annotated[Path | None, typer.Option("--plan", help="A JSON file of further cuts.")] = None,
    order: Annotated[
        list[str] | None,
        typer.Option("--order", help="Cut the first 1, 2, … heads by attention, value-weighted or cause; repeatable."),
    ] = None,
    random_orders: Annotated[int, typer.Option("--random-orders", help="Random orders beside them.")] = 10,
    controls: Annotated[int, typer.Option("--controls", help="Matched random cuts beside each cut.")] = 0,
    match: Annotated[
        str, typer.Option("--match", help="What control heads are like: layer, or mass of attention to thoughts.")
    ] = "layer",
    n: Annotated[int | None, typer.Option("--n", help="How many problems of the run; all if not given.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the problems, controls and edits that draw.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Problems whose questions are read together.")] = 32,
    model: RunModel = None,
    base: Base = None,
    device: Device = None,
    engine: Engine = "local",
    workers: Workers = None,
    address: Address = None,
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Count and leave out what can't be run, instead of stopping.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many passes it is and how long; cut nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cut heads, thoughts and edges, and measure what the answer loses against matched random cuts."""
    from thoughtlens.runs.planning import Asked

    where = stages.choose_engine(engine, workers, address)
    edits = tuple(edit or ("zero",))
    asked = Asked(heads, kv_groups, thoughts, edges, edits, at, whole, frozen, plan, seed)
    bench = studying.open_bench(folder, model, base, device, n=n, seed=seed, batch_size=batch_size)
    planned = studying.plan_study(
        bench, asked, controls=controls, match=match, orders=order or (), n_random=random_orders
    )
    if dry_run:
        studying.show_estimate(bench, planned, as_json=as_json)
        return
    studying.cut(bench, planned, engine=where, allow_failed=allow_failed)
    facts, paths = studying.study_and_write(bench.run)
    if as_json:
        terminal.print_json(facts | {"files": [str(path) for path in paths]})
        return
    studying.show_study(facts)
    terminal.tell({}, f"results: {folder / 'analysis'}, figures: {folder / 'figures' / 'effects'}", as_json=False)
