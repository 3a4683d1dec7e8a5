"""The commands `models`, `problems`, `doctor`, `reproduce`, `cache`, `train` and `tokens`, on models and problems.

in: options; out: what the library writes, and tables on stdout.
"""

import difflib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import thoughtlens as tl
from thoughtlens import evaluation, problems, reports, training
from thoughtlens import models as library
from thoughtlens.cli import terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import (
    DEFAULT_MODEL,
    DEFAULT_PROBLEMS,
    OWN_PROBLEMS,
    Alpha,
    AsJson,
    Base,
    Count,
    Device,
    Field,
    KnownAs,
    Mode,
    Model,
    Precision,
    ReadingRule,
    Revision,
    RunFolder,
    RunModel,
    SetRevision,
    Split,
    check_model,
    fields_of,
    load_model,
    within,
)
from thoughtlens.errors import CheckpointError, OptionError, ProblemSetError
from thoughtlens.progress import counting

_N_TOP = 5
"""Top tokens of each position that `tokens` shows."""
_N_SHOWN = 3
"""Problems of a set that `problems NAME` shows."""


@app.command()
def doctor(
    model: Model = DEFAULT_MODEL,
    base: Base = None,
    revision: Revision = None,
    alpha: Alpha = None,
    device: Device = None,
    dtype: Precision = "auto",
    mode: Mode = "latent",
    known_as: KnownAs = None,
    measured_on: Annotated[
        str | None, typer.Option("--problems", help="A named set or a file: what half precision is measured on.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a model's folder is, and check the loaded model: masks, positions, batches, taps, markers, tokenizer."""
    which: dict[str, Any] = {"base": base, "revision": revision, "alpha": alpha, "dtype": dtype, "device": device}
    try:
        check_model(model, known_as=known_as, **which)
        reasoner = load_model(model, mode=mode, known_as=known_as, **which)
    except CheckpointError as error:
        raise CheckpointError(f"not ready: {error}") from error
    from thoughtlens.analysis.cautions import precision_in_words, precision_warnings  # imports xarray
    from thoughtlens.runs.model_precision import MEASURED, is_exact, settled  # imports torch

    precise = None
    if not is_exact(reasoner):
        asked = measured_on or OWN_PROBLEMS.get(model, DEFAULT_PROBLEMS)
        chosen = tl.draw(tl.load_set(asked), None, 0, most=MEASURED)
        prompts = [reasoner.prompt(problem.question) for problem in chosen.problems]
        reasoner, precise = settled(reasoner, prompts, reasoner.n_thoughts)
    facts, warnings = evaluation.described(reasoner), library.assumptions(reasoner.provenance)
    warnings += precision_warnings(precise) if precise else []
    checks = evaluation.doctor(reasoner, precise)
    failed = [check.name for check in checks if not check.passed]
    if as_json:
        said = {"model": model, "facts": facts, "assumptions": warnings, "precision": precise, "ready": not failed}
        terminal.print_json({**said, "checks": [vars(check) for check in checks]})
    else:
        terminal.table(("", "found"), list(facts.items()), title=model)
        rows = [("✓" if check.passed else "✗ FAILED", check.name, check.measured) for check in checks]
        terminal.table(("", "check", "measured"), rows, title=model)
        if precise:
            _show_growth(precise)
            terminal.tell({}, precision_in_words(precise), as_json=False)
        for warning in warnings:
            terminal.tell({}, warning, as_json=False)
        wrong = f"not ready: {', '.join(failed)} failed; is the base the one that the checkpoint was trained from?"
        terminal.tell({}, wrong if failed else "ready", as_json=False)
    if failed:
        raise typer.Exit(1)


def _show_growth(precise: Mapping[str, Any]) -> None:
    """How far a precision moves attention and thoughts, thought by thought."""
    against = {"between batch sizes": precise["batches"], "against float32": precise["float32"]}
    known = {name: moved for name, moved in against.items() if moved}
    columns = [f"{what}, {name}" for name in known for what in ("attention", "thought")]
    rows = [
        (query, *(f"{of[query]:.2g}" if query in of else "" for moved in known.values()
                  for of in (moved["attention"], moved["thoughts"])))
        for query in precise["batches"]["attention"]
    ]  # fmt: skip
    title = (
        f"{precise['dtype']}: largest difference of a cell, and of a thought in its length, on {precise['n']} problems"
    )
    terminal.table(("row", *columns), rows, title=title)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="ID | PATH", help="A known checkpoint, or a folder with --as ID.")],
    known_as: KnownAs = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Of inference, instead of that of the published number.")
    ] = None,
    answer_rule: ReadingRule = "official",
    problems: Annotated[
        str | None, typer.Option("--problems", help="A named set or a file instead of the published set.")
    ] = None,
    n: Count = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="128 under an official protocol.")] = None,
    base: Base = None,
    alpha: Alpha = None,
    device: Device = None,
    dtype: Precision = "float32",
    mode: Mode = "latent",
    as_json: AsJson = False,
) -> None:
    """Measure the published accuracies of a checkpoint under the protocol that they were published with."""
    which: dict[str, Any] = {"base": base, "alpha": alpha, "device": device, "dtype": dtype, "mode": mode}
    which |= {"protocol": protocol, "answer_rule": answer_rule, "problems": problems, "n": n, "batch_size": batch_size}
    model = None if known_as is None else name
    with terminal.working(f"reproduce {known_as or name}"):
        outcomes = evaluation.reproduce(known_as or name, model, **which)
    if as_json:
        terminal.print_json({"outcomes": [{**vars(of), "agrees": of.agrees} for of in outcomes]})
        return
    columns = ("problems", "protocol", "rule", "published (n)", "found, 95 % interval (n)", "on padding", "")
    terminal.table(columns, [_outcome_row(of) for of in outcomes], title=known_as or name)
    for of in outcomes:
        terminal.tell({}, f"{of.expected:.2%}: {of.source}; again: {of.rerun}", as_json=False)


def _outcome_row(of: "evaluation.Outcome") -> tuple[str, ...]:
    found = f"{of.found:.2%} [{of.low:.2%}, {of.high:.2%}] ({of.n:,})"
    padding = "" if of.padding is None else f"{of.padding:.2f}"
    published = f"{of.expected:.2%} ({of.published_n:,})"
    verdict = "agrees" if of.agrees else "differs"
    return of.set, of.protocol, of.answer_rule, published, found, padding, verdict


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove what is listed.")] = False, as_json: AsJson = False
) -> None:
    """What the package keeps in its cache (THOUGHTLENS_CACHE), and clear it."""
    folder, items = str(library.cache_folder()), library.cached()
    freed = library.clear_cache() if clear else 0
    facts = {"folder": folder, "items": items, "freed": freed}
    lines = [f"{item['bytes']:>12,} bytes  {item['path']}: {item['holds']}" for item in items]
    lines = lines or [f"nothing in {folder}"]
    terminal.tell(facts, "\n".join([*lines, *([f"{freed:,} bytes freed"] if clear else [])]), as_json=as_json)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show this bundled model's card.")] = None,
    known: Annotated[bool, typer.Option("--known", help="The table of known checkpoints.")] = False,
    recompute: Annotated[
        int | None, typer.Option("--recompute", metavar="N", help="Measure the card's accuracies again on N problems.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What can be named with --model, and the cards of the bundled models."""
    if name is not None:
        _show_card(name, recompute, as_json=as_json)
        return
    if known:
        _show_known(as_json=as_json)
        return
    cards = {bundled: library.read_card(bundled) for bundled in library.bundled()}
    if as_json:
        terminal.print_json({"bundled": cards, "published": dict(library.known_checkpoints())})
        return
    rows = [(bundled, "bundled", *_own_accuracy(card), card["about"]) for bundled, card in cards.items()]
    rows += [(name, "Hub", "", "", of["about"]) for name, of in library.known_checkpoints().items() if "about" in of]
    terminal.table(("name", "where", "accuracy", "n", "about"), rows)


def _show_known(*, as_json: bool) -> None:
    """The table of known checkpoints, those that are refused last."""
    table = library.known_checkpoints()
    if as_json:
        terminal.print_json(dict(table))
        return
    rows = []
    for name, of in sorted(table.items(), key=lambda item: "refused" in item[1]):
        family = "refused" if "refused" in of else of["family"]
        published = "; ".join(f"{a['set']} {a['value']} % ({a['protocol']})" for a in of.get("accuracy", ()))
        rows.append(
            (
                name,
                family,
                of.get("base", ""),
                str(of.get("n_thoughts", "")),
                published,
                of.get("refused") or of["about"],
            )
        )
    terminal.table(("id", "family", "base", "T", "published accuracy", "about"), rows)


def _show_card(name: str, recompute: int | None, *, as_json: bool) -> None:
    if name not in library.bundled():
        near = difflib.get_close_matches(name, library.bundled(), n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise OptionError(f"no bundled model {name!r}; {meant}there are: {', '.join(library.bundled())}.")
    card = library.read_card(name)
    if recompute is not None:
        with counting("recompute", recompute * len(evaluation.CONDITIONS)) as progress:
            card = training.measured_again(card, recompute, progress=progress)
        page = training.as_markdown(card)
    else:
        page = (library.bundled()[name] / "README.md").read_text("utf-8")
    terminal.tell(card, page, as_json=as_json)


def _own_accuracy(card: Mapping[str, Any]) -> tuple[str, str]:
    """Accuracy with a model's own thoughts, and of how many problems."""
    own = card["accuracy"]["own"]
    return f"{own['accuracy']:.1%}", f"{own['n']:,}"


@app.command(name="problems")
def list_problems(
    name: Annotated[str | None, typer.Argument(help="Show this set or file, and three of its problems.")] = None,
    split: Split = None,
    field: Field = None,
    problems_revision: SetRevision = None,
    as_json: AsJson = False,
) -> None:
    """What can be named with --problems; of one set where it comes from, its licence, size, fields and problems."""
    if name is not None:
        _show_set(name, split, field, problems_revision, as_json=as_json)
        return
    sets = problems.known_sets()
    if as_json:
        terminal.print_json({name: vars(named) for name, named in sets.items()})
        return
    rows = [(n, ", ".join(s.splits), s.hub_id or s.home or "bundled", s.kind, s.about) for n, s in sets.items()]
    terminal.table(("name", "splits", "where", "answers", "about"), rows)


def _show_set(name: str, split: str | None, field: list[str] | None, revision: str | None, *, as_json: bool) -> None:
    named = problems.known_sets().get(name)
    facts: dict[str, Any] = {"name": name}
    if named is not None:
        sizes = {of: named.sizes.get(of) for of in named.splits}
        facts |= {"about": named.about, "where": named.home or "bundled", "licence": named.licence, "sizes": sizes}
        facts |= {"fields": list(named.columns), "kind": named.kind, "answers": named.answers, "steps": named.steps}
        facts |= {"default_split": named.default_split, "read_for_real": named.read}
    try:
        found = tl.load_set(name, split, fields=fields_of(field), revision=revision)
    except ProblemSetError as error:
        # What is known of a set is worth showing where the set itself is out of reach.
        if named is None or named.bundled:
            raise
        facts |= {"not_loaded": str(error)}
    else:
        kinds = Counter(problems.answer_kind(problem.answer) for problem in found.problems)
        if named is None:
            facts |= {"where": found.source, "fields": list(problems.read_rows(Path(name))[0].fields)}
        facts |= {"split": found.split, "n": len(found.problems), "kinds": dict(kinds.most_common())}
        facts |= {"problems": [vars(problem) for problem in found.problems[:_N_SHOWN]]}
    if as_json:
        terminal.print_json(facts)
        return
    told = {key: of for key, of in facts.items() if key != "problems" and of not in (None, "", [])}
    terminal.table(("", name), [(key.replace("_", " "), _in_words(of)) for key, of in told.items()])
    for problem in facts.get("problems", ()):
        terminal.table(("", problem["id"]), [(key, _in_words(of)) for key, of in problem.items() if key != "id" and of])


def _in_words(of: object) -> str:
    if isinstance(of, Mapping):
        return ", ".join(f"{key} {'unknown' if n is None else f'{n:,}'}" for key, n in of.items())
    if isinstance(of, list | tuple):
        return "; ".join(map(str, of))
    return f"{of:,}" if isinstance(of, int) else str(of)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name or file.")],
    to: Annotated[Path, typer.Option("--out", help="The model's folder; an unfinished training there goes on.")],
    base: Annotated[
        str | None, typer.Option("--base", help="Pretrained base instead of the recipe's: a folder or Hub id.")
    ] = None,
    problems: Annotated[
        str | None, typer.Option("--problems", help="Problems to learn from instead of the recipe's: a set or file.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    beside: Annotated[
        list[Path] | None, typer.Option("--beside", help="Folder of a model trained otherwise, for the card.")
    ] = None,
    seeds: Annotated[
        list[Path] | None, typer.Option("--seeds", help="Folder of this recipe from another seed, for the card.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model that thinks, and write its folder with a card."""
    try:
        from thoughtlens.training import Options
        from thoughtlens.training import train as train_recipe
    except ImportError as error:
        needed = "pip install 'thoughtlens[train]'"
        raise OptionError(f"training needs {error.name}, which is not installed; run `{needed}`.") from error
    options = Options(base, problems, seed, tuple(beside or ()), tuple(seeds or ()))
    card = train_recipe(recipe, to, counting=counting, options=options)
    if card is None:  # one of several processes, and not the one that writes
        return
    accuracy, n = _own_accuracy(card)
    terminal.tell(card, f"{to}: {accuracy} of {n} held-out problems; its card is {to / 'README.md'}", as_json=as_json)


@app.command()
def scorecard(
    out: Annotated[Path, typer.Option("--out", help="The folder of the scores, and of the runs they are made of.")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="One of its models; may be given again; all if not given."),
    ] = None,
    n: Annotated[
        int,
        typer.Option("--n", callback=within("--n", 1), help="Problems that rank, and as many others that score."),
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of both draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Score every way of ranking heads and edges on models whose circuit is known, and on the bundled models."""
    known = {subject.name: subject for subject in evaluation.SUBJECTS}
    for name in model or ():
        if name not in known:
            raise OptionError(f"no model {name!r} in the scorecard; there are: {'; '.join(known)}.")
    found = evaluation.scorecard(out, subjects=[known[name] for name in model or known], n=n, seed=seed)
    rows: list[dict[str, Any]] = [dict(row) for _, row in found.scores.iterrows()]
    if as_json:
        terminal.print_json({"scores": rows})
        return
    columns = ("model", "units", "ranking", "score", "95 % interval over problems", "n")
    shown = [(of["model"], of["units"], of["ranking"], of["score"], terminal.with_interval(of), of["n"]) for of in rows]
    terminal.table(columns, shown, title="AUROC and CPR: larger is better; CMD: smaller is better")
    terminal.tell({}, f"scores and figure: {out}", as_json=False)


@app.command()
def tokens(
    folder: RunFolder,
    problem: Annotated[
        list[str] | None, typer.Option("--problem", metavar="ID", help="A problem of the run; may be given again.")
    ] = None,
    n: Annotated[
        int, typer.Option("--n", callback=within("--n", 1), help="Without --problem: the first n problems.")
    ] = 5,
    model: RunModel = None,
    base: Base = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Which tokens of the question each thought attends to, over all layers and heads."""
    from thoughtlens.evaluation.thought_readings import choose_problems  # imports torch

    run = tl.open_run(folder)
    chosen = choose_problems(run, problem or (), n=n)
    with terminal.working("load the run's model"):
        reasoner = library.reasoner_of(run.manifest, model=model, base=base, device=device)
    with terminal.working("tokens"):
        found = evaluation.question_attention(reasoner, chosen, n_thoughts=run.manifest["options"]["n_thoughts"])
        facts = reports.write_question_attention(run, found, n_top=_N_TOP)
    if as_json:
        terminal.print_json(facts)
        return
    for of_problem in facts["problems"]:
        _show_tokens(of_problem)
    terminal.tell({}, "\n".join([f"all tokens: {facts['file']}", *facts["figures"]]), as_json=False)


def _show_tokens(of_problem: Mapping[str, Any]) -> None:
    columns = ("position", *(f"top {place}" for place in range(1, _N_TOP + 1)))
    rows = [
        (query, *(f"{named['text']!r} {named['attention']:.3f}" for named in top), *[""] * (_N_TOP - len(top)))
        for query, top in of_problem["top"].items()
    ]
    terminal.table(columns, rows, title=f"{of_problem['id']}: {of_problem['question']}")
