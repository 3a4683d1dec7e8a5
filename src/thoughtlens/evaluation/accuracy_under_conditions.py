"""Accuracy of a model: with its thoughts damaged, and of published checkpoints measured again.

1. `evaluate`: which problems a reasoner solves where its thoughts are its own, missing, zeroed, averaged or another
   problem's. A model that uses its thoughts must do worse without its own. Answers are generated freely and read by the
   same parser throughout; a text without a readable answer is wrong.
2. `reproduce`: from a known checkpoint's id, or a copy of it in a folder, an `Outcome` for each published number:
   expected and found accuracy, its interval, and whether the two agree, each under the protocol, problems and answer
   rule that it was published with. What is expected stands in the table of known checkpoints (`known.toml`); where a
   checkpoint or a problem set is not at hand, the error says so.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from thoughtlens.analysis.intervals import proportion_interval
from thoughtlens.cuts.edits import Replace, Zero
from thoughtlens.cuts.interventions import Intervention
from thoughtlens.errors import OptionError
from thoughtlens.models.checkpoint_settings import known_checkpoints
from thoughtlens.models.loader import load
from thoughtlens.models.reasoner import LATENT, LatentReasoner
from thoughtlens.problems import OFFICIAL, Problem, ProblemSet, draw, load_set, same_answer
from thoughtlens.reasoning.loop import reason, write_out
from thoughtlens.reasoning.protocols import EXACT, OFFICIAL_BATCH, protocol_named
from thoughtlens.runs.extraction import extract
from thoughtlens.runs.reader import Run
from thoughtlens.schema import PADDING_MASS
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


@dataclass(frozen=True)
class Outcome:
    """A published accuracy beside the one found; accuracies from 0 to 1.

    Attributes:
        set: the problem set, with its split.
        protocol: how padding was read.
        answer_rule: how answers were read.
        expected: the published accuracy.
        published_n: problems that it is of.
        within: how far from it the found one may be.
        source: where it was published.
        found: the accuracy found.
        low: lower end of its 95 % interval.
        high: upper end.
        n: problems that it is of.
        padding: mean attention of the thoughts' rows to padding; None where there is none.
        rerun: the command that measures it once more.
    """

    set: str
    protocol: str
    answer_rule: str
    expected: float
    published_n: int
    within: float
    source: str
    found: float
    low: float
    high: float
    n: int
    padding: float | None
    rerun: str

    @property
    def agrees(self) -> bool:
        """Whether the found accuracy is as near as published ones are to each other, or its interval holds it."""
        return abs(self.found - self.expected) <= self.within or self.low <= self.expected <= self.high


def expectations(name: str) -> Sequence[Mapping[str, Any]]:
    """The published accuracies of a known checkpoint.

    Args:
        name: its id.

    Returns:
        For each its set, split, n, value in percent, protocol and source.

    Raises:
        OptionError: it is no known checkpoint, or none of its accuracies can be produced here.

    Example:
        >>> [(of["set"], of["value"]) for of in expectations("zen-E/CODI-gpt2")][:2]
        [('gsm8k', 43.67), ('gsm8k', 37.23)]
    """
    if name not in known_checkpoints():
        raise OptionError(f"no known checkpoint {name!r}; see `thoughtlens models --known`, or name one with --as.")
    found: Sequence[Mapping[str, Any]] = known_checkpoints()[name].get("accuracy", ())
    if not found:
        raise OptionError(f"no published accuracy of {name} is known, expected one; measure it with `thoughtlens run`.")
    return found


def reproduce(
    name: str,
    model: str | Path | None = None,
    *,
    protocol: str | None = None,
    answer_rule: str = OFFICIAL,
    problems: str | None = None,
    n: int | None = None,
    batch_size: int | None = None,
    mode: str = LATENT,
    counting: Callable[[int], None] = lambda n_problems: None,
    **how: Any,
) -> list[Outcome]:
    """Measure the published accuracies of a checkpoint.

    Args:
        name: its id in the table.
        model: where it is, if not on the Hub under that id.
        protocol: of inference; that of each published number if None.
        answer_rule: `official`, or `strict`.
        problems: a set or file instead of the published one; then the first published number stands for it.
        n: measure on this many problems, drawn from the set; all if None.
        batch_size: 128 under the official protocols, which depend on it, else 32, if None.
        mode: `latent`, `direct` or `verbal`.
        counting: called with the number of problems done.
        how: what else `load` takes, such as `base` and `device`.

    Returns:
        An outcome for each published number that the options leave.

    Raises:
        OptionError: nothing is published, or nothing under this protocol.
        CheckpointError: the checkpoint is not at hand.
        ProblemSetError: a problem set is not at hand.

    Example:
        `reproduce("zen-E/CODI-gpt2", protocol="official-padding-v5")`
    """
    published = expectations(name)
    if protocol is not None:
        protocol_named(protocol)
        under = [of for of in published if of["protocol"] == protocol]
        # Published under another protocol: then the difference is what is measured.
        published = under or [{**of, "protocol": protocol} for of in published]
    published = published[:1] if problems is not None else published
    reasoner = load(model or name, known_as=name, answer_rule=answer_rule, mode=mode, **how)
    outcomes = []
    for of in published:
        chosen = draw(load_set(problems or of["set"], None if problems else of.get("split")), n)
        size = batch_size or (OFFICIAL_BATCH if protocol_named(of["protocol"]).official else 32)
        outcomes.append(_measured(reasoner, name, model, of, chosen, size, counting))
    return outcomes


def padding_mass(run: Run) -> float | None:
    """How much the thoughts of a run gave to padding, mean over rows, layers and heads.

    Args:
        run: the run.

    Returns:
        A share of a row, 0 to 1; None for a run under the protocol `exact`, whose rows give it nothing.

    Example:
        `padding_mass(open_run("runs/official"))`
    """
    if run.manifest["options"].get("protocol", EXACT.name) == EXACT.name:
        return None
    rows = run.attention[PADDING_MASS]
    thoughts = [str(query) for query in rows["query"].values if str(query).startswith("z")]
    return float(rows.sel(query=thoughts).astype(np.float32).mean())


def _measured(
    reasoner: LatentReasoner,
    name: str,
    model: str | Path | None,
    of: Mapping[str, Any],
    chosen: ProblemSet,
    batch_size: int,
    counting: Callable[[int], None],
) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "run"
        run = extract(reasoner, chosen, to, batch_size=batch_size, protocol=of["protocol"], progress=counting)
        correct, mass = run.correct(), padding_mass(run)
    estimate, low, high = proportion_interval(int(correct.sum()), len(correct)).values.tolist()
    where = name if model is None else f"{model} --as {name}"
    return Outcome(
        set=f"{chosen.name} ({chosen.split})" if chosen.split else chosen.name,
        protocol=of["protocol"],
        answer_rule=reasoner.answer_rule.name,
        expected=of["value"] / 100,
        published_n=of["n"],
        within=of["within"] / 100,
        source=of["source"],
        found=estimate,
        low=low,
        high=high,
        n=len(correct),
        padding=mass,
        rerun=f"thoughtlens reproduce {where} --protocol {of['protocol']}",
    )
