"""The page about the run folder: its commands and examples run, and it names every column and file that they make."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import call, undrawn
from tests.conftest import FIRST

PAGE = (Path(__file__).parents[1] / "docs" / "run-folder.md").read_text("utf-8")
NAMED = set(re.findall(r"`([\w./-]+)`", PAGE))


FEWER = {"intervene": ("--n", "8"), "extract": ("--max-new-tokens", "2"), "analyze": ("--null-draws", "1")}
"""Options that its commands get here: what files hold is the same of less, and random weights babble."""


@pytest.fixture(scope="module")
def made(first_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(first_run, folder / "runs" / "first")
    with pytest.MonkeyPatch.context() as patch, undrawn():
        patch.chdir(folder)
        # No figure of the study is looked at.
        patch.setattr("thoughtlens.reports.study_files.study_figures", lambda *_, **__: {})
        first, *others = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1].splitlines()
        assert first == FIRST
        for line in others:
            program, *arguments = shlex.split(line)
            assert program == "thoughtlens"
            call(*arguments, *FEWER.get(arguments[0], ()))
    return folder


def tables(folder: Path) -> dict[str, Path]:
    """One table of each name: those of a group or of a null run have the columns of the run's own."""
    return {path.name: path for path in sorted(folder.rglob("*.csv"))}


def test_every_table_is_named(made):
    found = tables(made)
    assert len(found) >= 18
    assert found.keys() - {name.strip("*") for name in re.findall(r"[\w*]+\.csv", PAGE)} == set()


@pytest.mark.parametrize("name", ["heads.csv", "effects.csv", "groups.csv", "models.csv"])
def test_every_column_of_the_main_tables_has_a_row_of_its_own_section(made, name):
    section = PAGE[re.search(rf"(### |\*\*){name}", PAGE).end() :]
    table = re.search(r"\| column \|.*?\n\n", section, re.DOTALL)[0]
    first_cells = " ".join(row.split("|")[1] for row in table.splitlines() if row)
    assert set(re.findall(r"`(\w+)`", first_cells)) == set(pd.read_csv(tables(made)[name]).columns)


def test_every_column_of_the_other_tables_is_named(made):
    for name, path in tables(made).items():
        assert set(pd.read_csv(path).columns) - NAMED == set(), name


def test_every_file_at_the_top_of_a_folder_is_named(made):
    folders = {"runs/first", "runs/first/analysis", "runs/first/studies/heads", "runs/both", "runs/first/export"}
    for folder in folders:
        for path in (made / folder).iterdir():
            # Checksums beside a file are told of once.
            name = path.name.replace("24_test", "N_SPLIT").removesuffix(".sha256")
            assert re.search(rf"(?<![\w.]){re.escape(name)}\b", PAGE), path


def test_every_table_and_json_is_read_as_it_is(made):
    assert len(tables(made)) >= 22
    for path in made.rglob("*.csv"):
        columns = list(pd.read_csv(path).columns)
        assert all(re.fullmatch(r"\w+", name) for name in columns), path
        assert columns[:2] == ["study", "edit"] or path.name != "effects.csv"
    for path in (path for path in made.rglob("*.json") if path.name != "zarr.json"):
        found = json.loads(path.read_text("utf-8"))
        if path.name not in {"manifest.json", "plan.json"} and not re.match(r"attention_dataset|\d+\.json", path.name):
            made_by = found["made_by"]
            assert made_by["versions"]["thoughtlens"], path
            assert made_by["call"].startswith("thoughtlens "), path
        elif path.name == "manifest.json" and "options" in found:
            assert found.get("versions") or found["plans"][0]["versions"], path
            assert (found.get("call") or found["plans"][0]["call"]).startswith("thoughtlens "), path
    flat = pd.json_normalize(json.loads((made / "runs/first/analysis/summary.json").read_text("utf-8"))["flat"])
    assert not any("." in name for name in flat.columns)
    assert flat.map(lambda value: not isinstance(value, list | dict)).all(axis=None)


def test_examples_run(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    exec(compile("\n".join(blocks), "run-folder.md", "exec"), {})
    assert "accuracy: 1.0" in capsys.readouterr().out
