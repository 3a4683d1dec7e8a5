"""A batch of problems becomes what many cuts do to it; its questions are read once.

1. The questions are read, untapped.  2. The reading is forked, one copy a cut, and all copies think at once, each under
its own interventions.  3. Each copy is told the gold answer, for its log-probability and the distribution of the
value's first token.  4. Where greedy decoding would have said just that, the text is known; the others decode freely.

A problem that can't be run under a cut is found by halving and reported with its reason; it is never taken for wrong.
It knows nothing of plans, files or statistics.

Problems that pass together become what every cut does to each; what can't be run is found, and says why.

A pass that fails is made again with fewer cuts, then with one on fewer problems, until it is one problem under one cut:
that pair has failed, and the others are as they would have been. It knows nothing of plans or files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from thoughtlens.cuts.edits import Stop
from thoughtlens.cuts.interventions import Intervention, Variants
from thoughtlens.cuts.named import thoughts_left
from thoughtlens.errors import OptionError, ThoughtLensError
from thoughtlens.models.reasoner import LatentReasoner, head_width
from thoughtlens.problems import Problem, same_answer
from thoughtlens.reasoning.batch import BatchPass
from thoughtlens.reasoning.loop import MAX_NEW_TOKENS, Told, answer_rooms, decode, tell, think
from thoughtlens.taps import Taps

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
            self._reading = BatchPass(reasoner, Taps(), n_thoughts)
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

    def _fork(self, n_copies: int, taps: Taps, n_thoughts: int) -> BatchPass:
        return self._reading.fork(n_copies, taps=taps, n_thoughts=n_thoughts)

    def _texts(self, reading: BatchPass, state: Tensor, told: Told, count: int) -> list[str]:
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


FAILURES: Final = (ThoughtLensError, RuntimeError, ValueError, IndexError)
"""What a problem that can't be run ends in: its own fault, or torch's word for it."""


@dataclass(frozen=True)
class Cutter:
    """Makes the baseline and every cut of problems that pass together, and finds what can't be run.

    Attributes:
        reasoner: the model.
        problems: of one batch.
        cuts: the interventions of each cut, as they were planned.
        n_thoughts: T.
        bind: gives cuts the values that their edits stand for, for the problems at these places.
        refuse: told the problem, the place of the cut (None: the baseline) and the reason of a failure; may raise.
        n_copies: cuts that think at once.
        read: by its places, the batch whose questions were read last, so that later cuts need not read them again.
    """

    reasoner: LatentReasoner
    problems: Sequence[Problem]
    cuts: Sequence[Parts]
    n_thoughts: int
    bind: Callable[[Sequence[Parts], Sequence[int]], Sequence[Parts]]
    refuse: Callable[[Problem, int | None, str], None]
    n_copies: int
    read: dict[tuple[int, ...], Cutting] = field(default_factory=dict)

    def __call__(self, places: Sequence[int], those: Sequence[int]) -> list[list[Outcome]]:
        """Cut some problems.

        Args:
            places: of the problems.
            those: which cuts.

        Returns:
            A list for the baseline and one a cut, each with an outcome a problem.
        """
        try:
            cutting = self._cutting(tuple(places))
        except torch.OutOfMemoryError:
            raise  # says nothing of the problems: whoever planned the batch makes it smaller
        except FAILURES as error:
            if len(places) == 1:
                return [[self._failed(places[0], None, error)] for _ in (None, *those)]
            if those:
                # Who it is comes first: where failures are not allowed no cut is made in vain.
                self._halves(places, ())
            return self._halves(places, those)
        self._look([cutting.baseline], places, [None])
        chunks = [those[start : start + self.n_copies] for start in range(0, len(those), self.n_copies)]
        return [cutting.baseline, *(row for chunk in chunks for row in self._some(cutting, places, chunk))]

    def _cutting(self, places: tuple[int, ...]) -> Cutting:
        if places not in self.read:
            self.read.clear()
            batch = batch_of(self.reasoner, [self.problems[place] for place in places], self.n_thoughts)
            self.read[places] = Cutting(self.reasoner, batch, self.n_thoughts)
        return self.read[places]

    def _some(self, cutting: Cutting, places: Sequence[int], those: Sequence[int]) -> list[list[Outcome]]:
        """Some cuts at once; where that fails, fewer, then one on fewer problems."""
        try:
            found = cutting.outcomes(self.bind([self.cuts[cut] for cut in those], places))
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            if len(those) > 1:
                middle = len(those) // 2
                return [row for its in (those[:middle], those[middle:]) for row in self._some(cutting, places, its)]
            if len(places) > 1:
                return self._halves(places, those)[1:]
            return [[self._failed(places[0], those[0], error)]]
        self._look(found, places, those)
        return found

    def _halves(self, places: Sequence[int], those: Sequence[int]) -> list[list[Outcome]]:
        middle = len(places) // 2
        pairs = zip(self(places[:middle], those), self(places[middle:], those), strict=True)
        return [[*first, *second] for first, second in pairs]

    def _failed(self, place: int, cut: int | None, error: Exception) -> Outcome:
        said = str(error) if isinstance(error, ThoughtLensError) else f"{type(error).__name__}: {error}"
        self.refuse(self.problems[place], cut, said)
        return failed(said)

    def _look(self, found: Sequence[Sequence[Outcome]], places: Sequence[int], those: Sequence[int | None]) -> None:
        """Failures that did not stop the pass: numbers that are none."""
        for cut, row in zip(those, found, strict=True):
            for place, outcome in zip(places, row, strict=True):
                if outcome.failure:
                    self.refuse(self.problems[place], cut, outcome.failure)
