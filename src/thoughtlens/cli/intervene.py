"""The command `intervene`, and the closing text and tables of a study.

in: options; out: what the library writes, and on stdout what it found, in sentences or with `--full` in tables.
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
    app,
    batch_size_named,
    engine_named,
    is_file,
    typed,
    within,
)
from thoughtlens.errors import OptionError
from thoughtlens.progress import duration


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
        list[str] | None,
        typer.Option("--edit", help="resample (another problem's values), zero, mean, noise, scale:0.5; repeatable."),
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Where heads are cut: thoughts, eot, answer, …; everywhere if not given.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also all thoughts at once: by each edit, shuffled, stopped after each.")
    ] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Keep later thoughts as they were without cuts.")] = False,
    together: Annotated[bool, typer.Option("--together", help="Make one cut of all that is named.")] = False,
    leave_out: Annotated[
        str | None,
        typer.Option("--except", help="Leave these out of the one family that is named: --heads all --except L0H1."),
    ] = None,
    restore: Annotated[
        str | None,
        typer.Option(
            "--restore", help="heads, thoughts or edges: put back one at a time where thoughts are another problem's."
        ),
    ] = None,
    effects: Annotated[
        str | None,
        typer.Option("--effects", help="total,direct,indirect: direct with later thoughts as they were without cuts."),
    ] = None,
    plan: Annotated[Path | None, typer.Option("--plan", callback=is_file, help="A JSON file of further cuts.")] = None,
    order: Annotated[
        list[str] | None,
        typer.Option("--order", help="Cut the first 1, 2, … heads by attention, value-weighted or cause; repeatable."),
    ] = None,
    random_orders: Annotated[
        int,
        typer.Option(
            "--random-orders", callback=within("--random-orders", 0), help="How many random orders to compare with."
        ),
    ] = 10,
    controls: Annotated[
        int,
        typer.Option("--controls", callback=within("--controls", 0), help="How many matched random cuts for each cut."),
    ] = 0,
    caliper: Annotated[
        float,
        typer.Option(
            "--caliper", help="How far control heads may be in attention mass and output norm, in sd of logs."
        ),
    ] = 0.5,
    donors: Annotated[
        int,
        typer.Option(
            "--donors",
            callback=within("--donors", 1),
            help="Donors of another problem's values, over which log-probabilities average.",
        ),
    ] = 1,
    holdout: Annotated[
        float | None,
        typer.Option("--holdout", help="Share of problems that are tested, such as 0.5; the others choose."),
    ] = None,
    holdout_seed: Annotated[
        int, typer.Option("--holdout-seed", help="By which, and its id, a problem's half follows.")
    ] = 0,
    analysis: Annotated[
        str | None, typer.Option("--analysis", help="Follow the ranking of this saved analysis for top: and orders.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            "--study", help="Name of the study; a digest if not given. Cuts added to a study are exploratory."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a study of this name with other problems, model or seed.")
    ] = False,
    margin: Annotated[
        float, typer.Option("--margin", help="Nats: a mean effect shown to be nearer to 0 is called none.")
    ] = 0.05,
    accuracy_margin: Annotated[
        float, typer.Option("--accuracy-margin", help="The same for accuracy, as a share of problems.")
    ] = 0.02,
    n: Annotated[
        int | None,
        typer.Option("--n", callback=within("--n", 1), help="How many problems of the run; all if not given."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of problems, controls and edits that draw.")] = 0,
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
    allow_failed: Annotated[
        bool, typer.Option("--allow-failed", help="Count and leave out what can't be run; do not stop.")
    ] = False,
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
        planned = tl.plan_cuts(
            run,
            heads=heads,
            kv_groups=kv_groups,
            thoughts=thoughts,
            edges=edges,
            edits=edit or (),
            at=at,
            whole=whole,
            frozen=frozen,
            together=together,
            leave_out=leave_out,
            restore=restore,
            paths=effects,
            file=plan,
            controls=controls,
            caliper=caliper,
            orders=order or (),
            random_orders=random_orders,
            donors=donors,
            holdout=holdout,
            holdout_seed=holdout_seed,
            seed=seed,
            reasoner=reasoner,
            analysis=analysis,
        )
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
        for warning in facts["warnings"]:
            terminal.warn(warning)
        terminal.tell(facts, _estimate(facts), as_json=as_json)
        return
    if planned.controlled and full and not as_json:
        _show_balance(planned.controlled["balance"])
    from thoughtlens.cuts.study import intervene_part  # imports torch
    from thoughtlens.reasoning.loop import MAX_NEW_TOKENS
    from thoughtlens.runs.engines import part_named

    how: dict[str, Any] = {
        "study": study,
        "n": n,
        "reasoner": reasoner,
        "batch_size": batch_size_named(batch_size),
        "max_new_tokens": max_new_tokens or MAX_NEW_TOKENS,
        "margin": margin,
        "accuracy_margin": accuracy_margin,
        "allow_failed": allow_failed,
        "force": force,
        "engine": where,
        "call": typed(ctx),
    }
    part = None if shard is None else part_named(shard)
    effects_found = tl.intervene(run, planned, **how) if part is None else intervene_part(run, planned, part, **how)
    if effects_found is None:
        said = f"shard {shard} of the study is done; the last process to finish closes it"
        terminal.tell({"run": str(run.path), "shard": shard, "complete": False}, said, as_json=as_json)
        return
    with terminal.working("study"):
        done = tl.study(run, effects_found)
    facts = reports.write_study(run, done)
    if not no_report:
        with terminal.working("report"):
            facts |= {"report": str(reports.write_report(run).path)}
    if as_json:
        terminal.print_json(facts)
        return
    where_written = folder / "studies" / facts["study"]
    if full:
        show_study(facts)
        show_columns(facts)
        lines = []
    else:
        lines = _findings(run, done, facts)
    after = f"thoughtlens intervene {folder} … --controls 20 (does a random cut of like heads cost as much?)"
    if any(row["n_controls"] for row in facts["top"]):
        after = f"thoughtlens status {folder} (what has been measured so far?)"
    paths = {
        "tables in": where_written,
        "figures in": where_written / "figures",
        "report": facts.get("report"),
    }
    terminal.close(lines, paths, after)


def _findings(run: "tl.Run", done: "tl.Study", facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a study found, in sentences."""
    from thoughtlens.reports.sentences import cuts as findings  # imports xarray
    from thoughtlens.reports.study_data import facts_of

    for warning in facts["warnings"]:
        if "forced prefix" not in warning:  # which is about a number that only tables show
            terminal.tell({}, f"Warning: {warning}.", as_json=False)
    title = f"{facts['model']['name']} on {facts['problems']['name']}, study {facts['study']}, n = {facts['n']}"
    told = "brackets are 95 % intervals over problems; an effect is the value with the cut minus without it"
    terminal.tell({}, f"{title}; {told}", as_json=False)
    accuracy = terminal.with_interval(facts["baseline"]["accuracy"], percent=True)
    late = f", {facts['n_exploratory']} of all exploratory" if facts["n_exploratory"] else ""
    beside = f" and {facts['n_controls']} further ones as controls" if facts["n_controls"] else ""
    put_in = ""
    if any("resample" in row["cut"] for row in facts["top"]):
        put_in = "; resample: another problem's values take the place of a head's or thought's own"
    lines = [
        ("Measured", f"{facts['n_cuts']} cuts{beside}{late}{put_in}."),
        ("Without cuts", f"{accuracy} of the answers are right."),
    ]
    lines += [finding[:2] for finding in findings([facts_of(run, done)])]
    if (nats := facts["detectable"]["joint_logprob"]) is not None:
        lines.append(
            (
                "Could be found",
                f"an effect of {nats:.2g} nats or more of the noisiest cut, in 4 of 5 such studies; less of others.",
            )
        )
    lines += [("Orders", _order(row)) for row in facts["orders"]]
    for row in facts["transplants"]:
        share = terminal.with_interval(row["source"], percent=True) if "source" in row else ""
        lines += [("Transplant", f"{row['cut']}: {share} of {row['n']} answers follow the other problem.")] * bool(
            share
        )
    if facts["restored"]:
        best = max(facts["restored"], key=lambda row: row["share"]["estimate"] or 0.0)
        share = terminal.with_interval(best["share"], percent=True)
        lines.append(
            (
                "Put back",
                f"{best['unit']} alone brings back the largest share of what other thoughts cost: {share}.",
            )
        )
    return lines


def _estimate(facts: Mapping[str, Any]) -> str:
    further = {
        f"{facts['n_variants']} variants": facts["n_variants"],
        f"{facts['n_restored']} restorations": facts["n_restored"],
        f"{facts['n_controls']} further ones as controls": True,
        f"{facts['n_orders']} steps of orders": True,
    }
    where = f", chosen on {facts['n_choosing']} others" if facts["n_choosing"] else ""
    said = [
        f"{facts['n_cuts']} cuts, {', '.join(name for name, there in further.items() if there)} on "
        f"{facts['n_problems']} problems{where}: {facts['n_passes']:,} passes, about "
        f"{duration(facts['seconds'])}",
        f"found with power 0.8 at 5 %, Holm's correction over {facts['n_cuts']} cuts:",
    ]
    for row in facts["bounds"]:
        said.append(f"  accuracy, if {row['discordant']:.0%} of the problems flip: {_points(row['accuracy'])}")
    if found := facts["pilot"]:
        said.append(
            f"  with the spread of the worst control on {found['n_problems']} problems (sd {_p(found['sd'])} nats, "
            f"{found['discordant']:.0%} flip): {_p(found['nats'])} nats, accuracy {_points(found['accuracy'])}"
        )
    return "\n".join(said)


def _points(change: float | None) -> str:
    return "no change" if change is None else f"a change of {change:.1%}"


def _show_balance(rows: Sequence[Mapping[str, Any]]) -> None:
    """How near the controls of each cut of heads come to what it cuts."""
    if rows:
        title = "matched controls: attention mass and output norm of what is cut, and of its controls on average"
        table = [
            (
                row["cut"],
                str(row["n_controls"]),
                *(f"{row[name]:.3g} / {row[f'{name}_controls']:.3g}" for name in ("mass", "norm")),
            )
            for row in rows
        ]
        terminal.table(("cut", "controls", "mass", "norm"), table, title=title)


def show_columns(facts: Mapping[str, Any]) -> None:
    """What stands beside the cuts of a study: their variants, what putting units back recovers, and whose values."""
    if rows := facts["variants"]:
        names = list(rows[0]["effects"])
        title = "the same cuts in other ways: log-probability, nats (direct: later thoughts as they were without cuts)"
        table = [(row["cut"], *(terminal.with_interval(row["effects"][name]) for name in names)) for row in rows]
        terminal.table(("cut", *names), table, title=title)
    if rows := facts["restored"]:
        title = (
            "one unit put back where all thoughts are another problem's, which costs "
            f"{rows[0]['loss']:.2g} nats: share of this that comes back"
        )
        table = [(row["unit"], terminal.with_interval(row["share"], percent=True)) for row in rows]
        terminal.table(("unit", "recovered"), table, title=title)
    if facts["donor_rule"]:
        terminal.tell({}, facts["donor_rule"], as_json=False)


def show_study(facts: Mapping[str, Any]) -> None:
    """The closing tables of a study: what costs most, and whether attention predicted the cost."""
    exploratory = f" ({facts['n_exploratory']} of all exploratory)" if facts["n_exploratory"] else ""
    shown = f"; the {len(facts['top'])} with the largest effects of each kind" * (len(facts["top"]) < facts["n_cuts"])
    title = (
        f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}: {facts['n_cuts']} cuts{shown}, "
        f"{facts['n_controls']} further ones as controls{exploratory}, 95 % intervals over problems; "
        "effects are with the cut minus without"
    )
    unsaid = ["without prefix (accuracy)"] if "said_prefix" in facts["baseline"] else []
    columns = (
        "cut",
        "accuracy",
        "log-probability, nats",
        "broken / mended",
        *unsaid,
        "p (Holm)",
        "shown",
        "p (controls)",
    )
    terminal.table(columns, [_cut(row) for row in facts["top"]], title=title)
    terminal.table(("measure", "value"), _measures(facts))
    for warning in facts["warnings"]:
        terminal.warn(warning)
    rows = [_verdict(family, row) for family, its in facts["verdict"].items() for row in its]
    if rows:
        columns = ("cut", "attention", "rho", "p (Holm)", "in both tops", "reliability")
        terminal.table(columns, rows, title="does looking predict cutting?")
    if edge := next((row["cut"] for row in facts["top"] if "⊣" in row["cut"]), ""):
        query, _, key = edge.partition(" ⊣ ")
        terminal.tell({}, f"{query} ⊣ {key.split()[0]}: {query} cannot attend to {key.split()[0]}", as_json=False)
    for family, its in facts["verdict"].items():
        terminal.tell({}, f"{family}: {its[0]['reading']}", as_json=False)
    for row in facts["orders"]:
        chosen = row["order"] == "cause" and facts["holdout"] is None
        terminal.tell({}, _order(row) + " (selected on these problems)" * chosen, as_json=False)
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
        terminal.with_interval(row["joint_logprob"]),
        f"{row['n_broken']} / {row['n_mended']}",
        *([_unsaid(row)] if "n_unsaid" in row else []),
        _p(row["p_holm"]["joint_logprob"]),
        row["shown"]["joint_logprob"],
        f"{_p(row['p_controls']['joint_logprob'])} of {row['n_controls']}" if row["n_controls"] else "no controls",
    )


def _unsaid(row: Mapping[str, Any]) -> str:
    """How many problems no longer end in the answer prefix, and what that does to their accuracy."""
    share = row["accuracy_unsaid"]
    return str(row["n_unsaid"]) if share is None else f"{row['n_unsaid']} ({share:+.1%})"


def _transplant(row: Mapping[str, Any], answers: Sequence[str]) -> tuple[str, ...]:
    shares = (terminal.with_interval(row[name], percent=True) for name in answers)
    return row["cut"], str(row["n"]), *shares, "" if row["p"] is None else _p(row["p"])


def _measures(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    found, detectable = facts["n_significant"], facts["detectable"]
    accuracy = "undefined" if detectable["accuracy"] is None else f"{detectable['accuracy']:.1%}"
    return [
        ("accuracy without cuts", terminal.with_interval(facts["baseline"]["accuracy"], percent=True)),
        ("log-probability without cuts", terminal.with_interval(facts["baseline"]["joint_logprob"])),
        ("significant after Holm", f"{found['joint_logprob']} by log-probability, {found['accuracy']} by accuracy"),
        (
            "detectable with this n, worst cut",
            f"{accuracy} accuracy, {_p(detectable['joint_logprob'])} nats (power 0.8, corrected for the plan)",
        ),
        (
            "no effect means within",
            f"{facts['margin']:g} nats, {facts['accuracy_margin']:.1%} accuracy (90 % interval)",
        ),
        ("pairs left out as failed", str(facts["n_failed"])),
    ]


def _verdict(family: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    shared = row["precision"]
    both = terminal.UNDEFINED
    if shared is not None:
        both = f"{shared * row['k']:.1f} of {row['k']} (chance {row['chance'] * row['k']:.1f})"
    return family, row["attention"], _p(row["rho"]), _p(row["p_holm"]), both, _p(row["reliability"])


def _order(row: Mapping[str, Any]) -> str:
    p, against = row["p"]["joint_logprob"], "no random orders to compare with"
    if p is not None:
        against = f"p = {_p(p)} against {row['n_random']} random orders"
    return f"cutting by {row['order']}: mean effect {_p(row['area']['joint_logprob'])} nats over the order, {against}"


def _p(number: float | None) -> str:
    return terminal.UNDEFINED if number is None else f"{number:.2g}"
