"""How far a run is, from its markers alone."""

import os

import pytest
from tests.commands import call

from thoughtlens.errors import RunError
from thoughtlens.files import write_json
from thoughtlens.models import load
from thoughtlens.problems import sample
from thoughtlens.runs import extract, status
from thoughtlens.runs.writer import marker_name, read_manifest


@pytest.fixture
def run(tmp_path):
    """Ten problems in four shards of at most three."""
    return extract(load("planted"), sample("arithmetic", n=10), tmp_path / "run", shard_size=3)


def test_a_complete_run_has_nothing_left(run):
    assert status(run.path) == (10, 10, 4, 4, True, 0.0, (), (), None, False)


def test_pace_is_that_of_the_markers(run, tmp_path):
    manifest = read_manifest(run.path) | {"complete": False}
    write_json(run.path / "manifest.json", manifest, sealed=True)
    (run.path / marker_name(2)).unlink()
    for second, shard in enumerate((0, 1, 3)):
        os.utime(run.path / marker_name(shard), (100.0 + 5 * second, 100.0 + 5 * second))
    found = status(run.path)
    assert found[:5] == (7, 10, 3, 4, False)
    # After the first marker 3 + 1 problems in 10 s; 3 are left.
    assert found.seconds_left == pytest.approx(7.5)


def test_one_marker_says_nothing_about_the_pace(run):
    manifest = read_manifest(run.path) | {"complete": False}
    write_json(run.path / "manifest.json", manifest, sealed=True)
    for shard in (1, 2, 3):
        (run.path / marker_name(shard)).unlink()
    assert status(run.path).seconds_left is None


def test_studies_and_analyses_are_listed_by_name_once_they_are_summed_up(run):
    for place, file in (
        ("studies/heads", "manifest.json"),
        ("studies/edges", "manifest.json"),
        ("studies/begun", "plan.json"),
        ("analysis", "summary.json"),
        ("analysis/by-correct", "summary.json"),
        ("analysis/effects", "x.json"),
    ):
        (run.path / place).mkdir(parents=True, exist_ok=True)
        (run.path / place / file).write_text("{}")
    assert status(run.path)[6:] == (("edges", "heads"), ("default", "by-correct"), None, False)
    first, *listed = call("status", run.path).stdout.splitlines()
    assert first == "planted on arithmetic: 10 of 10 problems, 4 of 4 shards; complete"
    names = [line.split(",")[0] for line in listed[::2]]
    assert names == ["analysis default", "analysis by-correct", "study edges", "study heads"]
    assert "not finished" in listed[-1]
    write_json(run.path / "manifest.json", read_manifest(run.path) | {"complete": False}, sealed=True)
    assert "not running now; the command that began it goes on" in call("status", run.path).stdout


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(RunError, match=r"no manifest\.json"):
        status(tmp_path)
