"""The thinking loop: question, bot, thoughts, eot, answer; the same for every family and every experiment.

1. The question's tokens are read in one pass, left-padded, without taps.
2. `bot` is read; its last hidden state, fed back, is z1; reading z1 gives z2; …; what zT gives is not fed back. Where
   there is no `bot`, the state after the question is fed back.
3. `eot` is read if there is one, and the answer is decoded greedily to the end token (`decode`), or the model is told
   what to answer, for the answer's probability (`tell`).

From step 2 on every pass reads a single position, under the taps. The loop knows nothing about attention: taps do.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thoughtlens.errors import OptionError
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.notation import ANSWER, BOT, EOT, PAD_CODE, TEXT, thought_names
from thoughtlens.reasoning.batch_pass import BatchPass
from thoughtlens.reasoning.captured_steps import FixedPass, Steps
from thoughtlens.reasoning.protocols import EXACT, Protocol
from thoughtlens.taps import AttentionRecorder, Tap, Taps

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256
_TAIL = 64  # tokens at the end of a text in which the answer prefix is looked for


def decode(batch: BatchPass, state: Tensor, rooms: Sequence[int]) -> list[list[int]]:
    """Decode greedily until every problem has said its end token or has no positions left.

    A problem that is done is fed padding, so that it takes no more positions while others go on; once half of the
    problems are done, they leave the batch.

    Args:
        batch: the batch, `eot` read.
        state: the last hidden states (problem, hidden).
        rooms: the most tokens that each present problem may say.

    Returns:
        Token ids of each present problem, the end token left out.

    Example: see `BatchPass`.
    """
    if isinstance(batch, FixedPass) and not batch.steps.by_text:
        found = _said_at_once(batch, state, rooms)
        if found is not None:
            return found
    end = batch.reasoner.tokenizer.eos_token_id
    present: list[int] = batch.rows.tolist()
    said: dict[int, list[int]] = {row: [] for row in present}
    watch = _PrefixWatch(batch.reasoner)
    waiting: _Waiting | None = None
    room = torch.tensor(rooms, device=state.device)
    running = torch.ones(len(state), dtype=torch.bool, device=state.device)
    for n_said in range(max(rooms)):
        token = torch.where(running, batch.reasoner.next_token(state), end)
        if waiting is not None and (began := waiting.rows & ~watch.are_blank(token)).any():
            state, token = waiting.read_again(batch, state, token, began)
            token = torch.where(running, token, end)
        running &= (token != end) & (n_said < room)
        n_running = int(running.sum())
        if not n_running:
            break
        if 2 * n_running <= len(running):
            places = running.nonzero().flatten()
            batch.keep(places)
            token, room, running = token[places], room[places], running[places]
        rows = batch.rows.tolist()
        for place in running.nonzero().flatten().tolist():
            said[rows[place]].append(int(token[place]))
        ends, waits = watch.look(said, rows, running.tolist())
        mark = batch.mark() if any(waits) else None
        at_answer = torch.tensor(ends, device=state.device)
        queries = torch.where(at_answer, batch.slots[ANSWER], batch.slots[TEXT])
        keys = torch.where(running, batch.slots[ANSWER], PAD_CODE)
        queries = torch.where(running, queries, PAD_CODE)
        state = batch.step(token[:, None], keys[:, None], queries[:, None])
        rows_waiting = torch.tensor(waits, device=state.device)
        waiting = _Waiting(mark, rows_waiting, token, keys, queries) if any(waits) else None
    return [said[row] for row in present]


def _said_at_once(batch: FixedPass, state: Tensor, rooms: Sequence[int]) -> list[list[int]] | None:
    """As `decode`, the end of the prefix found by ids; None, and nothing done, where texts find another."""
    mark, kept = batch.mark(), batch.snapshot()
    said, codes = batch.say(state, rooms)
    if not batch.taps:
        return said
    known: dict[tuple[int, ...], list[bool]] = {}
    for ids, its, room in zip(said, codes, rooms, strict=True):
        text = (*ids, batch.reasoner.tokenizer.eos_token_id) if len(ids) < room else tuple(ids)
        if text not in known:
            known[text] = _PrefixWatch(batch.reasoner).queries(text)
        if [code == batch.slots[ANSWER] for code in its] != known[text][: len(ids)]:
            log.info("the answer prefix is not said in the usual tokens; its end is found by text, which is slower")
            batch.steps.by_text = True
            batch.back_to(mark)
            batch.restore(kept)
            return None
    return said


class Told(NamedTuple):
    """How likely a model finds the answers that it is told to say.

    Attributes:
        prefix: (problem,), nats, of the prefix's tokens; 0 where there are none.
        logprob: (problem,), nats, of the value's tokens and the end token after the prefix.
        first: (problem, token), log-probabilities of the value's first token.
        greedy: bool (problem,), whether greedy decoding would say the same, token by token, from prefix to end.
    """

    prefix: Tensor
    logprob: Tensor
    first: Tensor
    greedy: Tensor


def tell(batch: BatchPass, state: Tensor, answers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Told:
    """Feed each problem an answer, token by token, and measure how likely the model finds it.

    The end of the prefix is the query `answer`, the tokens before and after it are `text`, as in free decoding.

    Args:
        batch: the batch, `eot` read.
        state: the last hidden states (problem, hidden).
        answers: for each problem the token ids of the prefix, and those of the value with the end token.

    Returns:
        Log-probabilities of the answers.

    Example:
        >>> from thoughtlens.models import load
        >>> reasoner = load("tiny-gpt2")
        >>> prompt = reasoner.prompt("Ann has 2 bags of 4 pens. She finds 3 more. How many pens does she have?")
        >>> with torch.inference_mode():
        ...     batch = BatchPass(reasoner, Taps(), n_thoughts=6)
        ...     _ = batch.question([prompt[:-1]])
        ...     told = tell(batch, think(batch, prompt[-1], 6).state, [reasoner.spoken("11")])
        >>> told.logprob.exp().round(decimals=1).tolist(), told.greedy.tolist()
        ([1.0], [True])
    """
    n_prefix = torch.tensor([len(prefix) for prefix, _ in answers], device=state.device)
    texts = [torch.tensor([*prefix, *value], device=state.device) for prefix, value in answers]
    length = torch.tensor([len(text) for text in texts], device=state.device)
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    logprob = state.new_zeros(len(texts), dtype=torch.promote_types(state.dtype, torch.float32))
    of_prefix = torch.zeros_like(logprob)
    first: Tensor | None = None
    greedy = torch.ones_like(n_prefix, dtype=torch.bool)
    for place, at in enumerate(torch.arange(ids.shape[1], device=state.device)):
        logits = batch.reasoner.logits(state)
        known = logits.to(logprob.dtype).log_softmax(-1)
        of_token = known.gather(1, ids[:, place, None])[:, 0]
        of_prefix += torch.where(at < n_prefix, of_token, 0.0)
        logprob += torch.where((n_prefix <= at) & (at < length), of_token, 0.0)
        greedy &= (logits.argmax(-1) == ids[:, place]) | (at >= length)
        here = (n_prefix == at)[:, None]
        first = torch.where(here, known, torch.zeros_like(known) if first is None else first)
        if place + 1 == ids.shape[1]:
            break
        # As in free decoding, the end token is said but not read, even while longer answers in the batch go on.
        read = at + 1 < length
        keys = torch.where(read, batch.slots[ANSWER], PAD_CODE)
        queries = torch.where(n_prefix == at + 1, batch.slots[ANSWER], batch.slots[TEXT])
        queries = torch.where(read, queries, PAD_CODE)
        state = batch.step(ids[:, place, None], keys[:, None], queries[:, None])
    assert first is not None  # an answer has at least its end token
    return Told(of_prefix, logprob, first, greedy)


class _PrefixWatch:
    """Says at which generated token a problem's answer prefix ends, blanks after it included.

    The `answer` query is the position whose output is the first token of the value. Whether a blank of its own belongs
    to the prefix is known only when the next token is: LLaMA says one before `8` and none before `B`. Where a number is
    trained to have one, the prefix without a blank *waits*; the last blank is the end. Further blanks are offered as
    the end in turn, and the last one stands. Where the value is said at once, there is no such query.
    """

    def __init__(self, reasoner: LatentReasoner) -> None:
        self.reasoner = reasoner
        # Where `eot` closes nothing, what is read after the thoughts is the answer's query already.
        self.prefix = reasoner.answer_prefix if ANSWER in reasoner.slots else ""
        trained = reasoner.decode(reasoner.spoken("0")[0])
        self.n_blanks = len(trained) - len(trained.rstrip())
        self.began: set[int] = set()
        self.closed: set[int] = set()

    def look(
        self, said: Mapping[int, Sequence[int]], rows: Sequence[int], running: Sequence[bool]
    ) -> tuple[list[bool], list[bool]]:
        """For each present problem, whether its text so far ends in the prefix and blanks, and whether it waits."""
        if not self.prefix:
            return [False] * len(rows), [False] * len(rows)
        pairs = zip(rows, running, strict=True)
        read = cache(self._read)  # many problems begin their answers in the same words
        found = [
            self._look(row, read(tuple(said[row][-_TAIL:]))) if runs and row not in self.closed else _ELSEWHERE
            for row, runs in pairs
        ]
        return [ends for ends, _ in found], [waits for _, waits in found]

    def queries(self, ids: Sequence[int]) -> list[bool]:
        """For each of a problem's tokens, whether it is the `answer` query; what comes after the last is not known."""
        found: list[bool] = []
        waited = False
        for place in range(len(ids)):
            if waited and not self._blank(ids[place]):
                found[-1] = True
            (ends,), (waited,) = self.look({0: ids[: place + 1]}, [0], [True])
            found.append(ends)
        return found

    def are_blank(self, tokens: Tensor) -> Tensor:
        """Whether each token is nothing but blanks."""
        return torch.tensor([self._blank(token) for token in tokens.tolist()], device=tokens.device)

    def _blank(self, token: int) -> bool:
        text = self.reasoner.decode([token])
        return bool(text) and not text.strip()

    def _read(self, ids: Sequence[int]) -> tuple[bool, bool]:
        """Whether a text ends in the prefix, and whether in all blanks that belong to it too."""
        text = self.reasoner.decode(ids)
        words = text.rstrip()
        after = words.endswith(self.prefix)
        return after, after and len(text) - len(words) >= self.n_blanks

    def _look(self, row: int, read: tuple[bool, bool]) -> tuple[bool, bool]:
        after, ends = read
        if ends:
            self.began.add(row)
        elif row in self.began:
            self.closed.add(row)
        return ends, after and not ends


_ELSEWHERE = (False, False)


class _Waiting(NamedTuple):
    """The last step, read as text after `mark`, where the prefix of `rows` (bool, of each problem) may have ended."""

    mark: Any
    rows: Tensor
    token: Tensor
    keys: Tensor
    queries: Tensor

    def read_again(self, batch: BatchPass, state: Tensor, token: Tensor, began: Tensor) -> tuple[Tensor, Tensor]:
        """Read the step again, as the `answer` query where the value has begun; the state, and what it says."""
        batch.back_to(self.mark)
        queries = torch.where(began, batch.slots[ANSWER], self.queries)
        after = batch.step(self.token[:, None], self.keys[:, None], queries[:, None])
        # Only where an edit of the `answer` query changed the state is something else said.
        return after, token if torch.equal(after, state) else batch.reasoner.next_token(after)


@dataclass(frozen=True)
class Trace:
    """The thoughts and answers of a batch of questions.

    Attributes:
        thoughts: (problem, thought, hidden), as they were fed back, edits included.
        states: (problem, thought + 1, hidden), the last hidden states at `bot`, z1 … zT: state k became, projected,
            thought k + 1.
        tokens: generated token ids of each problem, the end token left out.
        texts: the generated tokens as text.
        n_question_tokens: prompt tokens of each problem before `bot`.
    """

    thoughts: Tensor
    states: Tensor
    tokens: list[list[int]]
    texts: list[str]
    n_question_tokens: list[int]


@torch.inference_mode()
def reason(
    reasoner: LatentReasoner,
    questions: Sequence[str] | Sequence[Sequence[int]],
    *,
    taps: Iterable[Tap] = (),
    n_thoughts: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    protocol: Protocol = EXACT,
    steps: Steps | None = None,
) -> Trace:
    """Let a model think about a batch of questions and answer them.

    Args:
        reasoner: the model.
        questions: one text a problem, or its token ids as `LatentReasoner.prompt` gives them; lengths may differ, and a
            problem's numbers do not depend on the others.
        taps: what watches or edits the pass, in this order.
        n_thoughts: T; the number the model was trained with if None; 0 goes from `bot` to `eot` at once.
        max_new_tokens: the longest answer.
        protocol: how padding is read; under an official one, a problem's numbers do depend on the others.
        steps: of `fixed_steps`, kept from batch to batch; None reads every step anew, which is faster on the CPU.

    Returns:
        The trace: thoughts, hidden states, tokens and texts.

    Raises:
        OptionError: a question does not fit into the model's positions.

    Example:
        >>> from thoughtlens.models import load
        >>> question = "Ann has 2 bags of 4 pens. She finds 3 more. How many pens does she have?"
        >>> trace = reason(load("tiny-gpt2"), [question])
        >>> trace.texts, tuple(trace.thoughts.shape)
        (['The answer is: 11'], (1, 6, 64))

    Reference: Shen et al. 2025, arXiv 2502.21074.
    """
    count = reasoner.n_thoughts if n_thoughts is None else n_thoughts
    prompts = [reasoner.prompt(asked) if isinstance(asked, str) else asked for asked in questions]
    # Where padding counts as a position, every question is as long as the longest.
    longest = [max(prompts, key=len)] * len(prompts) if protocol.official else prompts
    rooms = answer_rooms(reasoner, longest, count, max_new_tokens)
    with nullcontext() if steps is None else steps.clearing():
        batch = BatchPass(reasoner, Taps(taps), count, protocol)
        batch.question(prompts_without(reasoner, prompts))
        if steps is not None:
            batch = steps.enter(batch)
        thinking = think(batch, next(iter(reasoner.opening), None), count)
        tokens = decode(batch, thinking.state, rooms)
        batch.close()
    return Trace(
        thoughts=thinking.thoughts,
        states=thinking.states,
        tokens=tokens,
        texts=[reasoner.decode(ids) for ids in tokens],
        n_question_tokens=[len(prompt) - len(reasoner.opening) for prompt in prompts],
    )


def recorder_for(reasoner: LatentReasoner, n_problems: int, n_thoughts: int) -> AttentionRecorder:
    """A recorder of attention of the model's size, as a tap of `reason`.

    Args:
        reasoner: the model.
        n_problems: of the batch.
        n_thoughts: T.

    Returns:
        The recorder; after the pass its `attention` is (problem, layer, head, query, key).

    Example:
        >>> from thoughtlens.models import load
        >>> reasoner = load("tiny-gpt2")
        >>> recorder = recorder_for(reasoner, 1, reasoner.n_thoughts)
        >>> trace = reason(reasoner, ["Ann has 2 bags of 4 pens. How many?"], taps=[recorder])
        >>> tuple(recorder.attention.shape)
        (1, 4, 4, 9, 11)
    """
    config = reasoner.lm.config
    return AttentionRecorder(
        n_problems=n_problems,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_thoughts=n_thoughts,
        dtype=reasoner.lm.dtype,
    )


def prompts_without(reasoner: LatentReasoner, prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """The prompts without the token that opens the thoughts."""
    return [prompt[: len(prompt) - len(reasoner.opening)] for prompt in prompts]


class Thinking(NamedTuple):
    """The thoughts of a batch, before it answers.

    Attributes:
        state: (problem, hidden), the last hidden state at `eot`.
        thoughts: as in `Trace`.
        states: as in `Trace`.
    """

    state: Tensor
    thoughts: Tensor
    states: Tensor


def think(batch: BatchPass, bot: int | None, n_thoughts: int) -> Thinking:
    """Read `bot`, the thoughts and the closing marker after a batch of questions.

    Args:
        batch: the batch, its questions read.
        bot: the token that opens the thoughts; None where there is none.
        n_thoughts: T, 0 or more.

    Returns:
        The thoughts, the hidden states around them, and the state from which the answer is decoded.

    Example: see `BatchPass`.
    """
    reasoner = batch.reasoner
    state = batch.asked if bot is None else batch.token(bot, BOT)
    thoughts, states = [], [state]
    for name in thought_names(n_thoughts):
        thought, state = batch.think(state, name)
        thoughts.append(thought)
        states.append(state)
    for marker in reasoner.closing:
        state = batch.token(marker, EOT if EOT in reasoner.slots else ANSWER)
    stacked = torch.stack(thoughts, dim=1) if thoughts else state.new_empty(len(state), 0, state.shape[-1])
    return Thinking(state, stacked, torch.stack(states, dim=1))


@torch.inference_mode()
def write_out(reasoner: LatentReasoner, questions: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
    """Let a model write its steps and answer without thoughts, as it was trained to do as its own teacher.

    Args:
        reasoner: the model.
        questions: one text a problem.
        max_new_tokens: the longest text.

    Returns:
        The generated texts.

    Raises:
        OptionError: a question does not fit into the model's positions.

    Example:
        >>> from thoughtlens.models import load
        >>> write_out(load("tiny-gpt2"), ["Ann has 2 bags of 4 pens. She finds 3 more. How many pens does she have?"])
        ['<<2*4=8>> The answer is: 11']
    """
    prompts = [reasoner.question(question) for question in questions]
    rooms = _rooms(reasoner, prompts, 0, max_new_tokens)
    batch = BatchPass(reasoner, Taps(), 0)
    state = batch.question(prompts)
    return [reasoner.decode(ids) for ids in decode(batch, state, rooms)]


def answer_rooms(
    reasoner: LatentReasoner, prompts: Sequence[Sequence[int]], n_thoughts: int, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[int]:
    """The most tokens that each problem may say after its thoughts before the model runs out of positions.

    Raises `OptionError` where a question does not fit into the model's positions.
    """
    return _rooms(reasoner, prompts, n_thoughts + len(reasoner.closing), max_new_tokens)


def _rooms(reasoner: LatentReasoner, prompts: Sequence[Sequence[int]], n_between: int, wanted: int) -> list[int]:
    """As `answer_rooms`, with `n_between` positions between the question and what is said."""
    positions = int(reasoner.lm.config.max_position_embeddings)
    left = [positions - len(prompt) - n_between for prompt in prompts]
    if min(left) < 1:
        longest = max(map(len, prompts))
        raise OptionError(
            f"a question of {longest} tokens does not fit into the model's {positions} positions with "
            "its thoughts and answer; leave it out or use a model with more positions."
        )
    return [min(wanted, room) for room in left]
