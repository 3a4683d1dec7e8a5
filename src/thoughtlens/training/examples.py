"""Problems become the token ids that the objective reads: question, explicit steps with answer, answer alone.

The teacher reads `question, steps, "The answer is: X", end` with the last step left out (the official
`include_last_cot False`: with it the answer would only be copied); the student reads `question, bot, thoughts, eot`
and then the answer alone. Question, steps and answer are tokenized apart, as in the official `train.py`, so that the
answer's tokens are the same for both. Questions are padded on the left, what follows on the right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thoughtlens.models.wording import answer_ids, question_text
from thoughtlens.problems.problem import Problem

IGNORED = -100


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
    """Turns problems into a `Batch`, as a dict for the Trainer.

    Attributes:
        tokenizer: a fast tokenizer with an end token.
        eot: id of the marker that closes the thoughts.
        pad: id used for padding; masked everywhere.
        after_steps: what stands between the steps and the answer; nothing in the official training.
        longest: a question, or a problem's steps, is cut to its first so many tokens, as in the official training.
        equations_in_a_row: equations in each row of bare-equation practice.
    """

    tokenizer: Any
    eot: int
    pad: int
    after_steps: str = " "
    longest: int = 256
    equations_in_a_row: int = 7

    def __call__(self, problems: Sequence[Problem]) -> dict[str, Any]:
        """Collate, for `transformers.Trainer`."""
        return {"batch": self.batch(problems)}

    def batch(self, problems: Sequence[Problem]) -> Batch:
        """Collate as a `Batch`."""
        questions = [self._ids(question_text(p.question))[: self.longest] for p in problems]
        explicit = [self._text(self._steps(p), p.answer) for p in problems]
        answers = [self._text([self.eot], p.answer) for p in problems]
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

    def _steps(self, problem: Problem) -> list[int]:
        written = " ".join(problem.steps[:-1])
        return self._bare(written + self.after_steps)[: self.longest] if written else []

    def _text(self, before: Sequence[int], answer: str) -> _Text:
        told, first = answer_ids(self.tokenizer, answer)
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
