import json
import random
import re
from fractions import Fraction

import pytest
from tests.conftest import usually

from thoughtlens.problems import AFTER_HASH, answer_kind, load_set, read_answer, same_answer, sample, write_problems

SIZES = {
    "gsm8k_train.jsonl": 7_473,
    "gsm8k_test.jsonl": 1_319,
    "svamp.json": 1_000,
    "multiarith.jsonl": 600,
    "gsm_hard.jsonl": 1_319,
    "math500.jsonl": 500,
    "strategyqa_dev.json": 229,
    "prosqa_test.json": 500,
    "prosqa_valid.json": 300,
    "superposition_graphs_test.json": 419,
    "superposition_graphs_valid.json": 257,
}


GRAPHS = [name for name in SIZES if name.startswith(("prosqa", "superposition"))]
KINDS = {
    "math500.jsonl": {"LaTeX", "number", "letter"},
    "strategyqa_dev.json": {"boolean"},
    **{name: {"text"} for name in GRAPHS},
}


# One set of each form and kind of answer; all are read whole in every suite.
USUAL = usually("gsm8k_test.jsonl", "svamp.json", "math500.jsonl", "strategyqa_dev.json", "prosqa_valid.json", of=SIZES)


def raw(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("name", SIZES)
def test_every_row_is_a_problem(data_folder, name):
    problems = sample(data_folder / name)
    assert len(problems) == SIZES[name]
    assert len({problem.id for problem in problems}) == SIZES[name]
    assert all(problem.question.strip() and problem.answer for problem in problems)


@pytest.mark.parametrize("name", USUAL)
def test_written_sets_read_back_the_same(data_folder, tmp_path, name):
    found = load_set(data_folder / name)
    write_problems(tmp_path / "copy.jsonl", found.problems)
    assert load_set(tmp_path / "copy.jsonl").problems == found.problems


@pytest.mark.parametrize("name", USUAL)
def test_announced_gold_answer_is_read_and_right(data_folder, name):
    wrong = [
        problem.answer
        for problem in sample(data_folder / name)
        if not same_answer(read_answer(f"The answer is: {problem.answer}"), problem.answer)
    ]
    assert wrong == []


def test_boxed_gold_answer_is_read_and_right(data_folder):
    for problem in sample(data_folder / "math500.jsonl"):
        assert same_answer(read_answer(rf"Thus it is $\boxed{{{problem.answer}}}$."), problem.answer)


def test_solutions_of_math_end_in_their_gold_answer(data_folder):
    rows = raw(data_folder / "math500.jsonl")
    wrong = [row["answer"] for row in rows if not same_answer(read_answer(row["solution"]), row["answer"])]
    # One solution goes on after its box: "We may check our answer: $17\\cdot 44 = …".
    assert wrong == ["44"]


@pytest.mark.parametrize("split", usually("test", of=["train", "test"]))
def test_solutions_of_gsm8k_end_in_their_gold_answer(data_folder, split):
    path = data_folder / f"gsm8k_{split}.jsonl"
    for row, problem in zip(raw(path), sample(path, split), strict=True):
        gold = Fraction(row["answer"].split("#### ")[-1].replace(",", ""))
        assert Fraction(problem.answer) == gold
        assert same_answer(read_answer(row["answer"]), problem.answer)
        assert not same_answer(read_answer(row["answer"]), str(gold + 1))


def test_sample_of_seed_42_is_that_of_earlier_studies(data_folder):
    problems = sample(data_folder / "gsm8k_train.jsonl", "train", 100, 42)
    assert [problem.id for problem in problems[:6]] == [f"train_{k}" for k in (53, 204, 217, 244, 260, 355)]
    expected = sorted(random.Random(42).sample(range(7_473), 100))
    assert [problem.id for problem in problems] == [f"train_{index}" for index in expected]
    questions = [row["question"] for row in raw(data_folder / "gsm8k_train.jsonl")]
    assert [problem.question for problem in problems] == [questions[index] for index in expected]


def test_steps_of_gsm8k_are_its_annotations_in_order(data_folder):
    path = data_folder / "gsm8k_train.jsonl"
    first = sample(path)[0]
    assert first.steps == ("<<48/2=24>>", "<<48+24=72>>")
    for row, problem in zip(raw(path), sample(path), strict=True):
        assert list(problem.steps) == ["<<" + part.split(">>")[0] + ">>" for part in row["answer"].split("<<")[1:]]


def test_first_problems_are_as_published(data_folder):
    def first(name):
        return sample(data_folder / name)[0]

    svamp = first("svamp.json")
    assert (svamp.id, svamp.answer) == ("chal-1", "51")
    assert svamp.question == (
        "Each pack of dvds costs 76 dollars. If there is a discount of 25 dollars on each pack, "
        "how much do you have to pay to buy each pack?"
    )
    assert (first("multiarith.jsonl").id, first("multiarith.jsonl").answer) == ("multiarith_0", "39")
    assert first("math500.jsonl").answer == r"\left( 3, \frac{\pi}{2} \right)"
    assert (first("strategyqa_dev.json").id, first("strategyqa_dev.json").answer) == ("e0044a7b4d146d611e73", "false")


@pytest.mark.parametrize(
    ("name", "field"), [("gsm_hard.jsonl", "target"), ("multiarith.jsonl", "target"), ("svamp.json", "Answer")]
)
def test_numeric_gold_answers_keep_their_value(data_folder, name, field):
    for row, problem in zip(raw(data_folder / name), sample(data_folder / name), strict=True):
        assert re.fullmatch(r"-?\d+(\.\d+)?", problem.answer)
        assert float(problem.answer) == row[field]


def test_no_gold_answer_of_gsm_hard_passes_for_its_neighbour(data_folder):
    for problem in sample(data_folder / "gsm_hard.jsonl"):
        assert not same_answer(str(Fraction(problem.answer) + 1), problem.answer)


@pytest.mark.parametrize("name", USUAL)
def test_every_set_has_answers_of_its_kind(data_folder, name):
    found = {answer_kind(problem.answer) for problem in sample(data_folder / name)}
    assert found == KINDS.get(name, {"number"})


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_in_node_tokens_ask_what_the_words_ask(data_folder, name):
    path = data_folder / name
    worded, tokens = sample(path), sample(path, fields={"question": "edges"})
    for row, told, asked in zip(raw(path), worded, tokens, strict=True):
        symbols = asked.question.split()
        edges, (first, second), root = symbols[1:-5], map(int, symbols[-4:-2]), int(symbols[-1])
        assert (symbols[0], symbols[-5], symbols[-2]) == ("<eos>", "[Q]", "[R]") and edges[2::3] == ["|"] * (
            len(edges) // 3
        )
        assert [[int(a), int(b)] for a, b in zip(edges[::3], edges[1::3], strict=True)] == row["edges"]
        assert (asked.answer, root) == (str(row["target"]), row["root"])
        names = row["idx_to_symbol"]
        assert re.search(rf"Is {names[root]} an? {names[first]} or {names[second]}\?$", told.question)
        # Of several shortest paths the authors tell one.
        assert len(asked.steps) == len(told.steps)
        path_nodes = [root, *(int(step.split()[1]) for step in asked.steps)]
        assert path_nodes[-1] == row["target"]
        assert all([int(part) for part in step.split()] in row["edges"] for step in asked.steps)


def test_coconut_says_sentences_after_hashes(data_folder):
    for problem in sample(data_folder / "prosqa_test.json"):
        said = f"{' '.join(problem.steps)}\n### {problem.answer}"
        assert same_answer(read_answer(said), problem.answer) and AFTER_HASH.same(AFTER_HASH.read(said), problem.answer)
        assert not same_answer(read_answer(f"### {problem.steps[0]}"), problem.answer)
