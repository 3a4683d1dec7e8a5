"""The loop: question, bot, thoughts, eot, answer; every family, every experiment.

1. The question's tokens are read in one pass, left-padded, untapped.
2. `bot` is read; its last hidden state, fed back, is z1; reading z1 gives z2; …; what zT gives is not fed back.
3. `eot` is read, and the answer is decoded greedily to the end token.

From step 2 on every pass is a single position, met by the taps. The loop knows nothing about attention: taps do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtlens.errors import OptionError
from thoughtlens.labels import ANSWER, BOT, EOT, FIRST, PAD_CODE, QUESTION, slot_codes, text_code, thought_names
from thoughtlens.models.base import LatentReasoner
from thoughtlens.models.context import Context
from thoughtlens.tracing.taps import Moment, Site, Tap, Taps

MAX_NEW_TOKENS = 256
_TAIL = 64  # tokens at the end of a text in which its answer prefix is looked for


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
    questions: Sequence[str],
    *,
    taps: Iterable[Tap] = (),
    n_thoughts: int | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Trace:
    """Let a model think about a batch of questions and answer them.

    Args:
        reasoner: the model.
        questions: one text a problem; lengths may differ, and a problem's numbers do not depend on the others.
        taps: what watches or edits the pass, in this order.
        n_thoughts: T; the number the model was trained with if None; 0 goes from `bot` to `eot` at once.
        max_new_tokens: the longest answer.

    Returns:
        The trace.

    Raises:
        OptionError: a question does not fit into the model's positions.
    """
    count = reasoner.n_thoughts if n_thoughts is None else n_thoughts
    prompts = [reasoner.prompt(question) for question in questions]
    rooms = _rooms(reasoner, prompts, count + len(reasoner.closing), max_new_tokens)
    reading = _Reading(reasoner, Taps(taps), count)
    reading.question([prompt[:-1] for prompt in prompts])
    state = reading.token(prompts[0][-1], BOT)
    thoughts, states = [], [state]
    for name in thought_names(count):
        thought = reading.edited(reasoner.feed_back(state), name)
        thoughts.append(thought)
        state = reading.step(thought[:, None], reading.all(name))
        states.append(state)
    for marker in reasoner.closing:
        state = reading.token(marker, EOT)
    tokens = _decode(reading, state, rooms)
    stacked = torch.stack(thoughts, dim=1) if thoughts else state.new_empty(len(prompts), 0, state.shape[-1])
    return Trace(
        thoughts=stacked,
        states=torch.stack(states, dim=1),
        tokens=tokens,
        texts=[reasoner.decode(ids) for ids in tokens],
        n_question_tokens=[len(prompt) - 1 for prompt in prompts],
    )


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
    reading = _Reading(reasoner, Taps(), 0)
    state = reading.question(prompts)
    return [reasoner.decode(ids) for ids in _decode(reading, state, rooms)]


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


class _Reading:
    """A batch on its way through the model: its context, the codes of what was read, and the taps."""

    def __init__(self, reasoner: LatentReasoner, taps: Taps, n_thoughts: int) -> None:
        self.reasoner, self.taps = reasoner, taps
        self.slots = slot_codes(n_thoughts)
        self.text = text_code(n_thoughts)
        self.context = Context(reasoner.lm.base_model)
        self.device = reasoner.lm.device
        self.keys = torch.empty(0, dtype=torch.long)

    def question(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the questions in one pass; the last hidden states (problem, hidden)."""
        width = max(map(len, prompts))
        ids = torch.zeros((len(prompts), width), dtype=torch.long)
        codes = torch.full((len(prompts), width), PAD_CODE)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            codes[row, width - len(prompt) :] = self.slots[QUESTION]
            codes[row, width - len(prompt)] = self.slots[FIRST]
        self.keys = codes.to(self.device)
        out = self.context.read(ids.to(self.device), self.keys != PAD_CODE)
        state: Tensor = out.last_hidden_state[:, -1]
        return state

    def token(self, token: int, slot: str) -> Tensor:
        """Read the same token in every problem; the last hidden states (problem, hidden)."""
        return self.step(torch.full((len(self.keys), 1), token, device=self.device), self.all(slot))

    def all(self, slot: str) -> Tensor:
        """Codes (problem, 1) of one slot for every problem."""
        return torch.full((len(self.keys), 1), self.slots[slot], device=self.device)

    def step(self, inputs: Tensor, keys: Tensor, queries: Tensor | None = None) -> Tensor:
        """Read one position in every problem, met by the taps; the last hidden states (problem, hidden)."""
        self.keys = torch.cat([self.keys, keys], dim=1)
        queries = keys if queries is None else queries
        out = self.context.read(
            inputs, keys != PAD_CODE, taps=self.taps, queries=queries, keys=self.keys, slots=self.slots
        )
        state: Tensor = out.last_hidden_state[:, -1]
        return state

    def edited(self, thought: Tensor, slot: str) -> Tensor:
        """Pass a thought through the taps, just before it is fed back."""
        return self.taps(thought, Moment(Site.THOUGHT, None, self.all(slot), self.keys, self.slots))


def _decode(reading: _Reading, state: Tensor, rooms: Sequence[int]) -> list[list[int]]:
    """Greedy decoding until every problem has said its end token or has no room left.

    A problem that is done is fed padding, so that it takes no more positions while others go on.
    """
    end = reading.reasoner.tokenizer.eos_token_id
    said: list[list[int]] = [[] for _ in range(len(state))]
    watch = _PrefixWatch(reading.reasoner, len(state))
    room = torch.tensor(rooms, device=state.device)
    running = torch.ones(len(state), dtype=torch.bool, device=state.device)
    for n_said in range(max(rooms)):
        token = torch.where(running, reading.reasoner.next_token(state), end)
        running &= (token != end) & (n_said < room)
        if not running.any():
            break
        for row in running.nonzero().flatten().tolist():
            said[row].append(int(token[row]))
        at_answer = torch.tensor(watch.ends_prefix(said, running.tolist()), device=state.device)
        queries = torch.where(at_answer, reading.slots[ANSWER], reading.text)
        keys = torch.where(running, reading.slots[ANSWER], PAD_CODE)
        state = reading.step(token[:, None], keys[:, None], queries[:, None])
    return said


class _PrefixWatch:
    """Says at which generated token a problem's answer prefix ends, blanks after it included.

    The `answer` query is the position whose output is the first token of the value. Whether a blank belongs to the
    prefix is known only when the value has begun, so each blank is offered as the end in turn, and the last one stands.
    """

    def __init__(self, reasoner: LatentReasoner, n_problems: int) -> None:
        self.reasoner = reasoner
        self.began = [False] * n_problems
        self.closed = [False] * n_problems

    def ends_prefix(self, said: Sequence[Sequence[int]], running: Sequence[bool]) -> list[bool]:
        """For each problem, whether its text so far ends in the prefix and nothing but blanks."""
        return [running[row] and not self.closed[row] and self._look(row, ids) for row, ids in enumerate(said)]

    def _look(self, row: int, ids: Sequence[int]) -> bool:
        ends = self.reasoner.decode(ids[-_TAIL:]).rstrip().endswith(self.reasoner.answer_prefix)
        self.closed[row] = self.began[row] and not ends
        self.began[row] |= ends
        return ends
