"""A recipe becomes a model folder with its card: train, export, load as a user would, measure."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from thoughtlens.errors import RecipeError
from thoughtlens.models.loading import load
from thoughtlens.problems import load_set
from thoughtlens.runs.conditions import CONDITIONS
from thoughtlens.training.card import make_card, training_facts, write_card
from thoughtlens.training.export import export
from thoughtlens.training.ranks import rank
from thoughtlens.training.recipe import PretrainedBase, Recipe, read_recipe
from thoughtlens.training.trainer import plan, train_stages

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def train(
    name_or_path: str | Path, out: Path, *, counting: Counting, base: str | None = None, problems: str | None = None
) -> dict[str, Any] | None:
    """Train by a recipe and describe what came of it; go on where an earlier call on the same folder stopped.

    Args:
        name_or_path: a recipe's name or file.
        out: the model's folder; checkpoints and logs go to `out/training`.
        counting: opens a progress bar from a title and a total.
        base: a pretrained base, Hub id or folder, in the place of the recipe's.
        problems: a problem set to learn from, named or a file, in the place of the recipe's.

    Returns:
        The card; None in a process other than the first, which writes no files.
    """
    planned = plan(with_options(read_recipe(name_or_path), base, problems))
    if rank() > 0:
        train_stages(planned, out)
        return None
    with counting(f"train {planned.recipe.name}", planned.n_steps) as advance:
        made = train_stages(planned, out, advance)
    export(made, planned.recipe, out)
    return _describe(planned.recipe, out, counting)


def with_options(recipe: Recipe, base: str | None, problems: str | None) -> Recipe:
    """The recipe with what the command line gives in the place of its own base and problems.

    Raises:
        RecipeError: the recipe makes its own base, or generates its problems.
    """
    if base is not None:
        if not isinstance(recipe.base, PretrainedBase):
            raise RecipeError(f"{recipe.name} makes its base itself; leave --base out, or write [base] pretrained.")
        recipe = replace(recipe, base=replace(recipe.base, pretrained=base, revision=None))
    if problems is not None:
        if recipe.problems is None:
            raise RecipeError(f"{recipe.name} generates its problems; leave --problems out, or write [problems].")
        source = replace(recipe.problems, name=problems, split=None, revision=None)
        recipe = replace(recipe, problems=source)
    return recipe


def _describe(recipe: Recipe, out: Path, counting: Counting) -> dict[str, Any]:
    source = recipe.held_out
    held_out = load_set(source.name, source.split, fields=source.fields, revision=source.revision)
    with counting("card", len(held_out.problems) * len(CONDITIONS)) as advance:
        card = make_card(load(out), recipe, held_out, training=training_facts(recipe, out), progress=advance)
    write_card(card, out)
    return card
