"""A whole training: recipe in, model folder with its card out.

The module is trained, exported in the official layout, loaded as a user would load it, and measured.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thoughtlens.errors import RecipeError
from thoughtlens.evaluation.accuracy import CONDITIONS
from thoughtlens.files import replacing
from thoughtlens.models.loader import load
from thoughtlens.problems import draw, load_set
from thoughtlens.training.card import make_card, rivals, seeds, training_facts, write_card
from thoughtlens.training.model import Untrained
from thoughtlens.training.objective import rank
from thoughtlens.training.recipe import PretrainedBase, Recipe, read_recipe
from thoughtlens.training.trainer import prepare, save_weights, train_stages


def export(made: Untrained, recipe: Recipe, out: Path) -> None:
    """Write a trained module as a model folder in the official layout, ready for `thoughtlens.models.load`.

    Args:
        made: the trained module, from `train_stages`.
        recipe: what it was trained by; kept beside the weights, as are the configuration and the tokenizer.
        out: the model's folder; made if it is not there.
    """
    out.mkdir(parents=True, exist_ok=True)
    made.module.causal_lm.config.save_pretrained(out)
    made.tokenizer.save_pretrained(out)
    settings: dict[str, Any] = {"family": recipe.family, "n_thoughts": recipe.thoughts}
    if recipe.lora:
        settings["lora_alpha"] = recipe.lora.alpha
    with replacing(out / "thoughtlens.json") as file:
        file.write(json.dumps(settings) + "\n")
    with replacing(out / "recipe.toml") as file:
        file.write(recipe.text)
    save_weights(made.module, out / "model.safetensors", family=recipe.family)


_N_FOR_SEEDS = 300

Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Options:
    """What is to be otherwise than in the recipe, and which other models the card names.

    Attributes:
        base: a pretrained base, Hub id or folder.
        problems: a problem set to learn from: a name or a file.
        seed: of weights and problems.
        beside: folders of models trained otherwise, for the card.
        seeds: folders of models trained by the same recipe from other seeds, for the card.
    """

    base: str | None = None
    problems: str | None = None
    seed: int | None = None
    beside: tuple[Path, ...] = ()
    seeds: tuple[Path, ...] = ()


def train(
    name_or_path: str | Path, out: Path, *, counting: Counting, options: Options | None = None
) -> dict[str, Any] | None:
    """Train a model by a recipe, export it and write its card; go on where an earlier call on the folder stopped.

    Args:
        name_or_path: a recipe's name or file.
        out: the model's folder; checkpoints and logs go to `out/training`.
        counting: opens a progress bar from a title and a total.
        options: what is to be otherwise than in the recipe.

    Returns:
        The card; None in a process other than the first, which writes no files.

    Raises:
        RecipeError: the recipe, its base or problems can't be used, or the folder holds something else.

    Example: the command `thoughtlens train tiny-gpt2 --out my-model` calls this; it takes 24 minutes on one CPU core.
    """
    chosen = options or Options()
    prepared = prepare(with_options(read_recipe(name_or_path), chosen))
    if rank() > 0:
        train_stages(prepared, out)
        return None
    with counting(f"train {prepared.recipe.name}", prepared.n_steps) as advance:
        made = train_stages(prepared, out, advance)
    export(made, prepared.recipe, out)
    return _describe(prepared.recipe, out, chosen, counting)


def with_options(recipe: Recipe, options: Options) -> Recipe:
    """Change a recipe by the options.

    Args:
        recipe: from `read_recipe`.
        options: base, problems and seed take the place of the recipe's own where they are given.

    Returns:
        The changed recipe.

    Raises:
        RecipeError: a base is given to a recipe that makes its own, or problems to one that generates them.

    Example:
        >>> with_options(read_recipe("tiny-gpt2"), Options(seed=21)).seed
        21
    """
    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    if options.base is not None:
        if not isinstance(recipe.base, PretrainedBase):
            raise RecipeError(f"{recipe.name} makes its base itself; leave --base out, or write [base] pretrained.")
        recipe = replace(recipe, base=replace(recipe.base, pretrained=options.base, revision=None))
    if options.problems is not None:
        if recipe.problems is None:
            raise RecipeError(f"{recipe.name} generates its problems; leave --problems out, or write [problems].")
        source = replace(recipe.problems, name=options.problems, split=None, revision=None)
        recipe = replace(recipe, problems=source)
    return recipe


def _describe(recipe: Recipe, out: Path, options: Options, counting: Counting) -> dict[str, Any]:
    source = recipe.held_out
    held_out = load_set(source.name, source.split, fields=source.fields, revision=source.revision)
    with counting("card", len(held_out.problems) * len(CONDITIONS)) as advance:
        card = make_card(
            load(out, dtype="float32"), recipe, held_out, training=training_facts(recipe, out), progress=advance
        )
    write_card(card, out)
    if options.beside:
        card["beside"] = rivals(options.beside)
    if options.seeds:
        with counting("seeds", len(options.seeds) + 1) as advance:
            card["seeds"] = seeds([out, *options.seeds], draw(held_out, _N_FOR_SEEDS), advance)
    write_card(card, out)
    return card
