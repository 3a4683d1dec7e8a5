"""A study of cuts: planned, estimated, made; its files written, its figures drawn, its tables shown.

Heavy modules are imported inside the functions, so that `--help` answers at once.

The command that cuts: a plan from options, made, estimated or studied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from thoughtlens.cli import measure as stages
from thoughtlens.cli import terminal
from thoughtlens.cli.app import Address, AsJson, Base, Device, EngineName, RunFolder, RunModel, Workers, app
from thoughtlens.errors import OptionError
from thoughtlens.names import HEADS

if TYPE_CHECKING:
    import xarray as xr

    from thoughtlens.cuts.controls import Shape
    from thoughtlens.cuts.job import Target
    from thoughtlens.cuts.named import Cut
    from thoughtlens.cuts.plan import Asked, Plan
    from thoughtlens.models.reasoner import Codi
    from thoughtlens.runs.engines import Engine
    from thoughtlens.runs.folder import Run

MATCHES = ("layer", "mass")


class Bench(NamedTuple):
    """What is cut: a run, its model, and the problems chosen."""

    run: "Run"
    reasoner: "Codi"
    target: "Target"
    shape: "Shape"


class Planned(NamedTuple):
    """Cuts and their controls, and the orders in which heads are cut one after the other."""

    plan: "Plan"
    """without the orders, which may follow from what its cuts do"""
    orders: tuple[str, ...]
    n_random: int
    seed: int


def open_bench(
    folder: Path,
    model: str | None,
    base: str | None,
    device: str | None,
    *,
    n: int | None,
    seed: int,
    batch_size: int,
) -> Bench:
    """A run, its model loaded again, and the problems that are cut."""
    from thoughtlens.cuts.effects_run import shape_of, target_of
    from thoughtlens.models.loader import reasoner_of
    from thoughtlens.runs.folder import open_run

    run = open_run(folder)
    # A study sets cuts beside the attention of the problems that were cut: asked for before hours of cuts.
    run.require_attention()
    with terminal.working("load the run's model"):
        reasoner = reasoner_of(run.manifest, model=model, base=base, device=device)
    return Bench(run, reasoner, target_of(run, reasoner, n=n, seed=seed, batch_size=batch_size), shape_of(run))


def plan_study(
    bench: Bench, asked: "Asked", *, controls: int, match: str, orders: Sequence[str], n_random: int
) -> Planned:
    """The cuts asked for, with matched controls of those that have any, and the orders asked for, checked."""
    from thoughtlens.cuts.controls import controllable, controls_for
    from thoughtlens.cuts.plan import Plan, plan_cuts
    from thoughtlens.reports.effects import check_ranking

    if match not in MATCHES:
        raise OptionError(f"--match is {match!r}, expected one of {', '.join(MATCHES)}; pass one of these.")
    if controls < 0 or n_random < 0:
        raise OptionError("--controls and --random-orders are numbers from 0 on; pass such.")
    for by in orders:
        check_ranking(bench.run, by)
    config = bench.reasoner.lm.config
    n_groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cuts = plan_cuts(asked, bench.shape, n_groups=n_groups, ranking=lambda: _top_heads(bench))
    mass = _mass(bench) if match == "mass" and controls else None
    like = controllable(cuts, bench.shape) if controls else []
    found = controls_for(like, n=controls, seed=asked.seed, shape=bench.shape, mass=mass) if like else {}
    if orders and len(_single_heads(cuts)) < 2:
        raise OptionError("an order needs two heads or more that are cut one by one; add --heads all.")
    return Planned(Plan(tuple(cuts), found), tuple(dict.fromkeys(orders)), n_random, asked.seed)


def show_estimate(bench: Bench, planned: Planned, *, as_json: bool) -> None:
    """How many passes a plan is, and how long it would take."""
    from thoughtlens.cuts.job import estimate

    n_orders = len(planned.orders) + planned.n_random if planned.orders else 0
    steps = list(_single_heads(planned.plan.cuts).values()) * n_orders
    with terminal.working("try a few"):
        found = estimate(bench.reasoner, bench.target, [*planned.plan.made, *steps])
    counts = {f"n_{kind}s": len(cuts) for kind, cuts in planned.plan.kinds.items()} | {"n_orders": len(steps)}
    facts = {"n_problems": len(bench.target.problems), **counts, **found._asdict()}
    said = (
        f"{facts['n_cuts']} cuts, {facts['n_controls']} further ones as controls and {len(steps)} steps of orders on "
        f"{facts['n_problems']} problems: {found.n_passes:,} passes, about {terminal.duration(found.seconds)}"
    )
    terminal.tell(facts, said, as_json=as_json)


def cut(bench: Bench, planned: Planned, *, engine: "Engine", allow_failed: bool) -> None:
    """Make the cuts, and then those whose order follows from them."""
    from thoughtlens.reports.effects import CAUSE, heads_by_attention, heads_by_cause

    make = partial(_make, bench, engine=engine, allow_failed=allow_failed)
    rankings = {by: heads_by_attention(bench.run, by, bench.target.ids) for by in planned.orders if by != CAUSE}
    effects = make(_with_orders(planned, rankings))
    if CAUSE in planned.orders:
        make(_with_orders(planned, rankings | {CAUSE: heads_by_cause(effects)}))


def _make(bench: Bench, plan: "Plan", *, engine: "Engine", allow_failed: bool) -> "xr.Dataset":
    from thoughtlens.cuts.effects_run import make_cuts

    run, reasoner, target, _ = bench
    with terminal.counting("intervene", (1 + len(plan.made)) * len(target.problems)) as progress:
        return make_cuts(run, reasoner, target, plan, engine=engine, allow_failed=allow_failed, progress=progress)


def _with_orders(planned: Planned, rankings: Mapping[str, Sequence[str]]) -> "Plan":
    """The plan, with the first 1, 2, … of its heads by each ranking, each cut by the plan's first edit of it."""
    from thoughtlens.cuts.plan import plan_incremental

    single = _single_heads(planned.plan.cuts)
    ranked = {by: [single[name] for name in names if name in single] for by, names in rankings.items()}
    if not ranked:
        return planned.plan
    return replace(planned.plan, orders=plan_incremental(ranked, n_orders=planned.n_random, seed=planned.seed))


def _single_heads(cuts: Sequence["Cut"]) -> dict[str, "Cut"]:
    """By the head's name, the first cut of each single head."""
    return {cut.unit: cut for cut in reversed(cuts) if cut.family == HEADS}


def _top_heads(bench: Bench) -> list[str]:
    """Names of the heads by attention; a ranking that can't be trusted says so, and is followed all the same."""
    from thoughtlens.analysis.heads import unreliable
    from thoughtlens.reports.run import analyze_run

    with terminal.working("rank heads"):
        ranking = analyze_run(bench.run).ranking
    if (reason := unreliable(ranking)) is not None:
        terminal.warn(f"{reason.rstrip('.')}; what is cut is no better than a draw.")
    return [str(name) for name in ranking["name"].values]


def _mass(bench: Bench) -> "xr.DataArray":
    """Attention of each head to thoughts, dims (layer, head)."""
    from thoughtlens.reports.run import analyze_run

    with terminal.working("attention mass of heads"):
        return analyze_run(bench.run).heads["thought_mass"].sel(value="estimate", drop=True)


def study_and_write(done: "Run", *, figures: bool = True) -> tuple[dict[str, Any], list[Path]]:
    """The headline of a run's cuts and the files of its study, written anew; its figures too, if asked.

    Raises:
        RunError: nothing has been cut in this run.
    """
    from thoughtlens.reports.effects import other_attention, study, study_headline, write_study, write_study_figures

    with terminal.working("study"):
        found = study(done, others=other_attention(done))
        paths = write_study(done, found)
    if figures:
        with terminal.working("plot"):
            paths += write_study_figures(done, found)
    return study_headline(done, found), paths


def show_study(facts: Mapping[str, Any]) -> None:
    """The closing tables of a study: what costs most, and whether looking predicted cutting."""
    title = (
        f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}: {facts['n_cuts']} cuts, "
        f"{facts['n_controls']} further ones as controls, 95 % intervals over problems"
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
        rows = [
            (
                row["cut"],
                row["n"],
                *(terminal.with_interval(row[name], percent=True) for name in answers),
                "" if row["p"] is None else _p(row["p"]),
            )
            for row in facts["transplants"]
        ]
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
    both = (
        terminal.UNDEFINED
        if shared is None
        else f"{shared * row['k']:.1f} of {row['k']} (chance {row['chance'] * row['k']:.1f})"
    )
    rho = terminal.with_interval(row["rho"])
    return family, row["attention"], rho, _p(row["p"]), both, _p(row["reliability"])


def _order(row: Mapping[str, Any]) -> str:
    p = row["p"]["gold_logprob"]
    against = (
        "no random orders to compare with" if p is None else f"p = {_p(p)} against {row['n_random']} random orders"
    )
    return f"cutting by {row['order']}: mean effect {_p(row['area']['gold_logprob'])} nats over the order, {against}"


def _p(number: float | None) -> str:
    return terminal.UNDEFINED if number is None else f"{number:.2g}"


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
    engine: EngineName = "local",
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
    from thoughtlens.cuts.plan import Asked

    where = stages.choose_engine(engine, workers, address)
    edits = tuple(edit or ("zero",))
    asked = Asked(heads, kv_groups, thoughts, edges, edits, at, whole, frozen, plan, seed)
    bench = open_bench(folder, model, base, device, n=n, seed=seed, batch_size=batch_size)
    planned = plan_study(bench, asked, controls=controls, match=match, orders=order or (), n_random=random_orders)
    if dry_run:
        show_estimate(bench, planned, as_json=as_json)
        return
    cut(bench, planned, engine=where, allow_failed=allow_failed)
    facts, paths = study_and_write(bench.run)
    if as_json:
        terminal.print_json(facts | {"files": [str(path) for path in paths]})
        return
    show_study(facts)
    terminal.tell({}, f"results: {folder / 'analysis'}, figures: {folder / 'figures' / 'effects'}", as_json=False)
