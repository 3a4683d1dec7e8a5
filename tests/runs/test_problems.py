"""A run's problems are those that it was made from, whoever asks for them."""

import json
import random

import pytest

from thoughtlens import compare
from thoughtlens.cuts import Zero, ablate_head
from thoughtlens.cuts import intervene as make_cuts
from thoughtlens.errors import OptionError, ProblemSetError, RunError
from thoughtlens.evaluation.thought_readings import choose_problems
from thoughtlens.models import load
from thoughtlens.problems import Problem, sample
from thoughtlens.published import export_npy
from thoughtlens.runs import extract, open_run

PROBLEMS = sample("arithmetic", n=6)


@pytest.fixture(scope="module")
def model():
    return load("planted")


@pytest.fixture
def run(model, tmp_path):
    return extract(model, PROBLEMS, tmp_path / "run")


def edited(run):
    """The run, one word of one question changed since it was made."""
    path = run.path / "problems.jsonl"
    lines = path.read_text("utf-8").splitlines()
    row = json.loads(lines[2])
    row["question"] += " Think."
    path.write_text("\n".join([*lines[:2], json.dumps(row), *lines[3:]]) + "\n", "utf-8")
    return open_run(run.path)


def test_they_are_all_there_and_in_order(run):
    assert run.problems() == tuple(PROBLEMS)


def test_they_are_found_by_name_and_drawn_as_from_their_set(run):
    names = [PROBLEMS[4].id, PROBLEMS[1].id]
    assert run.problems(names) == (PROBLEMS[4], PROBLEMS[1])
    places = sorted(random.Random(7).sample(range(6), 3))
    assert run.problems(n=3, seed=7) == tuple(PROBLEMS[place] for place in places)


def test_those_that_were_given_come_back_whatever_their_answers_look_like(model, tmp_path):
    given = [Problem("a", " How  many? ", "1,000", ("<<1=1>>",)), Problem("b", "Is it so?", "True")]
    assert extract(model, given, tmp_path / "run").problems() == tuple(given)


def test_those_that_are_not_there_are_said(run):
    with pytest.raises(OptionError, match=r"no problem 'p9' in .*, expected one such as 'test_.*'; pass another"):
        run.problems(["p9"])
    with pytest.raises(ProblemSetError, match="has 6 problems, 7 were asked for"):
        run.problems(n=7)
    (run.path / "problems.jsonl").unlink()
    with pytest.raises(ProblemSetError, match=r"problems\.jsonl does not exist"):
        run.problems()


ASKING = {
    "study": lambda run, out: make_cuts(run, [ablate_head("L0H0", edit=Zero())]),
    "tokens": lambda run, out: choose_problems(run),
    "export": lambda run, out: export_npy(run, out),
    "compare": lambda run, out: compare({"one": run, "other": run}),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_a_study_ran_on_an_edited_file_of_problems_without_a_word(ask, run, tmp_path):
    """The mistake: each way to a run's problems had another check, that of studies had none."""
    before = sorted(run.path.rglob("*"))
    with pytest.raises(RunError) as caught:
        ask(edited(run), tmp_path / "out")
    assert "problems.jsonl has other problems than" in str(caught.value)
    assert str(caught.value).endswith("run the same extraction again to restore it.")
    assert sorted(run.path.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_the_same_extraction_restores_them(run, model):
    edited(run)
    assert extract(model, PROBLEMS, run.path).problems() == tuple(PROBLEMS)
