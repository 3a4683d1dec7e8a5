import json
import subprocess
import sys

import pandas as pd
import pytest

from thoughtlens.errors import ProblemSetError
from thoughtlens.problems import Row, read_rows
from thoughtlens.problems import rows as files

GOOD = '{"question": "1+1?", "answer": 2}'


def sentence(path):
    with pytest.raises(ProblemSetError) as caught:
        read_rows(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(".") and "\n" not in message
    return message


def test_lines_are_rows_numbered_by_line(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n   \n{"a": "\xc3\xa9"}')
    assert read_rows(path) == [Row(1, {"a": 1}), Row(4, {"a": "é"})]


def test_line_separator_inside_text_ends_no_line(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"a": "x\u2028y"}\n', encoding="utf-8")
    assert read_rows(path) == [Row(1, {"a": "x\u2028y"})]


def test_list_is_rows_numbered_by_place(tmp_path):
    path = tmp_path / "set.json"
    path.write_text('\n[ {"a": 1},\n\n {"a": [2.5, null]} ]\n')
    assert read_rows(path) == [Row(1, {"a": 1}), Row(2, {"a": [2.5, None]})]


def test_parquet_is_rows_numbered_by_place(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    # A folder such as `a=b` must not become a column.
    path = tmp_path / "a=b" / "set.parquet"
    path.parent.mkdir()
    rows = [{"question": "1+1?", "answer": 2.0, "steps": ["x"]}, {"question": "2+2?", "answer": 4.0, "steps": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert read_rows(path) == [Row(1, rows[0]), Row(2, rows[1])]


BROKEN_ROWS = {
    "malformed": (b'{"question": ', "not valid JSON"),
    "nan": (b'{"answer": NaN}', "NaN"),
    "infinity": (b'{"answer": -Infinity}', "-Infinity"),
    "too large": (b'{"answer": 1e999}', "1e999"),
    "surrogate": (b'{"question": "\\ud800"}', "surrogate"),
    "not an object": (b"[1, 2]", "list, expected an object"),
    "null": (b"null", "expected an object"),
    "nested": (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "long": (b'{"a": "' + b"x" * 1_000_000 + b'"}', "longer than 1,000,000"),
    "digits": (b'{"answer": ' + b"7" * 5_000 + b"}", "5,000 digits"),
    "twice": (b'{"answer": 1, "answer": 2}', "'answer' twice"),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_broken_line_is_named_by_its_line(tmp_path, name):
    line, reason = BROKEN_ROWS[name]
    path = tmp_path / "set.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\n" + line + b"\n" + GOOD.encode())
    message = sentence(path)
    assert "line 3" in message
    assert reason in message


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_broken_row_of_a_list_is_named_by_its_place_and_line(tmp_path, name):
    row, reason = BROKEN_ROWS[name]
    path = tmp_path / "set.json"
    path.write_bytes(b"[" + GOOD.encode() + b",\n\n" + row + b",\n" + GOOD.encode() + b"]")
    message = sentence(path)
    assert "row 2" in message
    assert "line 3" in message
    assert reason in message


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_bytes_that_are_no_utf8_are_named_by_their_line(tmp_path, ending):
    path = tmp_path / f"set.{ending}"
    path.write_bytes(b'\xef\xbb\xbf[{"a": 1},\n{"a": "\xe9"}]' if ending == "json" else b'{"a": 1}\n{"a": "\xe9"}\n')
    message = sentence(path)
    assert "line 2" in message
    assert "0xe9" in message


def test_two_objects_on_a_line_are_named(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(f"{GOOD}\n{GOOD} {GOOD}\n")
    assert "line 2 goes on after its object ends" in sentence(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"data": []}', "line 1 is not a list"),
        (f"[{GOOD}\n{GOOD}]", "row 1 (line 1) is followed by neither a comma nor the list's end (line 2)"),
        (f"[{GOOD},\n]", "row 1 (line 1) is followed by a comma and no other row"),
        (f"[{GOOD},\n", "row 2 (line 2) is not valid JSON"),
        (f"[{GOOD}]\n[{GOOD}]", "line 1 goes on after the list ends"),
    ],
    ids=["object", "no comma", "last comma", "cut off", "two lists"],
)
def test_broken_list_is_named_by_its_line(tmp_path, text, reason):
    path = tmp_path / "set.json"
    path.write_text(text)
    assert reason in sentence(path)


@pytest.mark.parametrize(
    ("ending", "text"), [("jsonl", ""), ("jsonl", "\n \n"), ("json", ""), ("json", " \n"), ("json", "[ ]")]
)
def test_empty_file_is_an_error(tmp_path, ending, text):
    path = tmp_path / f"set.{ending}"
    path.write_text(text)
    assert "is empty" in sentence(path)


def test_empty_parquet_is_an_error(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "set.parquet"
    parquet.write_table(pyarrow.table({"question": pyarrow.array([], pyarrow.string())}), path)
    assert "is empty" in sentence(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", GOOD.encode()])
def test_what_is_no_parquet_is_an_error(tmp_path, content):
    pytest.importorskip("pyarrow")
    path = tmp_path / "set.parquet"
    path.write_bytes(content)
    assert "not readable as Parquet" in sentence(path)


def test_missing_pyarrow_is_said(tmp_path, monkeypatch):
    path = tmp_path / "set.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'thoughtlens[parquet]'" in sentence(path)


def test_missing_file_folder_and_unknown_ending_are_said(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    assert "does not exist" in sentence(tmp_path / "none.jsonl")
    assert "is not a file" in sentence(tmp_path / "folder.jsonl")
    assert "expected .jsonl, .json, .csv, .tsv, .txt or .parquet" in sentence(tmp_path / "set.xml")


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_tables_are_read_as_pandas_writes_them(ending, separator, tmp_path):
    rows = [
        {"id": "a", "question": 'Tom said "3, or 4?"\nWhich?', "answer": "4"},
        {"id": "b", "question": "é?", "answer": "1"},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / f"set.{ending}", sep=separator, index=False)
    assert [row.fields for row in read_rows(tmp_path / f"set.{ending}")] == rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("question,answer\n", "is empty"),
        ("question,question\na,b\n", "expected different names"),
        ("question,answer\nHow many, or few?,3\n", "row 1 (line 2) has 3 fields, expected 2"),
        ('question,answer\n"open,3\n', "line 2 is not readable"),
    ],
)
def test_a_table_that_is_none_is_said(text, said, tmp_path):
    (tmp_path / "set.csv").write_text(text)
    assert said in sentence(tmp_path / "set.csv")


@pytest.mark.parametrize("name", ["set.json", "set.csv"])
def test_file_too_large_for_memory_is_said(name, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_FILE", 10)
    path = tmp_path / name
    path.write_text(f"[{GOOD}]")
    assert "larger than 10 bytes; write it as .jsonl, one object a line" in sentence(path)


def test_endless_line_is_not_read_whole(tmp_path):
    path = tmp_path / "set.jsonl"
    with path.open("wb") as file:
        file.truncate(2_000_000_000)
    assert "line 1 is longer" in sentence(path)


def test_many_rows_of_a_list_take_linear_time(tmp_path):
    path = tmp_path / "set.json"
    path.write_text(json.dumps([{"question": "1+1?" * 10, "answer": 2}] * 50_000, indent=1))
    assert len(read_rows(path)) == 50_000


def test_reading_problems_imports_no_heavy_library():
    heavy = "torch", "numpy", "datasets", "pyarrow", "huggingface_hub"
    code = f"import sys, thoughtlens.problems; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    def broken(path, mode):
        raise OSError(5, "Input/output error")

    (tmp_path / "set.jsonl").write_text(GOOD)
    monkeypatch.setattr("pathlib.Path.open", broken)
    assert "can't be read (Input/output error); check the file" in sentence(tmp_path / "set.jsonl")
