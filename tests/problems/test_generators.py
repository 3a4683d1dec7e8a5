"""The generator, checked by an evaluator of its own that reads the steps as text."""

import json
import re
from collections import Counter

import pytest

from thoughtlens.problems import (
    DEFAULT_STEPS,
    LIMIT,
    arithmetic_problem,
    distinct_problems,
    graph_problem,
    load_set,
    split_of,
)
from thoughtlens.problems.generators import graph_row

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


GRAPHS = [graph_row(index, split="test") for index in range(500)]


def depths(edges, root):
    """Depth of every node that can be reached, by sweeps over all edges until nothing changes."""
    found = {root: 0}
    while True:
        more = {b: found[a] + 1 for a, b in reversed(edges) if a in found and found[a] + 1 < found.get(b, 99)}
        if not more:
            return found
        found |= more


def test_graphs_have_one_candidate_that_can_be_reached():
    for row in GRAPHS:
        edges, root, target, other = (row[name] for name in ("edges", "root", "target", "neg_target"))
        found = depths(edges, root)
        assert other not in found and found[target] == len(row["steps"]) in (3, 4)
        # The other candidate is as far from the other person.
        second = next(node for node, name in enumerate(row["idx_to_symbol"]) if name[0].isupper() and node != root)
        assert depths(edges, second)[other] == found[target]
        assert len(set(map(tuple, edges))) == len(edges) and max(map(max, edges)) <= 23


def test_candidates_of_graphs_are_alike_in_all_but_what_leads_to_them():
    inwards = [[sum(b == row[name] for _, b in row["edges"]) for name in ("target", "neg_target")] for row in GRAPHS]
    outwards = [sum(a in (row["target"], row["neg_target"]) for a, _ in row["edges"]) for row in GRAPHS]
    higher, lower = sum(a > b for a, b in inwards), sum(a < b for a, b in inwards)
    first = sum(row["question"].split()[-3] == row["answer"].rstrip(".").split()[-1] for row in GRAPHS)
    # Two standard deviations of a fair coin, and the numbers are fixed by the seed.
    assert not any(outwards) and abs(higher - lower) < 2 * (higher + lower) ** 0.5 and abs(first - 250) < 2 * 125**0.5


def test_bundled_graphs_are_those_of_the_generator_in_words_and_tokens():
    words, tokens = load_set("graphs_worded").problems, load_set("graphs").problems
    for index in (0, 7, 499):
        assert words[index] == graph_problem(index, split="test")
        assert tokens[index] == graph_problem(index, split="test", in_tokens=True)
    assert len(words) == len({problem.question for problem in tokens}) == 500
    sentence = words[0].question.split(". ")[0]
    row = GRAPHS[0]
    source, end = (row["idx_to_symbol"][node] for node in row["edges"][0])
    assert sentence in (f"{source} is a {end}", f"Every {source} is a {end}")


def test_splits_of_graphs_share_none():
    drawn_graphs = [
        {json.dumps(sorted(graph_row(index, split=split)["edges"])) for index in range(50)}
        for split in ("train", "validation", "test")
    ]
    assert not drawn_graphs[0] & drawn_graphs[1] and not (drawn_graphs[0] | drawn_graphs[1]) & drawn_graphs[2]
