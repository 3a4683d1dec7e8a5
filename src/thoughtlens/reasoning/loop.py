"""A batch that has thought says its answers: freely and greedily, or as it is told to, for their probability.

The loop: question, bot, thoughts, eot, answer; every family, every experiment.

1. The question's tokens are read in one pass, left-padded, untapped.
2. `bot` is read; its last hidden state, fed back, is z1; reading z1 gives z2; …; what zT gives is not fed back.
3. `eot` is read, and the answer is decoded greedily to the end token.

From step 2 on every pass is a single position, met by the taps. The loop knows nothing about attention: taps do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.errors import OptionError
from thoughtlens.models.reasoner import LatentReasoner
from thoughtlens.names import ANSWER, BOT, EOT, PAD_CODE, TEXT, thought_names
from thoughtlens.reasoning.batch import Reading
from thoughtlens.taps import Tap, Taps

_TAIL = 64  # tokens at the end of a text in which its answer prefix is looked for


def decode(reading: Reading, state: Tensor, rooms: Sequence[int]) -> list[list[int]]:
    """Greedy decoding until every problem has said its end token or has no room left.

    A problem that is done is fed padding, so that it takes no more positions while others go on; once half of the
    batch is done, it leaves.

    Args:
        reading: the batch, `eot` read.
        state: the last hidden states (problem, hidden).
        rooms: the most tokens that each present problem may say.

    Returns:
        Token ids of each present problem, the end token left out.
    """
    end = reading.reasoner.tokenizer.eos_token_id
    present: list[int] = reading.rows.tolist()
    said: dict[int, list[int]] = {row: [] for row in present}
    watch = _PrefixWatch(reading.reasoner)
    room = torch.tensor(rooms, device=state.device)
    running = torch.ones(len(state), dtype=torch.bool, device=state.device)
    for n_said in range(max(rooms)):
        token = torch.where(running, reading.reasoner.next_token(state), end)
        running &= (token != end) & (n_said < room)
        n_running = int(running.sum())
        if not n_running:
            break
        if 2 * n_running <= len(running):
            places = running.nonzero().flatten()
            reading.keep(places)
            token, room, running = token[places], room[places], running[places]
        rows = reading.rows.tolist()
        for place in running.nonzero().flatten().tolist():
            said[rows[place]].append(int(token[place]))
        at_answer = torch.tensor(watch.ends_prefix(said, rows, running.tolist()), device=state.device)
        queries = torch.where(at_answer, reading.slots[ANSWER], reading.slots[TEXT])
        keys = torch.where(running, reading.slots[ANSWER], PAD_CODE)
        queries = torch.where(running, queries, PAD_CODE)
        state = reading.step(token[:, None], keys[:, None], queries[:, None])
    return [said[row] for row in present]


class Told(NamedTuple):
    """What a model makes of an answer it is told to say.

    Attributes:
        logprob: (problem,), nats, of the value's tokens and the end token after the prefix.
        first: (problem, token), log-probabilities of the value's first token.
        greedy: bool (problem,), whether greedy decoding says the same, token by token, from prefix to end.
    """

    logprob: Tensor
    first: Tensor
    greedy: Tensor


def tell(reading: Reading, state: Tensor, answers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Told:
    """Feed each problem its answer, token by token, and read off how likely it was.

    The end of the prefix is the query `answer`, the tokens before and after it are `text`, as in free decoding.

    Args:
        reading: the batch, `eot` read.
        state: the last hidden states (problem, hidden).
        answers: for each problem the token ids of the prefix, and those of the value with the end token.
    """
    n_prefix = torch.tensor([len(prefix) for prefix, _ in answers], device=state.device)
    texts = [torch.tensor([*prefix, *value], device=state.device) for prefix, value in answers]
    length = torch.tensor([len(text) for text in texts], device=state.device)
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    logprob = state.new_zeros(len(texts), dtype=torch.promote_types(state.dtype, torch.float32))
    first: Tensor | None = None
    greedy = torch.ones_like(n_prefix, dtype=torch.bool)
    for place, at in enumerate(torch.arange(ids.shape[1], device=state.device)):
        logits = reading.reasoner.logits(state)
        known = logits.to(logprob.dtype).log_softmax(-1)
        counted = (n_prefix <= at) & (at < length)
        logprob += torch.where(counted, known.gather(1, ids[:, place, None])[:, 0], 0.0)
        greedy &= (logits.argmax(-1) == ids[:, place]) | (at >= length)
        here = (n_prefix == at)[:, None]
        first = torch.where(here, known, torch.zeros_like(known) if first is None else first)
        if place + 1 == ids.shape[1]:
            break
        # The end token is said and not read, as in free decoding, however long the answers beside it are.
        read = at + 1 < length
        keys = torch.where(read, reading.slots[ANSWER], PAD_CODE)
        queries = torch.where(n_prefix == at + 1, reading.slots[ANSWER], reading.slots[TEXT])
        queries = torch.where(read, queries, PAD_CODE)
        state = reading.step(ids[:, place, None], keys[:, None], queries[:, None])
    assert first is not None  # an answer has at least its end token
    return Told(logprob, first, greedy)


class _PrefixWatch:
    """Says at which generated token a problem's answer prefix ends, blanks after it included.

    The `answer` query is the position whose output is the first token of the value. Where the model was trained to say
    a blank of its own before the value, the prefix ends after it. Whether more blanks belong to the prefix is known
    only when the value has begun, so each is offered as the end in turn, and the last one stands.
    """

    def __init__(self, reasoner: LatentReasoner) -> None:
        self.reasoner = reasoner
        trained = reasoner.decode(reasoner.spoken("0")[0])
        self.n_blanks = len(trained) - len(trained.rstrip())
        self.began: set[int] = set()
        self.closed: set[int] = set()

    def ends_prefix(
        self, said: Mapping[int, Sequence[int]], rows: Sequence[int], running: Sequence[bool]
    ) -> list[bool]:
        """For each present problem, whether its text so far ends in the prefix and nothing but blanks."""
        pairs = zip(rows, running, strict=True)
        return [runs and row not in self.closed and self._look(row, said[row]) for row, runs in pairs]

    def _look(self, row: int, ids: Sequence[int]) -> bool:
        text = self.reasoner.decode(ids[-_TAIL:])
        words = text.rstrip()
        ends = words.endswith(self.reasoner.answer_prefix) and len(text) - len(words) >= self.n_blanks
        if ends:
            self.began.add(row)
        elif row in self.began:
            self.closed.add(row)
        return ends


MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Trace:
    """What came of one pass over a batch of questions.

    Attributes:
        thoughts: (problem, thought, hidden), as they were fed back, edits included.
        states: (problem, thought + 1, hidden), the last hidden states at `bot`, z1 … zT: state k became, projected,
            thought k + 1.
        tokens: generated token ids of each problem, the end token left out.
        texts: the same as text.
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
) -> Trace:
    """Let a model think about a batch of questions and answer them.

    Args:
        reasoner: the model.
        questions: one text a problem, or its token ids as `LatentReasoner.prompt` gives them; lengths may differ, and a
            problem's numbers do not depend on the others.
        taps: what watches or edits the pass, in this order.
        n_thoughts: T; the number the model was trained with if None; 0 goes from `bot` to `eot` at once.
        max_new_tokens: the longest answer.

    Returns:
        The trace.

    Raises:
        OptionError: a question does not fit into the model's positions.
    """
    count = reasoner.n_thoughts if n_thoughts is None else n_thoughts
    prompts = [reasoner.prompt(asked) if isinstance(asked, str) else asked for asked in questions]
    rooms = answer_rooms(reasoner, prompts, count, max_new_tokens)
    reading = Reading(reasoner, Taps(taps), count)
    reading.question([prompt[:-1] for prompt in prompts])
    thinking = think(reading, prompts[0][-1], count)
    tokens = decode(reading, thinking.state, rooms)
    return Trace(
        thoughts=thinking.thoughts,
        states=thinking.states,
        tokens=tokens,
        texts=[reasoner.decode(ids) for ids in tokens],
        n_question_tokens=[len(prompt) - 1 for prompt in prompts],
    )


class Thinking(NamedTuple):
    """What came of the thoughts of a batch, before it answers.

    Attributes:
        state: (problem, hidden), the last hidden state at `eot`.
        thoughts: as in `Trace`.
        states: as in `Trace`.
    """

    state: Tensor
    thoughts: Tensor
    states: Tensor


def think(reading: Reading, bot: int, n_thoughts: int) -> Thinking:
    """Read `bot`, the thoughts and the closing marker after a batch of questions.

    Args:
        reading: the batch, its questions read.
        bot: the token that opens the thoughts.
        n_thoughts: T.
    """
    reasoner = reading.reasoner
    state = reading.token(bot, BOT)
    thoughts, states = [], [state]
    for name in thought_names(n_thoughts):
        thought = reading.edited(reasoner.feed_back(state), name)
        thoughts.append(thought)
        state = reading.step(thought[:, None], reading.all(name))
        states.append(state)
    for marker in reasoner.closing:
        state = reading.token(marker, EOT)
    stacked = torch.stack(thoughts, dim=1) if thoughts else state.new_empty(len(state), 0, state.shape[-1])
    return Thinking(state, stacked, torch.stack(states, dim=1))


@torch.inference_mode()
def write_out(reasoner: LatentReasoner, questions: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS) -> list[str]:
    """Let a model write its steps and answer, without thoughts: what it learnt as its own teacher.

    Args:
        reasoner: the model.
        questions: one text a problem.
        max_new_tokens: the longest text.

    Returns:
        The generated texts.
    """
    prompts = [reasoner.question(question) for question in questions]
    rooms = _rooms(reasoner, prompts, 0, max_new_tokens)
    reading = Reading(reasoner, Taps(), 0)
    state = reading.question(prompts)
    return [reasoner.decode(ids) for ids in decode(reading, state, rooms)]


def answer_rooms(
    reasoner: LatentReasoner, prompts: Sequence[Sequence[int]], n_thoughts: int, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[int]:
    """How many tokens each problem may say after its thoughts before the model runs out of positions for it.

    Raises:
        OptionError: a question does not fit into the model's positions.
    """
    return _rooms(reasoner, prompts, n_thoughts + len(reasoner.closing), max_new_tokens)


def _rooms(reasoner: LatentReasoner, prompts: Sequence[Sequence[int]], n_between: int, wanted: int) -> list[int]:
    """How many tokens each problem may say before the model runs out of positions for it."""
    positions = int(reasoner.lm.config.max_position_embeddings)
    left = [positions - len(prompt) - n_between for prompt in prompts]
    if min(left) < 1:
        longest = max(map(len, prompts))
        raise OptionError(
            f"a question of {longest} tokens does not fit into the model's {positions} positions with "
            "its thoughts and answer; leave it out or use a model with more positions."
        )
    return [min(wanted, room) for room in left]
