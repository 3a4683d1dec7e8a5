"""The engine that spreads shards over the actors of a Ray cluster, each of which loads the model once.

in: a job and its shards; out: every shard done.

1. As many actors as asked for are started; each says that it is ready once its model is loaded.
2. A ready actor gets the next shard. It writes the shard itself, so that only the shard's number is sent.
3. A shard whose actor is lost goes back into the queue, and another actor is started. A shard that is lost more often
   than `retries` times ends the run with an error; what is written stays, and the same command goes on from there.

Every node must see the run folder under the same path: a shared file system, not a URL.
Source of the failure semantics: docs.ray.io, "Actor fault tolerance".
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from thoughtlens.errors import OptionError, RunError, ThoughtLensError
from thoughtlens.runs.engines import Job, Progress

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


log = logging.getLogger(__name__)

PATIENCE: Final = 600.0
"""Seconds that a worker may take to start while no other works."""


ANSWERS_WITHIN: Final = 15.0
"""Seconds that a cluster may take to answer at its address."""

_NO_CLUSTER: Final = "no Ray cluster answers at {}; start one (`ray start --head`) or leave --address out."


class _Worker:
    """An actor: the job, begun."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def ready(self) -> None:
        """Load the model; not in the constructor, where a user's mistake would look like a lost worker."""
        self.work = self.job.start()

    def do(self, shard: int) -> None:
        """Do one shard and write it."""
        self.work(shard, lambda n_problems: None)


@dataclass(frozen=True)
class Ray:
    """The engine that works on a Ray cluster; a `thoughtlens.runs.Engine`.

    Attributes:
        workers: how many actors; if None, one for each GPU, or for each CPU where there is no GPU.
        address: of a running cluster (`auto`, `ray://host:10001`, `host:6379`); one on this machine is started, and
            stopped at the end, if None.
        retries: how often a shard may be lost with its worker before the run ends.

    Raises:
        OptionError: fewer than one worker is asked for.

    Example:
        Extract a run on two workers.

            extract(load("tiny-gpt2"), sample("arithmetic"), "runs/all", engine=Ray(workers=2))
    """

    workers: int | None = None
    address: str | None = None
    retries: int = 3
    name: str = "ray"
    elsewhere: bool = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"--workers is {self.workers}, expected at least 1; pass another number.")

    def run(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        """Do all shards, each by one worker at a time."""
        if not shards:
            return
        with _cluster(self.address):
            workers, cpus, gpus = _share(self.workers)
            pool = _Pool(ray.put(job), cpus, gpus, deque(shards), retries=self.retries)
            for shard in pool.finished(min(workers, len(shards))):
                progress(job.n_problems(shard))


@dataclass
class _Pool:
    """The actors, what each is doing, and what is still to be done."""

    job: Any
    cpus: float  # of each actor, as gpus are
    gpus: float
    waiting: deque[int]
    retries: int
    at_work: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)
    lost: dict[int, int] = field(default_factory=dict)

    def finished(self, n_workers: int) -> Iterator[int]:
        """Yield every shard once it is written."""
        for _ in range(n_workers):
            self._hire()
        try:
            while self.waiting or any(shard is not None for _, shard in self.at_work.values()):
                answer = self._next_answer()
                actor, shard = self.at_work.pop(answer)
                if self._succeeded(answer, actor, shard):
                    if self.waiting:
                        self._assign(actor)
                    if shard is not None:
                        yield shard
        finally:
            for actor, _ in self.at_work.values():
                ray.kill(actor)

    def _hire(self) -> None:
        actor = (
            ray.remote(_Worker)
            .options(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, max_task_retries=0)
            .remote(self.job)
        )
        self.at_work[actor.ready.remote()] = (actor, None)

    def _assign(self, actor: Any) -> None:
        shard = self.waiting.popleft()
        self.at_work[actor.do.remote(shard)] = (actor, shard)

    def _next_answer(self) -> Any:
        while True:
            answers, _ = ray.wait(list(self.at_work), num_returns=1, timeout=PATIENCE)
            if answers:
                return answers[0]
            if all(shard is None for _, shard in self.at_work.values()):
                raise RunError(
                    f"no Ray worker could start within {PATIENCE:.0f} s; has the cluster {self.cpus:g} free CPUs "
                    f"and {self.gpus:g} free GPUs a worker?"
                )

    def _succeeded(self, answer: Any, actor: Any, shard: int | None) -> bool:
        try:
            ray.get(answer)
        except RayTaskError as error:
            # A user's mistake on the worker keeps its sentence.
            raise (error.cause if isinstance(error.cause, ThoughtLensError) else error) from None
        except RayActorError as error:
            self._replace(actor, shard, error)
            return False
        return True

    def _replace(self, actor: Any, shard: int | None, error: RayActorError) -> None:
        # An actor that is only out of reach must not write the shard while another does.
        ray.kill(actor)
        key = -1 if shard is None else shard
        self.lost[key] = self.lost.get(key, 0) + 1
        what = "as it started" if shard is None else f"at shard {shard}"
        if self.lost[key] > self.retries:
            raise RunError(
                f"a Ray worker was lost {what} {self.lost[key]} times ({type(error).__name__}); what is written stays: "
                "see the cluster's logs (memory?), then run the same extraction again."
            )
        log.warning("a worker was lost %s; another takes its place", what)
        if shard is not None:
            self.waiting.appendleft(shard)
        self._hire()


def _share(workers: int | None) -> tuple[int, float, float]:
    """The number of workers, and the CPUs and GPUs of each: a GPU each where there are GPUs, else the CPUs evenly.

    No worker asks for more CPUs than the largest node has: it would wait for ever.
    """
    found = ray.cluster_resources()
    cpus, gpus = int(found.get("CPU", 0)), int(found.get("GPU", 0))
    if cpus < 1:
        raise RunError("the Ray cluster has no CPUs, expected at least one; add a node with CPUs.")
    most = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    count = workers or gpus or cpus
    if gpus:
        return count, max(1.0, min(most, cpus // max(count, gpus))), 1.0 if count <= gpus else gpus / count
    return count, max(1.0, min(most, cpus // count)), 0.0


def _check_answers(address: str) -> None:
    """Raise `RunError` unless something listens at `host:port`, where Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN).close()
        except (OSError, OverflowError) as error:
            raise RunError(_NO_CLUSTER.format(address)) from error


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to a cluster; one that was there before stays."""
    if ray.is_initialized():
        yield
        return
    if address:
        _check_answers(address)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, GetTimeoutError) as error:
        raise RunError(_NO_CLUSTER.format(address)) from error
    try:
        yield
    finally:
        ray.shutdown()
