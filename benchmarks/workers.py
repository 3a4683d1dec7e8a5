"""How much faster two workers of the Ray engine are than one: the same extraction with each number in turn.

    python -m benchmarks.workers                       tiny-gpt2 on the bundled test set, 1 and 2 workers, 3 rounds
    python -m benchmarks.workers --n 512 --rounds 1    a quick look

Two ratios: of wall time, for which nothing else may run on the machine, and of the CPU seconds of the worker that
worked longest, which other processes disturb little but which leaves out waiting. Both clocks start when every worker
has loaded its model, for which each waits; the time before that (Ray, processes, imports, the model) is told apart.
Every worker has one thread, and the shards are small, so that no worker waits long for the last one.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Ray hands it to the workers; one worker would else have the threads of all cores.
os.environ["OMP_NUM_THREADS"] = "1"

from benchmarks.timing import machine, spread  # after the threads are told
from thoughtlens.models import load
from thoughtlens.problems import sample
from thoughtlens.runs import Job, Ray, extract
from thoughtlens.runs.engines import Progress, Work

WAIT = 0.05
"""Seconds between two looks at who is ready."""


@dataclass(frozen=True)
class Together:
    """A job whose workers begin together: each notes that it has started, and waits for the others.

    Attributes:
        job: the work.
        workers: how many there are.
        folder: where each has a file that says when it began, and after each shard what it has spent.
    """

    job: Job
    workers: int
    folder: Path

    def start(self) -> Work:
        """Load what the work needs, and wait for the others."""
        work, note = self.job.start(), self.folder / str(os.getpid())
        note.touch()
        while len(list(self.folder.iterdir())) < self.workers:
            time.sleep(WAIT)
        began, cpu = time.time(), time.process_time()

        def noted(shard: int, progress: Progress) -> None:
            work(shard, progress)
            note.write_text(f"{began} {time.time()} {time.process_time() - cpu}", "ascii")

        return noted

    def n_problems(self, shard: int) -> int:
        """Problems of a shard."""
        return self.job.n_problems(shard)


@dataclass(frozen=True)
class Timed:
    """The Ray engine with workers that begin together and note in a folder what they spent."""

    workers: int
    folder: Path
    name: str = "ray"
    elsewhere: bool = True

    def run(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        """Do all shards."""
        Ray(workers=self.workers).run(Together(job, self.workers, self.folder), shards, progress)

    def spent(self) -> list[tuple[float, float, float]]:
        """Of each worker that worked: when it began and ended (`time.time`), and its CPU seconds between."""
        notes = [path.read_text("ascii").split() for path in self.folder.iterdir()]
        return [(float(began), float(ended), float(cpu)) for began, ended, cpu in filter(None, notes)]


class Spent(NamedTuple):
    """Seconds: before all workers were ready, then to the end, and CPU seconds of the worker with most."""

    startup: float
    wall: float
    cpu: float


def once(asked: argparse.Namespace, workers: int) -> Spent:
    """One extraction."""
    problems, reasoner = sample("arithmetic", n=asked.n), load(asked.model)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        ready.mkdir()
        engine, out, asked_at = Timed(workers, ready), Path(folder) / "run", time.time()
        extract(reasoner, problems, out, batch_size=asked.batch_size, shard_size=asked.shard_size, engine=engine)
        began, ended, cpu = (max(each) for each in zip(*engine.spent(), strict=True))
        return Spent(began - asked_at, ended - began, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-gpt2")
    parser.add_argument("--n", type=int, help="problems; the whole test set if not given")
    parser.add_argument("--workers", type=int, nargs=2, default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    print(machine())
    spent: dict[int, list[Spent]] = {workers: [] for workers in asked.workers}
    for number in range(asked.rounds):
        for workers in asked.workers[:: 1 if number % 2 == 0 else -1]:
            spent[workers].append(once(asked, workers))
            startup, wall, cpu = spent[workers][-1]
            print(f"  {workers} workers: {wall:.1f} s, CPU {cpu:.1f} s, after {startup:.1f} s of start-up", flush=True)
    few, many = asked.workers
    for name in ("wall", "cpu"):
        pairs = zip(spent[few], spent[many], strict=True)
        print(f"{few} / {many} workers, {name}: {spread([getattr(a, name) / getattr(b, name) for a, b in pairs])}")


if __name__ == "__main__":
    main()
