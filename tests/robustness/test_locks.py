"""One process writes a folder: a second one says who writes, and the bytes are those of a run without company.

THOUGHTLENS_RACES says how often processes race for each kind of folder.
"""

import os
import time
from functools import partial
from pathlib import Path

import pytest
from tests import apart
from tests.robustness.planted_work import contents, cut_planted, extract_planted

import thoughtlens as tl
from thoughtlens.errors import RunError
from thoughtlens.files import LOCK, PARTIAL, check_not_written, only_writer, writer_of
from thoughtlens.models import load, planted_problems

N_RACES = int(os.environ.get("THOUGHTLENS_RACES", "1"))
RACERS = 3


def hold(folder: Path, held: Path) -> None:
    with only_writer(folder):
        (folder / f".half{PARTIAL}").mkdir()
        held.touch()
        time.sleep(1000)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "folder"`."""
    process = apart.begin(hold, tmp_path / "folder", tmp_path / "held", log=tmp_path / "log")
    while not (tmp_path / "held").exists():
        assert process.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_a_second_writer_and_a_reader_are_told_who_writes(tmp_path, holder):
    folder = tmp_path / "folder"
    assert f"process {holder.pid} on " in str(writer_of(folder))
    for attempt in (only_writer(folder).__enter__, partial(check_not_written, folder)):
        with pytest.raises(RunError, match=rf"folder is being written by process {holder.pid} on .*; wait for it"):
            attempt()


def test_a_killed_writer_frees_the_folder_and_its_leavings_are_removed(tmp_path, holder):
    folder = tmp_path / "folder"
    assert (folder / f".half{PARTIAL}").is_dir()
    (folder / "inner").mkdir()
    (folder / "inner" / LOCK).touch()
    (folder / "inner" / f".mine{PARTIAL}").touch()
    holder.kill()
    holder.join()
    check_not_written(folder)
    with only_writer(folder), only_writer(folder):
        assert not (folder / f".half{PARTIAL}").exists()
        # A folder with a lock of its own belongs to whoever holds that.
        assert (folder / "inner" / f".mine{PARTIAL}").exists()
        assert writer_of(folder) is None
        check_not_written(folder)


def test_no_lock_is_left_in_a_foreign_folder(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds 'thesis.tex'"):
        tl.extract(load("planted"), planted_problems(1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def race(work, folder: Path, told: Path) -> list[int | None]:
    """Let several processes do the same work at once; their exit codes."""
    processes = [apart.begin(work, folder, log=told / str(place)) for place in range(RACERS)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("kind", ["raw", pytest.param("mean", marks=pytest.mark.nightly), "study"])
def test_of_processes_on_one_folder_one_wins_and_the_others_say_so(tmp_path, kind):
    work = cut_planted if kind == "study" else partial(extract_planted, kind)
    alone = tmp_path / "alone"
    if kind == "study":
        extract_planted("raw", alone)
    work(alone)
    for number in range(N_RACES):
        folder, told = tmp_path / str(number), tmp_path / f"told{number}"
        told.mkdir()
        if kind == "study":
            extract_planted("raw", folder)
        codes = race(work, folder, told)
        assert 0 in codes
        for place, code in enumerate(codes):
            if code:
                assert "is being written by process" in (told / str(place)).read_text()
        assert contents(folder) == contents(alone)
