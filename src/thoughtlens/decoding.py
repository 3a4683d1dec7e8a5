"""A batch that has thought says its answers: freely and greedily, or as it is told to, for their probability."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thoughtlens.labels import ANSWER, PAD_CODE, TEXT
from thoughtlens.models.base import LatentReasoner
from thoughtlens.reading import Reading

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
