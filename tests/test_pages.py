"""The pages of the documentation: their code runs, links lead somewhere, and the reference and the gallery are whole.

A block that is not run says why in a comment before it: `<!-- not run: a checkpoint is needed -->`. `make docs` runs
the notebooks and the gallery, where a warning or an error ends the build.
"""

import importlib
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import nbformat
import pytest
from markdown_it import MarkdownIt

import thoughtlens as tl
from tests.commands import call
from tests.conftest import FIRST

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
RUN_ELSEWHERE = {
    "README.md": "tests/test_public_names.py",
    "docs/run-folder.md": "tests/test_run_folder.py",
    "docs/checklist.md": "tests/published/test_checklist.py",
    "docs/gallery.md": "docs/conf.py",
}
TEXT = {"text", "mermaid", "bibtex"}
"""Languages of what is no code: listings, trees, output."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of each block of code that is to be run; "indented" where no language is named."""
    found, excused = [], False
    for token in MarkdownIt().parse(page.read_text("utf-8")):
        language = token.info.partition(" ")[0]
        if token.type in ("fence", "code_block") and not excused and language not in TEXT and language[:1] != "{":
            found.append((language or "indented", token.content))
        if token.type in ("fence", "code_block", "html_block"):
            excused = token.type == "html_block" and token.content.startswith("<!-- not run: ")
    return found


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    # Figures are drawn in the tests of figures and commands.
    monkeypatch.setattr("thoughtlens.reports.study_files.study_figures", lambda *_, **__: {})
    monkeypatch.setattr("thoughtlens.reports.run_files.write_figures", lambda *_, **__: [])
    names: dict[str, object] = {}
    for language, content in blocks(page):
        if language == "json":
            json.loads(content)
        elif language == "toml":
            tomllib.loads(content)
        elif name_of(page) in RUN_ELSEWHERE:
            assert language in ("sh", "python")
        elif language == "sh":
            for line in content.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "thoughtlens", line
                if line == FIRST:
                    shutil.copytree(request.getfixturevalue("first_run"), tmp_path / "runs" / "first")
                else:
                    call(*arguments, *(("--n", "8") if arguments[0] == "intervene" else ()))
        else:
            assert language == "python", content
            exec(compile(content, name_of(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_output(path):
    notebook = nbformat.read(path, 4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)


def test_there_are_a_tutorial_and_two_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {"first-cut", "where-do-thoughts-look", "does-it-matter"}


def test_every_figure_is_in_the_gallery():
    page = (DOCS / "gallery.md").read_text("utf-8")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))
    assert sorted(sections) == sorted(tl.plots.__all__)
    assert all("**Reading it.**" in text for name, text in sections.items() if name != "save_figure")
    drawn = "\n".join(re.findall(r"```\{code-cell\}.*?\n(.*?)```", page, re.DOTALL))
    assert all(f"tl.plots.{name}(" in drawn for name in sections if name != "save_figure")


FOLDERS = sorted(stub.parent.name for stub in (ROOT / "src" / "thoughtlens").glob("*/__init__.pyi"))


def test_every_folder_has_its_page_of_the_reference():
    for name in [*FOLDERS, "errors"]:
        assert f".. automodule:: thoughtlens.{name}\n" in (DOCS / "reference" / f"{name}.md").read_text("utf-8")
        importlib.import_module(f"thoughtlens.{name}")


def test_every_name_of_the_package_is_in_its_table():
    page = (DOCS / "reference" / "thoughtlens.md").read_text("utf-8")
    assert sorted(re.findall(r"\[`tl\.(\w+)`\]", page)) == tl.__all__
    for name, target in re.findall(r"\[`tl\.(\w+)`\]\(#([\w.]+)\)", page):
        module, _, attribute = target.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is getattr(tl, name)
