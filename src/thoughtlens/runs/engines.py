"""Shards of work become finished shards, here or on other workers; an engine does not know what the work is.

A job says what its work needs: `start` is called once by each worker (it loads the model), and what it returns does
one shard. The worker that does a shard writes it; nothing but its number comes back, so that order never matters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

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
