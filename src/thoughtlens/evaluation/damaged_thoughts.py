"""Accuracy of a model whose thoughts are its own, missing, zeroed, averaged or another problem's.

In: a reasoner and problems; out: which problems it solves under each condition. A model that uses its thoughts must
do worse without its own. Answers are generated freely and read by the same parser throughout; a text without a
readable answer is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from thoughtlens.cuts.cut_taps import Intervention
from thoughtlens.cuts.replacements import Replace, Zero
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
"""The conditions of `evaluate`, with what each means."""


@dataclass(frozen=True)
class Solved:
    """Which problems a model solved under one condition.

    Attributes:
        condition: a key of `CONDITIONS`.
        correct: one truth value a problem, in their order.
        texts: what the model said to each.
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
) -> list[Solved]:
    """Let a model solve the same problems under each condition.

    Args:
        reasoner: the model.
        problems: at least two, since one problem's thoughts are given to another.
        conditions: keys of `CONDITIONS`: its own thoughts; no thoughts; each thought replaced by zeros, by its mean
            over the problems, or by that of the next problem; no markers, the steps written out instead.
        batch_size: problems a pass.
        progress: called with the number of problems solved, after each pass.

    Returns:
        For each condition, in the order asked for, what the model said and whether it was right.

    Raises:
        OptionError: there are fewer than two problems, or a condition is unknown.

    Example:
        >>> from thoughtlens.models import load
        >>> from thoughtlens.problems import sample
        >>> found = evaluate(load("tiny-gpt2"), sample("arithmetic", n=8), conditions=["own", "zeroed"])
        >>> [(of.condition, sum(of.correct)) for of in found]
        [('own', 8), ('zeroed', 1)]
    """
    if len(problems) < 2:
        raise OptionError(f"{len(problems)} problems can't be given each other's thoughts; take at least 2.")
    if unknown := sorted(set(conditions) - set(CONDITIONS)):
        raise OptionError(f"no condition {unknown[0]!r}; there are: {', '.join(CONDITIONS)}.")
    solver = _Solver(reasoner, problems, batch_size, progress)
    return [solver.solve(condition) for condition in conditions]


class _Solver:
    """Solves the same problems under several conditions; the pass with their own thoughts is made once."""

    def __init__(
        self, reasoner: LatentReasoner, problems: Sequence[Problem], batch_size: int, progress: Callable[[int], None]
    ) -> None:
        self.reasoner, self.problems, self.batch_size, self.progress = reasoner, problems, batch_size, progress
        self._own: tuple[list[str], Tensor] | None = None

    def solve(self, condition: str) -> Solved:
        """What the model says under a condition, and whether it is right."""
        texts = {
            "own": lambda: self._own_pass()[0],
            "none": lambda: self._think(n_thoughts=0),
            "zeroed": lambda: self._think(lambda rows: Zero()),
            "averaged": lambda: self._think(lambda rows: Replace(self._own_pass()[1].mean(0, keepdim=True))),
            "swapped": lambda: self._think(lambda rows: Replace(self._own_pass()[1].roll(-1, 0)[rows])),
            "explicit": lambda: [t for _, questions in self._batches() for t in write_out(self.reasoner, questions)],
        }[condition]()
        read = self.reasoner.read_answer
        correct = tuple(same_answer(read(text), p.answer) for text, p in zip(texts, self.problems, strict=True))
        return Solved(condition, correct, tuple(texts))

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

    def _think(self, edit: Callable[[slice], Zero | Replace] | None = None, n_thoughts: int | None = None) -> list[str]:
        texts: list[str] = []
        for rows, questions in self._batches():
            taps = [Intervention(Site.THOUGHT, edit(rows))] if edit else []
            texts += reason(self.reasoner, questions, taps=taps, n_thoughts=n_thoughts).texts
        return texts
