"""The script for a GPU, as far as it can be tried without one: it runs where the store is not installed."""

import json
import multiprocessing
import os
import sys

import pytest
from benchmarks import gpu

STORE = ("zarr", "xarray", "numcodecs")


def test_without_a_gpu_it_says_what_it_would_check(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    gpu.main(["--only", "capture", "sweep"])
    said = capsys.readouterr().out
    assert "No GPU is here" in said
    assert gpu.PARTS["capture"] in said
    assert gpu.PARTS["sweep"] in said
    assert gpu.PARTS["table"] not in said


def run_without_the_store(log):
    """Models, reasoning and cuts, imported anew in a forked process, from which the store has gone."""
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("thoughtlens", "benchmarks", *STORE)]
    for name in ours:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(STORE))
    from benchmarks import gpu

    gpu.main(["--tiny", "--only", "capture", "float32", "sweep", "precision", "--out", f"{log}.json"])
    sys.stdout.flush()
    os._exit(0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads, in Python 3.12
def test_it_runs_without_the_store_and_its_checks_agree(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    log = tmp_path / "log"
    process = multiprocessing.get_context("fork").Process(target=run_without_the_store, args=(log,))
    process.start()
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert "NOT" not in log.read_text()
    lines = [json.loads(line) for line in (tmp_path / "log.json").read_text().splitlines()]
    assert {line["part"] for line in lines} == {"card", "capture", "float32", "sweep", "precision", "end"}
    assert max(line["attention"] for line in lines if "attention" in line) <= 1e-4
    assert all(line["same_tokens"] for line in lines if "same_tokens" in line)
