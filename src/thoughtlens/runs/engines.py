"""Batches of like length, and the engines that work on shards: the interfaces `Job` and `Engine`, and `Local`.

in: a long piece of work (an extraction, a study of cuts) as a `Job` of numbered shards; out: every shard done. An
`Engine` has the shards done, here (`Local`) or in other processes (`thoughtlens.runs.ray_engine`), and does not know
what the work is:

1. Each worker calls `Job.start` once, which loads what the work needs, for instance a model, and returns a function.
2. The worker calls that function for one shard after another. The function writes the shard itself, so that only the
   shard's number is sent, and shards may be done in any order.
3. Within a shard, `plan` sorts problems into batches with little padding. It depends on their lengths alone: the same
   problems make the same batches. `Halving` works through them; when the device runs out of memory, it halves the
   batch, remembers the size, and goes on.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NoReturn, Protocol, TypeVar

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


def halves(batch: Sequence[int]) -> list[Sequence[int]]:
    """The two halves of a batch of two or more."""
    middle = len(batch) // 2
    return [batch[:middle], batch[middle:]]


def bisect(
    batches: Iterable[Sequence[int]],
    work: Callable[[Sequence[int]], Result],
    alone: Callable[[int, Exception], Result],
    *,
    failures: tuple[type[Exception], ...],
    passed_on: tuple[type[Exception], ...] = (),
    parts: Callable[[Sequence[int]], Iterable[Sequence[int]]] = halves,
) -> Iterator[tuple[Sequence[int], Result]]:
    """Do the work on every batch; give every part that passed, in order, with its result.

    A batch whose work fails is divided. `alone` gives the result of an index that fails alone, or raises. Errors of the
    types `passed_on` end everything, even if they are among the `failures`.
    """
    left = iter(batches)
    while (batch := next(left, None)) is not None:
        try:
            result, failure = work(batch), None
        except passed_on:
            raise
        except failures as error:
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
        return bisect(fitting, work, self._too_large, failures=(torch.OutOfMemoryError,), parts=self._halved)

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


Progress = Callable[[int], None]
"""Called with the number of problems that have just been done."""

Work = Callable[[int, Progress], None]
"""Does the shard of this number and writes it; reports its progress."""


class Job(Protocol):
    """Work in numbered shards, as far as an engine needs to know it.

    A job must be picklable where an engine takes it to other processes. The worker calls `start` and the function that
    it returns; the engine calls `n_problems`.

    Example:
        >>> class Squares:
        ...     def start(self):
        ...         return lambda shard, progress: print(shard, shard**2)
        ...
        ...     def n_problems(self, shard):
        ...         return 1
        >>> Local().run(Squares(), [2, 3], progress=print)
        2 4
        3 9
    """

    def start(self) -> Work:
        """Load what the work needs, once a worker; the function that is returned does one shard and writes it."""
        ...

    def n_problems(self, shard: int) -> int:
        """The number of problems of a shard, for the progress of engines whose workers report none."""
        ...


class Engine(Protocol):
    """Where the shards of a job are worked on; any object with these members is one. `Job` has an example.

    Attributes:
        name: as the manifest keeps it.
        elsewhere: whether the job leaves this process, and so must load its own model.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (described above)
    @property
    def elsewhere(self) -> bool: ...  # noqa: D102

    def run(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        """Do all shards, in any order, each by one worker at a time.

        Args:
            job: the work.
            shards: numbers of the shards to do.
            progress: called with a number of problems whenever so many more are done.

        Raises:
            RunError: shards could not be done; those that were written stay.
        """
        ...


@dataclass(frozen=True)
class Local:
    """The engine that works in this process, one shard after another; see the example of `Job`."""

    name: str = "local"
    elsewhere: bool = False

    def run(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        """Do all shards in order."""
        work = job.start()
        for shard in shards:
            work(shard, progress)
