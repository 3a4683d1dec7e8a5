"""Headline numbers of the bundled models, against `tests/data/golden.json`; and what `tests/golden.py` says of changes.

A change that moves numbers on purpose writes the file anew, `python tests/golden.py --write`, and says what moved.
"""

import json
import shlex

import numpy as np
import pytest
import xarray as xr

from tests import golden
from tests.commands import call


def test_no_headline_number_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    golden.write_problems(tmp_path)
    for [command] in golden.HEADLINE_COMMANDS.values():
        call(*shlex.split(command))
    found, expected = golden.headlines(tmp_path), json.loads(golden.HEADLINES.read_text("utf-8"))
    assert found.keys() == expected.keys()
    # Another processor rounds otherwise; numbers near zero are differences of larger ones.
    moved = {
        name: f"{number} -> {found[name]}"
        for name, number in expected.items()
        if found[name] != pytest.approx(number, rel=2e-3, abs=1e-5)
    }
    assert not moved


@pytest.fixture
def folders(tmp_path):
    """Two folders with the same outputs."""
    for side in ("before", "after"):
        folder = tmp_path / side
        folder.mkdir()
        (folder / "heads.csv").write_text("name,mass,n,p\nL0H0,0.5,12,\nL0H1,0.25,12,0.5\n")
        (folder / "summary.json").write_text('{"seconds": 1, "top": [{"name": "L0H0"}], "run": "/tmp/some/run"}')
        (folder / "rows.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
        (folder / "note.txt").write_text("one\ntwo\n")
        (folder / "figure.svg").write_text("<svg/>")
        np.save(folder / "map.npy", np.eye(3))
        xr.Dataset({"mass": ("head", [0.5, 0.25])}).to_zarr(folder / "runs.zarr", consolidated=False)
    return tmp_path / "before", tmp_path / "after"


def said(folders):
    lines, equal = golden.report(*map(golden.contents, folders))
    assert equal == (len(lines) == 1)
    return lines[:-1]


def test_equal_outputs_are_equal_whatever_the_time_and_folder(folders):
    (folders[1] / "summary.json").write_text('{"seconds": 2, "top": [{"name": "L0H0"}], "run": "/home/other/run"}')
    assert said(folders) == []


CHANGES = {
    "heads.csv": (
        "name,mass,n,p,q\nL0H0,0.5,12,1\nL9H9,0.2,12,0.25\n",
        [
            "column q: added, is of shape (2,)",
            "column name: 1 of 2 differ, the first at 1: 'L0H1' -> 'L9H9'",
            "column mass: 1 of 2 differ, by at most 0.05, relative 0.2",
            "column p: 2 of 2 differ, 1 undefined on one side, by at most 0.25, relative 0.5",
        ],
    ),
    "summary.json": (
        '{"top": [{"name": "L1H1"}], "run": "/tmp/some/run", "n": 3}',
        ["n: added, is 3", 'top[0].name: "L0H0" -> "L1H1"'],
    ),
    "rows.jsonl": ('{"id": "a"}\n{"id": "c"}\n', ['[1].id: "b" -> "c"']),
    "note.txt": ("one\nthree\n", ["line 2: 'two' -> 'three'"]),
    "figure.svg": (
        '<svg><text x="1">z<tspan>1</tspan></text><text>z 1</text></svg>',
        ["word 'z 1': added, is 2 times", "drawing: d4dc56669143 -> edb851fa2f29"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named(folders, name):
    text, expected = CHANGES[name]
    (folders[1] / name).write_text(text)
    lines = said(folders)
    assert lines[0] == f"changed {name}"
    assert lines[1:] == [f"    {line}" for line in expected]


def test_a_changed_array_is_named_with_its_largest_difference(folders):
    np.save(folders[1] / "map.npy", np.eye(3) * 1.5)
    changed = xr.Dataset({"mass": ("head", [0.5, 0.5]), "rows": ("head", [1, 2])})
    changed.to_zarr(folders[1] / "runs.zarr", mode="w", consolidated=False)
    assert said(folders) == [
        "changed map.npy",
        "    values: 3 of 9 differ, by at most 0.5, relative 0.333",
        "changed runs.zarr",
        "    variable rows: added, is of shape (2,)",
        "    form of rows: added, is ('head',) int64",
        "    variable mass: 1 of 2 differ, by at most 0.25, relative 0.5",
    ]


def test_files_that_move_are_followed(folders):
    _, after = folders
    (after / "study").mkdir()
    (after / "heads.csv").rename(after / "study" / "effects.csv")
    (after / "note.txt").rename(after / "study" / "note.txt")
    (after / "study" / "note.txt").write_text("one\n")
    (after / "figure.svg").unlink()
    np.save(after / "new.npy", np.eye(2))
    assert said(folders) == [
        "moved heads.csv -> study/effects.csv",
        "moved and changed note.txt -> study/note.txt",
        "    line 2: removed, was 'two'",
        "only before figure.svg",
        "only after new.npy",
    ]
