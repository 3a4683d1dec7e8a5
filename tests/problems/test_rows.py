import json

import pytest

from thoughtlens.errors import OptionError, ProblemSetError
from thoughtlens.problems import Problem, Row, read_problems, sample


def read(*rows, fields=None):
    numbered = [Row(number, row) for number, row in enumerate(rows, start=1)]
    return read_problems(numbered, prefix="test", place=lambda number: f"set.jsonl, line {number}", fields=fields)


def test_gsm8k_gives_the_last_number_and_the_annotations():
    answer = "He has 48/2 = <<48/2=24>>24.\nThen 24*50 = <<24*50=1200>>1,200.\n#### 1,200"
    (problem,) = read({"question": "How many?", "answer": answer})
    assert problem == Problem("test_0", "How many?", "1200", ("<<48/2=24>>", "<<24*50=1200>>"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"input": "Q?", "target": 39}, ("Q?", "39")),
        ({"input": "Q?", "code": "x", "target": -9867630.0}, ("Q?", "-9867630")),
        ({"problem": "Q?", "solution": "s", "answer": r"\frac{1}{2}"}, ("Q?", r"\frac{1}{2}")),
        ({"question": "Q?", "answer": False, "facts": ["f"]}, ("Q?", "false")),
        ({"question": "Q?", "final_ans": "5"}, ("Q?", "5")),
        ({"question_concat": "Q?", "Answer": "51.0"}, ("Q?", "51.0")),
        ({"instruction": "Q?", "response": 2.5}, ("Q?", "2.5")),
    ],
)
def test_known_layouts_are_recognised(row, expected):
    (problem,) = read(row)
    assert (problem.question, problem.answer) == expected


@pytest.mark.parametrize(
    ("body", "question", "joined"),
    [
        ("He has 5. ", "How many?", "He has 5. How many?"),
        ("If he has 5", "How many?", "If he has 5, how many?"),
        ("He ate. If he has 5", "How many?", "He ate. If he has 5, how many?"),
        ("If he has 5", "Did Tom eat?", "If he has 5, Did Tom eat?"),
        ("There are 5 cats", "How many?", "There are 5 cats. How many?"),
    ],
)
def test_body_and_question_are_joined(body, question, joined):
    (problem,) = read({"Body": body, "Question": question, "question_concat": "x", "Answer": 1.0})
    assert problem.question == joined


def test_choices_become_lines_of_the_question():
    choices = {"label": ["A", "B"], "text": ["bank", "library"]}
    (problem,) = read({"id": "x", "question": "Where?", "choices": choices, "answerKey": "A"})
    assert problem == Problem("x", "Where?\nA: bank\nB: library", "A")


@pytest.mark.parametrize(("name", "value"), [("id", "a/1"), ("ID", "chal-1"), ("qid", "e0"), ("unique_id", 7)])
def test_own_id_is_kept_as_text(name, value):
    (problem,) = read({name: value, "question": "Q?", "answer": 1})
    assert problem.id == str(value)


def test_own_steps_are_kept():
    row = {"question": "Q?", "answer": "<<1+1=2>>#### 2"}
    assert read({**row, "steps": ["a", "b"]})[0].steps == ("a", "b")
    assert read({**row, "steps": []})[0].steps == ()
    assert read({**row, "steps": 3})[0].steps == ("<<1+1=2>>",)


def test_steps_are_read_from_a_chain_of_thought():
    (problem,) = read({"question": "Q?", "cot": "<<16-3-4=9>> <<9*2=18>>", "answer": "18"})
    assert problem.steps == ("<<16-3-4=9>>", "<<9*2=18>>")


def test_other_names_are_mapped():
    fields = {"question": "prompt", "answer": "label", "id": "key", "steps": "work"}
    (problem,) = read({"prompt": "Q?", "label": 3, "key": "k", "work": ["s"], "question": "no"}, fields=fields)
    assert problem == Problem("k", "Q?", "3", ("s",))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q?", "answer": 1}, "no field is the question: found 'prompt', 'answer'"),
        ({"prompt": "Q?", "answer": 1}, "`--field question=NAME`"),
        ({"question": "Q?", "label": 1}, "`--field answer=NAME`"),
        ({}, "found none"),
        ({"question": "", "answer": 1}, "question in 'question' is empty"),
        ({"question": " \n", "answer": 1}, "is empty"),
        ({"Body": " ", "Question": "Q?", "Answer": 1}, "'Body' is empty"),
        ({"question": 5, "answer": 1}, "of type int, expected text"),
        ({"question": None, "answer": 1}, "of type NoneType, expected text"),
        ({"question": "Q?", "answer": ""}, "the answer is empty"),
        ({"question": "Q?", "answer": "worked out\n####  "}, "the answer is empty"),
        ({"question": "Q?", "answer": None}, "the answer is null"),
        ({"question": "Q?", "answer": [1]}, "the answer is of type list"),
        ({"question": "Q?", "answer": float("nan")}, "the answer is nan"),
        ({"question": "Q?", "answer": 1, "id": None}, "the id in 'id' is None"),
        ({"question": "Q?", "answer": 1, "id": ""}, "the id in 'id' is ''"),
        ({"question": "Q?", "answer": 1, "steps": ["a", 2]}, "'steps' holds other things than text"),
        ({"question": "Q?", "answer": 1, "choices": ["a"]}, "'choices' is not"),
        ({"question": "Q?", "answer": 1, "choices": {"label": ["A"], "text": []}}, "'choices' is not"),
    ],
)
def test_row_without_a_problem_is_named_by_its_line(row, reason):
    with pytest.raises(ProblemSetError) as caught:
        read({"question": "Q?", "answer": 1}, row)
    message = str(caught.value)
    assert message.startswith("set.jsonl, line 2: ")
    assert reason in message
    assert message.endswith(".") and "\n" not in message


def test_repeated_id_names_both_lines():
    row = {"id": "a", "question": "Q?", "answer": 1}
    with pytest.raises(ProblemSetError, match=r"line 3: the id 'a' is that of set\.jsonl, line 1"):
        read(row, {**row, "id": "b"}, row)


def test_mapped_field_that_is_missing_is_named():
    with pytest.raises(ProblemSetError, match=r"line 1: there is no field 'prompt' for the question, found 'question'"):
        read({"question": "Q?", "answer": 1}, fields={"question": "prompt"})


def test_mapped_steps_have_to_be_a_list():
    with pytest.raises(ProblemSetError, match=r"line 1: 'work' is not a list"):
        read({"question": "Q?", "answer": 1, "work": "x"}, fields={"steps": "work"})


def test_mapping_of_what_no_problem_has_is_refused():
    with pytest.raises(OptionError, match="expected one of id, question, answer, steps"):
        read({"question": "Q?", "answer": 1}, fields={"gold": "answer"})


PRONTOQA = {
    "example1": {
        "test_example": {
            "question": "Each wumpus is a tumpus. Tumpuses are not hot. Wren is a wumpus.",
            "query": "True or false: Wren is hot.",
            "chain_of_thought": ["Wren is a wumpus.", "Each wumpus is a tumpus.", "Wren is a tumpus."],
            "answer": "False",
        }
    }
}


def test_prontoqa_is_read_from_its_own_file_and_from_that_of_coconut(tmp_path):
    path = tmp_path / "5hop.json"
    path.write_text(json.dumps(PRONTOQA))
    example = PRONTOQA["example1"]["test_example"]
    question = f"{example['question']} {example['query']}"
    steps = ("Wren is a wumpus. Each wumpus is a tumpus.", "Wren is a tumpus.")
    assert sample(path) == [Problem("5hop_0", question, "false", steps)]
    other = tmp_path / "prontoqa_test.json"
    other.write_text(json.dumps([{"question": question, "steps": steps, "answer": "False"}]))
    assert sample(other) == [Problem("prontoqa_test_0", question, "false", steps)]


def test_lines_of_question_and_steps_are_read(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("Has 5, buys 3?||<<5+3=8>> <<8*2=16>> #### 16\n\nTwo?||#### 2\n")
    assert sample(path) == [
        Problem("train_0", "Has 5, buys 3?", "16", ("<<5+3=8>>", "<<8*2=16>>")), Problem("train_1", "Two?", "2"),
    ]  # fmt: skip
    path.write_text("Two?||#### 2\nno answer\n")
    with pytest.raises(ProblemSetError, match=r"train\.txt, line 2 has no \|\|, expected `question\|\|steps"):
        sample(path)


def test_solution_without_a_box_is_said(tmp_path):
    path = tmp_path / "math.jsonl"
    path.write_text(json.dumps({"problem": "Q?", "solution": "It is 2."}))
    with pytest.raises(ProblemSetError, match=r"line 1: 'solution' has no .boxed\{\} answer"):
        sample(path)


@pytest.mark.parametrize("edges", [[], "0 1", [[0]], [[0, 1], [2]], [[0, "1"]], [[0, True]], 3])
def test_graphs_that_are_none_are_said(tmp_path, edges):
    path = tmp_path / "g.jsonl"
    path.write_text(
        json.dumps({"question": "q", "answer": "a", "edges": edges, "root": 0, "target": 1, "neg_target": 2})
    )
    with pytest.raises(ProblemSetError, match=r"line 1: the graph's 'edges', .* are not numbers of nodes"):
        sample(path, fields={"question": "edges"})
