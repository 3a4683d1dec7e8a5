"""Lengths of questions become batches with little padding, and a batch that does not fit the device becomes two.

1. `plan` sorts by length, so that those who pass together are about equally long, and cuts at a number of problems or
   of tokens, whichever comes first. It depends on nothing but the lengths: the same problems make the same batches.
2. `Halving` works them off. When the device runs out of memory it halves the batch, remembers the size, and goes on.

Neither knows what a problem is, nor what is done with it.

Shards of work become finished shards, here or on other workers; an engine does not know what the work is.

A job says what its work needs: `start` is called once by each worker (it loads the model), and what it returns does
one shard. The worker that does a shard writes it; nothing but its number comes back, so that order never matters.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import torch

from thoughtlens.errors import OptionError

log = logging.getLogger(__name__)

TOKENS: Final = 8192
"""Question tokens of a batch at most, padding counted."""

Result = TypeVar("Result")


def plan(lengths: Sequence[int], batch_size: int, n_tokens: int = TOKENS) -> list[list[int]]:
    """Sort problems into batches, the longest first, so that what does not fit is known at once.

    Args:
        lengths: tokens of each problem.
        batch_size: problems of a batch at most.
        n_tokens: tokens of a batch at most, padding counted; a problem longer than that passes alone.

    Returns:
        Indices of the problems of each batch; every problem is in one. Ties keep their order.
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


class Halving:
    """Works off batches, in smaller ones once the device has run out of memory.

    Attributes:
        batch_size: what fits, as far as is known.
        failures: how often memory ran out.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.failures = batch_size, 0

    def work_off(
        self, batches: Sequence[Sequence[int]], work: Callable[[Sequence[int]], Result]
    ) -> Iterator[tuple[Sequence[int], Result]]:
        """Do the work on every batch, and give each piece that passed with its result.

        Raises:
            OptionError: a single problem does not fit.
        """
        left = deque(batches)
        while left:
            batch = left.popleft()
            if len(batch) > self.batch_size:
                left.extendleft([batch[self.batch_size :], batch[: self.batch_size]])
                continue
            try:
                result = work(batch)
            except torch.OutOfMemoryError:
                result = None
            # Not in the handler, whose traceback holds the tensors that did not fit.
            if result is None:
                self._halve(len(batch))
                left.appendleft(batch)
            else:
                yield batch, result

    def _halve(self, n_problems: int) -> None:
        self.failures += 1
        if n_problems == 1:
            raise OptionError(
                "one problem alone does not fit into the device's memory, expected it to; pass --dtype bfloat16 or "
                "another --device."
            )
        self.batch_size = n_problems // 2
        log.warning(
            "%d problems do not fit into the device's memory together; going on with %d",
            n_problems,
            self.batch_size,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


Progress = Callable[[int], None]
"""Called with a number of problems that have just been done."""

Work = Callable[[int, Progress], None]
"""Does one shard and writes it."""


class Job(Protocol):
    """Work in shards; picklable where it is to leave this process."""

    def start(self) -> Work:
        """Load what the work needs."""
        ...

    def n_problems(self, shard: int) -> int:
        """Problems of a shard."""
        ...


class Engine(Protocol):
    """Where shards are worked on.

    Attributes:
        name: as the manifest keeps it.
        elsewhere: whether the job leaves this process, and so must load its own model.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (described above)
    @property
    def elsewhere(self) -> bool: ...  # noqa: D102

    def run(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        """Do all shards, in any order.

        Args:
            job: the work.
            shards: indices of the shards to do.
            progress: called with the number of problems done, whenever some are.

        Raises:
            RunError: shards could not be done.
        """
        ...


@dataclass(frozen=True)
class Local:
    """In this process, one shard after another."""

    name: str = "local"
    elsewhere: bool = False

    def run(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        """Do all shards in order."""
        work = job.start()
        for shard in shards:
            work(shard, progress)
