"""A run that is killed at a random moment goes on and comes out as if it had not been, at the cost of a shard.

The moments are spread over all that a command does. THOUGHTLENS_KILLS says how many there are for each kind of run;
where there are several, it is all of `run`, with analysis and figures, and not `extract` alone. THOUGHTLENS_SEED draws
others.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.runs.killed_run import SMALL

from thoughtlens.problems import sample, write_problems

RUNNER = Path(__file__).with_name("killed_run.py")
N_KILLS = int(os.environ.get("THOUGHTLENS_KILLS", "1"))
SEED = int(os.environ.get("THOUGHTLENS_SEED", "0"))
COMMAND = "extract" if N_KILLS == 1 else "run"
N_SHARDS = 12
N_PROBLEMS = N_SHARDS * SMALL


def begin(folder: Path, problems: Path, keep: str) -> subprocess.Popen:
    notes = folder.with_suffix(".begun")
    count = ["--n", str(N_PROBLEMS)] if COMMAND == "run" else []
    options = ["--problems", problems, "--keep", keep, "--out", folder, *count]
    calm = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, RUNNER, notes, COMMAND, *options],
        env=os.environ | calm,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-2000:]


def begun(folder: Path) -> Counter:
    notes = folder.with_suffix(".begun")
    return Counter(notes.read_text().split()) if notes.exists() else Counter()


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file but those that tell times: the manifest and the markers of shards."""
    markers = set(folder.glob("shards/*.json"))
    files = {path for path in folder.rglob("*") if path.is_file()} - markers - {folder / "manifest.json"}
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("problems") / "some.jsonl"
    write_problems(file, sample("arithmetic", n=N_PROBLEMS))
    return file


@pytest.fixture(scope="module", params=["raw", "mean"])
def undisturbed(request, problems, tmp_path_factory) -> tuple[str, dict[str, str], float]:
    """What is kept, what an undisturbed run holds, and the seconds it took."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    began = time.monotonic()
    end(begin(folder, problems, request.param))
    assert sum(begun(folder).values()) == N_SHARDS
    return request.param, contents(folder), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kill", range(N_KILLS))
def test_a_killed_run_goes_on_to_the_same_bytes_and_redoes_one_shard_at_most(undisturbed, problems, tmp_path, kill):
    keep, expected, seconds = undisturbed
    moment = seconds * (kill + random.Random(f"{SEED} {kill} {keep}").random()) / N_KILLS
    process = begin(tmp_path / "run", problems, keep)
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    print(f"{keep}: killed after {moment:.1f} of {seconds:.1f} s, at shard {len(begun(tmp_path / 'run'))}")  # noqa: T201
    end(begin(tmp_path / "run", problems, keep))
    assert contents(tmp_path / "run") == expected
    times = begun(tmp_path / "run")
    assert len(times) == N_SHARDS
    assert sum(times.values()) <= N_SHARDS + 1
