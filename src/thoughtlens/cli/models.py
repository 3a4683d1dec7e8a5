"""Commands about models and problem sets: what there is, whether a model is sound, training one."""

from pathlib import Path
from typing import Annotated

import typer

from thoughtlens.cli import stages, terminal
from thoughtlens.cli.app import app
from thoughtlens.cli.options import DEFAULT_MODEL, Alpha, AsJson, Base, Device, Model, Precision, Revision
from thoughtlens.errors import OptionError


@app.command()
def doctor(
    model: Model = DEFAULT_MODEL,
    base: Base = None,
    revision: Revision = None,
    alpha: Alpha = None,
    device: Device = None,
    dtype: Precision = "float32",
    as_json: AsJson = False,
) -> None:
    """Prove a loaded model: masks, positions, batches, taps, markers, tokenizer."""
    from thoughtlens.runs.doctor import doctor as examine

    checks = examine(stages.load_model(model, base, revision, alpha, dtype, device))
    if as_json:
        terminal.print_json({"model": model, "checks": [vars(check) for check in checks]})
    else:
        rows = [("✓" if check.passed else "✗ FAILED", check.name, check.measured) for check in checks]
        terminal.table(("", "check", "measured"), rows, title=model)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Show this bundled model's card.")] = None,
    recompute: Annotated[
        int | None, typer.Option("--recompute", metavar="N", help="Measure the card's accuracies again on N problems.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What can be named with --model, and the cards of the bundled models."""
    from thoughtlens.models.catalog import PUBLISHED, bundled, read_card

    if name is not None:
        stages.show_card(name, recompute, as_json=as_json)
        return
    cards = {known: read_card(known) for known in bundled()}
    if as_json:
        terminal.print_json(
            {"bundled": cards, "published": {known: vars(published) for known, published in PUBLISHED.items()}}
        )
        return
    rows = [(known, "bundled", *stages.own_accuracy(card), card["about"]) for known, card in cards.items()]
    rows += [(known, "Hub", "", "", published.about) for known, published in PUBLISHED.items()]
    terminal.table(("name", "where", "accuracy", "n", "about"), rows)


@app.command(name="problems")
def list_problems(as_json: AsJson = False) -> None:
    """What can be named with --problems."""
    from thoughtlens.problems import known_sets

    sets = known_sets()
    if as_json:
        terminal.print_json({name: vars(named) for name, named in sets.items()})
        return
    rows = [(n, ", ".join(s.splits), s.hub_id or "bundled", s.about) for n, s in sets.items()]
    terminal.table(("name", "splits", "where", "about"), rows)


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
        from thoughtlens.training.run import Options
        from thoughtlens.training.run import train as train_recipe
    except ImportError as error:
        needed = "pip install 'thoughtlens[train]'"
        raise OptionError(f"training needs {error.name}, which is not installed; run `{needed}`.") from error
    options = Options(base, problems, seed, tuple(beside or ()), tuple(seeds or ()))
    card = train_recipe(recipe, to, counting=terminal.counting, options=options)
    if card is None:  # one of several processes, and not the one that writes
        return
    accuracy, n = stages.own_accuracy(card)
    terminal.tell(card, f"{to}: {accuracy} of {n} held-out problems; its card is {to / 'README.md'}", as_json=as_json)
