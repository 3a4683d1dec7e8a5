"""A run that is killed at a random moment goes on and comes out as if it had not been, at the cost of a shard.

THOUGHTLENS_KILLS says how many moments there are for each kind of run, THOUGHTLENS_SEED draws others. The first and
every other one falls into the extraction; the rest, anywhere from start to end. Where there are several, all of `run`
is killed, with analysis and figures, and not `extract` alone.
"""

import os
import random
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from tests import apart
from tests.robustness.planted_work import contents
from tests.runs import killed_run

from thoughtlens.problems import sample, write_problems

N_KILLS = int(os.environ.get("THOUGHTLENS_KILLS", "1"))
SEED = int(os.environ.get("THOUGHTLENS_SEED", "0"))
COMMAND = "extract" if N_KILLS == 1 else "run"
N_SHARDS, SHARD_SIZE = 8, 3
N_PROBLEMS = N_SHARDS * SHARD_SIZE


def begin(folder: Path, problems: Path, keep: str) -> apart.Process:
    count = ["--n", str(N_PROBLEMS)] if COMMAND == "run" else []
    options = ["--problems", problems, "--keep", keep, "--shard-size", SHARD_SIZE, "--out", folder.name, *count]
    notes, log = folder.with_suffix(".begun"), folder.with_suffix(".log")
    # From within its parent: what a run makes says by which command.
    return apart.begin(killed_run.run, folder.parent, notes, [COMMAND, *map(str, options)], log=log)


def begun(folder: Path) -> list[tuple[str, float]]:
    """The shards on which work has begun, and when."""
    notes = folder.with_suffix(".begun")
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(name, float(when)) for name, when in map(str.split, lines)]


def kill(process: apart.Process) -> None:
    process.kill()
    process.join()


def wait_for_a_shard(folder: Path, process: apart.Process) -> None:
    while not begun(folder) and process.is_alive():
        time.sleep(0.002)


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("problems") / "some.jsonl"
    write_problems(file, sample("arithmetic", n=N_PROBLEMS))
    return file


class Undisturbed(NamedTuple):
    keep: str
    contents: dict[str, str]
    extraction: float
    """seconds from the first shard to the last"""
    whole: float
    """seconds from start to end"""


@pytest.fixture(scope="module", params=["raw", "mean"])
def undisturbed(request, problems, tmp_path_factory) -> Undisturbed:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    start = time.time()
    apart.end(begin(folder, problems, request.param), folder.with_suffix(".log"))
    times = [when for _, when in begun(folder)]
    assert len(times) == N_SHARDS
    return Undisturbed(request.param, contents(folder), times[-1] - times[0], time.time() - start)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(N_KILLS))
def test_a_killed_run_goes_on_to_the_same_bytes_and_redoes_one_shard_at_most(undisturbed, problems, tmp_path, place):
    folder, share = tmp_path / "run", random.Random(f"{SEED} {place} {undisturbed.keep}").random()
    process = begin(folder, problems, undisturbed.keep)
    if place % 2 == 0:
        wait_for_a_shard(folder, process)
        time.sleep(share * undisturbed.extraction)
    else:
        time.sleep(share * undisturbed.whole)
    kill(process)
    before = begun(folder)
    apart.end(begin(folder, problems, undisturbed.keep), folder.with_suffix(".log"))
    print(f"{undisturbed.keep}: killed at shard {len(before)} of {N_SHARDS}, begun {len(begun(folder))}")  # noqa: T201
    assert contents(folder) == undisturbed.contents
    assert len({name for name, _ in begun(folder)}) == N_SHARDS
    assert len(begun(folder)) <= N_SHARDS + 1
