"""The command `intervene`.

in: options; out: what the library writes, and on stdout what it found.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

import thoughtlens as tl
from thoughtlens import cuts, models, reports
from thoughtlens.cli import closing_texts, terminal
from thoughtlens.cli.app import app, typed
from thoughtlens.cli.options import (
    Address,
    AsJson,
    Base,
    BatchSize,
    Device,
    EngineName,
    Full,
    MaxNewTokens,
    NoReport,
    RunFolder,
    RunModel,
    Shard,
    Workers,
    batch_size_named,
    engine_named,
    is_file,
    within,
)
from thoughtlens.errors import OptionError


@dataclass(frozen=True)
class Cutting:
    """What is cut, named as `plan_cuts` names it."""

    heads: Annotated[
        str | None, typer.Option("--heads", help="all, top:10 (by attention), or names such as L4H5,L0H1.")
    ] = None
    kv_groups: Annotated[
        str | None, typer.Option("--kv-groups", help="Heads that share a key-value head: all, or L4G1,L0G0.")
    ] = None
    thoughts: Annotated[str | None, typer.Option("--thoughts", help="all, or z1,z4.")] = None
    edges: Annotated[
        str | None,
        typer.Option(
            "--edges",
            help="all (thought to earlier thought), readout (eot and answer), or such as z4:z1, z1:sep.",
        ),
    ] = None
    edits: Annotated[
        list[str],
        typer.Option("--edit", help="resample (another problem's values), zero, mean, noise, scale:0.5; repeatable."),
    ] = field(default_factory=list)
    at: Annotated[
        str | None, typer.Option("--at", help="Where heads are cut: thoughts, eot, answer, …; everywhere if not given.")
    ] = None
    whole: Annotated[
        bool, typer.Option("--whole", help="Also all thoughts at once: by each edit, shuffled, stopped after each.")
    ] = False
    frozen: Annotated[bool, typer.Option("--frozen", help="Keep later thoughts as they were without cuts.")] = False
    together: Annotated[bool, typer.Option("--together", help="Make one cut of all that is named.")] = False
    leave_out: Annotated[
        str | None,
        typer.Option("--except", help="Leave these out of the one family that is named: --heads all --except L0H1."),
    ] = None
    restore: Annotated[
        str | None,
        typer.Option(
            "--restore", help="heads, thoughts or edges: put back one at a time where thoughts are another problem's."
        ),
    ] = None
    paths: Annotated[
        str | None,
        typer.Option("--effects", help="total,direct,indirect: direct with later thoughts as they were without cuts."),
    ] = None
    file: Annotated[Path | None, typer.Option("--plan", callback=is_file, help="A JSON file of further cuts.")] = None
    orders: Annotated[
        list[str],
        typer.Option("--order", help="Cut the first 1, 2, … heads by attention, value-weighted or cause; repeatable."),
    ] = field(default_factory=list)
    random_orders: Annotated[
        int,
        typer.Option(
            "--random-orders", callback=within("--random-orders", 0), help="How many random orders to compare with."
        ),
    ] = 10
    controls: Annotated[
        int,
        typer.Option("--controls", callback=within("--controls", 0), help="How many matched random cuts for each cut."),
    ] = 0
    caliper: Annotated[
        float,
        typer.Option(
            "--caliper", help="How far control heads may be in attention mass and output norm, in sd of logs."
        ),
    ] = 0.5
    donors: Annotated[
        int,
        typer.Option(
            "--donors",
            callback=within("--donors", 1),
            help="Donors of another problem's values, over which log-probabilities average.",
        ),
    ] = 1
    holdout: Annotated[
        float | None,
        typer.Option("--holdout", help="Share of problems that are tested, such as 0.5; the others choose."),
    ] = None
    holdout_seed: Annotated[
        int, typer.Option("--holdout-seed", help="By which, and its id, a problem's half follows.")
    ] = 0
    analysis: Annotated[
        str | None, typer.Option("--analysis", help="Follow the ranking of this saved analysis for top: and orders.")
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Seed of problems, controls and edits that draw.")] = 0


@dataclass(frozen=True)
class Making:
    """How the cuts are made, named as `intervene` names it."""

    study: Annotated[
        str | None,
        typer.Option(
            "--study", help="Name of the study; a digest if not given. Cuts added to a study are exploratory."
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Replace a study of this name with other problems, model or seed.")
    ] = False
    margin: Annotated[
        float, typer.Option("--margin", help="Nats: a mean effect shown to be nearer to 0 is called none.")
    ] = 0.05
    accuracy_margin: Annotated[
        float, typer.Option("--accuracy-margin", help="The same for accuracy, as a share of problems.")
    ] = 0.02
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Count and leave out what can't be run; do not stop.")
    ] = False


@app.command()
def intervene(
    *,
    ctx: typer.Context,
    folder: RunFolder,
    cutting: Cutting,
    making: Making,
    n: Annotated[
        int | None,
        typer.Option("--n", callback=within("--n", 1), help="How many problems of the run; all if not given."),
    ] = None,
    batch_size: BatchSize = "auto",
    max_new_tokens: MaxNewTokens = None,
    model: RunModel = None,
    base: Base = None,
    device: Device = None,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    shard: Shard = None,
    answer_rule: Annotated[
        str | None, typer.Option("--answer-rule", help="strict, official or math-verify; that of the run if not given.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate passes, time and what could be shown; write nothing.")
    ] = False,
    pilot: Annotated[
        int | None,
        typer.Option("--pilot", help="With --dry-run: make the controls on so many problems of the choosing half."),
    ] = None,
    no_report: NoReport = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Cut heads, thoughts and edges, and measure what the answer loses against matched random cuts."""
    where = engine_named(engine, workers=workers, address=address)
    if pilot is not None and not dry_run:
        raise OptionError("--pilot goes with --dry-run; add that, or leave it out.")
    run = tl.open_run(folder)
    run.problems(n=n)  # refuses a number that the run does not have before the model is loaded
    with terminal.working("load the run's model"):
        where_now = {"model": model, "base": base, "device": device}
        reasoner = models.reasoner_of(run.manifest, answer_rule=answer_rule, **where_now)
    with terminal.working("plan"):
        planned = tl.plan_cuts(run, **vars(cutting), reasoner=reasoner)
    for note in planned.notes:
        terminal.warn(note)
    if dry_run:
        with terminal.working("try a few"):
            facts = cuts.estimate_study(
                run,
                planned,
                n=n,
                pilot=pilot,
                reasoner=reasoner,
                batch_size=batch_size_named(batch_size),
                say=terminal.warn,
            )
        closing_texts.tell_estimate(facts, as_json=as_json)
        return
    if planned.controlled and full and not as_json:
        closing_texts.show_balance(planned.controlled["balance"])
    from thoughtlens.reasoning.loop import MAX_NEW_TOKENS  # imports torch

    effects = cuts.intervene_part(
        shard,
        run,
        planned,
        **vars(making),
        n=n,
        reasoner=reasoner,
        batch_size=batch_size_named(batch_size),
        max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
        engine=where,
        call=typed(ctx),
    )
    if effects is None:
        closing_texts.tell_part_of_study(run, shard, as_json=as_json)
        return
    with terminal.working("study"):
        done = tl.study(run, effects)
    facts = reports.write_study(run, done)
    if not no_report:
        with terminal.working("report"):
            facts |= {"report": str(reports.write_report(run).path)}
    closing_texts.close_study(run, done, facts, full=full, as_json=as_json)
