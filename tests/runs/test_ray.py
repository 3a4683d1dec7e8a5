"""Ray workers give the run that this process gives, whatever happens to them."""

import socket
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from tests import apart
from tests.runs import on_a_cluster

from thoughtlens.cli.options import engine_named
from thoughtlens.errors import OptionError, RunError
from thoughtlens.runs import Local, open_run
from thoughtlens.runs.extraction import RAW
from thoughtlens.runs.storage_layout import Layout
from thoughtlens.runs.writer import Store

pytest.importorskip("ray")
from ray.exceptions import RayActorError, RayTaskError

from thoughtlens.runs import ray_engine


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory) -> tuple[Path, str]:
    """Two runs of a cluster, the first of which lost a node and a worker, and what was said on the way."""
    folder = tmp_path_factory.mktemp("cluster")
    calm = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": "/tmp"}
    work = apart.begin(on_a_cluster.main, folder / "raw", folder / "mean", log=folder / "said.log", environment=calm)
    return folder, apart.end(work, folder / "said.log")


@pytest.mark.slow
def test_a_lost_node_and_a_killed_worker_cost_no_shard(disturbed, tmp_path):
    out, said = disturbed[0] / "raw", disturbed[1]
    assert "removed a node" in said
    assert "killed a worker" in said
    assert "another takes its place" in said
    assert len(list((out / "shards").glob("*.json"))) == 12
    alone = on_a_cluster.shards(tmp_path / "here")
    Local().run(alone, alone.store.missing(), lambda n_problems: None)
    alone.store.finish()
    here, there = open_run(tmp_path / "here"), open_run(out)
    assert there.results() == here.results()
    np.testing.assert_allclose(there.attention["attention"], here.attention["attention"], atol=1e-5)


@pytest.mark.slow
def test_workers_add_up_what_this_process_does(disturbed, tmp_path):
    there, here = open_run(disturbed[0] / "mean"), on_a_cluster.means(tmp_path / "here", Local())
    assert there.results() == here.results()
    for found, expected in zip(there.sums(), here.sums(), strict=True):
        xr.testing.assert_allclose(found, expected, atol=1e-5)
    assert there.manifest["notes"]["engine"] == "ray"


def test_a_run_folder_that_a_worker_cannot_see_is_said(tmp_path):
    store = Store(tmp_path / "elsewhere", Layout.of(("a",), n_layers=1, n_heads=1, n_thoughts=2, keep=RAW))
    with pytest.raises(RunError, match="same path on every node"):
        store.check_reachable()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("slurm", {}, "no engine 'slurm'; there are: local, ray"),
        ("local", {"workers": 2}, "belong to --engine ray"),
        ("ray", {"workers": 0}, "--workers is 0, expected at least 1"),
    ],
)
def test_wrong_engines_are_refused(name, options, said):
    with pytest.raises(OptionError, match=said):
        engine_named(name, **options)


def test_local_work_is_done_in_order_by_one_start():
    class Job:
        started = 0

        def start(self):
            self.started += 1
            return lambda shard, progress: done.append(shard)

        def n_problems(self, shard):
            return 1

    done: list[int] = []
    job = Job()
    Local().run(job, [3, 1, 2], lambda n: None)
    assert done == [3, 1, 2]
    assert job.started == 1


class Failing:
    """Stands for Ray: the cluster has no CPUs, workers never answer, and what they did fails as it is told to."""

    def __init__(self, monkeypatch, error=None):
        self.error = error
        names = ("cluster_resources", "init", "is_initialized", "kill", "wait", "get", "remote")
        for name in names:
            monkeypatch.setattr(f"ray.{name}", getattr(self, name))

    def cluster_resources(self):
        return {}

    def is_initialized(self):
        return False

    def init(self, **options):
        raise ConnectionError

    def kill(self, actor):
        pass

    def wait(self, answers, **options):
        return [], answers

    def get(self, answer):
        raise self.error

    def remote(self, kind):
        actor = SimpleNamespace(ready=SimpleNamespace(remote=lambda: object()))
        return SimpleNamespace(options=lambda **asked: SimpleNamespace(remote=lambda job: actor))


def pool(retries=0):
    return ray_engine._Pool(None, 1.0, 0.0, deque([0]), retries)


def test_a_cluster_that_is_not_there_or_has_no_cpus_is_said(monkeypatch):
    Failing(monkeypatch)
    job = SimpleNamespace(n_problems=lambda shard: 1)
    with pytest.raises(RunError, match=r"no Ray cluster answers at auto; start one \(`ray start --head`\) or leave"):
        ray_engine.Ray(address="auto").run(job, [0], lambda n: None)
    with pytest.raises(RunError, match="the Ray cluster has no CPUs, expected at least one; add a node with CPUs"):
        ray_engine._share(None)


def test_a_cluster_that_does_not_answer_is_said():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(
            RunError, match=rf"no Ray cluster answers at {address}; start one .* or leave --address out"
        ):
            ray_engine.Ray(workers=1, address=address).run(None, [0], lambda n_problems: None)


def test_workers_that_never_start_are_said(monkeypatch):
    Failing(monkeypatch)
    with pytest.raises(RunError, match=r"no Ray worker could start within 600 s; has the cluster 1 free CPUs and 0"):
        list(pool().finished(1))


@pytest.mark.parametrize("retries", [0, 2])
def test_a_shard_that_is_lost_too_often_ends_the_run(retries, monkeypatch):
    Failing(monkeypatch, RayActorError())
    begun = pool(retries)
    for _ in range(retries):
        assert not begun._succeeded(None, None, 3)
    with pytest.raises(RunError, match=rf"was lost at shard 3 {retries + 1} times \(RayActorError\); what is written"):
        begun._succeeded(None, None, 3)


def test_a_mistake_keeps_its_sentence_on_a_worker(monkeypatch):
    Failing(monkeypatch, RayTaskError("do", "", OptionError("found no head; name one.")))
    with pytest.raises(OptionError, match="found no head; name one"):
        pool()._succeeded(None, None, 3)


def test_ray_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.delattr("thoughtlens.runs.Ray", raising=False)  # once asked for, it is kept
    monkeypatch.setitem(sys.modules, "thoughtlens.runs.ray_engine", None)
    with pytest.raises(OptionError, match="needs Ray, which is not installed"):
        engine_named("ray")
