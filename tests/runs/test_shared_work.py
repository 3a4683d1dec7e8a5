"""Processes that share a run or a study with `--shard` give what one process gives, whatever is killed meanwhile."""

import os
import signal
import sys
from pathlib import Path

import pytest
import xarray as xr
from tests import apart
from tests.commands import sentence

import thoughtlens as tl
from thoughtlens.cli import main
from thoughtlens.cuts.study import intervene_part
from thoughtlens.errors import OptionError, RunError
from thoughtlens.files import LOCK, check_not_written, one_of_writers, only_writer
from thoughtlens.models import load, planted_problems
from thoughtlens.problems import write_problems
from thoughtlens.runs import MEAN
from thoughtlens.runs.engines import Part, part_named
from thoughtlens.runs.extraction import ExtractionJob, extract_part

N = 3


def command(*arguments: str) -> None:
    sys.argv = ["thoughtlens", *arguments]
    main()


def killed_at_its_second_shard(*arguments: str) -> None:
    measure, seen = ExtractionJob.measure, []

    def dying(self, *given):
        if seen:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(given)
        measure(self, *given)

    ExtractionJob.measure = dying
    command(*arguments)


@pytest.fixture(scope="module")
def problems(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("problems") / "twelve.jsonl"
    write_problems(file, planted_problems(12))
    return file


@pytest.fixture(scope="module")
def options(problems) -> list[str]:
    return ["--model", "planted", "--problems", str(problems), "--shard-size", "2", "--batch-size", "2"]


@pytest.fixture(scope="module")
def alone(problems, tmp_path_factory) -> tl.Run:
    chosen = tl.load_set(str(problems))
    return tl.extract(load("planted"), chosen, tmp_path_factory.mktemp("alone") / "run", shard_size=2, batch_size=2)


def parts_of(folder: Path, options: list[str], *, killed: int | None = None) -> list[int | None]:
    """Start all parts of a run at once; their exit codes."""
    started = []
    for index in range(N):
        target = killed_at_its_second_shard if index == killed else command
        given = ["extract", *options, "--shard", f"{index}/{N}", "--out", str(folder)]
        started.append(apart.begin(target, *given, log=folder.with_suffix(f".log{index}")))
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def same_bits(one: tl.Run, other: tl.Run) -> None:
    xr.testing.assert_identical(one.attention.load(), other.attention.load())
    assert one.results() == other.results()


def test_three_processes_at_once_give_the_bits_of_one(tmp_path, alone, options, problems):
    folder = tmp_path / "run"
    assert parts_of(folder, options) == [0, 0, 0]
    shared = tl.open_run(folder)
    same_bits(shared, alone)
    assert (folder / "readings.json").is_file()
    assert {path.name for path in folder.glob(f"{LOCK}.*")} <= {f"{LOCK}.{i}-of-{N}" for i in range(N)}
    usual = tl.extract(load("planted"), tl.load_set(str(problems)), tmp_path / "usual")
    xr.testing.assert_allclose(shared.attention.load(), usual.attention.load(), rtol=0, atol=1e-3)
    assert [row["text"] for row in shared.results()] == [row["text"] for row in usual.results()]


def test_a_killed_process_is_started_again_and_closes_the_run(tmp_path, alone, options):
    folder = tmp_path / "run"
    assert parts_of(folder, options, killed=1) == [0, -signal.SIGKILL, 0]
    so_far = tl.runs.status(folder)
    assert (so_far.shards_done, so_far.n_shards, so_far.complete, so_far.running) == (5, 6, False, False)
    with pytest.raises(RunError, match="has 5 of 6 shards"):
        tl.open_run(folder)
    log = tmp_path / "again"
    again = ["extract", *options, "--shard", f"1/{N}", "--out", str(folder)]
    assert "12 problems in" in apart.end(apart.begin(command, *again, log=log), log)
    same_bits(tl.open_run(folder), alone)


def test_there_are_four_shards_a_process_and_a_later_process_reads_how_many(tmp_path):
    model, chosen, folder = load("planted"), planted_problems(24), tmp_path / "run"
    for index in range(2):
        assert extract_part(Part(index, 3), model, chosen, folder) is None
    run = extract_part(Part(1, 2), model, chosen, folder)  # divided otherwise, it does what is left of its own
    assert run is None
    run = tl.extract(model, chosen, folder)
    assert run.manifest["layout"]["shard_size"] == 2  # 12 shards of 24 problems
    assert run.manifest["complete"] is True
    same_bits(tl.open_run(folder), run)


def test_sums_are_shared_too(tmp_path):
    model, chosen, how = load("planted"), planted_problems(4), {"keep": MEAN, "shard_size": 2}
    done = [extract_part(Part(index, 2), model, chosen, tmp_path / "run", **how) for index in (1, 0)]
    assert done[0] is None
    whole = tl.extract(model, chosen, tmp_path / "alone", **how)
    for shared, single in zip(done[1].sums(), whole.sums(), strict=True):
        xr.testing.assert_identical(shared, single)


def test_a_shared_study_has_the_effects_of_one_process_and_its_last_process_follows_the_causes(tmp_path, alone):
    model = load("planted")
    how = {"study": "s", "n": 6, "reasoner": model, "batch_size": 2}
    plan = tl.plan_cuts(alone, heads="L0H0,L0H1,L1H0", edits=["resample"], orders=["cause"], random_orders=1)
    single = tl.intervene(alone, plan, **{**how, "study": "alone"})
    found = [intervene_part(Part(index, N), alone, plan, **how) for index in range(N)]
    assert found[:2] == [None, None]
    xr.testing.assert_identical(found[2].drop_attrs(), single.drop_attrs())


@pytest.mark.parametrize("given", ["0/0", "3/3", "a/b", "1", "-1/3", "1/"])
def test_what_is_no_shard_is_refused(given):
    with pytest.raises(OptionError, match=r"--shard is '.*', expected i/n with i from 0 to n − 1"):
        part_named(given)


def test_the_command_line_refuses_it_in_one_sentence(tmp_path):
    said = sentence("extract", "--problems", "planted", "--out", tmp_path / "run", "--shard", "0/0")
    assert "--shard is '0/0', expected i/n" in said


def test_who_shares_a_folder_keeps_others_out_and_lets_other_parts_in(tmp_path):
    with one_of_writers(tmp_path, "0-of-2"), one_of_writers(tmp_path, "1-of-2"):
        (tmp_path / ".half.partial").touch()
        for kept_out in (only_writer(tmp_path), one_of_writers(tmp_path, "0-of-2")):
            with pytest.raises(RunError, match="is being written by"):
                kept_out.__enter__()
        assert (tmp_path / ".half.partial").exists()  # another's work in progress
    check_not_written(tmp_path)
    with only_writer(tmp_path):
        assert not (tmp_path / ".half.partial").exists()
        assert [path.name for path in tmp_path.glob(f"{LOCK}.*")] == []  # nobody holds them
