"""Two processes, each with half of a batch, train as one with the whole of it."""

import json
import os
import socket

import pytest
import torch
from safetensors.torch import load_file
from tests import apart
from tests.training import train_apart
from tests.training.conftest import STAGE, write_recipe

from thoughtlens.models import load
from thoughtlens.training import prepare, train_stages


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))


SUPERVISED = STAGE.replace(" }", ", supervision = 0.5 }\nsupervised = [1, 3]")


def stages(batch, accumulation=1, learnt=SUPERVISED):
    settings = f"steps = 6\nbatch = {batch}\naccumulation = {accumulation}\nrate = 3e-3\nwarmup = 2"
    return (
        f'name = "explicit"\n{settings}\nweights = {{ teacher = 1.0 }}',
        f'name = "codi"\n{settings}\n{learnt}',
    )


def logged(out, stage):
    lines = (out / "training" / stage / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "learning_rate" in entry]


def together(recipe, folder):
    """Train on two processes of one thread each, with the variables that `torchrun` gives them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"THOUGHTLENS_CACHE": os.environ["THOUGHTLENS_CACHE"], "CUDA_VISIBLE_DEVICES": ""}
    logs = [folder.with_suffix(f".{rank}.log") for rank in range(2)]
    processes = [
        apart.begin(
            train_apart.main, recipe, folder, log=log, environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank, log in enumerate(logs)
    ]
    return "".join(apart.end(process, log) for process, log in zip(processes, logs, strict=True))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="compares CPU with CPU")
def test_two_processes_train_as_one_with_twice_the_batch(bases, tmp_path, problem_file):
    held_out = f'[held_out]\nname = "{problem_file}"'
    write_recipe(tmp_path / "half.toml", bases["llama"], tables=held_out, stages=stages(batch=4))
    said = together(tmp_path / "half.toml", tmp_path / "two")
    assert (said.count("card: True"), said.count("card: False")) == (1, 1)
    assert load(tmp_path / "two").n_thoughts == 3
    one = write_recipe(tmp_path / "full.toml", bases["llama"], stages=stages(batch=8))
    train_stages(prepare(one), tmp_path / "one")

    for stage in ("1-explicit", "2-codi"):
        two_logs, one_logs = logged(tmp_path / "two", stage), logged(tmp_path / "one", stage)
        assert [entry["step"] for entry in two_logs] == [entry["step"] for entry in one_logs] == [1, 2, 3, 4, 5, 6]
        for two, one in zip(two_logs, one_logs, strict=True):
            assert two.keys() == one.keys()
            for term in one.keys() & {"loss", "teacher", "student", "distillation", "supervision", "accuracy"}:
                assert two[term] == pytest.approx(one[term], abs=1e-5), (stage, one["step"], term)
        two, one = (load_file(tmp_path / name / "training" / stage / "finished.safetensors") for name in ("two", "one"))
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)


def test_accumulated_batches_train_as_one_of_their_size(bases, tmp_path):
    """But for distillation, whose standard deviation is each forward pass's own, as in the official code."""
    learnt = "weights = { teacher = 1.0, student = 1.0 }"
    losses = []
    for batch, accumulation in ((4, 2), (8, 1)):
        name = f"{batch}x{accumulation}"
        recipe = write_recipe(tmp_path / f"{name}.toml", bases["gpt2"], stages=stages(batch, accumulation, learnt))
        train_stages(prepare(recipe), tmp_path / name)
        losses.append([entry["loss"] for entry in logged(tmp_path / name, "2-codi")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
