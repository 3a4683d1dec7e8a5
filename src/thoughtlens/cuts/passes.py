"""The passes of one batch: many cuts after a single reading of the questions, and the search for what cannot be run.

in: problems as token ids, and cuts whose edits have their values; out: `Outcomes`, arrays (cut, problem).

1. `Cutting` reads the questions once, without taps, and forks the result, one copy a cut. All copies think at once,
   each under its own interventions.
2. Each copy is given the gold answer, which gives the log-probabilities of the answer prefix and of the value behind
   it, and the distribution of the value's first token.
3. Where greedy decoding would have said just that, the text is known; the other rows are decoded freely.
4. `Cutter` makes all cuts of a batch, as many at once as fit into memory. If the questions cannot be read together, it
   divides the problems; if a pass fails, it divides the cuts, then the problems. A problem that fails alone under one
   cut is reported with its reason and never counted as a wrong answer; all other pairs are as they would have been.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import isfinite, nan
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from thoughtlens.cuts.cut_types import thoughts_left
from thoughtlens.cuts.edit_tensors import Sizes, tensors_of
from thoughtlens.cuts.edits import Stop
from thoughtlens.cuts.interventions import Variants
from thoughtlens.cuts.replacement_values import Parts
from thoughtlens.errors import OptionError, ThoughtLensError
from thoughtlens.models.reasoner import LatentReasoner, head_width
from thoughtlens.problems import Problem
from thoughtlens.reasoning.batch_pass import BatchPass
from thoughtlens.reasoning.captured_steps import Steps
from thoughtlens.reasoning.loop import MAX_NEW_TOKENS, Told, answer_rooms, decode, prompts_without, tell, think
from thoughtlens.runs.batches import bisect, halves, out_of_memory
from thoughtlens.taps import Taps

log = logging.getLogger(__name__)

CACHE_BYTES: Final = 2**30
"""About how much the keys and values of all copies that think at once may take."""

MOST_ROWS: Final = 1024
"""Copies times problems at most: larger passes are no faster for each row."""

_AHEAD: Final = 32
"""Positions after the question for which memory is counted."""


def cannot_be_run(error: Exception) -> bool:
    """Whether an error is that of a problem: our own, or one of torch's; where memory ran out the batch is to blame."""
    return isinstance(error, (ThoughtLensError, RuntimeError, ValueError, IndexError)) and not out_of_memory(error)


Row = tuple[bool, bool, float, float, float, float, str, str]
UNWATCHED: Final = Taps()


class Outcomes(NamedTuple):
    """What cuts do to problems: arrays (cut, problem).

    Where a problem could not be run, the other values are False, NaN and "".
    """

    correct: np.ndarray  # bool: the parsed answer equals the gold answer
    said_prefix: np.ndarray  # bool: what is said, in free decoding, begins with the prefix; False if the model has none
    prefix_logprob: np.ndarray  # float64, nats: of the answer prefix; NaN of a model that has none
    gold_logprob: np.ndarray  # float64, nats: of the gold answer's tokens and the end token after the prefix
    joint_logprob: np.ndarray  # float64, nats: of prefix, answer and end together
    kl: np.ndarray  # float64, nats: KL(baseline ‖ cut) of the value's first token
    answer: np.ndarray  # text: the parsed answer, "" if there is none
    failure: np.ndarray  # text: why the problem could not be run, "" if it could

    def at(self, index: Any) -> "Outcomes":
        """Some of them: every array at this index."""
        return Outcomes._make(array[index] for array in self)

    def mean(self) -> "Outcomes":
        """These cuts as one, each of another donor: numbers are means, and what is said is said with the first's."""
        failure = self.failure[0]
        for row in self.failure[1:]:
            failure = np.where(failure == "", row, failure)
        failed = failure != ""
        means = (
            its.mean(0) if its.dtype.kind == "f" else np.where(failed, np.zeros_like(its[0]), its[0]) for its in self
        )
        return Outcomes._make(its[None] for its in means)._replace(failure=failure[None])


_TEXT: Final = np.dtypes.StringDType()
_DTYPES: Final[tuple[Any, ...]] = (bool, bool, float, float, float, float, _TEXT, _TEXT)


def outcomes_of(columns: Iterable[Sequence[Any]], n_problems: int) -> Outcomes:
    """Outcomes (cut, problem) from the values of each array, cut by cut; a number that is None is NaN."""
    arrays = (np.array(values, dtype=dtype) for values, dtype in zip(columns, _DTYPES, strict=True))
    return Outcomes._make(array.reshape(-1, n_problems) for array in arrays)


def joined(parts: Iterable[Outcomes], axis: int) -> Outcomes:
    """Outcomes of further cuts (axis 0) or of further problems (axis 1) put behind each other."""
    return Outcomes._make(np.concatenate(arrays, axis) for arrays in zip(*parts, strict=True))


def failed_row(reason: str) -> Row:
    """The outcome of one problem that could not be run under one cut."""
    return False, False, nan, nan, nan, nan, "", reason


def variables_of(found: Outcomes) -> dict[str, np.ndarray]:
    """Outcomes as the variables of the effects Dataset; those of the prefix only where the model has one."""
    variables = found._asdict()
    variables["failed"] = variables.pop("failure") != ""
    if not (np.isfinite(found.prefix_logprob) | variables["failed"]).all():
        del variables["said_prefix"], variables["prefix_logprob"]
    return variables


def failed(reason: str, n_cuts: int = 1) -> Outcomes:
    """The outcomes of one problem that could not be run."""
    return outcomes_of(([value] * n_cuts for value in failed_row(reason)), 1)


@dataclass(frozen=True)
class Batch:
    """Problems that pass together, as token ids."""

    problems: tuple[Problem, ...]
    prompts: list[list[int]]  # their questions, each ending in `bot`
    spoken: list[tuple[list[int], list[int]]]  # ids of the answer prefix, and of the value with its end
    max_new_tokens: int = MAX_NEW_TOKENS  # of an answer


def batch_of(
    reasoner: LatentReasoner,
    problems: Sequence[Problem],
    n_thoughts: int,
    prompts: Sequence[list[int]] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Batch:
    """Problems, with their questions as token ids; `OptionError` where a gold answer exceeds the model's positions."""
    prompts = [reasoner.prompt(problem.question) for problem in problems] if prompts is None else list(prompts)
    rooms = answer_rooms(reasoner, prompts, n_thoughts, max_new_tokens)
    spoken = [reasoner.spoken(problem.answer) for problem in problems]
    for problem, (prefix, value), room in zip(problems, spoken, rooms, strict=True):
        if len(prefix) + len(value) > room:
            raise OptionError(
                f"the gold answer of {problem.id} takes {len(prefix) + len(value)} tokens, expected {room} at most; "
                "leave the problem out."
            )
    return Batch(tuple(problems), prompts, spoken, max_new_tokens)


class Cutting:
    """A batch whose questions were read once, to be cut again and again; `watching` taps meet the pass without cuts.

    `baseline` is the outcome of that pass, as of one cut, and `thoughts` (problem, thought, hidden) are its thoughts.
    With `steps`, cuts pass as tensors where they can be put so; without, each copy is edited on its own.
    """

    def __init__(
        self,
        reasoner: LatentReasoner,
        batch: Batch,
        n_thoughts: int,
        watching: Taps = UNWATCHED,
        steps: Steps | None = None,
    ) -> None:
        self._reasoner, self._batch, self._n_thoughts, self._steps = reasoner, batch, n_thoughts, steps
        self._answers: dict[tuple[str, str], tuple[bool, str]] = {}
        with torch.inference_mode(), nullcontext() if steps is None else steps.clearing():
            self._reading = BatchPass(reasoner, Taps(), n_thoughts)
            self._reading.question(prompts_without(reasoner, batch.prompts))
            self._reading.mark_groups(batch.prompts)
            passed = self._pass([()], n_thoughts, watching)
        self._first, self.thoughts = passed.told.first, passed.thoughts
        self.baseline = self._outcomes(passed)

    @torch.inference_mode()
    def outcomes(self, cuts: Sequence[Parts]) -> Outcomes:
        """What each cut does to each problem; cuts with as many thoughts think at once."""
        counts = [thoughts_left(parts, self._n_thoughts) for parts in cuts]
        groups = [[place for place, its in enumerate(counts) if its == count] for count in sorted(set(counts))]
        with nullcontext() if self._steps is None else self._steps.clearing():
            found = [self._outcomes(self._pass([cuts[place] for place in its], counts[its[0]])) for its in groups]
        return joined(found, 0).at(np.argsort([place for its in groups for place in its]))

    def _pass(self, cuts: Sequence[Parts], count: int, watching: Taps = UNWATCHED) -> "_Passed":
        """Think under each cut, be told the gold answers, and say what else would be said."""
        # A stop has been read: what it names is not thought, and so is no slot of this pass.
        made = [tuple(part for part in parts if not isinstance(part.edit, Stop)) for parts in cuts]
        reading, edits = self._cut(made, count, watching)
        thinking = think(reading, next(iter(self._reasoner.opening), None), count)
        thought = reading.mark()
        told = tell(reading, thinking.state, self._batch.spoken * len(cuts))
        # Back to the end of the thoughts: to fork there would copy all copies' keys and values once more.
        reading.back_to(thought)
        if watching:
            reading.use(edits)
        return _Passed(told, self._texts(reading, thinking.state, told, count), thinking.thoughts)

    def _cut(self, made: Sequence[Parts], count: int, watching: Taps) -> tuple[BatchPass, Taps]:
        """A copy of the batch for each cut, and the taps that cut it."""
        n_problems, steps = len(self._batch.problems), self._steps
        as_tensors = None if steps is None else tensors_of(made, sizes_of(self._reasoner, len(made), n_problems, count))
        # Even where nothing is cut, so that cuts and the baseline are one arithmetic, that of taps.
        edits = Taps([Variants(made, n_problems) if as_tensors is None else as_tensors])
        if steps is not None and as_tensors is None:
            log.info("%d cuts are made copy by copy, their steps not captured", len(made))
        how: dict[str, Any] = {"taps": Taps([*edits, *watching]), "n_thoughts": count}
        if steps is None:
            return self._reading.fork(len(made), **how), edits
        longest = max(len(prefix) + len(value) for prefix, value in self._batch.spoken)
        n_ahead = count + 1 + len(self._reasoner.closing) + longest
        return steps.enter(self._reading, len(made), n_ahead=n_ahead, **how), edits

    def _texts(self, reading: BatchPass, state: Tensor, told: Told, count: int) -> list[str]:
        """What each row says freely; where that is what it was told, it need not be decoded again."""
        n_cuts = len(state) // len(self._batch.problems)
        texts = [self._reasoner.decode([*prefix, *value]) for prefix, value in self._batch.spoken] * n_cuts
        # Fewer thoughts leave more room.
        batch = self._batch
        rooms = answer_rooms(self._reasoner, batch.prompts, count, batch.max_new_tokens) * n_cuts
        free = (~told.greedy).nonzero().flatten()
        if len(free):
            reading.keep(free)
            places = free.tolist()
            said = decode(reading, state[free], [rooms[place] for place in places])
            for place, ids in zip(places, said, strict=True):
                texts[place] = self._reasoner.decode(ids)
        return texts

    def _outcomes(self, passed: "_Passed") -> Outcomes:
        problems = self._batch.problems
        n_cuts = len(passed.texts) // len(problems)
        baseline = self._first.repeat(n_cuts, 1)
        # Of equal distributions rounding may make less than nothing.
        kl = kl_div(passed.told.first, baseline, reduction="none", log_target=True).sum(-1).clamp(min=0.0)
        numbers = (values.tolist() for values in (passed.told.prefix, passed.told.logprob, kl))
        rows = zip(list(problems) * n_cuts, passed.texts, *numbers, strict=True)
        return outcomes_of(zip(*(self._row(*row) for row in rows), strict=True), len(problems))

    def _row(self, problem: Problem, text: str, of_prefix: float, logprob: float, kl: float) -> Row:
        joint = of_prefix + logprob
        if not (isfinite(joint) and isfinite(kl)):
            return failed_row(f"log-probability {joint} and kl {kl} of the gold answer, expected finite numbers")
        correct, answer = self._read(text, problem.answer)
        prefix = self._reasoner.answer_prefix
        said = prefix != "" and text.lstrip().startswith(prefix)
        return correct, said, of_prefix if prefix else nan, logprob, joint, kl, answer, ""

    def _read(self, text: str, gold: str) -> tuple[bool, str]:
        """Whether a text's answer is right, and the answer; most cuts leave a problem's text as it was."""
        if (text, gold) not in self._answers:
            answer = self._reasoner.read_answer(text)
            self._answers[text, gold] = self._reasoner.answer_rule.same(answer, gold), answer or ""
        return self._answers[text, gold]


class _Passed(NamedTuple):
    """What came of a pass; its rows are all problems under the first cut, then all under the second, and so on."""

    told: Told
    texts: list[str]
    thoughts: Tensor


def sizes_of(reasoner: LatentReasoner, n_copies: int, n_problems: int, n_thoughts: int) -> Sizes:
    """Sizes of a batch whose cuts are put as tensors."""
    config = reasoner.lm.config
    of_model = config.num_hidden_layers, config.num_attention_heads
    return Sizes(n_copies, n_problems, *of_model, n_thoughts, head_width(config), config.hidden_size)


def n_kv_heads(reasoner: LatentReasoner) -> int:
    """Key-value heads of a layer; as many as query heads where each has its own."""
    config = reasoner.lm.config
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def copies_at_once(reasoner: LatentReasoner, lengths: Sequence[int], n_thoughts: int) -> int:
    """How many copies of a batch think at once, so that their keys and values take about `CACHE_BYTES`.

    On a GPU they may take a quarter of the memory that is free.
    """
    config = reasoner.lm.config
    width = n_kv_heads(reasoner) * head_width(config)
    of_position = 2 * config.num_hidden_layers * width * reasoner.lm.dtype.itemsize
    # The cache of the copies is there twice while a position is appended.
    of_row = 2 * of_position * (max(lengths) + n_thoughts + _AHEAD)
    n_bytes = CACHE_BYTES
    if (device := reasoner.lm.device).type == "cuda":
        n_bytes = max(n_bytes, torch.cuda.mem_get_info(device)[0] // 4)
    rows = min(MOST_ROWS, n_bytes // of_row)
    return int(max(1, rows // len(lengths)))


@dataclass(frozen=True)
class Cutter:
    """Makes the baseline and every cut of problems that pass together, and finds what can't be run.

    Called with places of the problems, and of the cuts; it returns the outcomes of the baseline and then of the cuts.
    """

    reasoner: LatentReasoner
    problems: Sequence[Problem]
    prompts: Sequence[list[int]]  # the question of each problem as token ids
    cuts: Sequence[Parts]
    n_thoughts: int
    # Gives cuts the values that their edits stand for, for the problems at these places.
    bind: Callable[[Sequence[Parts], Sequence[int]], Sequence[Parts]]
    # Told the problem, the place of the cut (None: the baseline) and the reason of a failure; may raise.
    refuse: Callable[[Problem, int | None, str], None]
    n_copies: int  # cuts that think at once
    max_new_tokens: int = MAX_NEW_TOKENS  # of an answer
    steps: Steps | None = None  # kept from batch to batch
    # The batch whose questions were read last, by its places, so that later cuts need not read them again: in pieces
    # that could be read together; the reason where a problem can't be read.
    read: dict[tuple[int, ...], list[tuple[Sequence[int], Cutting | str]]] = field(default_factory=dict)

    def __call__(self, places: Sequence[int], those: Sequence[int]) -> Outcomes:
        """The baseline and these cuts of the problems at these places."""
        if (batch := tuple(places)) not in self.read:
            self.read.clear()
            unreadable = partial(self._refused, cut=None)
            # Before any cut: where failures are not allowed, none is made in vain.
            pieces = bisect([batch], self._reading, unreadable, fails=cannot_be_run)
            self.read[batch] = list(pieces)
        return joined([self._made(piece, reading, those) for piece, reading in self.read[batch]], 1)

    def _reading(self, places: Sequence[int]) -> Cutting | str:
        problems, prompts = [self.problems[k] for k in places], [self.prompts[k] for k in places]
        batch = batch_of(self.reasoner, problems, self.n_thoughts, prompts, self.max_new_tokens)
        return Cutting(self.reasoner, batch, self.n_thoughts, steps=self.steps)

    def _made(self, places: Sequence[int], reading: Cutting | str, those: Sequence[int]) -> Outcomes:
        """The baseline and these cuts of problems whose questions were read together, or can't be read."""
        if isinstance(reading, str):
            return failed(reading, 1 + len(those))
        self._look(reading.baseline, places, [None])
        chunks = [those[start : start + self.n_copies] for start in range(0, len(those), self.n_copies)]
        made = [reading.baseline]

        def work(those: Sequence[int]) -> Outcomes:
            return reading.outcomes(self.bind([self.cuts[cut] for cut in those], places))

        alone = partial(self._alone, places)
        for its, found in bisect(chunks, work, alone, fails=cannot_be_run):
            self._look(found, places, its)
            made.append(found)
        return joined(made, 0)

    def _alone(self, places: Sequence[int], cut: int, error: Exception) -> Outcomes:
        """One cut that can't be made on these problems together."""
        if len(places) == 1:
            return failed(self._refused(places[0], error, cut))
        return joined([self(half, [cut]).at(slice(1, None)) for half in halves(places)], 1)

    def _refused(self, place: int, error: Exception, cut: int | None) -> str:
        said = str(error) if isinstance(error, ThoughtLensError) else f"{type(error).__name__}: {error}"
        self.refuse(self.problems[place], cut, said)
        return said

    def _look(self, found: Outcomes, places: Sequence[int], those: Sequence[int | None]) -> None:
        """Failures that did not stop the pass: numbers that are none."""
        for row, column in np.argwhere(found.failure != ""):
            self.refuse(self.problems[places[column]], those[row], str(found.failure[row, column]))
