"""Problems become an endless sequence, numbered from 0, that the Trainer walks through in order.

Step s of W processes with batch B and accumulation A reads the problems s·W·A·B to (s + 1)·W·A·B - 1, whoever reads
which: two processes see in each step what one process sees with twice the batch, and a training that goes on after a
kill sees what it would have seen.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch.utils.data import Dataset

from thoughtlens.errors import RecipeError
from thoughtlens.problems import Problem, load_set
from thoughtlens.problems.arithmetic import arithmetic_problem
from thoughtlens.training.recipe import ProblemSource, Recipe, Stage


class Generated(Dataset[Problem]):
    """The first `length` generated training problems of a seed."""

    def __init__(self, stage: Stage, seed: int, length: int) -> None:
        self.stage, self.seed, self.length = stage, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Problem:
        return arithmetic_problem(index, split="train", seed=self.seed, n_steps=self.stage.n_steps)


class Shuffled(Dataset[Problem]):
    """A set's problems again and again, in another order each time, up to `length`."""

    def __init__(self, problems: Sequence[Problem], seed: int, length: int) -> None:
        self.problems, self.seed, self.length = problems, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Problem:
        epoch, place = divmod(index, len(self.problems))
        return self.problems[_order(len(self.problems), self.seed, epoch)[place]]


@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}/{epoch}").sample(range(size), size)


def read_training_problems(source: ProblemSource, tokenizer: Any) -> tuple[Problem, ...]:
    """Load a problem set and leave out what the recipe does not want.

    Raises:
        RecipeError: nothing is left.
        ProblemSetError: the set can't be read.
    """
    found = load_set(source.name, source.split, fields=source.fields, revision=source.revision)
    kept = tuple(problem for problem in found.problems if _is_wanted(problem, source, tokenizer))
    if not kept:
        raise RecipeError(
            f"none of the {len(found.problems):,} problems of {source.name} is wanted; "
            "raise most_tokens or turn numbers_only off."
        )
    return kept


def _is_wanted(problem: Problem, source: ProblemSource, tokenizer: Any) -> bool:
    # The official code drops negative numbers too, whose sign spoils the distilled position for LLaMA.
    if source.numbers_only and not problem.answer[0].isdigit():
        return False
    if source.most_tokens is None:
        return True
    text = problem.question + " ".join(problem.steps) + problem.answer
    return len(tokenizer(text)["input_ids"]) <= source.most_tokens


def counted_out(recipe: Recipe, n_problems: int, n_processes: int) -> Recipe:
    """The recipe with every stage's epochs counted out in steps."""

    def steps(stage: Stage) -> int:
        a_step = stage.batch * stage.accumulation * n_processes
        return stage.steps or math.ceil(stage.epochs * n_problems / a_step)

    return replace(recipe, stages=tuple(replace(stage, steps=steps(stage)) for stage in recipe.stages))
