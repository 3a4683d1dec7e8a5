"""The generator, checked by an evaluator of its own that reads the steps as text."""

import re
from collections import Counter

import pytest

from thoughtlens.problems import DEFAULT_STEPS, LIMIT, arithmetic_problem, distinct_problems, load_set, split_of

COUNTS = dict.fromkeys(range(2, 7), 1.0)
EQUATION = re.compile(r"<<(\d+)([-+*])(\d+)=(\d+)>>")


def drawn(n, split="train", seed=0, n_steps=COUNTS):
    return [arithmetic_problem(index, split=split, seed=seed, n_steps=n_steps) for index in range(n)]


def evaluated(step):
    """(left, right, stated result, true result) of a written step."""
    left, operator, right, result = EQUATION.fullmatch(step).groups()
    true = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[operator](int(left), int(right))
    return int(left), int(right), int(result), true


@pytest.fixture(scope="module")
def many():
    return drawn(3000)


def test_steps_are_right_and_their_values_within_the_limit(many):
    for problem in many:
        for left, right, stated, true in map(evaluated, problem.steps):
            assert stated == true
            assert {left, right, stated} <= set(range(1, LIMIT + 1))


def test_answer_is_the_last_result(many):
    assert all(problem.answer == str(evaluated(problem.steps[-1])[3]) for problem in many)


def test_each_result_is_read_by_the_next_step(many):
    for problem in many:
        for before, step in zip(problem.steps, problem.steps[1:], strict=False):
            assert evaluated(before)[2] in evaluated(step)[:2]


def test_question_tells_every_number_that_no_step_before_has_made(many):
    words = {"doubles": 2, "twice": 2, "triples": 3, "three times": 3}
    for problem in many:
        told = set(map(int, re.findall(r"\d+", problem.question)))
        told |= {value for word, value in words.items() if word in problem.question}
        results = {evaluated(step)[2] for step in problem.steps[:-1]}
        assert {value for step in problem.steps for value in evaluated(step)[:2]} <= told | results


def test_same_arguments_give_the_same_problem(many):
    assert drawn(100) == many[:100]
    assert drawn(100, seed=1) != many[:100]


def test_problem_stays_what_it_was():
    """Trained models are studied on these problems: a change of the generator must not go unseen."""
    problem = arithmetic_problem(0, split="test", seed=0)
    assert problem.question == (
        "Tom has 7 toys. He sells 4. He doubles them. He doubles them. He sells 1. How many toys does he have?"
    )
    assert problem.steps == ("<<7-4=3>>", "<<3*2=6>>", "<<6*2=12>>", "<<12-1=11>>")


def test_numbers_of_steps_come_as_often_as_asked():
    counts = Counter(len(problem.steps) for problem in drawn(2000, n_steps=DEFAULT_STEPS))
    for count, share in DEFAULT_STEPS.items():
        assert counts[count] / 2000 == pytest.approx(share, abs=0.05)


def test_splits_share_no_steps():
    steps = {split: {problem.steps for problem in drawn(1500, split)} for split in ("train", "validation", "test")}
    assert not steps["train"] & steps["test"]
    assert not steps["train"] & steps["validation"]
    assert not steps["validation"] & steps["test"]
    assert all(split_of(found) == split for split, many in steps.items() for found in many)


def test_distinct_problems_repeat_no_steps():
    found = distinct_problems(300, split="test", n_steps={2: 1.0})
    assert len({problem.steps for problem in found}) == 300
    assert [problem.id for problem in found] == [f"test_{row}" for row in range(300)]


def test_bundled_problems_are_of_the_test_split_and_none_twice():
    problems = load_set("arithmetic", "test").problems
    assert {split_of(problem.steps) for problem in problems} == {"test"}
    assert len({problem.steps for problem in problems}) == len(problems) >= 2000
    for problem in problems:
        assert problem.answer == str(evaluated(problem.steps[-1])[3])
        assert all(stated == true for _, _, stated, true in map(evaluated, problem.steps))
