"""Training recipes: TOML files that say which model learns what, from which problems, in which stages.

    name, family, seed, thoughts, about, caveats, bf16, after_steps
    [base]      either type = "gpt2" | "llama", vocabulary, and under [base.config] that family's own settings: a new
                model; or pretrained = "HUB/ID" or a folder; for both inner, the projection's inner width
    [lora]      rank, alpha, dropout, targets: train low-rank updates of a pretrained base, and leave it as it is
    [problems]  name, split, …: a problem set to learn from; without it problems are generated
    [held_out]  name, split, …: a problem set for the card
    [[stages]]  steps or epochs, batch, rate, schedule, …; weights of the loss terms; supervised thoughts (CODI), or how
                many steps thoughts replace (Coconut)

In: a recipe's name or file; out: a checked `Recipe`. Unknown names are refused, so that a misspelt setting can't be
silently ignored.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError, with_config

from thoughtlens.errors import RecipeError
from thoughtlens.models.checkpoint_settings import COCONUT, CODI
from thoughtlens.notation import MAX_THOUGHTS
from thoughtlens.problems.generators import DEFAULT_STEPS

TERMS: Final = ("teacher", "student", "distillation", "supervision", "equations")
"""The terms of the loss that a stage can weigh; `thoughtlens.training.objective` says what each is."""

ARCHITECTURES: Final = ("gpt2", "llama")
SCHEDULES: Final = ("cosine", "constant_with_warmup")
_STAGE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STRICT: Final = ConfigDict(extra="forbid", strict=True)


@with_config(_STRICT)
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
        weights: weight of each loss term, by a name of `TERMS`.
        supervised: for each step but the last, the number (from 1) of the thought that is to hold its result.
        supervised_until: share of the stage after which step supervision has fallen, linearly, to nothing.
        replaced: of a Coconut, k: thoughts stand in the place of the first k steps, and the others are written out.
        scrambled: feed each problem another problem's thoughts, or zeros, so that its answer can't depend on them.
        n_steps: share of the generated problems by their number of steps, 2 to 6.
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
    betas: tuple[float, ...] = (0.9, 0.98)
    clip: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    supervised: tuple[int, ...] = ()
    supervised_until: float = 0.6
    replaced: int | None = None
    scrambled: bool = False
    n_steps: Mapping[int, float] = field(default_factory=lambda: dict(DEFAULT_STEPS))


@with_config(_STRICT)
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


@with_config(_STRICT)
@dataclass(frozen=True)
class PretrainedBase:
    """A decoder that is already trained, with its tokenizer.

    Attributes:
        pretrained: Hub id or folder.
        revision: branch, tag or commit of a Hub id.
        inner: inner width of the projection; the model's own width if None.
    """

    pretrained: str
    revision: str | None = None
    inner: int | None = None


@with_config(_STRICT)
@dataclass(frozen=True)
class Lora:
    """Low-rank updates of a pretrained base (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: of each update.
        alpha: updates are scaled by alpha / rank.
        dropout: on the input of an update.
        targets: ends of the names of the layers that are updated; those of the official code if empty.
    """

    rank: int = 128
    alpha: float = 32
    dropout: float = 0.1
    targets: tuple[str, ...] = ()


@with_config(_STRICT)
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


def _kind_of_base(raw: object) -> str:
    return "pretrained" if isinstance(raw, Mapping) and "pretrained" in raw else "new"


@with_config(_STRICT)
@dataclass(frozen=True)
class Recipe:
    """What is trained, from which seed, through which stages.

    Attributes:
        name: of the model.
        base: the decoder.
        stages: in order.
        family: `codi`, or `coconut`: no projection, its own markers and words, steps replaced stage by stage.
        lora: how a pretrained base is updated; all its weights are trained if None.
        problems: what the model learns from; generated problems if None.
        held_out: what the model is measured on for its card.
        seed: of weights and problems.
        thoughts: T; 0 for a model that answers directly.
        bf16: compute in bfloat16, and keep the weights that LoRA leaves alone in it.
        after_steps: what the teacher reads between its steps and the answer.
        about: one line for the model's card.
        caveats: what a user of the model must know before claiming anything about it.
        text: the file as it was read.
    """

    name: str
    base: Annotated[
        Annotated[NewBase, Tag("new")] | Annotated[PretrainedBase, Tag("pretrained")], Discriminator(_kind_of_base)
    ]
    stages: tuple[Stage, ...]
    family: str = CODI
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

    def thoughts_in(self, stage: Stage) -> int:
        """How many thoughts a stage thinks: T; of a Coconut k·c, where c = T / K and K is the largest k of a stage."""
        if self.family == CODI or stage.replaced is None:
            return self.thoughts
        return stage.replaced * self.thoughts // max(1, *(other.replaced or 0 for other in self.stages))


def bundled_recipes() -> list[str]:
    """List the recipes that come with the package.

    Returns:
        Their names, sorted.

    Example:
        >>> bundled_recipes()[0]
        'codi-gpt2-gsm8k'
    """
    folder = resources.files("thoughtlens.training") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def read_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe and check it.

    Args:
        name_or_path: a name of `bundled_recipes`, or a TOML file.

    Returns:
        The recipe, with every setting that it leaves out at its default.

    Raises:
        RecipeError: it does not exist, is not TOML, names something unknown, or asks for something impossible.

    Example:
        >>> recipe = read_recipe("tiny-gpt2")
        >>> recipe.thoughts, [stage.name for stage in recipe.stages]
        (6, ['equations', 'explicit', 'codi'])
    """
    text = _recipe_text(name_or_path)
    try:
        read = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError too where an integer has too many digits
        raise RecipeError(f"{name_or_path} is not valid TOML ({error}); mend that line.") from error
    try:
        raw = {"base": {}, "stages": []} | read | {"text": text}
        recipe = TypeAdapter(Recipe).validate_json(json.dumps(raw))
    except ValidationError as error:
        raise RecipeError(_explain(error, name_or_path)) from error
    except TypeError as error:  # a date, which no setting takes
        raise RecipeError(_not_a_recipe(name_or_path, error)) from error
    _check(recipe, name_or_path)
    return recipe


def _recipe_text(name_or_path: str | Path) -> str:
    if str(name_or_path) in bundled_recipes():
        return (resources.files("thoughtlens.training") / "recipes" / f"{name_or_path}.toml").read_text("utf-8")
    try:
        return Path(name_or_path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(bundled_recipes())
        raise RecipeError(f"no recipe {str(name_or_path)!r}; name a TOML file or one of: {known}.") from error


_TYPES: Final = {"int_type": "int", "float_type": "float", "string_type": "str", "bool_type": "bool"}
_TABLES: Final[Mapping[object, type[Any]]] = {
    "stages": Stage, "lora": Lora, "problems": ProblemSource, "held_out": ProblemSource,
    "new": NewBase, "pretrained": PretrainedBase,
}  # fmt: skip


def _explain(error: ValidationError, where: str | Path) -> str:
    """One sentence on what pydantic found, unknown names first: what the recipe says, in which table, what to do."""
    found = min(error.errors(), key=lambda each: each["type"] != "unexpected_keyword_argument")
    table, kind, path = found["loc"][0], found["type"], found["loc"]
    if table in ("base", "stages"):
        path = path[1:]  # the kind of base, or the stage's number
    settings = _TABLES.get(path[0] if table == "base" else table, Recipe)
    part = "a stage" if table == "stages" else f"[{table}]"
    place = str(where) if settings is Recipe else f"{part} of {where}"
    name = ".".join(map(str, path if settings is Recipe else path[1:]))
    if kind == "unexpected_keyword_argument":
        known = ", ".join(setting.name for setting in fields(settings))
        return f"{place} names {[name]}, which is unknown; known are: {known}."
    if kind == "missing":
        return f"{place} is incomplete (it lacks {name!r}); give it."
    if kind in _TYPES:
        return f"{place} sets {name} to {found['input']!r}; give it a value of type {_TYPES[kind]}."
    return _not_a_recipe(where, f"{name or table}: {found['msg']}")


def _not_a_recipe(where: str | Path, reason: object) -> str:
    return f"{where} is not laid out as a recipe ({reason}); compare it with a bundled one."


def _check(recipe: Recipe, where: str | Path) -> None:
    """Refuse what the types of the settings allow, but no training can do."""
    if not recipe.stages:
        raise RecipeError(f"{where} has no [[stages]]; give it at least one.")
    _check_family(recipe, where)
    if recipe.lora and isinstance(recipe.base, NewBase):
        raise RecipeError(f"{where} has [lora] on a new base, which knows nothing yet; name a pretrained one.")
    if isinstance(recipe.base, NewBase) and recipe.base.type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise RecipeError(f"{where} asks for a base of type {recipe.base.type!r}; use one of {known}.")
    if not 0 <= recipe.thoughts <= MAX_THOUGHTS:
        raise RecipeError(f"{where} asks for {recipe.thoughts} thoughts; give a number from 0 to {MAX_THOUGHTS}.")
    for stage in recipe.stages:
        _check_terms(stage, where)
        _check_ranges(stage, recipe.thoughts, where)
    if recipe.problems is None and any(stage.epochs for stage in recipe.stages):
        raise RecipeError(f"{where} counts epochs, but generated problems have no end; give steps, or [problems].")


def _check_family(recipe: Recipe, where: str | Path) -> None:
    if recipe.family not in (CODI, COCONUT):
        raise RecipeError(f"{where} is of the family {recipe.family!r}; use {CODI} or {COCONUT}.")
    if recipe.family == COCONUT and recipe.lora:
        raise RecipeError(f"{where} has [lora], which a Coconut checkpoint can't hold; leave it out.")
    most = max((stage.replaced or 0 for stage in recipe.stages), default=0)
    if recipe.family == COCONUT and recipe.thoughts % max(1, most):
        raise RecipeError(
            f"{where} divides {recipe.thoughts} thoughts among {most} replaced steps; make thoughts a multiple of it."
        )
    for stage in recipe.stages:
        thinks = recipe.family == COCONUT and bool(stage.weights.get("student"))
        if thinks != (stage.replaced is not None):
            raise RecipeError(
                f"the stage {stage.name!r} of {where} sets replaced to {stage.replaced}; give it to every stage of a "
                "Coconut that weighs student, and to no other."
            )


def _check_terms(stage: Stage, where: str | Path) -> None:
    weights = stage.weights
    if unknown := sorted(set(weights) - set(TERMS)):
        raise RecipeError(f"a stage of {where} weighs {unknown}; the terms are {', '.join(TERMS)}.")
    if not any(weights.values()):
        raise RecipeError(f"the stage {stage.name!r} of {where} learns nothing; weigh one of {', '.join(TERMS)}.")
    if weights.get("distillation") and not (weights.get("teacher") and weights.get("student")):
        raise RecipeError(f"a stage of {where} distils without teacher or student; give both a weight.")
    if stage.scrambled and stage.batch < 2:
        raise RecipeError(f"the stage {stage.name!r} of {where} swaps thoughts in batches of one; give it two or more.")
    if bool(stage.steps) == bool(stage.epochs):
        raise RecipeError(f"the stage {stage.name!r} of {where} needs either steps or epochs; give one of them.")


def _check_ranges(stage: Stage, n_thoughts: int, where: str | Path) -> None:
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
        "replaced": (stage.replaced is None or stage.replaced >= 0, "0 or more"),
        "n_steps": (all(2 <= n <= 6 for n in stage.n_steps) and sum(stage.n_steps.values()) > 0, "counts from 2 to 6"),
    }
    for name, (fits, what) in allowed.items():
        if not fits:
            value = getattr(stage, name)
            raise RecipeError(f"the stage {stage.name!r} of {where} sets {name} to {value!r}; give it {what}.")
