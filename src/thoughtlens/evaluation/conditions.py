"""How well a model answers when its thoughts are its own, missing, emptied, averaged or another problem's.

A model that thinks must lose by each of the broken ones. Answers are generated freely and read by the same parser
throughout; a text without a readable answer is wrong, an error is an error.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from thoughtlens.cuts.edits import Replace, Zero
from thoughtlens.cuts.interventions import Intervention
from thoughtlens.errors import OptionError
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.problems import Problem, same_answer
from thoughtlens.reasoning.loop import reason, write_out
from thoughtlens.taps import Site

CONDITIONS: Final = {
    "own": "its own thoughts",
    "none": "no thoughts: eot follows bot",
    "zeroed": "every thought replaced by zeros",
    "averaged": "every thought replaced by its mean over the problems",
    "swapped": "every thought replaced by the next problem's",
    "explicit": "no markers: the steps written out",
}


@dataclass(frozen=True)
class Outcome:
    """Which problems a model solved under one condition.

    Attributes:
        condition: a key of `CONDITIONS`.
        correct: one truth value a problem, in order.
        texts: what the model said.
    """

    condition: str
    correct: tuple[bool, ...]
    texts: tuple[str, ...]


def evaluate(
    reasoner: LatentReasoner,
    problems: Sequence[Problem],
    *,
    conditions: Sequence[str] = tuple(CONDITIONS),
    batch_size: int = 100,
    progress: Callable[[int], None] = lambda n_problems: None,
) -> list[Outcome]:
    """Let a model solve the same problems under each condition.

    Args:
        reasoner: the model.
        problems: at least two, since one problem's thoughts are given to another.
        conditions: keys of `CONDITIONS`.
        batch_size: problems a pass.
        progress: called with the number of problems solved, after each pass.

    Returns:
        One outcome a condition, in the order asked for.

    Raises:
        OptionError: there are fewer than two problems, or a condition is unknown.
    """
    if len(problems) < 2:
        raise OptionError(f"{len(problems)} problems can't be given each other's thoughts; take at least 2.")
    if unknown := sorted(set(conditions) - set(CONDITIONS)):
        raise OptionError(f"no condition {unknown[0]!r}; there are: {', '.join(CONDITIONS)}.")
    solver = _Solver(reasoner, problems, batch_size, progress)
    return [solver.solve(condition) for condition in conditions]


class _Solver:
    """Solves the same problems under several conditions; their own thoughts are computed once."""

    def __init__(
        self, reasoner: LatentReasoner, problems: Sequence[Problem], batch_size: int, progress: Callable[[int], None]
    ) -> None:
        self.reasoner, self.problems, self.batch_size, self.progress = reasoner, problems, batch_size, progress
        self._own: tuple[list[str], Tensor] | None = None

    def solve(self, condition: str) -> Outcome:
        """What the model says under a condition, and whether it is right."""
        texts = {
            "own": lambda: self._own_pass()[0],
            "none": lambda: self._think(n_thoughts=0),
            "zeroed": lambda: self._think(lambda rows: Zero()),
            "averaged": lambda: self._think(lambda rows: Replace(self._thoughts().mean(0, keepdim=True))),
            "swapped": lambda: self._think(lambda rows: Replace(self._thoughts().roll(-1, 0)[rows])),
            "explicit": self._write,
        }[condition]()
        read = self.reasoner.read_answer
        correct = tuple(same_answer(read(text), p.answer) for text, p in zip(texts, self.problems, strict=True))
        return Outcome(condition, correct, tuple(texts))

    def _batches(self) -> Iterator[tuple[slice, list[str]]]:
        for start in range(0, len(self.problems), self.batch_size):
            rows = slice(start, start + self.batch_size)
            questions = [problem.question for problem in self.problems[rows]]
            yield rows, questions
            self.progress(len(questions))

    def _own_pass(self) -> tuple[list[str], Tensor]:
        if self._own is None:
            traces = [reason(self.reasoner, questions) for _, questions in self._batches()]
            texts = [text for trace in traces for text in trace.texts]
            self._own = texts, torch.cat([trace.thoughts for trace in traces])
        return self._own

    def _thoughts(self) -> Tensor:
        return self._own_pass()[1]

    def _think(self, edit: Callable[[slice], Zero | Replace] | None = None, n_thoughts: int | None = None) -> list[str]:
        texts: list[str] = []
        for rows, questions in self._batches():
            taps = [Intervention(Site.THOUGHT, edit(rows))] if edit else []
            texts += reason(self.reasoner, questions, taps=taps, n_thoughts=n_thoughts).texts
        return texts

    def _write(self) -> list[str]:
        return [text for _, questions in self._batches() for text in write_out(self.reasoner, questions)]
