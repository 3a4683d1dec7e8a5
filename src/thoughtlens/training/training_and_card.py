"""A whole training, and the card of the model that comes of it: how it was made, how well it does, its weaknesses.

In: a recipe; out: a model folder with its card, as JSON and as a page for people. The module is trained, exported in
the official layout, loaded as a user would load it, and measured on held-out problems, beside the models to compare
with.
"""

import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined, Template

from thoughtlens.analysis import Analysis, analyze, headline, proportion_interval, spearman
from thoughtlens.analysis.headlines_and_tables import as_number
from thoughtlens.errors import CheckpointError, RecipeError
from thoughtlens.evaluation.accuracy_under_conditions import CONDITIONS, Solved, evaluate
from thoughtlens.evaluation.thought_readings import decode_thoughts, results_read
from thoughtlens.files import replacing, write_json
from thoughtlens.models.loader import load
from thoughtlens.models.reasoner import LatentReasoner, Reasoner
from thoughtlens.problems import Problem, ProblemSet, draw, load_set
from thoughtlens.runs.extraction import extract
from thoughtlens.runs.writer import versions
from thoughtlens.training.initial_model import Untrained
from thoughtlens.training.objective import n_processes, rank
from thoughtlens.training.recipe import PretrainedBase, Recipe, Stage, read_recipe
from thoughtlens.training.trainer import prepare, save_weights, train_stages

Json = dict[str, Any]


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


GENERATED: Final = "generated problems, none of them a test problem"
_EARNS: Final = 0.20
"""Share of problems that thoughts must add for a card to say that they earn it."""


def make_card(
    reasoner: Reasoner,
    recipe: Recipe,
    problems: ProblemSet,
    *,
    training: Mapping[str, Any],
    progress: Callable[[int], None] = lambda n_problems: None,
) -> Json:
    """Measure a model on held-out problems and describe it, as JSON values; `training` is that of `training_facts`."""
    config = reasoner.lm.config
    return {
        "name": recipe.name,
        "about": recipe.about,
        "architecture": config.model_type,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "hidden": config.hidden_size,
        "parameters": sum(p.numel() for p in (*reasoner.lm.parameters(), *reasoner.projection.parameters())),
        "thoughts": reasoner.n_thoughts,
        "problems": {"name": problems.name, "split": problems.split, "fingerprint": problems.fingerprint},
        **measure(reasoner, problems.problems, progress=progress),
        "training": dict(training),
        "caveats": list(recipe.caveats),
    }


def measure(
    reasoner: Reasoner, problems: Sequence[Problem], *, progress: Callable[[int], None] = lambda n_problems: None
) -> Json:
    """The part of a card that can be measured again: accuracy and lens.

    `accuracy`, of each condition with n and a 95 % Wilson interval, over all problems and by number of steps; and
    `lens`, for each step the thought that names its result most often.
    """
    outcomes = evaluate(reasoner, problems, progress=progress)
    return {
        "accuracy": {outcome.condition: _accuracy(outcome, problems) for outcome in outcomes},
        "lens": _lens(reasoner, problems),
    }


def measured_again(card: Json, n: int, *, progress: Callable[[int], None] = lambda n_problems: None) -> Json:
    """Measure the numbers of a bundled model's card again, on a sample of the card's problems.

    Args:
        card: from `thoughtlens.models.read_card`.
        n: how many problems.
        progress: called with the number of problems solved, after each pass.

    Returns:
        The card with accuracies and lens of these problems.

    Raises:
        ProblemSetError: there are fewer problems.

    Example:
        >>> from thoughtlens.models import read_card
        >>> measured_again(read_card("tiny-gpt2"), 4)["accuracy"]["own"]["n"]
        4
    """
    problems = draw(load_set(card["problems"]["name"], card["problems"]["split"]), n)
    return card | measure(load(card["name"], dtype="float32"), problems.problems, progress=progress)


def _accuracy(outcome: Solved, problems: Sequence[Problem]) -> Json:
    correct = outcome.correct
    counts = sorted({len(problem.steps) for problem in problems})
    by_steps = {
        str(count): _share([c for c, problem in zip(correct, problems, strict=True) if len(problem.steps) == count])
        for count in counts
    }
    # A model without its thoughts may write its steps out instead, as it learnt to do as its own teacher.
    wrote_steps = sum("<<" in text for text in outcome.texts) / len(outcome.texts)
    return _share(correct) | {"wrote_steps": round(wrote_steps, 4), "by_steps": by_steps}


def _share(correct: Sequence[bool]) -> Json:
    share = proportion_interval(sum(correct), len(correct))
    return {
        "n": len(correct),
        "correct": sum(correct),
        "accuracy": round(float(share.sel(value="estimate")), 4),
        "low": round(float(share.sel(value="low")), 4),
        "high": round(float(share.sel(value="high")), 4),
    }


def _lens(reasoner: Reasoner, problems: Sequence[Problem]) -> list[Json]:
    """For each step, the thought whose `state_out` names the step's result most often among its top 5 tokens."""
    if not reasoner.n_thoughts or not any(problem.steps for problem in problems):
        return []
    read = results_read(decode_thoughts(reasoner, problems), problems)
    rows = []
    for step in read["step"].values:
        own = read["own"].sel(step=step, stage="state_out")
        best = own.idxmax("thought").item()
        row = {"step": int(step), "thought": best, "n": int(read["n"].sel(step=step))}
        for name in ("own", "other"):
            row[name] = round(float(read[name].sel(step=step, stage="state_out", thought=best)), 4)
        rows.append(row)
    return rows


def training_facts(recipe: Recipe, out: Path) -> Json:
    """Command, steps, problems seen and wall-clock seconds of a training, from its recipe and its logs."""
    base = f" --base {recipe.base.pretrained}" if isinstance(recipe.base, PretrainedBase) else ""
    together = f"torchrun --nproc_per_node={n_processes()} --no-python " if n_processes() > 1 else ""
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {_threads()}"
    return {
        "command": f"{together}thoughtlens train {recipe.name}{base} --seed {recipe.seed} --out {recipe.name}",
        "seed": recipe.seed,
        "stages": [{"name": s.name, "steps": s.steps, "problems": _n_read(s)} for s in recipe.stages],
        "problems": f"problems of {recipe.problems.name}" if recipe.problems else GENERATED,
        "wall_seconds": round(sum(map(_seconds, sorted(out.glob("training/*/log.jsonl"))))),
        "machine": machine,
        "versions": versions(),
    }


def _n_read(stage: Stage) -> int:
    return stage.steps * stage.batch * stage.accumulation * n_processes()


def _seconds(log: Path) -> float:
    last = json.loads(log.read_text("utf-8").splitlines()[-1])
    seconds: float = last.get("seconds", last.get("train_runtime", 0.0))
    return seconds


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread" if count == 1 else f"{count} threads"


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write `card.json` and, for people, `README.md`."""
    write_json(folder / "card.json", card)
    with replacing(folder / "README.md") as file:
        file.write(as_markdown(card))


def as_markdown(card: Mapping[str, Any]) -> str:
    """Write a card as a page for people, by the template `card.md.jinja`.

    Args:
        card: as `train` returns it and `card.json` holds it.

    Returns:
        The page in Markdown.

    Example:
        >>> from thoughtlens.models import read_card
        >>> as_markdown(read_card("tiny-gpt2")).splitlines()[0]
        '# tiny-gpt2'
    """
    known = {"conditions": CONDITIONS, "earns": _EARNS, "generated": GENERATED}
    return _template().render({"lens": [], "beside": [], "seeds": None} | dict(card) | known)


@cache
def _template() -> Template:
    text = (resources.files("thoughtlens.training") / "card.md.jinja").read_text("utf-8")
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": "{:.1%}".format, "thousands": "{:,}".format, "decimals": "{:.2f}".format}
    return environment.from_string(text)


def rivals(folders: Sequence[Path]) -> list[Json]:
    """Read how well other models do, from the cards in their folders.

    Args:
        folders: of models trained by recipes of this package.

    Returns:
        For each its name, what it is, its training, and its accuracy with its own thoughts.

    Raises:
        CheckpointError: a folder has no card.

    Example:
        >>> from thoughtlens.models import bundled
        >>> rivals([bundled()["tiny-gpt2-control"]])[0]["name"]
        'tiny-gpt2-control'
    """
    rows = []
    for folder in folders:
        path = folder / "card.json"
        if not path.is_file():
            raise CheckpointError(f"{folder} has no card.json; train that model first.")
        card = json.loads(path.read_text("utf-8"))
        rows.append(
            {name: card[name] for name in ("name", "about", "training")} | {"accuracy": card["accuracy"]["own"]}
        )
    return rows


def seeds(folders: Sequence[Path], problems: ProblemSet, progress: Callable[[int], None]) -> Json:
    """Compare models of one recipe that were trained from different seeds.

    Args:
        folders: of the models, with their cards.
        problems: what they are compared on.
        progress: called with 1 after each model.

    Returns:
        `models`, for each its seed, accuracy, most preferred thought, sequential and skip preference and top five
        heads; and `agreement`, Spearman's rank correlation of the heads' importance for each pair of models.
    """
    analyses, rows = [], []
    for folder in folders:
        analyses.append(_analyze(load(folder, dtype="float32"), problems))
        progress(1)
    for folder, analysis in zip(folders, analyses, strict=True):
        seed = json.loads((folder / "card.json").read_text("utf-8"))["training"]["seed"]
        found = headline(analysis, n_heads=5)
        preferred = as_number(analysis.model["largest_preference"], n=int(analysis.model["n"]))
        found["preferred"] = {"thought": analysis.model["preferred"].item() or None, **preferred}
        found["top_heads"] = [head["name"] for head in found["top_heads"]]  # type: ignore[attr-defined]  # JSON
        rows.append({"seed": seed} | found)
    pairs = combinations(range(len(analyses)), 2)
    return {"models": rows, "agreement": [_agreement(analyses[one], analyses[other]) for one, other in pairs]}


def _analyze(reasoner: LatentReasoner, problems: ProblemSet) -> Analysis:
    with tempfile.TemporaryDirectory() as folder:
        run = extract(reasoner, problems, folder)
        return analyze(run.blocks(), correct=run.attention["correct"].values)


def _agreement(one: Analysis, other: Analysis) -> float:
    ranked = [np.nan_to_num(a.heads["importance"].sel(value="estimate").values.ravel()) for a in (one, other)]
    return round(float(spearman(*ranked)), 3)
