"""Passes whose steps have fixed shapes, so that a GPU is given a step once and repeats it without Python.

- `Steps`: the rooms of a run, kept while it lasts. `Steps.enter` takes a batch whose questions are read, and gives the
  pass that goes on with it.
- `Room`: tensors for a number of rows and of positions, both rounded up, and the steps on them: reading a position,
  thinking a thought, saying a token. A step reads and writes these tensors alone and asks the host for nothing.
- `Replay`: one step of a room. On CUDA it is captured as a graph and replayed; elsewhere it runs as it is.
- `FixedPass`: a batch in a room; a `BatchPass`.

Each row has a place of its own in the cache, the next position that it writes, so that a row may stand still or read
its last position again while others go on. Positions that are not there have the code of padding and are masked: they
get weight 0. Numbers equal those of a `BatchPass` up to rounding, since sums are taken over more keys.

Where a batch cannot pass so, `Steps.enter` gives a `BatchPass`: with taps that are not `Fixed`, under an official
protocol, and where a model's attention or positions depend on the length.
"""

import copy
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from thoughtlens.errors import first_line
from thoughtlens.models.reasoner import LatentReasoner, head_width
from thoughtlens.notation import ANSWER, PAD_CODE, TEXT, slot_codes, text_code
from thoughtlens.reasoning.batch_pass import BatchPass
from thoughtlens.reasoning.protocols import Protocol
from thoughtlens.taps import Fixed, Moment, Site, Tap, Taps

log = logging.getLogger(__name__)

POSITIONS: Final = 32
"""Positions of a room are a multiple of this."""

ROWS: Final = 8
"""Rows of a room are a multiple of this."""

BURST: Final = 8
"""Tokens that are said between two looks at whether all is said."""

AHEAD: Final = 16
"""Positions of an answer that a room has at first; longer answers move to a larger room."""

_WARM_UPS: Final = 2
"""Times that a step runs as it is before it is captured: libraries set themselves up when they are first called."""

_SHARE: Final = 4
"""Rooms, the one in use apart, take at most one in so many bytes of the device."""

_BY_LENGTH: Final = ("dynamic", "longrope")
"""Kinds of rotary positions that depend on how long the sequence is."""


def fixed_steps(reasoner: LatentReasoner) -> "Steps | None":
    """Make the steps of a run where they are faster: on CUDA, not on the CPU, where most of a step is arithmetic.

    Args:
        reasoner: the model, on its device.

    Returns:
        The steps, for `reason`; None elsewhere, and where groups of prompt tokens are keys, whose number is not fixed.

    Example:
        >>> from thoughtlens.models import load
        >>> fixed_steps(load("tiny-gpt2")) is None
        True
    """
    return Steps(reasoner) if reasoner.lm.device.type == "cuda" and not reasoner.group_names else None


def rounded(n: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-n // unit) * unit


class Apart(NamedTuple):
    """What the graphs of a run share: a stream on which steps are prepared, and memory, since one runs at a time."""

    stream: torch.cuda.Stream
    pool: Any


class Replay:
    """A step on tensors that stay where they are; on CUDA, where there is an `Apart`, it is captured and replayed."""

    def __init__(self, apart: Apart | None) -> None:
        self._apart, self._n_run = apart, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, step: Callable[[], None]) -> None:
        """Do the step, which must be the same one each time."""
        if self._apart is not None and self._graph is None and self._n_run >= _WARM_UPS:
            self._capture(step, self._apart)
        if self._graph is not None:
            self._graph.replay()
        elif self._apart is not None:
            self._run_apart(step, self._apart.stream)
        else:
            step()

    def _run_apart(self, step: Callable[[], None], apart: torch.cuda.Stream) -> None:
        """Run on another stream, as a step must before it is captured."""
        self._n_run += 1
        here = torch.cuda.current_stream(apart.device)
        apart.wait_stream(here)
        with torch.cuda.stream(apart):
            step()
        here.wait_stream(apart)

    def _capture(self, step: Callable[[], None], apart: Apart) -> None:
        """Record the step without running it."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(apart.stream.device), torch.cuda.graph(graph, pool=apart.pool, stream=apart.stream):
                step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._apart = None
            log.warning("a step can't be captured (%s); it runs as it is, more slowly", first_line(error))
        else:
            self._graph = graph


class FixedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """The cache of one layer with a fixed number of positions; each row is written at its own place."""

    def __init__(self, keys: Tensor, values: Tensor, each_row: Tensor, place: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self._each_row, self._place = keys, values, each_row, place
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Write one position of every row, and return all keys and values."""
        self.keys[self._each_row, :, self._place] = key_states[:, :, 0]
        self.values[self._each_row, :, self._place] = value_states[:, :, 0]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Positions before the one that is read."""
        return int(self.keys.shape[-2]) - 1


class Words(NamedTuple):
    """What is known of tokens: which ids the answer prefix may have, how many blanks it ends in, and which are blank.

    Attributes:
        prefixes: the ids of the prefix as a text may begin or go on with them, and how many blanks their last one has
            at its end; blanks that are tokens of their own come after these.
        n_blanks: blanks after the prefix, where a value is trained to have a token of its own for them.
        blanks: (token,), how many blanks a token is; 0 where it is anything else.
    """

    prefixes: tuple[tuple[Tensor, int], ...]
    n_blanks: int
    blanks: Tensor


def words_of(reasoner: LatentReasoner) -> Words:
    """The words of a model; no prefix where there is no `answer` slot, or the value is said at once."""
    device, table = reasoner.lm.device, torch.zeros(reasoner.lm.get_input_embeddings().num_embeddings, dtype=torch.long)
    if ANSWER not in reasoner.slots or not reasoner.answer_prefix:
        return Words((), 0, table.to(device))
    for token, number in getattr(reasoner.tokenizer, "get_vocab", dict)().items():
        # Byte-level vocabularies write blanks as letters, others as bars or bytes; what it is, only decoding says.
        if number < len(table) and (token.startswith("<0x") or not token.strip("ĠĊĉč▁ \n\t\r")):
            text = reasoner.decode([number])
            table[number] = len(text) if not text.strip() else 0
    trained = reasoner.spoken("0")[0]
    n_blanks = _blanks_after(reasoner, trained)
    while trained and table[trained[-1]]:
        trained = trained[:-1]
    texts = (reasoner.answer_prefix, f" {reasoner.answer_prefix}")
    others = (reasoner.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    forms = sorted({tuple(ids) for ids in (trained, *others)} - {()})
    prefixes = tuple((torch.tensor(ids, device=device), _blanks_after(reasoner, ids)) for ids in forms)
    return Words(prefixes, n_blanks, table.to(device))


def _blanks_after(reasoner: LatentReasoner, ids: Sequence[int]) -> int:
    text = reasoner.decode(ids)
    return len(text) - len(text.rstrip())


class Room:
    """Tensors for a number of rows and positions, and the steps on them.

    Args:
        reasoner: the model.
        taps: twins of the taps, whose tensors are the room's.
        words: of the model.
        n_begun: rows of the batch as it was begun.
        n_rows: rows, some of which may be empty.
        n_positions: positions of the cache.
        n_thoughts: T; it decides the codes of the slots.
        apart: what graphs share; None where nothing is captured.
    """

    def __init__(
        self,
        reasoner: LatentReasoner,
        taps: Taps,
        words: Words,
        *,
        n_begun: int,
        n_rows: int,
        n_positions: int,
        n_thoughts: int,
        apart: Apart | None,
    ) -> None:
        lm, config = reasoner.lm, reasoner.lm.config
        self.reasoner, self.taps, self.words = reasoner, taps, words
        self.n_rows, self.n_positions = n_rows, n_positions
        self.slots = slot_codes(n_thoughts) | {TEXT: text_code(n_thoughts)}
        self.owner: Callable[[], Any] = lambda: None
        # Of a key that is there, and of one that is not.
        self._open = torch.zeros((), dtype=lm.dtype, device=lm.device)
        self._shut = torch.full_like(self._open, torch.finfo(lm.dtype).min)

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=lm.device)

        # Of each row: where it stands, what it reads next, and what came of it.
        self.rows, self.place, self.n_real = zeros(n_rows), zeros(n_rows), zeros(n_rows, 1)
        self.keys, self.mask = zeros(n_rows, n_positions), zeros(n_rows, 1, 1, n_positions, dtype=lm.dtype)
        self.key, self.query = zeros(n_rows, 1), zeros(n_rows, 1)
        self.inputs = zeros(n_rows, 1, config.hidden_size, dtype=lm.dtype)
        self.state = zeros(n_rows, config.hidden_size, dtype=lm.dtype)
        # Of each row that is saying an answer: see `_say`.
        self.running, self.waits, self.after, self.began, self.closed = (
            zeros(n_rows, dtype=torch.bool) for _ in range(5)
        )
        self.room, self.count, self.last, self.n_blank = (zeros(n_rows) for _ in range(4))
        self.tail = zeros(n_rows, max((len(ids) for ids, _ in words.prefixes), default=0))
        # Of each row of the batch as it was begun; the last column takes what is not said.
        self.said, self.asked = zeros(n_begun, n_positions + 1), zeros(n_begun, n_positions + 1)
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        shape = (n_rows, heads, n_positions, head_width(config))
        each_row = torch.arange(n_rows, device=lm.device)
        layers = [
            FixedLayer(zeros(*shape, dtype=lm.dtype), zeros(*shape, dtype=lm.dtype), each_row, self.place)
            for _ in range(config.num_hidden_layers)
        ]
        self.cache = Cache(layers=layers)
        self._replays = {name: Replay(apart) for name in ("read", "think", "say")}

    @property
    def n_bytes(self) -> int:
        """What the room takes, without what graphs keep for themselves."""
        cache = [kept for layer in self.cache.layers for kept in (layer.keys, layer.values)]
        of_taps = [kept for tap in self.taps for kept in _tensors(tap, self.state.device)]
        return sum(kept.nbytes for kept in [*cache, *of_taps, self.said, self.asked, self.keys, self.mask])

    def do(self, step: str) -> None:
        """Do a step: `read`, `think` or `say`."""
        self._replays[step](getattr(self, f"_{step}"))

    def load(self, reading: BatchPass, n_copies: int) -> None:
        """Begin with a batch whose questions are read, each as often as there are copies."""
        n_problems, width = reading.keys.shape
        n = n_problems * n_copies
        for mine, theirs in zip(self.cache.layers, reading.context.cache.layers, strict=True):
            for kept, its in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                # What was left of another batch may be no number, and weight 0 does not undo that.
                kept[:, :, width:] = 0
                kept[n:] = 0
                kept[:n].unflatten(0, (n_copies, n_problems))[:, :, :, :width].copy_(its)
        self.keys.fill_(PAD_CODE)
        self.keys[:n, :width] = reading.keys.repeat(n_copies, 1)
        self._mask_by_keys()
        self.place.zero_()
        self.place[:n] = width
        self.n_real.copy_((self.keys != PAD_CODE).sum(1, keepdim=True))
        self.rows.zero_()
        self.rows[:n] = torch.arange(n, device=self.rows.device)
        self._empty(n)

    def follow(self, other: "Room", which: Tensor) -> None:
        """Go on with some rows of another room, or of this one."""
        n, width = len(which), min(self.n_positions, other.n_positions)
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            for kept, its in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                chosen = its[which, :, :width]  # a copy, since the other room may be this one
                kept[:, :, width:] = 0
                kept[n:] = 0
                kept[:n, :, :width] = chosen
        chosen = other.keys[which, :width]
        self.keys.fill_(PAD_CODE)
        self.keys[:n, :width] = chosen
        self._mask_by_keys()
        for name in _OF_ROWS:
            kept, chosen = getattr(self, name), getattr(other, name)[which]
            kept.zero_()
            kept[:n] = chosen
        for name in ("said", "asked"):
            getattr(self, name)[:, :width] = getattr(other, name)[:, :width]
        self._empty(n)

    def back_to(self, place: Tensor, n_real: Tensor) -> None:
        """Take back the positions that were read since a row stood at its place."""
        self.place.copy_(place)
        self.n_real.copy_(n_real)
        there = torch.arange(self.n_positions, device=place.device) < place[:, None]
        self.keys.copy_(torch.where(there, self.keys, PAD_CODE))
        self._mask_by_keys()

    def set(self, inputs: Tensor, keys: Tensor, queries: Tensor) -> None:
        """What the first rows read next: embeddings (row, 1, hidden) and codes (row, 1)."""
        n = len(inputs)
        self.inputs[:n] = inputs
        self.key[:n], self.query[:n] = keys, queries

    def begin_to_say(self, rooms: Tensor) -> None:
        """Get ready to say answers of at most so many tokens (row,)."""
        for kept in (self.waits, self.after, self.began, self.closed, self.count, self.n_blank, self.running):
            kept.zero_()
        self.tail.fill_(-1)
        self.room.zero_()
        self.room[: len(rooms)] = rooms
        self.running[: len(rooms)] = True

    def _empty(self, n: int) -> None:
        """Rows from n on are empty: they read padding."""
        self.key[n:], self.query[n:] = PAD_CODE, PAD_CODE
        self.inputs[n:], self.state[n:] = 0, 0

    def _mask_by_keys(self) -> None:
        self.mask[:, 0, 0].copy_(torch.where(self.keys != PAD_CODE, self._open, self._shut))

    def _read(self) -> None:
        """Read one position in every row, under the taps; rows whose key is padding stand still."""
        there = self.key != PAD_CODE
        self.keys.scatter_(1, self.place[:, None], self.key)
        self.mask[:, 0, 0].scatter_(1, self.place[:, None], torch.where(there, self._open, self._shut))
        self.n_real += there
        out = self.reasoner.lm.base_model(
            inputs_embeds=self.inputs,
            attention_mask=self.mask,
            position_ids=(self.n_real - 1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
            taps=self.taps,
            **self._met(),
        )
        self.state.copy_(out.last_hidden_state[:, -1])
        self.place += there[:, 0]

    def _think(self) -> None:
        """Feed the state back as a thought, edited by the taps, and read it."""
        met = self._met()
        moment = Moment(Site.THOUGHT, None, met["queries"], met["keys"], self.slots, self.rows)
        self.inputs.copy_(self.taps(self.reasoner.feed_back(self.state), moment)[:, None])
        self._read()

    def _met(self) -> dict[str, Any]:
        """Codes of the step; new views, since taps tell one step from another by the tensors."""
        queries, keys = (codes.view_as(codes) for codes in (self.query, self.keys))
        return {"queries": queries, "keys": keys, "slots": self.slots, "rows": self.rows}

    def _say(self) -> None:
        """Say a token in every row that is running, and read it.

        A row may have to read its last token again, as the `answer` query: see `loop._PrefixWatch`, whose rules these
        are, with ids compared instead of texts.
        """
        slots, end = self.slots, self.reasoner.tokenizer.eos_token_id
        token = self.reasoner.next_token(self.state)
        blanks, left = self.words.blanks[token], self.running & (self.count < self.room)
        again = left & self.waits & (blanks == 0)
        goes = left & ~again & (token != end)
        self.running.copy_(again | goes)
        place = torch.where(goes, self.count, self.said.shape[1] - 1)
        self.said[self.rows, place] = token
        self.count += goes
        ends = self._look(token, blanks, goes)
        codes = torch.where(again | ends, slots[ANSWER], slots[TEXT])
        self.query.copy_(torch.where(self.running, codes, PAD_CODE)[:, None])
        self.key.copy_(torch.where(self.running, slots[ANSWER], PAD_CODE)[:, None])
        last = torch.where(self.running, self.count - 1, self.asked.shape[1] - 1)
        self.asked[self.rows, last] = self.query[:, 0]
        self.last.copy_(torch.where(goes, token, self.last))
        # Where the last position is read again, it is written again.
        self.place -= again.long()
        self.n_real -= again.long()[:, None]
        self.inputs.copy_(self.reasoner.lm.get_input_embeddings()(self.last)[:, None])
        self._read()

    def _look(self, token: Tensor, blanks: Tensor, goes: Tensor) -> Tensor:
        """Whether a row's prefix ends at the token it goes on with; which rows wait for the next one is kept."""
        if not self.words.prefixes:
            return torch.zeros_like(goes)
        self.tail.copy_(torch.where(goes[:, None], torch.cat([self.tail[:, 1:], token[:, None]], 1), self.tail))
        n_blank, said = self.n_blank + blanks, torch.zeros_like(goes)
        for ids, n_blanks in self.words.prefixes:
            whole = (self.tail[:, self.tail.shape[1] - len(ids) :] == ids).all(1)
            n_blank, said = torch.where(whole, n_blanks, n_blank), said | whole
        after = said | (self.after & (blanks > 0))
        ends = goes & after & (n_blank >= self.words.n_blanks) & ~self.closed
        waits = goes & after & (n_blank < self.words.n_blanks) & ~self.closed
        self.closed |= goes & self.began & ~ends
        self.began |= ends
        self.n_blank.copy_(torch.where(goes, n_blank, self.n_blank))
        self.after.copy_(torch.where(goes, after, self.after))
        self.waits.copy_(waits)
        return ends


_OF_ROWS: Final = (
    *("rows", "place", "n_real", "key", "query", "inputs", "state"),
    *("running", "waits", "after", "began", "closed", "room", "count", "last", "n_blank", "tail"),
)


class Mark(NamedTuple):
    """Where a pass stood."""

    room: Room
    n_problems: int
    n_read: int
    place: Tensor
    n_real: Tensor


class FixedPass(BatchPass):
    """A batch in a room; what it gives equals what a `BatchPass` gives up to rounding.

    Args:
        steps: the rooms.
        reading: the batch, its questions read.
        taps: `Fixed` ones.
        n_thoughts: T.
        n_copies: how often each problem goes on.
        n_ahead: positions that will be read.
    """

    def __init__(
        self, steps: "Steps", reading: BatchPass, taps: Taps, n_thoughts: int, n_copies: int, n_ahead: int
    ) -> None:
        super().__init__(reading.reasoner, taps, n_thoughts, reading.context.protocol)
        self.steps = steps
        self._n_begun = len(reading.keys) * n_copies
        # Positions of the cache that may have been written: rows stand still, but never further on.
        self._n_read = reading.keys.shape[1]
        self._room: Room = self._taken(self._n_begun, self._n_read + n_ahead)
        self._room.load(reading, n_copies)
        self._bind(self._n_begun)
        self._hand_over()
        self.asked = reading.asked.repeat(n_copies, 1)

    def keep(self, places: Tensor) -> None:
        """Go on with the problems at these places alone; `rows` follows."""
        self._move(places, self._room.n_positions)

    def mark(self) -> Any:
        """Where the batch stands."""
        place, n_real = self._room.place.clone(), self._room.n_real.clone()
        return Mark(self._room, len(self.keys), self._n_read, place, n_real)

    def back_to(self, mark: Any) -> None:
        """Take back what was read since a mark, which stays as it is where problems have left since."""
        if self._room is not mark.room:
            kept = self._kept()
            self._room = mark.room
            self._own(kept)
        self._room.back_to(mark.place, mark.n_real)
        self._n_read = mark.n_read
        self._bind(mark.n_problems)

    def forget(self, n_positions: int) -> None:
        """Refuse: the rows stand at different places, and a mark says at which."""
        raise NotImplementedError("a pass of fixed shapes goes back to a mark")

    def use(self, taps: Taps) -> None:
        """Go on under other taps; those before have what was kept."""
        self.close()
        before, self.taps = self._room, taps
        self._room = self._taken(len(self.keys), before.n_positions)
        if self._room is not before:
            self._room.follow(before, torch.arange(len(self.keys), device=self.device))
            self._bind(len(self.keys))
        self._hand_over()

    def close(self) -> None:
        """Copy to the taps what was kept for them."""
        for tap, twin in zip(self.taps, self._room.taps, strict=True):
            for its, kept in zip(_tensors(tap, self.device), _tensors(twin, self.device), strict=True):
                its.copy_(kept)

    def snapshot(self) -> list[Tensor]:
        """Copies of what the taps have kept so far."""
        return [kept.clone() for kept in self._kept()]

    def restore(self, kept: Sequence[Tensor]) -> None:
        """Undo what the taps have kept since a snapshot."""
        self._own(kept)

    def step(self, inputs: Tensor, keys: Tensor, queries: Tensor | None = None) -> Tensor:
        """Read one position in every problem, under the taps; returns the last hidden states (problem, hidden)."""
        embed = self.reasoner.lm.get_input_embeddings()
        room = self._with_room(1)
        room.set(inputs if inputs.is_floating_point() else embed(inputs), keys, keys if queries is None else queries)
        return self._done("read")

    def think(self, state: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Feed a state back as a thought and read it; returns the thought and the state after it."""
        room, n = self._with_room(1), len(state)
        room.state[:n] = state
        room.key[:n], room.query[:n] = self.slots[name], self.slots[name]
        after = self._done("think")
        return room.inputs[:n, 0].clone(), after

    def say(self, state: Tensor, rooms: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Decode greedily: the ids that each present problem says, and the codes of the queries that read them.

        The host looks once a `BURST` whether all is said. Rows that are done stand still; once half of the room is
        empty, they leave it.
        """
        present, n_done, most = self.rows.tolist(), 0, max(rooms)
        lengths = torch.zeros(self._n_begun, dtype=torch.long, device=self.device)
        self._room.state[: len(state)] = state
        self._room.begin_to_say(torch.tensor(rooms, device=self.device))
        while most and (n_done == 0 or self._goes_on(lengths)):
            # A row that reads a position again takes a step more than it says tokens.
            burst = min(BURST, max(1, most - n_done))
            room = self._with_room(burst)
            self._say(room, burst)
            self._n_read, n_done = self._n_read + burst, n_done + burst
        ends, said, codes = lengths.tolist(), self._room.said.tolist(), self._room.asked.tolist()
        return [said[row][: ends[row]] for row in present], [codes[row][: ends[row]] for row in present]

    def _say(self, room: Room, n_steps: int) -> None:
        for _ in range(n_steps):
            room.do("say")

    def _goes_on(self, lengths: Tensor) -> bool:
        """Whether any row goes on; how much each has said is noted, before those that are done may leave."""
        room = self._room
        lengths[self.rows] = room.count[: len(self.rows)]
        goes = room.running & (room.count < room.room)
        n_left = int(goes.sum())
        if n_left and rounded(n_left, ROWS) <= room.n_rows // 2:
            self._move(goes.nonzero().flatten(), room.n_positions)
        return n_left > 0

    def _done(self, step: str) -> Tensor:
        assert self._room.owner() is self, "another pass has taken the room"
        self._room.do(step)
        self._n_read += 1
        state: Tensor = self._room.state[: len(self.keys)].clone()
        return state

    def _with_room(self, n_positions: int) -> Room:
        """The room, in which so many further positions can be read."""
        if self._n_read + n_positions > self._room.n_positions:
            wanted = self._n_read + max(n_positions, self._room.n_positions // 2)
            self._move(torch.arange(len(self.keys), device=self.device), wanted)
        return self._room

    def _move(self, places: Tensor, n_positions: int) -> None:
        """Go on with these rows, in a room of as many and so many positions."""
        before, kept = self._room, self._kept()
        self._room = self._taken(len(places), n_positions)
        self._room.follow(before, places)
        self._own(kept)
        self._bind(len(places))

    def _taken(self, n_rows: int, n_positions: int) -> Room:
        room = self.steps.room(self.taps, self._n_begun, n_rows, n_positions, self.n_thoughts)
        room.owner = weakref.ref(self)
        return room

    def _bind(self, n_rows: int) -> None:
        self.keys, self.rows = self._room.keys[:n_rows], self._room.rows[:n_rows]

    def _kept(self) -> list[Tensor]:
        return [kept for twin in self._room.taps for kept in _tensors(twin, self.device)]

    def _own(self, kept: Sequence[Tensor]) -> None:
        for its, other in zip(self._kept(), kept, strict=True):
            its.copy_(other)

    def _hand_over(self) -> None:
        self._own([kept for tap in self.taps for kept in _tensors(tap, self.device)])


def _tensors(tap: Tap, device: torch.device) -> list[Tensor]:
    assert isinstance(tap, Fixed), "a room takes fixed taps alone"
    return tap.tensors(device)


class Steps:
    """The rooms of a run, and the steps captured in them; they are kept while the run lasts.

    Args:
        reasoner: the model; its weights must stay where they are.
        n_bytes: what rooms may take, the one in use apart; a quarter of the GPU's memory if None.

    Attributes:
        by_text: whether a text has shown that ids do not tell where the answer prefix of this model ends.

    Example:
        >>> from thoughtlens.models import load
        >>> from thoughtlens.reasoning import reason
        >>> reasoner = load("tiny-gpt2")
        >>> question = "Ann has 2 bags of 4 pens. She finds 3 more. How many pens does she have?"
        >>> reason(reasoner, [question], steps=Steps(reasoner)).texts
        ['The answer is: 11']
    """

    def __init__(self, reasoner: LatentReasoner, n_bytes: int | None = None) -> None:
        self._reasoner, self._rooms = reasoner, OrderedDict[Hashable, Room]()
        device, self.by_text = reasoner.lm.device, False
        on_gpu = device.type == "cuda"
        memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else 2**32
        self._n_bytes = memory // _SHARE if n_bytes is None else n_bytes
        self._apart: Apart | None = None
        if on_gpu:
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._apart = Apart(stream, torch.cuda.graph_pool_handle())

    @cached_property
    def words(self) -> Words:
        """What is known of the model's tokens."""
        return words_of(self._reasoner)

    def enter(
        self,
        reading: BatchPass,
        n_copies: int = 1,
        *,
        taps: Taps | None = None,
        n_thoughts: int | None = None,
        n_ahead: int | None = None,
    ) -> BatchPass:
        """Go on with a batch whose questions are read, in a room if it can be; the batch stays as it is.

        Args:
            reading: the batch.
            n_copies: how often each problem goes on.
            taps: of what follows; those of the batch if None.
            n_thoughts: T of what follows; that of the batch if None.
            n_ahead: positions that will be read; thoughts, what is around them and a short answer if None.
        """
        taps = reading.taps if taps is None else taps
        count = reading.n_thoughts if n_thoughts is None else n_thoughts
        ahead = count + 1 + len(self._reasoner.closing) + AHEAD if n_ahead is None else n_ahead
        if self.serves(taps, reading.context.protocol, reading.keys.shape[1] + ahead):
            return FixedPass(self, reading, taps, count, n_copies, ahead)
        return reading.fork(n_copies, taps=taps, n_thoughts=count)

    def serves(self, taps: Taps, protocol: Protocol, n_positions: int) -> bool:
        """Whether a batch can pass in a room."""
        config = self._reasoner.lm.config
        rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
        most = rounded(n_positions, POSITIONS)
        of_length = rope.get("rope_type") in _BY_LENGTH or (getattr(config, "sliding_window", None) or most) < most
        return all(isinstance(tap, Fixed) for tap in taps) and not protocol.official and not of_length

    def room(self, taps: Taps, n_begun: int, n_rows: int, n_positions: int, n_thoughts: int) -> Room:
        """The room for so many rows and positions under taps of these programs."""
        sizes = {"n_rows": rounded(n_rows, ROWS), "n_positions": rounded(n_positions, POSITIONS)}
        programs = tuple(tap.program() for tap in taps if isinstance(tap, Fixed))
        key = (n_begun, *sizes.values(), n_thoughts, programs)
        if key not in self._rooms:
            how: dict[str, Any] = sizes | {"n_begun": n_begun, "n_thoughts": n_thoughts, "apart": self._apart}
            try:
                self._rooms[key] = Room(self._reasoner, _twins(taps, self._reasoner.lm.device), self.words, **how)
            except torch.OutOfMemoryError:
                self.clear()
                self._rooms[key] = Room(self._reasoner, _twins(taps, self._reasoner.lm.device), self.words, **how)
        self._rooms.move_to_end(key)
        while len(self._rooms) > 1 and sum(room.n_bytes for room in self._rooms.values()) > self._n_bytes:
            self._rooms.popitem(last=False)
        return self._rooms[key]

    @contextmanager
    def clearing(self) -> Iterator[None]:
        """Within: where memory runs out, all rooms are given back, so that a smaller batch finds room."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.clear()
            raise

    def clear(self) -> None:
        """Give the memory of all rooms back."""
        self._rooms.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _twins(taps: Taps, device: torch.device) -> Taps:
    """Copies of taps with tensors of their own on a device."""
    for tap in taps:
        _tensors(tap, device)  # made there, if they are not yet
    return Taps(copy.deepcopy(tap) for tap in taps)
