"""Batches of problems of like length, how large they may be, and their halving where the device runs out of memory.

in: the lengths of questions; out: batches with little padding. `plan` depends on the lengths alone: the same problems
make the same batches. `fitting` says how many problems fit into a GPU's memory at once. `Halving` works through the
batches; when the device runs out of memory, it halves the batch, remembers the size, and goes on.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, Literal, NamedTuple, NoReturn, TypeVar

import torch

from thoughtlens.errors import OptionError
from thoughtlens.models.checkpoint_files import free_memory
from thoughtlens.models.reasoner import LatentReasoner, head_width

log = logging.getLogger(__name__)

TOKENS: Final = 8192
"""Question tokens of a batch at most, padding counted."""

USUAL: Final = 32
"""Problems of a batch where memory does not decide: on a CPU larger ones are no faster."""

LARGEST: Final = 512
"""Problems of a batch that `auto` chooses at most: larger ones are hardly faster on any GPU."""

SHARE: Final = 0.5
"""Of the free memory, that a batch may take by the estimate: the rest is for what the estimate leaves out."""

BatchSize = int | Literal["auto"]

Result = TypeVar("Result")


class Sized(NamedTuple):
    """How large batches are, and why."""

    batch_size: int
    tokens: int  # question tokens of a batch at most, padding counted
    chosen: str


def fitting(
    reasoner: LatentReasoner, longest: int, n_thoughts: int, max_new_tokens: int, free: int | None = None
) -> Sized:
    """How many problems of at most `longest` tokens pass together: on CUDA as many as fit into `free` bytes, else 32.

    A power of two, so that a little more or less of free memory mostly changes nothing.
    """
    device = reasoner.lm.device
    if device.type != "cuda" and free is None:
        return Sized(USUAL, TOKENS, f"{USUAL}, as always on {device.type}")
    free = free_memory(device) if free is None else free
    each = _bytes_of(reasoner, longest, n_thoughts, max_new_tokens)
    size = 1 << max(1, min(LARGEST, int(SHARE * free / each))).bit_length() - 1
    told = f"{size}, of about {each / 2**20:,.1f} MiB each, in {SHARE:.0%} of {free / 2**30:,.1f} GiB free on {device}"
    return Sized(size, max(TOKENS, size * longest), told)


def _bytes_of(reasoner: LatentReasoner, longest: int, n_thoughts: int, max_new_tokens: int) -> int:
    """What a problem takes: its cache, twice while a position is appended, and the widest moment of its question."""
    config, of_number = reasoner.lm.config, int(reasoner.lm.dtype.itemsize)
    n_heads = config.num_attention_heads
    width = (getattr(config, "num_key_value_heads", None) or n_heads) * head_width(config)
    positions = min(longest + n_thoughts + max_new_tokens, int(config.max_position_embeddings))
    cache = 2 * 2 * config.num_hidden_layers * width * positions * of_number
    # Patterns are float32; a layer's inner states are about sixteen times as wide as its input.
    question = n_heads * longest * longest * 2 * 4 + 16 * longest * config.hidden_size * of_number
    recorded = 4 * config.num_hidden_layers * n_heads * (n_thoughts + 3) * (n_thoughts + 5)
    return int(cache + question + recorded + 2 * 4 * config.vocab_size)


def plan(lengths: Sequence[int], batch_size: int, n_tokens: int = TOKENS) -> list[list[int]]:
    """Indices of the problems of each batch, of like length; the longest first, so that a failure comes early.

    A problem of more than `n_tokens` passes alone; otherwise no batch has more tokens, padding counted.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        full = not batches or len(batches[-1]) == batch_size
        # The first of a batch is its longest, to which the others are padded.
        if full or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > n_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def padding(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Tokens of padding for each token of a question: 0 if every batch is of one length."""
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return padded / sum(lengths) - 1.0


def out_of_memory(error: Exception) -> bool:
    """Whether an error is no fault of the problems: memory has run out."""
    # On a CPU torch says so in words alone.
    told = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return told or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def halves(batch: Sequence[int]) -> list[Sequence[int]]:
    """The two halves of a batch of two or more."""
    middle = len(batch) // 2
    return [batch[:middle], batch[middle:]]


def bisect(
    batches: Iterable[Sequence[int]],
    work: Callable[[Sequence[int]], Result],
    alone: Callable[[int, Exception], Result],
    *,
    fails: Callable[[Exception], bool],
    parts: Callable[[Sequence[int]], Iterable[Sequence[int]]] = halves,
) -> Iterator[tuple[Sequence[int], Result]]:
    """Do the work on every batch; give every part that passed, in order, with its result.

    A batch whose work ends in an error for which `fails` is true is divided; any other error ends everything. `alone`
    gives the result of an index that fails alone, or raises.
    """
    left = iter(batches)
    while (batch := next(left, None)) is not None:
        try:
            result, failure = work(batch), None
        except Exception as error:
            if not fails(error):
                raise
            # Without its traceback, which holds the tensors of the pass.
            failure = error.with_traceback(None)
        if failure is None:
            yield batch, result
        elif len(batch) == 1:
            yield batch, alone(batch[0], failure)
        else:
            left = chain(parts(batch), left)


class Halving:
    """Works through batches, in smaller ones once the device has run out of memory."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size  # what fits, as far as is known
        self.failures = 0  # how often memory ran out

    def work_off(
        self, batches: Sequence[Sequence[int]], work: Callable[[Sequence[int]], Result]
    ) -> Iterator[tuple[Sequence[int], Result]]:
        """Do the work on every batch, piece by piece; `OptionError` where a single problem does not fit."""
        fitting = chain.from_iterable(map(self._fitting, batches))
        return bisect(fitting, work, self._too_large, fails=out_of_memory, parts=self._halved)

    def _fitting(self, batch: Sequence[int]) -> Iterator[Sequence[int]]:
        """A batch in pieces of what fits, as it is known when each is asked for."""
        while len(batch):
            piece, batch = batch[: self.batch_size], batch[self.batch_size :]
            yield piece

    def _halved(self, batch: Sequence[int]) -> Iterator[Sequence[int]]:
        self.failures, self.batch_size = self.failures + 1, len(batch) // 2
        log.warning(
            "%d problems do not fit into the device's memory together; going on with %d", len(batch), self.batch_size
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._fitting(batch)

    def _too_large(self, place: int, error: Exception) -> NoReturn:
        self.failures += 1
        raise OptionError(
            "one problem alone does not fit into the device's memory, expected it to; pass --dtype bfloat16 or "
            "another --device."
        )
