"""A notebook as a user writes one: results show themselves, and long work its progress."""

import re

import pytest
from tests.notebooks.executed import executed

EXTRACT = """
from tqdm.auto import tqdm
with tqdm(desc="extract", total=6) as bar:
    run = tl.extract(model, tl.sample("arithmetic", n=6), "run", batch_size=6, progress=bar.update)
"""
CELLS = {
    "model": "import thoughtlens as tl\nmodel = tl.load('tiny-gpt2')\nmodel",
    "extract": EXTRACT,
    "run": "run",
    "analysis": "analysis = tl.analyze(run)\nanalysis",
    "analysed run": "run",
    "table": "run.heads_table()",
    "report": "run.report()",
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return executed(CELLS, tmp_path_factory.mktemp("notebook"))


def test_results_show_a_title_and_text_on_one_line(cells):
    for name, title in (("model", "Codi tiny-gpt2"), ("run", "Run run"), ("analysis", "Analysis of 6 problems")):
        assert f"<b>{title}" in cells[name]["text/html"][0]
        assert re.fullmatch(rf"<{title}.*>", cells[name]["text/plain"][0]), name


def test_an_analysis_and_its_run_show_sentences_a_table_and_a_picture(cells):
    for name in ("analysis", "analysed run"):
        html = cells[name]["text/html"][0]
        assert html.count('src="data:image/png;base64,') == 1
        assert "<table" in html and "problems answered rightly" in html and "<script" not in html
    assert "Not analysed" in cells["run"]["text/html"][0]


def test_a_table_is_that_of_pandas(cells):
    assert 'class="dataframe"' in cells["table"]["text/html"][0]


def test_long_work_shows_its_progress(cells):
    assert "extract: 100%" in "".join(cells["extract"].get("stderr", []))


def test_the_report_is_shown_inline(cells):
    assert cells["report"]["text/html"][0].startswith("<iframe srcdoc=")


def test_nothing_warns(cells):
    said = "".join(text for cell in cells.values() for text in cell.get("stderr", []))
    assert not [line for line in said.splitlines() if "Warning" in line and "IProgress" not in line], said
