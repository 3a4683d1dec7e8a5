"""What closes a command: the results of runs, comparisons, surveys and studies, in sentences or in tables.

In: headline numbers as the library gives them. Out: text on stdout, or with `--json` the numbers themselves. The
sentences are those of the report (`thoughtlens.reports.sentences`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

import thoughtlens as tl
from thoughtlens import models, runs
from thoughtlens.cli import terminal
from thoughtlens.cli.options import PLANTED
from thoughtlens.progress import duration
from thoughtlens.runs.engines import Part


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


def tell_part(to: Path, shard: Part | None, so_far: "runs.Status", *, as_json: bool) -> None:
    """What one of several processes has done, where others have shards to do yet."""
    facts = {"run": str(to), "shard": str(shard), "n": so_far.n_problems, "n_done": so_far.n_done, "complete": False}
    said = f"shard {shard} is done, {so_far.n_done} of {so_far.n_problems} problems in {to}; the last process closes it"
    terminal.tell(facts, said, as_json=as_json)


def tell_assumptions(reasoner: "models.LatentReasoner", *, as_json: bool) -> None:
    """What was assumed of the model, on stderr where stdout is for machines."""
    for sentence in models.assumptions(reasoner.provenance):
        typer.echo(terminal.visible(sentence), err=True) if as_json else terminal.tell({}, sentence, as_json=False)


def close_without_thoughts(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """The accuracy of a run in a mode without thoughts, of which there is nothing to analyze."""
    told = f"accuracy {_percent(facts['accuracy'])} of {facts['n']} problems, without thoughts"
    terminal.tell(facts, f"{told}; results: {facts['run']}", as_json=as_json)


def close_run(
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

    _tell_warnings(facts["warnings"])
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
    _tell_warnings(facts["warnings"])
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
        _tell_warnings(of["warnings"])
        _show_side_by_side(of, title=f"by {of['by']}, 95 % intervals over problems")
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


def _tell_warnings(sentences: list[str]) -> None:
    """Warnings above the numbers that they are of, so that both go to one place."""
    for sentence in sentences:
        terminal.tell({}, f"Warning: {sentence}", as_json=False)


def _show_side_by_side(facts: dict[str, Any], *, title: str) -> None:
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


def close_comparison(
    to: Path, names: Sequence[str], last: Path, facts: dict[str, Any], *, recipes: bool, full: bool, as_json: bool
) -> None:
    """The closing text of a comparison of runs or of recipes, with `full` its tables; or its facts for machines."""
    if as_json:
        terminal.print_json(facts)
        return
    over = "models of each, or over problems where they are fewer than three" if recipes else "problems"
    title = f"{' and '.join(names)}, 95 % intervals over {over}"
    _tell_warnings(facts["warnings"])
    if full:
        _show_side_by_side(facts, title=title)
    else:
        terminal.tell({}, title, as_json=False)
    after = f"thoughtlens intervene {last} --heads top:5 --controls 20 (do the heads that differ matter?)"
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


def tell_forecast(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """What a survey will take."""
    terminal.tell(facts, _forecast(facts), as_json=as_json)


def _forecast(facts: Mapping[str, Any]) -> str:
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


def close_survey(to: Path, facts: dict[str, Any], *, full: bool, as_json: bool) -> None:
    """The closing text of a survey, with `full` the table of its runs; or its facts for machines."""
    if as_json:
        terminal.print_json(facts)
        return
    if full:
        _show_survey(facts["runs"])
    _tell_warnings(facts["warnings"])
    paths = {"tables in": to, "report": facts.get("report")}
    terminal.close([(of["about"], of["text"]) for of in facts["findings"]], paths, f"thoughtlens status {to}")


def tell_status(folder: Path, found: "runs.Status", contents: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """How far a run is, and what has been made of it."""
    from thoughtlens.runs.writer import read_manifest  # not needed for `--help`

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


def tell_survey(folder: Path, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """How far the runs of a survey are."""
    if as_json:
        terminal.print_json({"survey": str(folder), "runs": rows})
    else:
        _show_survey(rows)


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


def tell_part_of_study(run: "tl.Run", shard: Part | None, *, as_json: bool) -> None:
    """That one of several processes has done its cuts, where others have some to do yet."""
    said = f"shard {shard} of the study is done; the last process to finish closes it"
    terminal.tell({"run": str(run.path), "shard": str(shard), "complete": False}, said, as_json=as_json)


def close_study(run: "tl.Run", done: "tl.Study", facts: Mapping[str, Any], *, full: bool, as_json: bool) -> None:
    """The closing text of a study, with `full` its tables; or its facts for machines."""
    if as_json:
        terminal.print_json(facts)
        return
    lines = []
    if full:
        show_study(facts)
        _show_columns(facts)
    else:
        lines = _study_findings(done, facts)
    after = f"thoughtlens intervene {run.path} … --controls 20 (does a random cut of like heads cost as much?)"
    if any(row["n_controls"] for row in facts["top"]):
        after = f"thoughtlens status {run.path} (what has been measured so far?)"
    where = run.path / "studies" / facts["study"]
    terminal.close(lines, {"tables in": where, "figures in": where / "figures", "report": facts.get("report")}, after)


def _study_findings(done: "tl.Study", facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a study found, in sentences."""
    from thoughtlens.reports.page_data import facts_of  # imports xarray
    from thoughtlens.reports.sentences import cuts

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
    lines += [finding[:2] for finding in cuts([facts_of(facts, done)])]
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


def tell_estimate(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """What a study will cost and what it could show."""
    for warning in facts["warnings"]:
        terminal.warn(warning)
    terminal.tell(facts, _estimate(facts), as_json=as_json)


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


def show_balance(rows: Sequence[Mapping[str, Any]]) -> None:
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


def _show_columns(facts: Mapping[str, Any]) -> None:
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
