"""A file is whole or not there at all."""

import hashlib
import json
from pathlib import Path

import pytest

from thoughtlens.files import fingerprint, fingerprints, replacing, write_json, write_json_lines


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_what_json_has_no_word_for_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": value})
    with pytest.raises(ValueError, match="JSON"):
        write_json_lines(tmp_path / "a.jsonl", [{"x": 1}, {"x": value}])
    assert not list(tmp_path.iterdir())


def test_each_row_is_one_line_whatever_it_holds(tmp_path: Path) -> None:
    rows = [{"text": "a\nb\r\nc\u2028d\x85é"}, {"text": ""}]
    write_json_lines(tmp_path / "a.jsonl", rows)
    with (tmp_path / "a.jsonl").open(encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == rows


def test_fingerprints_are_those_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert fingerprint(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert fingerprints(tmp_path, ["a", "b"])["b"] is None
