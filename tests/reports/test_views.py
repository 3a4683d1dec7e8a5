"""What a notebook shows of results: their own words, escaped, without scripts; and one line in a terminal."""

import base64
import json
import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image
from tests.plots.results_made import made_comparison, made_study, real_analysis

from thoughtlens.problems import ProblemSet, sample
from thoughtlens.problems.sets import as_set
from thoughtlens.reports.run_files import save_figures

HOSTILE = "</b><script>alert(1)</script>"


@pytest.fixture(scope="module")
def comparison():
    return made_comparison(names=(HOSTILE, "b"))


def test_texts_are_escaped(comparison):
    html = comparison._repr_html_()
    assert "<script" not in html and "&lt;script" in html


def test_a_picture_is_there_where_heads_may_be_shown():
    html = real_analysis()._repr_html_()
    (picture,) = re.findall(r'<img alt="Analysis of 5 problems[^"]*" src="data:image/png;base64,([^"]+)">', html)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert html.count("<tr") == 1 + 5


def test_a_study_shows_the_cuts_that_lose_most():
    study = made_study()
    table = study.table()
    assert list(table.columns[:3]) == ["study", "edit", "intervention"]
    cuts = table[table["kind"] == "cut"].nsmallest(5, "joint_logprob")["intervention"]
    places = [study._repr_html_().index(f"<td>{label}</td>") for label in cuts]
    assert places == sorted(places)


def test_figures_on_disk_say_how_they_were_made(tmp_path):
    made = {"call": "thoughtlens run --n 5 <b>", "seed": 0}
    figure = Figure()
    figure.subplots()
    png, svg, *_ = save_figures(tmp_path, {"empty": figure}, made)
    with Image.open(png) as picture:
        assert json.loads(picture.info["Description"]) == made
    text = ElementTree.fromstring(svg.read_text("utf-8")).find(".//{*}description").text
    assert json.loads(text) == made


def test_a_representation_is_one_line(comparison):
    for result in (comparison, real_analysis(), made_study()):
        assert "\n" not in repr(result) and len(repr(result)) < 400
    assert repr(comparison) == f"<Comparison of {HOSTILE} (8 problems), b (8 problems)>"


def test_a_sample_knows_its_set_until_it_is_changed():
    drawn = sample("arithmetic", n=3, seed=7)
    known = as_set(drawn)
    assert (known.name, known.split, known.seed, known.problems) == ("arithmetic", "test", 7, tuple(drawn))
    drawn.pop()
    assert as_set(drawn) == ProblemSet(tuple(drawn), "given", None, "given")
    assert as_set(drawn[:1]).name == "given"
