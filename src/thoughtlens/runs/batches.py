"""Batches of problems of like length, and their halving where the device runs out of memory.

in: the lengths of questions; out: batches with little padding. `plan` depends on the lengths alone: the same problems
make the same batches. `Halving` works through them; when the device runs out of memory, it halves the batch, remembers
the size, and goes on.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NoReturn, TypeVar

import torch

from thoughtlens.errors import OptionError

log = logging.getLogger(__name__)

TOKENS: Final = 8192
"""Question tokens of a batch at most, padding counted."""

Result = TypeVar("Result")


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
