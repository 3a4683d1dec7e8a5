"""A training recipe: a TOML file that says which model learns what, in which stages.

    name, seed, thoughts, about, caveats
    [base]      type = "gpt2" | "llama", vocabulary, and under [base.config] that family's own settings: a new model
    [[stages]]  steps, batch, rate, schedule; weights of the loss terms; supervised thoughts; n_steps of the problems

Unknown names are refused, so that a misspelt setting can't be silently ignored.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from thoughtlens.errors import RecipeError
from thoughtlens.problems.arithmetic import DEFAULT_STEPS
from thoughtlens.training.objective import TERMS


@dataclass(frozen=True)
class Stage:
    """One stretch of training with one learning-rate schedule.

    Attributes:
        name: what the stage is for; names its folder of checkpoints.
        steps: optimiser steps.
        batch: problems a step.
        rate: highest learning rate.
        schedule: `constant_with_warmup`, or `cosine` down to 3 % of `rate`.
        warmup: steps of linear warm-up.
        weights: weight of each loss term (`thoughtlens.training.objective.TERMS`).
        supervised: for each step's result but the last, the thought (from 1) that is to hold it.
        supervised_until: share of the stage after which step supervision has fallen, linearly, to nothing.
        scrambled: feed each problem another's thoughts or zeros, so that its answer can't depend on them.
        n_steps: number of steps of the generated problems → how often it is drawn.
    """

    name: str
    steps: int
    rate: float
    batch: int = 32
    schedule: str = "cosine"
    warmup: int = 100
    weights: Mapping[str, float] = field(default_factory=dict)
    supervised: tuple[int, ...] = ()
    supervised_until: float = 0.6
    scrambled: bool = False
    n_steps: Mapping[int, float] = field(default_factory=lambda: dict(DEFAULT_STEPS))


@dataclass(frozen=True)
class Base:
    """A decoder to be trained from nothing.

    Attributes:
        type: `gpt2` or `llama`.
        vocabulary: most tokens of the tokenizer that is made for it.
        config: settings of the family's configuration, by the names that transformers gives them.
    """

    type: str
    vocabulary: int
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What is trained, from which seed, through which stages.

    Attributes:
        name: of the model.
        base: the decoder.
        stages: in order.
        seed: of weights and problems.
        thoughts: T; 0 for a model that answers directly.
        about: one line for the model's card.
        caveats: what a user of the model must know before claiming anything about it.
        text: the file as it was read.
    """

    name: str
    base: Base
    stages: tuple[Stage, ...]
    seed: int = 0
    thoughts: int = 6
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
        RecipeError: it does not exist, is not TOML, or names something unknown.
    """
    text = _recipe_text(name_or_path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name_or_path} is not valid TOML ({error}); mend that line.") from error
    stages = tuple(_stage(stage, name_or_path) for stage in raw.pop("stages", []))
    base = _build(Base, raw.pop("base", {}), f"[base] of {name_or_path}")
    if not stages:
        raise RecipeError(f"{name_or_path} has no [[stages]]; give it at least one.")
    raw["caveats"] = tuple(raw.get("caveats", ()))
    recipe: Recipe = _build(Recipe, raw | {"base": base, "stages": stages, "text": text}, str(name_or_path))
    return recipe


def _recipe_text(name_or_path: str | Path) -> str:
    if str(name_or_path) in bundled_recipes():
        return (resources.files("thoughtlens.training") / "recipes" / f"{name_or_path}.toml").read_text("utf-8")
    try:
        return Path(name_or_path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(bundled_recipes())
        raise RecipeError(f"no recipe {str(name_or_path)!r}; name a TOML file or one of: {known}.") from error


def _stage(raw: dict[str, Any], where: str | Path) -> Stage:
    stage: Stage = _build(Stage, _with_number_keys(raw), f"a stage of {where}")
    unknown = set(stage.weights) - set(TERMS)
    if unknown:
        raise RecipeError(f"a stage of {where} weighs {sorted(unknown)}; the terms are {', '.join(TERMS)}.")
    if stage.weights.get("distillation") and not (stage.weights.get("teacher") and stage.weights.get("student")):
        raise RecipeError(f"a stage of {where} distils without teacher or student; give both a weight.")
    return stage


def _with_number_keys(raw: dict[str, Any]) -> dict[str, Any]:
    changed = dict(raw)
    if "n_steps" in raw:
        changed["n_steps"] = {int(count): weight for count, weight in raw["n_steps"].items()}
    if "supervised" in raw:
        changed["supervised"] = tuple(raw["supervised"])
    return changed


def _build(kind: type[Any], raw: Mapping[str, Any], where: str) -> Any:
    unknown = set(raw) - {f.name for f in fields(kind)}
    if unknown:
        known = ", ".join(f.name for f in fields(kind))
        raise RecipeError(f"{where} names {sorted(unknown)}, which is unknown; known are: {known}.")
    try:
        return kind(**raw)
    except TypeError as error:
        raise RecipeError(f"{where} is incomplete ({error}).") from error
