"""The commands on runs, from `run` and `sample` to `compare` and `status`; their closing texts and tables.

In: options. Out: what the library writes, and on stdout what it found, in sentences or with `--full` in tables.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import thoughtlens as tl
from thoughtlens import evaluation, models, published, reports, runs, surveys
from thoughtlens import problems as problem_sets
from thoughtlens.cli import terminal
from thoughtlens.cli.app import (
    DEFAULT_COUNT,
    DEFAULT_MODEL,
    DEFAULT_PROBLEMS,
    OWN_PROBLEMS,
    PLANTED,
    Address,
    Alpha,
    AsJson,
    Base,
    BatchSize,
    Count,
    Device,
    EngineName,
    Field,
    Full,
    Holdout,
    HoldoutSeed,
    Keep,
    KnownAs,
    MaxNewTokens,
    Mode,
    Model,
    NoReport,
    Out,
    PaddingProtocol,
    Pattern,
    Precision,
    Problems,
    RandomWeights,
    ReadingRule,
    Record,
    Revision,
    RunFolder,
    Seed,
    SetRevision,
    Shard,
    ShardSize,
    Split,
    Thoughts,
    Workers,
    app,
    are_runs,
    batch_size_named,
    engine_named,
    within,
)
from thoughtlens.errors import OptionError
from thoughtlens.progress import duration

AnalysisName = Annotated[
    str | None, typer.Option("--analysis", metavar="NAME", help="The analysis of this name, not the default one.")
]


def _percent(of: dict[str, Any]) -> str:
    return terminal.with_interval(of, percent=True)


def _even(of: dict[str, Any]) -> str:
    return f"{terminal.with_interval(of)} of an even share"


def _hub(of: dict[str, Any]) -> str:
    if of["p"] is None:
        return terminal.UNDEFINED
    found = f"{of['thought']}: {_even(of['preference'])}" if of["thought"] else "none"
    return f"{found} (strength {terminal.number(of['strength'])}, p {terminal.p_value(of['p'])})"


def _by_thought(of: dict[str, Any]) -> str:
    known = {thought: found["estimate"] for thought, found in of.items() if found["estimate"] is not None}
    return ", ".join(f"{thought} {terminal.number(h)}" for thought, h in known.items()) or terminal.UNDEFINED


def _counted(of: dict[str, int] | None) -> str:
    return terminal.UNDEFINED if of is None else terminal.counted(of)


def _count(of: int | None) -> str:
    return terminal.UNDEFINED if of is None else str(of)


def _hub_heads(of: dict[str, Any]) -> str:
    return f"{_count(of['n_heads'])} of {of['of']} (beyond {of['least']} even shares, q < 0.05)"


def _ranking(of: dict[str, Any]) -> str:
    if of["unreliable"]:
        return str(of["unreliable"])
    overlap, chance = (terminal.number(of[name], percent=True) for name in ("top_overlap", "top_overlap_by_chance"))
    reliability = terminal.number(of["reliability"])
    return f"reliability {reliability}; halves share {overlap} of the top heads (chance {chance})"


CLOSING: Final[tuple[terminal.Row, ...]] = (
    ("accuracy", "accuracy", _percent),
    ("answer rows", "n_answer_rows", "{} (texts that reached the answer prefix)".format),
    ("hub", "hub", _hub),
    ("preference by thought", "preference", _by_thought),
    ("sequential preference", "sequential", _even),
    ("skip preference", "skip", _even),
    ("heads with a hub", "hub_heads", _hub_heads),
    ("types of heads", "types", _counted),
    ("ranking of heads", "ranking", _ranking),
    ("hubs and heads", "selected_on", str),
)

EXCESS: Final[tuple[terminal.Row, ...]] = (
    ("measure", "measure", str),
    ("excess", "", terminal.with_interval),
    ("p", "p", terminal.p_value),
    ("heads with it", "n_heads", _count),
)

TOP_HEADS: Final[tuple[terminal.Row, ...]] = (
    ("head", "name", str),
    ("type", "type", str),
    ("hub", "hub", lambda hub: hub or "none"),
    ("most preferred", "preferred", lambda thought: thought or terminal.UNDEFINED),
    ("its H", "largest_preference", terminal.number),
    ("sequential", "sequential", terminal.number),
    ("skip", "skip", terminal.number),
    ("thought mass", "thought_mass", terminal.number),
    ("importance", "importance", terminal.number),
)

SIDE_BY_SIDE: Final[tuple[terminal.Row, ...]] = (
    ("problems", "n", str),
    ("accuracy", "accuracy", _percent),
    ("sequential preference", "sequential", terminal.with_interval),
    ("skip preference", "skip", terminal.with_interval),
    ("thought mass", "thought_mass", _percent),
    ("types of heads", "types", terminal.counted),
)


def draw_problems(
    name: str,
    split: str | None,
    n: int | None,
    seed: int,
    field: list[str] | None,
    revision: str | None,
    *,
    most: int | None = None,
) -> "tl.ProblemSet":
    """Load a set and draw n of it; without n all, or `most` of them."""
    fields = dict(_field(given) for given in field or [])
    whole = tl.load_set(name, split, fields=fields, revision=revision)
    if n is None and most is not None:
        n = min(most, len(whole.problems))
    return tl.draw(whole, n, seed)


def _field(given: str) -> tuple[str, str]:
    what, equals, name = given.partition("=")
    if not equals or not name:
        raise OptionError(f"--field is {given!r}, expected for instance question=NAME; give both sides.")
    return what, name


def check_model(name: str, **how: Any) -> None:
    """Refuse what of a model's options can't be right, before torch is imported."""
    from thoughtlens.models.catalog import check_asked  # not needed for `--help`

    check_asked(
        name, **{name: how[name] for name in ("revision", "known_as", "alpha", "dtype", "device") if name in how}
    )


def load_model(name: str, random_weights: int | None = None, **how: Any) -> "models.LatentReasoner":
    """A reasoner, loaded as the options say; with a seed, its architecture with random weights."""
    with terminal.working(f"load {name}"):
        reasoner = tl.load(name, **how)
        return reasoner if random_weights is None else models.randomize(reasoner, seed=random_weights)


def extract_run(
    reasoner: "models.LatentReasoner",
    problems: "tl.ProblemSet",
    to: Path,
    *,
    readings: bool = True,
    shard: str | None = None,
    **how: Any,
) -> "runs.Run | None":
    """A run folder with what is kept of every problem, and if asked with the readings that its report shows.

    None where other processes have shards to do yet. `how` is what else `extract` takes.
    """
    from thoughtlens.runs.engines import part_named
    from thoughtlens.runs.extraction import extract_part  # imports torch

    if shard is None:
        done: runs.Run | None = tl.extract(reasoner, problems, to, **how)
    else:
        done = extract_part(reasoner, problems, to, part_named(shard), **how)
    if done is not None and readings and done.manifest["options"]["n_thoughts"]:
        with terminal.working("read thoughts"):
            if done.manifest["options"]["model"]["dtype"] != reasoner.provenance.get("dtype"):
                # Half precision moved numbers too far, or a run that goes on has another.
                reasoner = models.reasoner_of(done.manifest, device=reasoner.provenance.get("device"))
            evaluation.write_readings(done, reasoner)
    return done


def _say_part(to: Path, shard: str | None, *, as_json: bool) -> None:
    """What one of several processes has done, where others have shards to do yet."""
    so_far = runs.status(to)
    facts = {"run": str(to), "shard": shard, "n": so_far.n_problems, "n_done": so_far.n_done, "complete": False}
    said = f"shard {shard} is done, {so_far.n_done} of {so_far.n_problems} problems in {to}; the last process closes it"
    terminal.tell(facts, said, as_json=as_json)


def _say_assumptions(reasoner: "models.LatentReasoner", *, as_json: bool) -> None:
    """What was assumed of the model, on stderr where stdout is for machines."""
    for sentence in models.assumptions(reasoner.provenance):
        typer.echo(terminal.visible(sentence), err=True) if as_json else terminal.tell({}, sentence, as_json=False)


def _close_without_thoughts(done: "runs.Run", *, as_json: bool) -> None:
    """The accuracy of a run in a mode without thoughts, of which there is nothing to analyze."""
    from thoughtlens.analysis import proportion_interval  # imports xarray

    correct = done.correct()
    found = proportion_interval(int(correct.sum()), len(correct))
    accuracy = dict(zip(("estimate", "low", "high"), found.values.tolist(), strict=True))
    facts = {"run": str(done.path), "n": len(correct), "n_thoughts": 0, "accuracy": accuracy}
    said = f"accuracy {_percent(accuracy)} of {len(correct)} problems, without thoughts; results: {done.path}"
    terminal.tell(facts, said, as_json=as_json)


def _cut_short(done: "runs.Run") -> str:
    """How many texts of a run reached the most tokens that they may have; "" if none did."""
    from thoughtlens.reasoning.loop import MAX_NEW_TOKENS  # imports torch, which has made the run

    most = int(done.manifest["options"].get("max_new_tokens", MAX_NEW_TOKENS))
    n = sum(row["n_tokens"] >= most for row in done.results())
    return f"{n:,} texts were cut short after {most:,} tokens; --max-new-tokens sets how many." if n else ""


def _close(
    done: "runs.Run", found: "tl.Analysis", facts: dict[str, Any], *, full: bool, as_json: bool, short: str = ""
) -> None:
    """The closing text of a run, with `full` its tables; or its facts for machines."""
    if as_json:
        terminal.print_json({"run": str(done.path), **facts})
        return
    if full:
        _show_tables(done, facts)
    else:
        _tell_findings(done, found, facts, short)
    if done.manifest["options"]["model"]["name"] == PLANTED:
        _show_planted(found)


def _tell_findings(done: "runs.Run", found: "tl.Analysis", facts: dict[str, Any], short: str) -> None:
    """What was found, in sentences."""
    from thoughtlens.analysis.cautions import precision_in_words  # imports xarray
    from thoughtlens.reports.sentences import differences, findings

    _warn(facts["warnings"])
    studied = (done.path / "studies").is_dir()
    lines = [finding[:2] for finding in findings(facts, facts["shares"], ()) if finding.about != "Cutting"]
    if held := facts["holdout"]:
        lines[0] = (lines[0][0], f"{lines[0][1]} Held out were {facts['n']} ({held['share']:g}, seed {held['seed']}).")
    lines += [("Texts", short)] if short else []
    if "precision" in facts:
        lines.append(("Precision", precision_in_words(facts["precision"])))
    for of in facts.get("groups", ()):
        told = [f"{each.about}: {each.text}" for each in differences(of)] + of["notes"]
        lines.append((f"By {of['by']}", " ".join(told)))
    if beyond := facts.get("over_null"):
        lines.append(("Beyond null models", f"{_counted(beyond['types'])}. {beyond['note']}"))
    where = done.path / "analysis" / (found.options["name"] or "")
    paths = {
        "tables in": where,
        "figures in": "figures" in facts and done.path / "figures",
        "report": facts.get("report"),
    }
    after = f"thoughtlens intervene {done.path} --heads top:5 --controls 20 (does the answer need these heads?)"
    if any("hardly solves" in warning for warning in facts["warnings"]):
        after = "thoughtlens run with problems that the model can solve, or thoughtlens doctor (is it loaded right?)"
    if studied:
        after = f"thoughtlens status {done.path} (what has been measured so far?)"
    title = f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}, thoughts z1 to z"
    told = f"{facts['n_thoughts']}; brackets are 95 % intervals over {facts['intervals_over']}"
    terminal.tell({}, title + told, as_json=False)
    terminal.close(lines, paths, after)


def _show_tables(done: "runs.Run", facts: dict[str, Any]) -> None:
    """Everything in tables."""
    _warn(facts["warnings"])
    if "precision" in facts:
        from thoughtlens.analysis.cautions import precision_in_words  # imports xarray

        terminal.tell({}, precision_in_words(facts["precision"]), as_json=False)
    title = f"{facts['model']['name']} on {facts['problems']['name']}, n = {facts['n']}"
    if held := facts["holdout"]:
        title += f" held out ({held['share']:g}, seed {held['seed']})"
    terminal.show_facts({"value": facts}, CLOSING, title=f"{title}, 95 % intervals over {facts['intervals_over']}")
    _show_excess(facts["evidence"], title="attention of a row beyond its null")
    selected = facts["selected_on"]
    terminal.show_items(facts["top_heads"], TOP_HEADS, title=f"top heads by attention (not by cause), {selected}")
    if facts["rollout"]:
        terminal.tell({}, facts["rollout"], as_json=False)
    lists = [(name, *(f"{h['name']} {h['preference']:.2f}" for h in its)) for name, its in facts["strongest"].items()]
    if lists := [row for row in lists if len(row) > 1]:
        places = ("strongest for", "first", "second", "third")
        terminal.table(
            places[: max(map(len, lists))],
            [[*row, *[""] * (max(map(len, lists)) - len(row))] for row in lists],
            title=f"strongest heads by what they give beyond an even split, with their preference, {selected}",
        )
    terminal.tell({}, f"results: {done.path}", as_json=False)
    if beyond := facts.get("over_null"):
        _show_excess(beyond["evidence"], title="attention of a row, tested against the heads of null models")
        terminal.tell({}, f"types of heads beyond it: {_counted(beyond['types'])}", as_json=False)
        terminal.tell({}, beyond["note"], as_json=False)
    for of in facts.get("groups", ()):
        _warn(of["warnings"])
        show_side_by_side(of, title=f"by {of['by']}, 95 % intervals over problems")
    if "report" in facts:
        terminal.tell({}, f"report: {facts['report']}", as_json=False)


def _show_planted(found: "tl.Analysis") -> None:
    """What was planted in each head, against what was found in it."""
    from thoughtlens.models.planted import PLANTED as PLACES  # imports torch
    from thoughtlens.models.planted import PLANTED_TYPES

    rows = []
    for role, (layer, head) in PLACES.items():
        kind = str(found.evidence["type"].sel(layer=layer, head=head).item())
        rows.append((f"L{layer}H{head}", role, PLANTED_TYPES[role], kind, "✓" if kind == PLANTED_TYPES[role] else "✗"))
    agree = sum(row[-1] == "✓" for row in rows)
    title = f"planted against found: {agree} of {len(rows)} heads have the type that was planted"
    terminal.table(("head", "planted as", "so its type is", "type found", ""), rows, title=title)


def _show_excess(evidence: dict[str, Any], *, title: str) -> None:
    """The excess of each measure, and what it is over."""
    of_null: dict[str, list[str]] = {}
    for name, found in evidence.items():
        of_null.setdefault(found["null"], []).append(name)
    title += ", mean of all heads; heads: shown to have more than 0.05 (a hub: by its test)"
    items = [{"measure": f"{name} {of.get('thought') or ''}", **of} for name, of in evidence.items()]
    terminal.show_items(items, EXCESS, title=title)
    nulls = "; ".join(f"null of {', '.join(names)}: {null}" for null, names in of_null.items())
    terminal.tell({}, nulls, as_json=False)


def _warn(sentences: list[str]) -> None:
    """Warnings above the numbers that they are of, so that both go to one place."""
    for sentence in sentences:
        terminal.tell({}, f"Warning: {sentence}", as_json=False)


def show_side_by_side(facts: dict[str, Any], *, title: str) -> None:
    """Tables of models or groups beside each other, of their differences, and the notes."""
    h = [of["preference"] for of in facts["own"].values()]
    thoughts = [name for name in h[0] if any(of.get(name, {}).get("estimate") is not None for of in h)]
    preferences = [(f"preference for {name}", f"preference.{name}", terminal.with_interval) for name in thoughts]
    rows = [*SIDE_BY_SIDE[:2], *preferences, *SIDE_BY_SIDE[2:]]
    terminal.show_facts(facts["own"], rows, title=title)
    columns = (("measure", "measure", str), ("difference", "shown", str), ("p", "p", terminal.p_value))
    for pair in facts["differences"]:
        items = [
            {"measure": label, "shown": how(found), **found}
            for label, path, how in rows
            if "p_holm" in (found := terminal.at(pair, path) or {})
        ]  # fmt: skip
        title = f"{facts['by']}: " if "by" in facts else ""
        title += f"{pair['of']} − {pair['minus']}"
        terminal.show_items(items, (*columns, ("p (Holm)", "p_holm", terminal.p_value)), title=title)
    for note in facts["notes"]:
        terminal.tell({}, note, as_json=False)


def _group(given: str) -> tuple[str, list[str]]:
    name, equals, places = given.partition("=")
    if not equals or not name or not all(_listed(places)):
        raise OptionError(f"--group is {given!r}, expected NAME=RUN,RUN,…, such as codi=runs/a0,runs/a1; write it so.")
    return name, list(_listed(places))


def _listed(given: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in given.split(","))


@app.command()
def run(
    model: Model = DEFAULT_MODEL,
    problems: Annotated[
        str | None,
        typer.Option(
            "--problems", help="A named set (`thoughtlens problems`) or a file; arithmetic, or a written model's own."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many problems; 100 at most if not given.")] = None,
    seed: Seed = 42,
    to: Out = Path("runs/first"),
    base: Base = None,
    revision: Revision = None,
    alpha: Alpha = None,
    split: Split = None,
    field: Field = None,
    problems_revision: SetRevision = None,
    thoughts: Thoughts = None,
    batch_size: BatchSize = "auto",
    device: Device = None,
    dtype: Precision = "auto",
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    random_weights: RandomWeights = None,
    record: Record = None,
    keep: Keep = "raw",
    shard_size: ShardSize = None,
    shard: Shard = None,
    mode: Mode = "latent",
    known_as: KnownAs = None,
    protocol: PaddingProtocol = "exact",
    answer_rule: ReadingRule = "strict",
    max_new_tokens: MaxNewTokens = None,
    no_report: NoReport = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Everything in order: sample, extract, analyze, plot, report."""
    where = engine_named(engine, workers=workers, address=address)
    which: dict[str, Any] = {"base": base, "revision": revision, "alpha": alpha, "dtype": dtype, "device": device}
    which |= {"mode": mode, "known_as": known_as, "answer_rule": answer_rule}
    check_model(model, **which)
    asked = problems or OWN_PROBLEMS.get(model, DEFAULT_PROBLEMS)
    chosen = draw_problems(asked, split, n, seed, field, problems_revision, most=DEFAULT_COUNT)
    how = _how(thoughts, batch_size, record, shard_size, protocol, keep, max_new_tokens)
    reasoner = load_model(model, random_weights, **which)
    done = extract_run(reasoner, chosen, to, readings=not no_report, shard=shard, engine=where, **how)
    _say_assumptions(reasoner, as_json=as_json)
    if done is None:
        _say_part(to, shard, as_json=as_json)
        return
    if (mass := evaluation.padding_mass(done)) is not None and not as_json:
        terminal.tell({}, f"{protocol}: the thoughts give {mass:.1%} of their attention to padding.", as_json=False)
    if not done.manifest["options"]["n_thoughts"]:
        _close_without_thoughts(done, as_json=as_json)
        return
    with terminal.working("analyze"):
        found = tl.analyze(done)
    facts = tl.reports.write_reports(done, found)
    if not no_report:
        with terminal.working("report"):
            facts |= {"report": str(reports.write_report(done).path)}
    _close(done, found, facts, full=full, as_json=as_json, short=_cut_short(done))


def _how(
    thoughts: int | None,
    batch_size: str,
    record: list[str] | None,
    shard_size: int | None,
    protocol: str,
    keep: str,
    max_new_tokens: int | None,
) -> dict[str, Any]:
    """The options of an extraction, as `extract` takes them."""
    from thoughtlens.runs.extraction import keep_named  # imports torch

    how: dict[str, Any] = {"n_thoughts": thoughts, "batch_size": batch_size_named(batch_size), "record": record or ()}
    how |= {"shard_size": shard_size, "protocol": protocol, "keep": keep_named(keep)}
    return how if max_new_tokens is None else how | {"max_new_tokens": max_new_tokens}


@app.command()
def sample(
    problems: Problems,
    to: Annotated[Path, typer.Option("--out", help="The .jsonl file to write.")],
    n: Count = None,
    seed: Seed = 42,
    split: Split = None,
    field: Field = None,
    problems_revision: SetRevision = None,
    as_json: AsJson = False,
) -> None:
    """Draw problems from a set and write them to a file."""
    chosen = draw_problems(problems, split, n, seed, field, problems_revision)
    problem_sets.write_problems(to, chosen.problems)
    facts = {"file": str(to), "n": len(chosen.problems), "fingerprint": chosen.fingerprint, "revision": chosen.revision}
    terminal.tell(facts, f"{len(chosen.problems)} problems of {chosen.name} in {to}", as_json=as_json)


@app.command()
def extract(
    problems: Problems,
    to: Out,
    model: Model = DEFAULT_MODEL,
    base: Base = None,
    revision: Revision = None,
    alpha: Alpha = None,
    split: Split = None,
    field: Field = None,
    problems_revision: SetRevision = None,
    thoughts: Thoughts = None,
    batch_size: BatchSize = "auto",
    device: Device = None,
    dtype: Precision = "auto",
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    random_weights: RandomWeights = None,
    record: Record = None,
    keep: Keep = "raw",
    shard_size: ShardSize = None,
    shard: Shard = None,
    mode: Mode = "latent",
    known_as: KnownAs = None,
    protocol: PaddingProtocol = "exact",
    answer_rule: ReadingRule = "strict",
    max_new_tokens: MaxNewTokens = None,
    as_json: AsJson = False,
) -> None:
    """Let a model think about every problem and record its attention."""
    where = engine_named(engine, workers=workers, address=address)
    which: dict[str, Any] = {"base": base, "revision": revision, "alpha": alpha, "dtype": dtype, "device": device}
    which |= {"mode": mode, "known_as": known_as, "answer_rule": answer_rule}
    check_model(model, **which)
    chosen = draw_problems(problems, split, None, 0, field, problems_revision)
    how = _how(thoughts, batch_size, record, shard_size, protocol, keep, max_new_tokens)
    reasoner = load_model(model, random_weights, **which)
    done = extract_run(reasoner, chosen, to, shard=shard, engine=where, **how)
    _say_assumptions(reasoner, as_json=as_json)
    if done is None:
        _say_part(to, shard, as_json=as_json)
        return
    facts = {"run": str(done.path), "n": len(chosen.problems), "seconds": done.manifest["seconds"]}
    said = f"{facts['n']} problems in {done.path}; next: thoughtlens analyze {done.path}"
    if precise := done.manifest.get("precision"):
        from thoughtlens.analysis.cautions import precision_in_words, precision_warnings  # imports xarray

        facts["precision"] = precise
        same = precise["dtype"] == done.manifest["options"]["model"]["dtype"]
        warned = [f"Warning: {warning}" for warning in precision_warnings(precise) if same]
        said = "\n".join([*warned, precision_in_words(precise), said])
    if short := _cut_short(done):
        said = f"{short}\n{said}"
    terminal.tell(facts, said, as_json=as_json)


@app.command()
def analyze(
    folder: RunFolder,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="Also for groups of problems: correct, n_steps; repeatable.")
    ] = None,
    pattern: Pattern = "attention",
    null: Annotated[
        list[Path] | None,
        typer.Option(
            "--null", metavar="RUN", callback=are_runs, help="Also beyond this run of random weights; repeatable."
        ),
    ] = None,
    null_draws: Annotated[
        int,
        typer.Option(
            "--null-draws",
            metavar="N",
            callback=within("--null-draws", 0),
            help="Also beyond N models of random weights, made in RUN/nulls.",
        ),
    ] = 0,
    holdout: Holdout = None,
    holdout_seed: HoldoutSeed = 0,
    name: Annotated[
        str | None, typer.Option("--name", help="Of RUN/analysis/NAME; a digest of the options if they are given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another analysis of this name.")] = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Summarise a run: composition, hubs, sequential flow, skips, top heads."""
    done, over = tl.open_run(folder), [tl.open_run(each) for each in null or ()]
    if null_draws:
        over += runs.random_weight_runs(done, null_draws, pattern=pattern)
    with terminal.working("analyze"):
        held: dict[str, Any] = {"holdout": holdout, "holdout_seed": holdout_seed}
        found = tl.analyze(done, by=by or (), pattern=pattern, null=over, name=name, force=force, **held)
        facts = tl.reports.write_reports(done, found, figures=False)
    _close(done, found, facts, full=full, as_json=as_json)


@app.command()
def plot(
    folder: RunFolder,
    layers: Annotated[str | None, typer.Option("--layers", help="Layers whose maps are drawn: 0,4,8.")] = None,
    heads: Annotated[str | None, typer.Option("--heads", help="Heads that are drawn, not the top: L4H5,L2H1.")] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", callback=within("--top", 1), help="How many top heads are drawn; 20 if not given."),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="What the map and ranking of heads show.")] = "importance",
    step_indexed: Annotated[
        bool, typer.Option("--step-indexed", help="Draw the figures of the 2025 scripts, as they indexed thoughts.")
    ] = False,
    analysis: AnalysisName = None,
    as_json: AsJson = False,
) -> None:
    """Draw the figures of a run."""
    if layers is not None and not all(number.isdecimal() for number in _listed(layers)):
        raise OptionError(f"--layers is {layers!r}, expected numbers such as 0,4,8; write them so.")
    chosen: dict[str, Any] = {"heads": None if heads is None else _listed(heads), "top": top, "metric": metric}
    numbers = None if layers is None else [*map(int, _listed(layers))]
    done = tl.open_run(folder)
    drawn = reports.write_figures(done, analysis, layers=numbers, step_indexed=step_indexed, **chosen)
    paths = [str(path) for path in drawn]
    terminal.tell({"figures": paths}, "\n".join(paths), as_json=as_json)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN…", callback=are_runs, help="A run folder, or several to compare.")
    ],
    to: Annotated[
        Path | None, typer.Option("--out", help="The file; RUN/report.html if not given. Several runs need one.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of each run, in order; the models' names if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One HTML page of everything in a run, or in several, which opens anywhere and needs no network."""
    found = reports.labelled([tl.open_run(folder) for folder in folders], label or [])
    with terminal.working("report"):
        page = reports.write_report(found, to)
    terminal.tell({"report": str(page.path), "bytes": page.n_bytes}, f"report: {page.path}", as_json=as_json)


def _known_format(name: str) -> str:
    if name != "npy":
        raise OptionError(f"no format {name!r}; the only one is npy.")
    return name


@app.command()
def export(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN…", callback=are_runs, help="A run folder, or several.")],
    format: Annotated[
        str,
        typer.Option("--format", is_eager=True, callback=_known_format, help="npy: the files of the 2025 scripts."),
    ] = "npy",
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder; RUN/export if not given. Several runs need one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write runs as the files of other tools; several also side by side."""
    if len(folders) > 1 and to is None:
        raise OptionError(f"{len(folders)} runs were given without a folder for them; name one with --out.")
    found, note = [tl.open_run(folder) for folder in folders], published.STEP_INDEXED_NOTE
    with terminal.working("export"):
        if to is None or len(found) == 1:
            paths = published.export_npy(found[0], to)
        else:
            paths = published.export_runs(found, to)
    facts = {"files": [str(path) for path in paths], "note": note}
    terminal.tell(facts, "\n".join([*facts["files"], note]), as_json=as_json)


@app.command()
def compare(
    to: Annotated[Path, typer.Option("--out", help="The folder to write to; it holds one comparison.")],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN RUN …", callback=are_runs, help="Run folders; the first is the base."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME=RUN,RUN,…", help="Seeds of a recipe, in the place of runs; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="Name of each run, in order; the models' names if not given.")
    ] = None,
    holdout: Holdout = None,
    holdout_seed: HoldoutSeed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace another comparison in the folder.")] = False,
    no_report: NoReport = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs: where models attend, by depth, and how well they do."""
    if group and (folders or label):
        raise OptionError("found --group beside runs or --label; name runs alone, or groups alone.")
    recipes = dict(_group(given) for given in group or ())
    places = [Path(place) for its in recipes.values() for place in its] if recipes else folders or []
    names = [place for its in recipes.values() for place in its] or label or []
    compared = reports.labelled([runs.open_run(place) for place in places], names)
    with terminal.working("compare"):
        held: dict[str, Any] = {"holdout": holdout, "holdout_seed": holdout_seed}
        facts = reports.write_comparison(to, compared, recipes=recipes or None, force=force, **held)
    if not (no_report or recipes):
        with terminal.working("report"):
            page = reports.write_report(compared, to / "report.html", **held)
        facts |= {"report": str(page.path)}
    if as_json:
        terminal.print_json(facts)
        return
    over = "models of each, or over problems where they are fewer than three" if recipes else "problems"
    title = f"{' and '.join(recipes or compared)}, 95 % intervals over {over}"
    _warn(facts["warnings"])
    if full:
        show_side_by_side(facts, title=title)
    else:
        terminal.tell({}, title, as_json=False)
    after = f"thoughtlens intervene {places[-1]} --heads top:5 --controls 20 (do the heads that differ matter?)"
    lines = [] if full else list(_compared(facts))
    terminal.close(lines, {"tables in": to, "report": facts.get("report")}, after)


def _compared(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How the sides do, and how they are shown to differ, in sentences."""
    from thoughtlens.reports.sentences import differences  # imports xarray

    for label, of in facts["own"].items():
        right = f"{_percent(of['accuracy'])} of {of['n']} problems answered rightly; " if "accuracy" in of else ""
        mass = _percent(of["thought_mass"])
        yield label, f"{right}z2 and later thoughts give {mass} of their attention to earlier ones."
    for found in differences(facts):
        yield "Differences", found.text
    # The last note explains columns of tables.
    for note in facts["notes"][:-1]:
        yield "Note", note


@app.command()
def survey(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Models, problems, seeds, groups and options.")],
    to: Annotated[Path, typer.Option("--out", help="The folder of the survey; one that was stopped goes on.")] = Path(
        "runs/survey"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try a few problems, and say how many passes, hours and bytes.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the comparison of another survey in the folder; its runs stay.")
    ] = False,
    no_report: NoReport = False,
    full: Full = False,
    as_json: AsJson = False,
) -> None:
    """Measure and cut every model on every problem set of a file, and compare them all."""
    asked = surveys.read_survey(file)

    def say(what: str) -> None:
        typer.echo(terminal.visible(what), err=True)

    if dry_run:
        facts = surveys.estimate_survey(asked, to, say=say)
        terminal.tell(facts, _forecast(facts), as_json=as_json)
        return
    facts = surveys.survey(asked, to, force=force, report=not no_report, say=say)
    if as_json:
        terminal.print_json(facts)
        return
    if full:
        _show_survey(facts["runs"])
    _warn(facts["warnings"])
    paths = {"tables in": to, "report": facts.get("report")}
    terminal.close([(of["about"], of["text"]) for of in facts["findings"]], paths, f"thoughtlens status {to}")


def _forecast(facts: dict[str, Any]) -> str:
    lines = [
        f"{facts['n_runs']} runs to make: {facts['n_passes']:,} passes, about {duration(facts['seconds'])}, "
        f"{facts['bytes'] / 1e6:,.1f} MB of attention before it is compressed"
    ]
    for of in facts["cells"]:
        each = f"{of['n_runs']} run{'s' * (of['n_runs'] != 1)}, {of['n']} problems"
        lines.append(
            f"  {of['model']} on {of['problems']}: {each}, {of['n_passes']:,} passes, about {duration(of['seconds'])}"
        )
    return "\n".join(lines)


def _show_survey(rows: list[dict[str, Any]]) -> None:
    columns = ("model", "problems", "draw", "state", "done", "accuracy", "folder")
    shown = [
        (
            *(row[name] for name in ("model", "problems", "seed", "state")),
            "" if row["n"] is None else f"{row['n_done']:,} of {row['n']:,}",
            "" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            row["folder"],
        )
        for row in rows
    ]
    terminal.table(columns, shown)


def _run_or_survey(folder: Path) -> Path:
    if (folder / "survey.json").is_file():
        return folder
    return are_runs([folder])[0]  # type: ignore[index]  # a list is given


@app.command()
def status(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", callback=_run_or_survey, help="A run folder, or that of a survey.")
    ],
    as_json: AsJson = False,
) -> None:
    """How far a run is, and what has been made of it; of a survey the table of its runs."""
    from thoughtlens.runs.writer import read_manifest  # not needed for `--help`

    if (folder / "survey.json").is_file():
        rows = surveys.survey_status(folder)
        if as_json:
            terminal.print_json({"survey": str(folder), "runs": rows})
        else:
            _show_survey(rows)
        return
    found, contents = runs.status(folder), list(_contents(folder))
    if found.complete:
        ending = "complete"
    elif not found.running:
        ending = "not running now; the command that began it goes on with it"
    elif found.seconds_left is None:
        ending = "too early for an estimate"
    else:
        ending = f"about {duration(found.seconds_left)} left"
    options = read_manifest(folder)["options"]
    name = f"{options['model']['name']} on {options['problems']['name']}"
    done = f"{found.n_done:,} of {found.n_problems:,} problems, {found.shards_done} of {found.n_shards} shards"
    lines = [f"{name}: {done}; {ending}"]
    for of in contents:
        n = "" if of["n"] is None else f", n = {of['n']:,}"
        lines += [f"{of['kind']} {of['name']}{n}, {of['date']}: {of['command']}", f"    {of['headline']}"]
    said = {"run": str(folder), **found._asdict(), "contents": contents}
    terminal.tell(said, "\n".join(lines), as_json=as_json)


def _contents(folder: Path) -> Iterator[dict[str, Any]]:
    """What a run folder holds beside the run: kind, name, n, date, command and headline of each."""
    for path in sorted(folder.glob("analysis/summary.json")) + sorted(folder.glob("analysis/*/summary.json")):
        name, facts = "" if path.parent == folder / "analysis" else path.parent.name, _json(path)
        yield {
            "kind": "analysis",
            "name": name or "default",
            "n": facts.get("n"),
            "date": _date(path),
            "command": facts.get("call") or _analyze_again(folder, path.parent, name),
            "headline": _headline(facts),
        }
    for path in sorted(folder.glob("studies/*/manifest.json")):
        facts, plan = _json(path), path.parent / "effects_summary.json"
        calls = [version["call"] for version in facts.get("plans", ())]
        yield {
            "kind": "study",
            "name": path.parent.name,
            "n": facts.get("n"),
            "date": str(facts.get("finished") or _date(path))[:10],
            "command": "; then ".join(calls),
            "headline": _study_headline(_json(plan)) if facts.get("finished") and plan.is_file() else (
                "not finished; the same command goes on with it"
            ),
        }  # fmt: skip
    if drawn := sorted(folder.glob("figures/*.png")):
        names = ", ".join(path.stem for path in drawn)
        yield {
            "kind": f"{len(drawn)} figures in",
            "name": str(folder / "figures"),
            "n": None,
            "date": _date(drawn[-1]),
            "command": f"thoughtlens plot {folder}",
            "headline": names,
        }
    if (page := folder / "report.html").is_file():
        command, headline = f"thoughtlens report {folder}", "everything on one page, for a browser"
        yield {"kind": "report", "name": str(page), "n": None, "date": _date(page), "command": command} | {
            "headline": headline
        }


def _analyze_again(folder: Path, place: Path, name: str) -> str:
    """The command that makes an analysis, from the options that are saved with it."""
    saved = place / "analysis.zarr" / "zarr.json"
    options = _json(saved).get("attributes", {}).get("about", {}).get("options", {}) if saved.is_file() else {}
    words = ["thoughtlens", "analyze", str(folder)]
    for by in options.get("by", ()):
        words += ["--by", str(by)]
    for option in ("pattern", "holdout"):
        if options.get(option) not in (None, "attention"):
            words += [f"--{option}", str(options[option])]
    words += ["--null", "…"] if options.get("null") else []
    return " ".join([*words, *(["--name", name] if name else [])])


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    return found if isinstance(found, dict) else {}


def _date(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()


def _headline(facts: dict[str, Any]) -> str:
    """What an analysis found, on one line."""
    if "accuracy" not in facts:
        return "made by another version"
    hub = facts["hub"]["thought"]
    said = [f"accuracy {_percent(facts['accuracy'])}", f"hub {hub}" if hub else "no hub shown"]
    said += [_counted(facts["types"])] if facts["types"] else []
    said += [f"by {of['by']}" for of in facts.get("groups", ())]
    return "; ".join(said)


def _study_headline(facts: dict[str, Any]) -> str:
    """What a study found, on one line."""
    if "n_significant" not in facts:
        return "made by another version"
    said = f"{facts['n_cuts']} cuts, {facts['n_significant']['joint_logprob']} with an effect shown (Holm)"
    if facts["top"]:
        most = facts["top"][0]
        said += f"; {most['cut']} costs most, {terminal.with_interval(most['joint_logprob'])} nats"
    return said
