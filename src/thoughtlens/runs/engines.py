"""The engines that work on shards: the interfaces `Job` and `Engine`, and `Local`; and the `Part` that a process does.

in: a long piece of work (an extraction, a study of cuts) as a `Job` of numbered shards; out: every shard done. An
`Engine` has the shards done, here (`Local`) or in other processes (`thoughtlens.runs.ray_engine`), and does not know
what the work is:

1. Each worker calls `Job.start` once, which loads what the work needs, for instance a model, and returns a function.
2. The worker calls that function for one shard after another. The function writes the shard itself, so that only the
   shard's number is sent, and shards may be done in any order.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar, get_args

from thoughtlens.errors import OptionError

Progress = Callable[[int], None]
"""Called with the number of problems that have just been done."""

Work = Callable[[int, Progress], None]
"""Does the shard of this number and writes it; reports its progress."""


@dataclass(frozen=True)
class Part:
    """Which of `count` processes this is: it does the shards `index`, `index + count` and so on."""

    index: int
    count: int

    @property
    def name(self) -> str:
        """As files are named by it."""
        return f"{self.index}-of-{self.count}"

    def of(self, shards: Sequence[int]) -> list[int]:
        """Every n-th of the shards."""
        return [shard for shard in shards if shard % self.count == self.index]

    def others(self, shards: Sequence[int]) -> str:
        """The parts that have to do some shards, as they are asked for: `1/3, 2/3`."""
        return ", ".join(f"{index}/{self.count}" for index in sorted({shard % self.count for shard in shards}))

    def __str__(self) -> str:
        """As it is asked for."""
        return f"{self.index}/{self.count}"


def part_named(given: str) -> Part:
    """What `--shard` means; `OptionError` unless it is i/n with 0 ≤ i < n."""
    index, _, count = given.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise OptionError(
            f"--shard is {given!r}, expected i/n with i from 0 to n − 1, such as 0/3, 1/3 and 2/3; pass another."
        )
    return Part(int(index), int(count))


Asked = ParamSpec("Asked")
Done = TypeVar("Done")


def alone(work: Callable[Concatenate[Part | None, Asked], Done | None]) -> Callable[Asked, Done]:
    """The same work by one process alone: what takes a part first without that argument; it always comes to its end."""

    @wraps(work)
    def whole(*args: Asked.args, **how: Asked.kwargs) -> Done:
        done = work(None, *args, **how)
        assert done is not None, "who works alone has no others to wait for"
        return done

    asked = inspect.signature(work)
    whole.__signature__ = asked.replace(  # type: ignore[attr-defined]  # which documentation reads
        parameters=[*asked.parameters.values()][1:], return_annotation=get_args(asked.return_annotation)[0]
    )
    whole.__name__ = whole.__qualname__ = work.__name__.removesuffix("_part")
    return whole


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
