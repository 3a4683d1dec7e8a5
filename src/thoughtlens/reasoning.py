"""The loop: question, bot, thoughts, eot, answer; every family, every experiment.

1. The question's tokens are read in one pass, left-padded, untapped.
2. `bot` is read; its last hidden state, fed back, is z1; reading z1 gives z2; …; what zT gives is not fed back.
3. `eot` is read, and the answer is decoded greedily to the end token.

From step 2 on every pass is a single position, met by the taps. The loop knows nothing about attention: taps do.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.decoding import decode
from thoughtlens.errors import OptionError
from thoughtlens.labels import BOT, EOT, thought_names
from thoughtlens.models.base import LatentReasoner
from thoughtlens.reading import Reading
from thoughtlens.tracing.taps import Tap, Taps

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
