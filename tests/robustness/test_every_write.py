"""A kill, or an error of the disk, at any write: the same bytes after resuming, and nothing looks whole that is not.

A write is an event of Python's audit hooks in a run folder: a file opened for writing, renamed, or removed, or a folder
made. THOUGHTLENS_WRITES says at how many of them each kind of work is disturbed; "all" is every one.
"""

import errno
import os
import random
import shutil
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from tests import apart
from tests.robustness.planted_work import contents, cut_planted, extract_planted

import thoughtlens as tl
from thoughtlens.errors import ThoughtLensError
from thoughtlens.files import LOCK, PARTIAL
from thoughtlens.models import load
from thoughtlens.reports import open_effects

N_WRITES = os.environ.get("THOUGHTLENS_WRITES", "1")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
KILLED, GONE = 9, -9


def opened(folder: Path) -> None:
    tl.open_run(folder).problems()


def opened_study(folder: Path) -> None:
    open_effects(tl.open_run(folder), "s")


WORK = {
    "raw": (None, partial(extract_planted, "raw"), opened),
    "mean": (None, partial(extract_planted, "mean"), opened),
    "study": (partial(extract_planted, "raw"), cut_planted, opened_study),
}


def disturbed(work, folder: Path, at: int, error: int, counted: Path) -> None:
    """Do the work, and at one of its writes end the process, let the write fail, or remove all; count the writes."""
    counter = count(1)  # whose steps are atomic: Zarr writes from several threads
    path = str(folder)

    def watch(event: str, arguments: tuple) -> None:
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            writes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if writes and str(arguments[0]).startswith(path) and not str(arguments[0]).endswith(LOCK):
            place = next(counter)
            if place == at and not error:
                os._exit(KILLED)
            if place == at and error == GONE:
                shutil.rmtree(folder, ignore_errors=True)
            elif place == at:
                raise OSError(error, os.strerror(error), str(arguments[0]))

    load("planted")
    sys.addaudithook(watch)
    try:
        work(folder)
    except ThoughtLensError as told:
        sys.stderr.write(f"{told}\n")
        os._exit(2)
    finally:
        at = -1
        counted.write_text(str(next(counter) - 1))


def places(n_writes: int, seed: str) -> list[int]:
    """At which writes the work is disturbed."""
    every = list(range(1, n_writes + 1))
    return every if N_WRITES == "all" else sorted(random.Random(seed).sample(every, min(int(N_WRITES), n_writes)))


# Usually each fault once for runs that keep attention and studies or sums; the others at night.
USUAL = [("kill", "raw"), ("kill", "study"), ("error", "mean")]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(fault, kind, marks=() if (fault, kind) in USUAL else pytest.mark.nightly)
        for fault in ("kill", "error")
        for kind in WORK
    ],
)
def test_a_fault_at_any_write_costs_nothing_that_was_written(tmp_path, kind, fault):
    before, work, reader = WORK[kind]

    def begun(name: str) -> Path:
        folder = tmp_path / name
        if before:
            before(folder)
        return folder

    counted = tmp_path / "counted"
    whole = begun("whole")
    apart.end(apart.begin(disturbed, work, whole, -1, 0, counted, log=tmp_path / "log"), tmp_path / "log")
    n_writes, expected = int(counted.read_text()), contents(whole)
    assert n_writes > 20
    for place in places(n_writes, f"{kind} {fault}"):
        folder, log = begun(str(place)), tmp_path / f"{place}.log"
        error = ERRORS[place % len(ERRORS)] if fault == "error" else 0
        process = apart.begin(disturbed, work, folder, place, error, counted, log=log)
        process.join()
        said = log.read_text()
        if fault == "kill":
            assert process.exitcode == KILLED, said
        else:
            # Removing what is not needed any more may fail without harm; else the sentence names a file.
            assert process.exitcode in (0, 2), said
            assert "Traceback" not in said
            assert process.exitcode == 0 or str(folder) in said
        try:
            reader(folder)
        except ThoughtLensError:
            pass
        else:
            assert {name: its for name, its in contents(folder).items() if PARTIAL not in name} == expected
        work(folder)
        assert contents(folder) == expected, f"after a fault at write {place}"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "raw" else pytest.mark.nightly) for kind in WORK]
)
def test_a_folder_that_vanishes_ends_in_one_sentence(tmp_path, kind):
    before, work, _ = WORK[kind]
    for place in places(20, kind):
        folder, log = tmp_path / str(place), tmp_path / f"{place}.log"
        if before:
            before(folder)
        process = apart.begin(disturbed, work, folder, place, GONE, tmp_path / "counted", log=log)
        process.join()
        said = log.read_text()
        # Whatever vanished before it was needed costs nothing.
        assert process.exitcode in (0, 2), said
        assert process.exitcode == 0 or (str(folder) in said and said.count("\n") == 1), said
