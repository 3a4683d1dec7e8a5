"""A batch of problems becomes what many cuts do to it; its questions are read once.

1. The questions are read, untapped.  2. The reading is forked, one copy a cut, and all copies think at once, each under
its own interventions.  3. Each copy is told the gold answer, for its log-probability and the distribution of the
value's first token.  4. Where greedy decoding would have said just that, the text is known; the others decode freely.

A problem that can't be run under a cut is found by halving and reported with its reason; it is never taken for wrong.
It knows nothing of plans, files or statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from thoughtlens.decoding import Told, decode, tell
from thoughtlens.errors import OptionError
from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.output_projection import head_width
from thoughtlens.problems import Problem, same_answer
from thoughtlens.reading import Reading
from thoughtlens.reasoning import MAX_NEW_TOKENS, answer_rooms, think
from thoughtlens.tracing.cuts import thoughts_left
from thoughtlens.tracing.edits import Stop
from thoughtlens.tracing.interventions import Intervention
from thoughtlens.tracing.taps import Taps
from thoughtlens.tracing.variants import Variants

CACHE_BYTES: Final = 2**30
"""Keys and values of all copies that think at once, about."""

MOST_ROWS: Final = 1024
"""Copies times problems at most: beyond it a pass gets no faster for each."""

_AHEAD: Final = 32
"""Positions after the question that are reckoned with."""

Parts = tuple[Intervention, ...]
UNWATCHED: Final = Taps()


class Outcome(NamedTuple):
    """What one cut does to one problem.

    Attributes:
        correct: the parsed answer equals the gold answer.
        gold_logprob: nats, of the gold answer's tokens and the end token after the prefix.
        kl: nats, KL(baseline ‖ cut) of the value's first token.
        answer: the parsed answer, "" if there is none.
        failure: why it could not be run, "" if it could; the other values are then False, NaN, NaN, "".
    """

    correct: bool
    gold_logprob: float
    kl: float
    answer: str
    failure: str = ""


def failed(failure: str) -> Outcome:
    """The outcome of a problem that could not be run."""
    return Outcome(False, float("nan"), float("nan"), "", failure)


@dataclass(frozen=True)
class Batch:
    """Problems that pass together, as token ids.

    Attributes:
        problems: the problems.
        prompts: their questions, each ending in `bot`.
        spoken: for each the ids of the answer prefix, and of the gold value with the end token.
    """

    problems: tuple[Problem, ...]
    prompts: list[list[int]]
    spoken: list[tuple[list[int], list[int]]]


def batch_of(reasoner: LatentReasoner, problems: Sequence[Problem], n_thoughts: int) -> Batch:
    """Turn problems into token ids.

    Raises:
        OptionError: a question, or its gold answer, does not fit into the model's positions.
    """
    prompts = [reasoner.prompt(problem.question) for problem in problems]
    rooms = answer_rooms(reasoner, prompts, n_thoughts, MAX_NEW_TOKENS)
    spoken = [reasoner.spoken(problem.answer) for problem in problems]
    for problem, (prefix, value), room in zip(problems, spoken, rooms, strict=True):
        if len(prefix) + len(value) > room:
            raise OptionError(
                f"the gold answer of {problem.id} takes {len(prefix) + len(value)} tokens, expected {room} at most; "
                "leave the problem out."
            )
    return Batch(tuple(problems), prompts, spoken)


class Cutting:
    """A batch whose questions were read once, to be cut again and again.

    Args:
        reasoner: the model.
        batch: the problems.
        n_thoughts: T.
        watching: taps that meet the thoughts and the told gold answer when nothing is cut.

    Attributes:
        baseline: what comes of each problem when nothing is cut.
        thoughts: (problem, thought, hidden), the same.
    """

    def __init__(self, reasoner: LatentReasoner, batch: Batch, n_thoughts: int, watching: Taps = UNWATCHED) -> None:
        self._reasoner, self._batch, self._n_thoughts = reasoner, batch, n_thoughts
        self._answers: dict[tuple[str, str], tuple[bool, str]] = {}
        with torch.inference_mode():
            self._reading = Reading(reasoner, Taps(), n_thoughts)
            self._reading.question([prompt[:-1] for prompt in batch.prompts])
            passed = self._pass([()], n_thoughts, watching)
        self._first, self.thoughts = passed.told.first, passed.thoughts
        (self.baseline,) = self._outcomes(passed)

    @torch.inference_mode()
    def outcomes(self, cuts: Sequence[Parts]) -> list[list[Outcome]]:
        """What each cut does to each problem: a list a cut; cuts with as many thoughts think at once."""
        counts = [thoughts_left(parts, self._n_thoughts) for parts in cuts]
        found: list[list[Outcome]] = [[] for _ in cuts]
        for count in sorted(set(counts)):
            places = [place for place, its in enumerate(counts) if its == count]
            outcomes = self._outcomes(self._pass([cuts[place] for place in places], count))
            for place, of_cut in zip(places, outcomes, strict=True):
                found[place] = of_cut
        return found

    def _pass(self, cuts: Sequence[Parts], count: int, watching: Taps = UNWATCHED) -> "_Passed":
        """Think under each cut, be told the gold answers, and say what else would be said."""
        # A stop has been read: what it names is not thought, and so is no slot of this pass.
        made = [tuple(part for part in parts if not isinstance(part.edit, Stop)) for parts in cuts]
        # Even where nothing is cut, so that cuts and the baseline are one arithmetic, that of taps.
        edits = Taps([Variants(made, len(self._batch.problems))])
        reading = self._fork(len(cuts), Taps([*edits, *watching]), count)
        thinking = think(reading, self._batch.prompts[0][-1], count)
        n_thought = reading.keys.shape[1]
        told = tell(reading, thinking.state, self._batch.spoken * len(cuts))
        # Back to the end of the thoughts: to fork there would copy all copies' keys and values once more.
        reading.forget(reading.keys.shape[1] - n_thought)
        reading.taps = edits
        return _Passed(told, self._texts(reading, thinking.state, told, count), thinking.thoughts)

    def _fork(self, n_copies: int, taps: Taps, n_thoughts: int) -> Reading:
        return self._reading.fork(n_copies, taps=taps, n_thoughts=n_thoughts)

    def _texts(self, reading: Reading, state: Tensor, told: Told, count: int) -> list[str]:
        """What each row says freely; where that is what it was told, it need not be decoded again."""
        n_cuts = len(state) // len(self._batch.problems)
        texts = [self._reasoner.decode([*prefix, *value]) for prefix, value in self._batch.spoken] * n_cuts
        # Fewer thoughts leave more room.
        rooms = answer_rooms(self._reasoner, self._batch.prompts, count, MAX_NEW_TOKENS) * n_cuts
        free = (~told.greedy).nonzero().flatten()
        if len(free):
            reading.keep(free)
            places = free.tolist()
            said = decode(reading, state[free], [rooms[place] for place in places])
            for place, ids in zip(places, said, strict=True):
                texts[place] = self._reasoner.decode(ids)
        return texts

    def _outcomes(self, passed: "_Passed") -> list[list[Outcome]]:
        """A list a cut, an outcome a problem."""
        problems = self._batch.problems
        n_cuts = len(passed.texts) // len(problems)
        baseline = self._first.repeat(n_cuts, 1)
        # Of equal distributions rounding may make less than nothing.
        kl = kl_div(passed.told.first, baseline, reduction="none", log_target=True).sum(-1).clamp(min=0.0)
        rows = zip(list(problems) * n_cuts, passed.texts, passed.told.logprob.tolist(), kl.tolist(), strict=True)
        found = [self._outcome(*row) for row in rows]
        return [found[start : start + len(problems)] for start in range(0, len(found), len(problems))]

    def _outcome(self, problem: Problem, text: str, logprob: float, kl: float) -> Outcome:
        if not (isfinite(logprob) and isfinite(kl)):
            return failed(f"log-probability {logprob} and kl {kl} of the gold answer, expected finite numbers")
        correct, answer = self._read(text, problem.answer)
        return Outcome(correct, logprob, kl, answer)

    def _read(self, text: str, gold: str) -> tuple[bool, str]:
        """Whether a text's answer is right, and the answer; most cuts leave a problem's text as it was."""
        if (text, gold) not in self._answers:
            answer = self._reasoner.read_answer(text)
            self._answers[text, gold] = same_answer(answer, gold), answer or ""
        return self._answers[text, gold]


class _Passed(NamedTuple):
    """What came of a pass; its rows are all problems under the first cut, then all under the second, and so on."""

    told: Told
    texts: list[str]
    thoughts: Tensor


def copies_at_once(reasoner: LatentReasoner, lengths: Sequence[int], n_thoughts: int) -> int:
    """How many copies of a batch think at once, so that their keys and values take about `CACHE_BYTES`.

    Args:
        reasoner: the model.
        lengths: prompt tokens of each problem of the batch.
        n_thoughts: T.
    """
    config = reasoner.lm.config
    n_groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = n_groups * head_width(config)
    of_position = 2 * config.num_hidden_layers * width * reasoner.lm.dtype.itemsize
    # The cache of the copies is there twice while a position is appended.
    of_row = 2 * of_position * (max(lengths) + n_thoughts + _AHEAD)
    rows = min(MOST_ROWS, CACHE_BYTES // of_row)
    return int(max(1, rows // len(lengths)))
