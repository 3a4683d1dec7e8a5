"""A recipe becomes a model folder with its card: train, export, load as a user would, measure."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from thoughtlens.models.loading import load
from thoughtlens.problems import load_set
from thoughtlens.runs.conditions import CONDITIONS
from thoughtlens.training.card import make_card, training_facts, write_card
from thoughtlens.training.export import export
from thoughtlens.training.recipe import read_recipe
from thoughtlens.training.trainer import train_stages

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def train(name_or_path: str | Path, out: Path, *, counting: Counting) -> dict[str, Any]:
    """Train by a recipe and describe what came of it; go on where an earlier call on the same folder stopped.

    Args:
        name_or_path: a recipe's name or file.
        out: the model's folder; checkpoints and logs go to `out/training`.
        counting: opens a progress bar from a title and a total.

    Returns:
        The card.
    """
    recipe = read_recipe(name_or_path)
    with counting(f"train {recipe.name}", sum(stage.steps for stage in recipe.stages)) as advance:
        made = train_stages(recipe, out, advance)
    export(made, recipe, out)
    problems = load_set("arithmetic", "test")
    with counting("card", len(problems.problems) * len(CONDITIONS)) as advance:
        card = make_card(load(out), recipe, problems, training=training_facts(recipe, out), progress=advance)
    write_card(card, out)
    return card
