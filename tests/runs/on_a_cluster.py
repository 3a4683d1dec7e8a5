"""Work on a Ray cluster of two nodes, one of which is removed and whose workers are killed on the way."""

import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thoughtlens.analysis.resampled_sums import block_sums
from thoughtlens.problems import sample
from thoughtlens.runs.engines import Engine
from thoughtlens.runs.extraction import RAW, extract
from thoughtlens.runs.reader import Run
from thoughtlens.runs.storage_layout import Keep, Layout
from thoughtlens.runs.writer import Store
from thoughtlens.schema import attention_dataset


@dataclass(frozen=True)
class Shards:
    """Random attention: work for a worker that needs no model, whose import takes most of a worker's start."""

    store: Store

    def start(self):
        return lambda shard, progress: self.write(shard)

    def n_problems(self, shard: int) -> int:
        return len(self.store.layout.ids_of(shard))

    def write(self, shard: int) -> None:
        ids, rng = self.store.layout.ids_of(shard), np.random.default_rng(shard)
        values = np.tril(rng.random((len(ids), 1, 2, 5, 7), dtype=np.float32), 2)
        dataset = attention_dataset(
            values / values.sum(-1, keepdims=True),
            problem_ids=ids,
            correct=rng.random(len(ids)) < 0.5,
            n_question_tokens=rng.integers(1, 50, len(ids)),
        )
        self.store.write(shard, dataset, [{"id": name, "shard": shard} for name in ids], seconds=0.5)


def shards(folder: Path) -> Shards:
    """Twelve shards of a run; the workers, to which `Shards` goes with all that it names, do not need the rest."""
    ids = tuple(f"p{number}" for number in range(48))
    layout = Layout.of(ids, n_layers=1, n_heads=2, n_thoughts=2, shard_size=4, keep=RAW)
    options = {"model": {"name": "tiny"}, "problems": {"name": "arithmetic", "fingerprint": "6a"}, "n_thoughts": 2}
    return Shards(Store.open(folder, layout, options=options))


def means(folder: Path, engine: Engine) -> Run:
    """An extraction, by a worker that loads a model."""
    from thoughtlens.models import load

    problems, keep = sample("arithmetic", n=12), Keep(block_sums, n_blocks=4)
    return extract(load("tiny-gpt2"), problems, folder, keep=keep, shard_size=6, engine=engine)


def kill_workers() -> None:
    import psutil

    # Of this cluster alone: another one may be at work on the machine.
    for process in psutil.Process().children(recursive=True):
        # A worker of the node that was removed may end just now.
        with suppress(psutil.NoSuchProcess):
            if any(word.startswith("ray::_Worker") for word in process.cmdline()):
                process.kill()
                sys.stdout.write("killed a worker\n")


def main(raw: Path, mean: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from thoughtlens.runs.ray_engine import Ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find the tests
    small = {"num_cpus": 1, "object_store_memory": 150_000_000, "include_dashboard": False}
    with ExitStack() as ending:  # also where something fails: a cluster would outlive this process
        cluster = Cluster(initialize_head=True, head_node_args=small)
        ending.callback(cluster.shutdown)
        ending.callback(ray.shutdown)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        means(mean, Ray(workers=1))
        node = cluster.add_node(**small)
        n_finished = 0

        def disturb(n_problems: int) -> None:
            nonlocal n_finished
            n_finished += n_problems > 0
            if n_finished == 3:
                cluster.remove_node(node, allow_graceful=False)
                sys.stdout.write("removed a node\n")
            if n_finished == 6:
                kill_workers()

        work = shards(raw)
        Ray(workers=2).run(work, work.store.missing(), disturb)
        work.store.finish()
