"""Training problems in order, and the token ids that the objective reads of a batch of them.

- The teacher reads `question, steps, "The answer is: X", end` without the last step (the official `include_last_cot
  False`: with it the answer would only be copied); the student reads `question, bot, thoughts, eot` and then the answer
  alone. Question, steps and answer are tokenized separately, as in the official `train.py`, so that the answer's tokens
  are the same for both. Questions are padded on the left, what follows on the right.
- A Coconut in stage k reads `question, bot, thoughts, eot`, then the steps after the k-th and the answer (arXiv
  2412.06769, section 3), with its own words around them.
- Problems form an endless sequence, numbered from 0, that the Trainer reads in order: step s of W processes with batch
  B and accumulation A reads the problems s·W·A·B to (s + 1)·W·A·B - 1. So two processes see in each step what one
  process sees with twice the batch, and a training that is resumed sees what it would have seen.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from thoughtlens.errors import RecipeError
from thoughtlens.models.checkpoint_settings import CODI, defaults
from thoughtlens.models.codi_and_coconut import question_text
from thoughtlens.models.reasoner import answer_ids
from thoughtlens.problems import Problem, load_set
from thoughtlens.problems.generators import arithmetic_problem
from thoughtlens.training.recipe import ProblemSource, Recipe, Stage

IGNORED = -100
"""The target of a position where nothing is to be learnt, as in `torch.nn.functional.cross_entropy`."""


class Padded(NamedTuple):
    """Token ids (problem, position), and which of them are real."""

    ids: Tensor
    real: Tensor


class Batch(NamedTuple):
    """A batch as the objective reads it.

    Attributes:
        question: left-padded.
        explicit: right-padded: steps, answer, end.
        explicit_at: (problem,) index in `explicit` of the token before the answer's value.
        answer: right-padded: eot, answer, end.
        answer_at: (problem,) index in `answer` of the token before the answer's value.
        results: (problem, step) first token of each step's result but the last step's; IGNORED where there is none.
        equations: right-padded bare steps, several problems' in a row.
        equals: bool (problem, position), True at the token before a result in `equations`.
    """

    question: Padded
    explicit: Padded
    explicit_at: Tensor
    answer: Padded
    answer_at: Tensor
    results: Tensor
    equations: Padded
    equals: Tensor


class _Text(NamedTuple):
    ids: list[int]
    before: int


@dataclass(frozen=True)
class Collator:
    """Turns problems into a `Batch`; calling it wraps the batch in a dict, for the Trainer.

    Attributes:
        tokenizer: a fast tokenizer with an end token.
        eot: id of the marker that closes the thoughts.
        pad: id used for padding; masked everywhere.
        after_steps: the text between the steps and the answer; empty in the official training.
        longest: questions, and the steps of a problem, are cut to this many tokens, as in the official training.
        equations_in_a_row: equations in each row of bare-equation practice.
        family: `codi` or `coconut`; it decides the words around question and answer.
        replaced: how many steps thoughts stand in the place of; all of them if None.
    """

    tokenizer: Any
    eot: int
    pad: int
    after_steps: str = " "
    longest: int = 256
    equations_in_a_row: int = 7
    family: str = CODI
    replaced: int | None = None

    def __call__(self, problems: Sequence[Problem]) -> dict[str, Any]:
        """Collate, for `transformers.Trainer`."""
        return {"batch": self.batch(problems)}

    def batch(self, problems: Sequence[Problem]) -> Batch:
        """Collate as a `Batch`."""
        questions = [self._ids(self._question(p.question))[: self.longest] for p in problems]
        explicit = [self._text(self._steps(p), p.answer) for p in problems]
        answers = [self._text([self.eot, *self._steps(p, self.replaced)], p.answer) for p in problems]
        equations, equals = self._equations(problems)
        return Batch(
            question=self._pad(questions, left=True),
            explicit=self._pad([text.ids for text in explicit]),
            explicit_at=torch.tensor([text.before for text in explicit]),
            answer=self._pad([text.ids for text in answers]),
            answer_at=torch.tensor([text.before for text in answers]),
            results=self._results(problems),
            equations=equations,
            equals=equals,
        )

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _bare(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _question(self, text: str) -> str:
        return question_text(text) if self.family == CODI else text + str(defaults(self.family)["suffix"])

    def _steps(self, problem: Problem, replaced: int | None = 0) -> list[int]:
        """The steps after the first `replaced` of them, without the last step, which the answer repeats."""
        written = " ".join(problem.steps[len(problem.steps) if replaced is None else replaced : -1])
        return self._bare(written + self.after_steps)[: self.longest] if written else []

    def _text(self, before: Sequence[int], answer: str) -> _Text:
        told, first = answer_ids(self.tokenizer, answer, str(defaults(self.family)["prefix"]))
        ids = [*before, *told, self.tokenizer.eos_token_id]
        return _Text(ids, len(before) + first - 1)

    def _results(self, problems: Sequence[Problem]) -> Tensor:
        n_results = max((len(p.steps) for p in problems), default=1)
        results = torch.full((len(problems), n_results), IGNORED)
        for row, problem in enumerate(problems):
            for column, step in enumerate(problem.steps[:-1]):
                result = self._bare(step.split("=")[-1].rstrip("> "))
                results[row, column] = result[0] if result else IGNORED
        return results

    def _equations(self, problems: Sequence[Problem]) -> tuple[Padded, Tensor]:
        steps = [step for problem in problems for step in problem.steps if "=" in step]
        size = self.equations_in_a_row
        rows = [self._bare(" ".join(steps[i : i + size])) for i in range(0, len(steps), size)] or [[self.pad]]
        padded = self._pad(rows)
        return padded, padded.real & (padded.ids == self._bare("=")[0])

    def _pad(self, rows: Sequence[Sequence[int]], *, left: bool = False) -> Padded:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.pad)
        real = torch.zeros((len(rows), width), dtype=torch.bool)
        for row, tokens in enumerate(rows):
            place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
            ids[row, place] = torch.tensor(tokens)
            real[row, place] = True
        return Padded(ids, real)


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
    """Load a recipe's problem set and leave out the problems that the recipe does not want.

    Args:
        source: the set; `most_tokens` and `numbers_only` say what is left out.
        tokenizer: counts the tokens.

    Returns:
        The problems in the order of the set, at least one.

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
    # The official code also drops negative numbers: for LLaMA the sign would take the distilled position.
    if source.numbers_only and not problem.answer[0].isdigit():
        return False
    if source.most_tokens is None:
        return True
    text = problem.question + " ".join(problem.steps) + problem.answer
    return len(tokenizer(text)["input_ids"]) <= source.most_tokens


def counted_out(recipe: Recipe, n_problems: int, n_processes: int) -> Recipe:
    """Count the epochs of a recipe's stages in steps.

    Args:
        recipe: the recipe.
        n_problems: how many problems an epoch has.
        n_processes: how many processes share a step.

    Returns:
        The recipe, every stage with its number of steps; the last step of a stage may begin another epoch.
    """

    def steps(stage: Stage) -> int:
        a_step = stage.batch * stage.accumulation * n_processes
        return stage.steps or math.ceil(stage.epochs * n_problems / a_step)

    return replace(recipe, stages=tuple(replace(stage, steps=steps(stage)) for stage in recipe.stages))
