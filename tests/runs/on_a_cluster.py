"""An extraction on a cluster of two nodes, one of which is removed and one of whose workers is killed on the way."""

import sys

import psutil
import ray
from ray.cluster_utils import Cluster

from thoughtlens.models import load
from thoughtlens.problems import sample
from thoughtlens.runs import Ray, extract


def kill_a_worker() -> None:
    # Of this cluster alone: another one may be at work on the machine.
    for process in psutil.Process().children(recursive=True):
        if any(word.startswith("ray::_Worker") for word in process.cmdline()):
            process.kill()
            sys.stdout.write("killed a worker\n")
            return


def main(out: str) -> None:
    small = {"num_cpus": 1, "object_store_memory": 150_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    node = cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    n_finished = 0

    def disturb(n_problems: int) -> None:
        nonlocal n_finished
        n_finished += n_problems > 0
        if n_finished == 3:
            cluster.remove_node(node, allow_graceful=False)
            sys.stdout.write("removed a node\n")
        if n_finished == 6:
            kill_a_worker()

    problems = sample("arithmetic", n=48)
    extract(load("tiny-gpt2"), problems, out, shard_size=4, engine=Ray(workers=2), progress=disturb)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
