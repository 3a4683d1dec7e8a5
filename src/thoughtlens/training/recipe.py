"""A training recipe: a TOML file that says which model learns what, from which problems, in which stages.

    name, seed, thoughts, about, caveats, bf16, after_steps
    [base]      either type = "gpt2" | "llama", vocabulary, and under [base.config] that family's own settings: a new
                model; or pretrained = "HUB/ID" or a folder; for both inner, the projection's inner width
    [lora]      rank, alpha, dropout, targets: train low-rank updates of a pretrained base, and leave it as it is
    [problems]  name, split, …: a problem set to learn from; without it problems are generated
    [held_out]  name, split, …: a problem set for the card
    [[stages]]  steps or epochs, batch, rate, schedule, …; weights of the loss terms; supervised thoughts

Unknown names are refused, so that a misspelt setting can't be silently ignored.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_type_hints

from thoughtlens.errors import RecipeError
from thoughtlens.names import MAX_THOUGHTS
from thoughtlens.problems.arithmetic import DEFAULT_STEPS

TERMS = ("teacher", "student", "distillation", "supervision", "equations")


ARCHITECTURES: Final = ("gpt2", "llama")
SCHEDULES: Final = ("cosine", "constant_with_warmup")
_STAGE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Stage:
    """One stretch of training with one learning-rate schedule.

    Attributes:
        name: what the stage is for; names its folder of checkpoints.
        rate: highest learning rate.
        steps: optimiser steps; 0 where epochs are given.
        epochs: passes over the recipe's problem set; 0 where steps are given.
        batch: problems in each forward pass of each process.
        accumulation: forward passes a step.
        schedule: `constant_with_warmup`, or `cosine` down to `floor`.
        floor: share of `rate` at which the cosine ends.
        warmup: steps of linear warm-up; below 1, their share of the stage.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip: largest norm of the gradient.
        weights: weight of each loss term (`thoughtlens.training.recipe.TERMS`).
        supervised: for each step's result but the last, the thought (from 1) that is to hold it.
        supervised_until: share of the stage after which step supervision has fallen, linearly, to nothing.
        scrambled: feed each problem another's thoughts or zeros, so that its answer can't depend on them.
        n_steps: number of steps of the generated problems → how often it is drawn.
    """

    name: str
    rate: float
    steps: int = 0
    epochs: float = 0
    batch: int = 32
    accumulation: int = 1
    schedule: str = "cosine"
    floor: float = 0.03
    warmup: float = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    supervised: tuple[int, ...] = ()
    supervised_until: float = 0.6
    scrambled: bool = False
    n_steps: Mapping[int, float] = field(default_factory=lambda: dict(DEFAULT_STEPS))


@dataclass(frozen=True)
class NewBase:
    """A decoder to be trained from nothing.

    Attributes:
        type: `gpt2` or `llama`.
        vocabulary: most tokens of the tokenizer that is made for it.
        config: settings of the family's configuration, by the names that transformers gives them.
        inner: inner width of the projection; the model's own width if None.
    """

    type: str
    vocabulary: int
    config: Mapping[str, Any]
    inner: int | None = None


@dataclass(frozen=True)
class PretrainedBase:
    """A decoder that others have trained, with its tokenizer.

    Attributes:
        pretrained: Hub id or folder.
        revision: branch, tag or commit of a Hub id.
        inner: inner width of the projection; the model's own width if None.
    """

    pretrained: str
    revision: str | None = None
    inner: int | None = None


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of a pretrained base (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: of each update.
        alpha: updates are scaled by alpha / rank.
        dropout: on what enters an update.
        targets: ends of the names of the layers that are updated; those of the official code if empty.
    """

    rank: int = 128
    alpha: float = 32
    dropout: float = 0.1
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProblemSource:
    """A problem set, and which of its problems are used.

    Attributes:
        name: a named set, its Hub id, or a file.
        split: of a named set.
        fields: names of fields by what they hold, as in `thoughtlens.problems.load_set`.
        revision: branch, tag or commit of a Hub set.
        most_tokens: a problem whose question, steps and answer are longer together is left out.
        numbers_only: a problem whose answer does not begin with a digit is left out.
    """

    name: str
    split: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    most_tokens: int | None = None
    numbers_only: bool = False


@dataclass(frozen=True)
class Recipe:
    """What is trained, from which seed, through which stages.

    Attributes:
        name: of the model.
        base: the decoder.
        stages: in order.
        lora: how a pretrained base is updated; all its weights are trained if None.
        problems: what is learnt from; generated problems if None.
        held_out: what the card measures on.
        seed: of weights and problems.
        thoughts: T; 0 for a model that answers directly.
        bf16: compute in bfloat16, and keep the weights that LoRA leaves alone in it.
        after_steps: what the teacher reads between its steps and the answer.
        about: one line for the model's card.
        caveats: what a user of the model must know before claiming anything about it.
        text: the file as it was read.
    """

    name: str
    base: NewBase | PretrainedBase
    stages: tuple[Stage, ...]
    lora: Lora | None = None
    problems: ProblemSource | None = None
    held_out: ProblemSource = ProblemSource("arithmetic", "test")
    seed: int = 0
    thoughts: int = 6
    bf16: bool = False
    after_steps: str = " "
    about: str = ""
    caveats: tuple[str, ...] = ()
    text: str = field(default="", repr=False, compare=False)


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("thoughtlens.training") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def read_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by bundled name or from a file.

    Raises:
        RecipeError: it does not exist, is not TOML, names something unknown, or asks for what can't be.
    """
    text = _recipe_text(name_or_path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name_or_path} is not valid TOML ({error}); mend that line.") from error
    try:
        recipe = _assemble(raw, text, name_or_path)
    except (AttributeError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{name_or_path} is not laid out as a recipe ({error}); compare it with a bundled one."
        ) from error
    _check(recipe, name_or_path)
    return recipe


def _assemble(raw: Mapping[str, Any], text: str, where: str | Path) -> Recipe:
    parts: dict[str, Any] = {"base": _base(raw.get("base", {}), where), "text": text}
    parts["stages"] = tuple(_stage(stage, where) for stage in raw.get("stages", []))
    for name, kind in (("lora", Lora), ("problems", ProblemSource), ("held_out", ProblemSource)):
        if name in raw:
            parts[name] = _build(kind, raw[name], f"[{name}] of {where}")
    recipe: Recipe = _build(Recipe, dict(raw) | parts, str(where))
    return recipe


def _recipe_text(name_or_path: str | Path) -> str:
    if str(name_or_path) in bundled_recipes():
        return (resources.files("thoughtlens.training") / "recipes" / f"{name_or_path}.toml").read_text("utf-8")
    try:
        return Path(name_or_path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(bundled_recipes())
        raise RecipeError(f"no recipe {str(name_or_path)!r}; name a TOML file or one of: {known}.") from error


def _base(raw: Mapping[str, Any], where: str | Path) -> NewBase | PretrainedBase:
    kind = PretrainedBase if "pretrained" in raw else NewBase
    base: NewBase | PretrainedBase = _build(kind, raw, f"[base] of {where}")
    return base


def _stage(raw: Mapping[str, Any], where: str | Path) -> Stage:
    stage: Stage = _build(Stage, _with_number_keys(raw), f"a stage of {where}")
    unknown = set(stage.weights) - set(TERMS)
    if unknown:
        raise RecipeError(f"a stage of {where} weighs {sorted(unknown)}; the terms are {', '.join(TERMS)}.")
    if not any(stage.weights.values()):
        raise RecipeError(f"the stage {stage.name!r} of {where} learns nothing; weigh one of {', '.join(TERMS)}.")
    if stage.weights.get("distillation") and not (stage.weights.get("teacher") and stage.weights.get("student")):
        raise RecipeError(f"a stage of {where} distils without teacher or student; give both a weight.")
    if stage.scrambled and stage.batch < 2:
        raise RecipeError(f"the stage {stage.name!r} of {where} swaps thoughts in batches of one; give it two or more.")
    if bool(stage.steps) == bool(stage.epochs):
        raise RecipeError(f"the stage {stage.name!r} of {where} needs either steps or epochs; give one of them.")
    return stage


def _check(recipe: Recipe, where: str | Path) -> None:
    """What no part of a recipe can know by itself."""
    if not recipe.stages:
        raise RecipeError(f"{where} has no [[stages]]; give it at least one.")
    if recipe.lora and isinstance(recipe.base, NewBase):
        raise RecipeError(f"{where} has [lora] on a new base, which knows nothing yet; name a pretrained one.")
    if isinstance(recipe.base, NewBase) and recipe.base.type not in ARCHITECTURES:
        raise RecipeError(f"{where} asks for a base of type {recipe.base.type!r}; use one of {ARCHITECTURES}.")
    if not 0 <= recipe.thoughts <= MAX_THOUGHTS:
        raise RecipeError(f"{where} asks for {recipe.thoughts} thoughts; give a number from 0 to {MAX_THOUGHTS}.")
    for stage in recipe.stages:
        _check_stage(stage, recipe.thoughts, where)
    if recipe.problems is None and any(stage.epochs for stage in recipe.stages):
        raise RecipeError(f"{where} counts epochs, but generated problems have no end; give steps, or [problems].")


def _check_stage(stage: Stage, n_thoughts: int, where: str | Path) -> None:
    """Ranges, each with what is allowed."""
    allowed = {
        "name": (bool(_STAGE_NAME.fullmatch(stage.name)), "letters, digits, - and _"),
        "steps": (stage.steps >= 0, "0 or more"),
        "epochs": (stage.epochs >= 0, "0 or more"),
        "batch": (stage.batch >= 1, "1 or more"),
        "accumulation": (stage.accumulation >= 1, "1 or more"),
        "schedule": (stage.schedule in SCHEDULES, " or ".join(SCHEDULES)),
        "betas": (len(stage.betas) == 2 and all(0 <= beta < 1 for beta in stage.betas), "two numbers below 1"),
        "weights": (all(weight >= 0 for weight in stage.weights.values()), "numbers of 0 or more"),
        "supervised": (all(1 <= z <= n_thoughts for z in stage.supervised), f"thoughts from 1 to {n_thoughts}"),
        "n_steps": (all(2 <= n <= 6 for n in stage.n_steps) and sum(stage.n_steps.values()) > 0, "counts from 2 to 6"),
    }
    for name, (fits, what) in allowed.items():
        if not fits:
            value = getattr(stage, name)
            raise RecipeError(f"the stage {stage.name!r} of {where} sets {name} to {value!r}; give it {what}.")


def _with_number_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(raw)
    if "n_steps" in raw:
        changed["n_steps"] = {int(count): weight for count, weight in raw["n_steps"].items()}
    return changed


def _build(kind: type[Any], raw: Mapping[str, Any], where: str) -> Any:
    unknown = set(raw) - {f.name for f in fields(kind)}
    if unknown:
        known = ", ".join(f.name for f in fields(kind))
        raise RecipeError(f"{where} names {sorted(unknown)}, which is unknown; known are: {known}.")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    _check_types(kind, given, where)
    try:
        return kind(**given)
    except TypeError as error:
        raise RecipeError(f"{where} is incomplete ({error}).") from error


def _check_types(kind: type[Any], given: Mapping[str, Any], where: str) -> None:
    """Numbers, words and truth values are what they should be; a whole number may stand for a fraction."""
    hints = get_type_hints(kind)
    for name, value in given.items():
        hint = hints[name]
        wanted = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        fits = type(value) in wanted or (type(value) is int and float in wanted)
        if {str, int, float, bool} & set(wanted) and not fits:
            expected = " or ".join(each.__name__ for each in wanted if each is not type(None))
            raise RecipeError(f"{where} sets {name} to {value!r}; give it a value of type {expected}.")
