"""The page about the run folder: its commands and examples run, and it names every column and file that they make."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import call

PAGE = (Path(__file__).parents[1] / "docs" / "run-folder.md").read_text("utf-8")
NAMED = set(re.findall(r"`([\w./-]+)`", PAGE))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)[1].splitlines():
            program, *arguments = shlex.split(line)
            assert program == "thoughtlens"
            call(*arguments)
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
    folders = {"runs/first", "runs/first/analysis", "runs/first/studies/heads", "runs/both"}
    for folder in folders:
        for path in (made / folder).iterdir():
            assert re.search(rf"\b{re.escape(path.name)}\b", PAGE), path


def test_examples_run(made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    exec(compile("\n".join(blocks), "run-folder.md", "exec"), {})
    assert "accuracy: 1.0" in capsys.readouterr().out
