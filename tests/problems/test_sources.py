import importlib
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st

import thoughtlens.problems as problems_package
from thoughtlens.errors import OptionError, ProblemSetError
from thoughtlens.problems import (
    Problem,
    ProblemSet,
    answer_kind,
    draw,
    gold_answer,
    known_sets,
    load_set,
    sample,
    write_problems,
)
from thoughtlens.problems import sets as sources

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.jsonl"
    path.write_text("".join(json.dumps({"question": f"{k}+1?", "answer": k + 1}) + "\n" for k in range(20)))
    return path


def test_public_names_are_exported():
    values = {"Problem", "ProblemSet", "Row", "DEFAULT_STEPS", "LIMIT"}
    values |= {"AFTER_HASH", "AnswerRule", "LAST_NUMBER", "OFFICIAL", "RULES", "STRICT"}
    verbs = {"draw", "known_sets", "load_set", "answer_kind", "read_answer", "same_answer", "sample", "write_problems"}
    verbs |= {
        "gold_answer",
        "read_problems",
        "read_rows",
        "rows_fingerprint",
        "rule_named",
        "arithmetic_problem",
        "graph_problem",
        "distinct_problems",
        "split_of",
    }
    assert set(problems_package.__all__) == values | verbs


def test_ids_are_prefixed_with_the_split_or_the_stem(small):
    assert [problem.id for problem in sample(small)][:2] == ["small_0", "small_1"]
    assert [problem.id for problem in sample(str(small), "train")][-1] == "train_19"


def test_sample_takes_the_sorted_indices_of_the_seed(small):
    expected = sorted(random.Random(7).sample(range(20), 5))
    assert [problem.id for problem in sample(small, n=5, seed=7)] == [f"small_{index}" for index in expected]


def test_blank_lines_shift_no_index(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('\n{"question": "a", "answer": 1}\n\n{"question": "b", "answer": 2}\n')
    assert [problem.id for problem in sample(path)] == ["set_0", "set_1"]


def test_set_carries_its_provenance(small):
    found = load_set(small, "dev")
    assert (found.name, found.split, found.source, found.revision) == ("small", "dev", str(small), None)
    assert len(found.fingerprint) == 64


def test_fingerprint_is_of_the_problems_alone(small, tmp_path):
    copy = tmp_path / "copy.jsonl"
    write_problems(copy, load_set(small).problems)
    assert load_set(copy).fingerprint == load_set(small).fingerprint
    assert draw(load_set(copy), 20).fingerprint == load_set(small).fingerprint
    assert draw(load_set(small), 19).fingerprint != load_set(small).fingerprint


def test_fingerprint_stays_what_it_was():
    problem_set = ProblemSet((Problem("a", "1+1=?", "2", ("<<1+1=2>>",)),), "x", None, "x.jsonl")
    # printf '%s' '[{"answer":"2","id":"a","question":"1+1=?","steps":["<<1+1=2>>"]}]' | sha256sum
    assert problem_set.fingerprint == "b9940978f471d10deda156fe33efdc5ec29c67f4d90d8f8c3db66006e5969216"


@pytest.mark.parametrize(("n", "error"), [(0, OptionError), (-3, OptionError), (21, ProblemSetError)])
def test_n_outside_the_set_is_said(small, n, error):
    with pytest.raises(error, match=str(n)) as caught:
        sample(small, n=n)
    assert error is OptionError or f"{small} has 20 problems" in str(caught.value)


def test_broken_row_is_named_by_file_and_line(small):
    with small.open("a") as file:
        file.write('{"question": "", "answer": 1}\n')
    with pytest.raises(ProblemSetError, match=r"small\.jsonl, line 21: the question in 'question' is empty"):
        sample(small)


def test_repeated_id_is_named_by_file_and_lines(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text(2 * '{"id": "a", "question": "x", "answer": 1}\n')
    with pytest.raises(ProblemSetError, match=r"set\.jsonl, line 2: the id 'a' is that of .*set\.jsonl, line 1"):
        sample(path)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ProblemSetError, match=r"no problem set is called 'gsm8l', expected arithmetic, gsm8k.*did you mean gsm8k"
    ):
        sample("gsm8l")


def test_unknown_split_lists_the_known_ones():
    with pytest.raises(OptionError, match=r"commonsenseqa has no split 'test', expected one of train, validation"):
        sample("commonsenseqa", "test")


def test_file_has_no_revision(small):
    with pytest.raises(OptionError, match="has no revisions"):
        sample(small, revision="main")


text = st.text(st.characters(codec="utf-8"))
some_problems = st.lists(
    st.builds(
        Problem,
        id=st.text(st.characters(codec="utf-8"), min_size=1),
        question=text.filter(str.strip),
        answer=(text | st.integers().map(str)).map(gold_answer).filter(bool),
        steps=st.lists(text).map(tuple),
    ),
    min_size=1,
    unique_by=lambda problem: problem.id,
)


@given(some_problems)
def test_written_problems_read_back_the_same(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("round") / "set.jsonl"
    write_problems(path, written)
    assert sample(path) == written


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text("old")
    write_problems(path, [Problem("a", "q", "1")])
    assert [found.name for found in tmp_path.iterdir()] == ["set.jsonl"]
    assert json.loads(path.read_text()) == {"id": "a", "question": "q", "answer": "1", "steps": []}


@pytest.mark.parametrize("name", ["none/set.jsonl", "file/set.jsonl", "folder.jsonl"])
def test_unwritable_path_is_said(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ProblemSetError, match="can't be written"):
        write_problems(tmp_path / name, [Problem("a", "q", "1")])
    assert not list(tmp_path.glob(".*.partial"))


def test_other_endings_are_not_written(tmp_path):
    with pytest.raises(OptionError, match=r"expected \.jsonl"):
        write_problems(tmp_path / "set.json", [])


def test_half_a_surrogate_pair_is_not_written(tmp_path):
    with pytest.raises(ProblemSetError, match="surrogate"):
        write_problems(tmp_path / "set.jsonl", [Problem("a", "\ud800", "1")])


def test_bundled_set_is_read_from_the_package(tmp_path, monkeypatch):
    path = tmp_path / "arithmetic_test.jsonl"
    written = [Problem(f"t{k}", f"{k}+1?", str(k + 1), (f"<<{k}+1={k + 1}>>",)) for k in range(3)]
    write_problems(path, written)
    monkeypatch.setattr(sources, "bundled_file", lambda name, split: tmp_path / f"{name}_{split}.jsonl")
    found = load_set("arithmetic")
    assert found == ProblemSet(tuple(written), "arithmetic", "test", "bundled:arithmetic_test.jsonl")


def test_missing_bundled_file_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "bundled_file", lambda name, split: tmp_path / "arithmetic_test.jsonl")
    with pytest.raises(ProblemSetError, match=r"lacks its file arithmetic_test\.jsonl; install thoughtlens again"):
        load_set("arithmetic")


def test_the_bundled_problems_of_the_planted_model_are_those_that_it_draws():
    from thoughtlens.models import planted_problems

    assert sample("planted") == planted_problems(600)


def test_bundled_problems_end_in_their_last_step():
    problems = sample("arithmetic")
    assert len(problems) >= 2_000
    assert all(problem.steps[-1].endswith(f"={problem.answer}>>") for problem in problems)


def test_known_sets_are_the_promised_ones():
    numbers = ["arithmetic", "gsm8k", "gsm8k_aug", "svamp", "multiarith", "gsm_hard"]
    others = ["math500", "strategyqa", "commonsenseqa", "planted", "math", "prosqa", "prontoqa"]
    assert list(known_sets()) == [*numbers, *others, "graphs", "graphs_worded"]
    assert all(named.default_split in named.splits for named in known_sets().values())


def test_the_table_of_sets_in_the_docs_is_that_of_the_package():
    page = (Path(__file__).parents[2] / "docs" / "problems.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(known_sets())
    for row, named in zip(rows, known_sets().values(), strict=True):
        sizes = [f"{split} {named.sizes[split]:,}" if split in named.sizes else split for split in named.splits]
        assert row[1:4] == [", ".join(sizes), named.kind, named.licence]
        assert (row[4] == "bundled") == named.bundled and named.home in row[4] and row[5].rstrip(" |") == named.read


@pytest.mark.parametrize("name", ["arithmetic", "planted", "graphs", "graphs_worded"])
def test_bundled_sets_are_as_their_description_says(name):
    named, found = known_sets()[name], sample(name)
    assert len(found) == named.sizes["test"]
    assert {answer_kind(problem.answer) for problem in found} == {named.kind}


HUB_ROWS = {
    "gsm8k": ({"question": "Q?", "answer": "<<1+1=2>>2\n#### 2"}, Problem("test_0", "Q?", "2", ("<<1+1=2>>",))),
    "gsm8k_aug": (
        {"question": "Q?", "cot": "<<16-3-4=9>> <<9*2=18>>", "answer": "18"},
        Problem("train_0", "Q?", "18", ("<<16-3-4=9>>", "<<9*2=18>>")),
    ),
    "svamp": (
        {"ID": "chal-1", "Body": "B.", "Question": "Q?", "Answer": "51.0", "question_concat": "B. Q?"},
        Problem("chal-1", "B. Q?", "51.0"),
    ),
    "multiarith": ({"question": "Q?", "final_ans": "39"}, Problem("test_0", "Q?", "39")),
    "gsm_hard": ({"input": "Q?", "code": "c", "target": 1.5}, Problem("train_0", "Q?", "1.5")),
    "math500": (
        {"problem": "Q?", "solution": "s", "answer": "p - q", "subject": "a", "level": 2, "unique_id": "test/1.json"},
        Problem("test/1.json", "Q?", "p - q"),
    ),
    "strategyqa": ({"qid": "e0", "question": "Q?", "answer": True, "facts": "f"}, Problem("e0", "Q?", "true")),
    "commonsenseqa": (
        {"id": "i", "question": "Q?", "choices": {"label": ["A"], "text": ["x"]}, "answerKey": "A"},
        Problem("i", "Q?\nA: x", "A"),
    ),
}


class FakeHub:
    """Stands for `datasets` and `huggingface_hub`: answers with rows or raises, and keeps what it was asked."""

    def __init__(self, monkeypatch, rows=(), info_error=None, load_error=None):
        self.rows, self.info_error, self.load_error, self.asked = rows, info_error, load_error, []
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=self.load_dataset))
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", self.dataset_info)

    def dataset_info(self, repo_id, *, revision=None, timeout=None):
        self.asked.append(("info", repo_id, revision))
        if self.info_error:
            raise self.info_error
        return SimpleNamespace(sha=COMMIT)

    def load_dataset(self, path, name=None, *, split, revision):
        self.asked.append(("load", path, name, split, revision))
        if self.load_error:
            raise self.load_error
        return list(self.rows)


@pytest.mark.parametrize("name", HUB_ROWS)
def test_hub_set_is_loaded_at_its_commit(monkeypatch, name):
    row, problem = HUB_ROWS[name]
    hub = FakeHub(monkeypatch, [row])
    named = known_sets()[name]
    config = next(iter(named.configs), None)
    found = load_set(name)
    # Of SVAMP the default is all that is officially evaluated, train before test.
    splits = ["train", "test"] if name == "svamp" else [named.default_split]
    assert found == ProblemSet((problem,) * len(splits), name, named.default_split, named.hub_id, COMMIT)
    assert hub.asked == [
        asked
        for split in splits
        for asked in [("info", named.hub_id, None), ("load", named.hub_id, config, split, COMMIT)]
    ]


def test_the_subjects_of_math_are_one_set_whose_answers_are_boxed_in_its_solutions(monkeypatch):
    rows = [
        {
            "problem": "Q?",
            "level": "Level 5",
            "type": "Algebra",
            "solution": r"so $\boxed{1}$, no: $\boxed{\frac{1}{2}}$.",
        }
    ]
    hub = FakeHub(monkeypatch, rows)
    found = load_set("math")
    assert [problem.id for problem in found.problems] == [f"test_{k}" for k in range(7)]
    assert {problem.answer for problem in found.problems} == {r"\frac{1}{2}"}
    assert [asked[2] for asked in hub.asked if asked[0] == "load"] == list(known_sets()["math"].configs)
    assert [asked[0] for asked in hub.asked].count("info") == 1


@pytest.mark.parametrize("name", ["prosqa", "prontoqa"])
def test_set_that_is_in_files_alone_says_where_they_are(name):
    with pytest.raises(ProblemSetError, match=f"{name} is not on the Hub; get its file from https://github.com/.*PATH"):
        load_set(name)


def test_hub_id_of_a_named_set_names_it_too(monkeypatch):
    FakeHub(monkeypatch, [HUB_ROWS["gsm8k_aug"][0]])
    assert load_set("zen-E/GSM8k-Aug") == load_set("gsm8k_aug")


def test_hub_revision_is_resolved(monkeypatch):
    hub = FakeHub(monkeypatch, [HUB_ROWS["gsm8k"][0]])
    assert load_set("gsm8k", "train", revision="v1").problems[0].id == "train_0"
    assert hub.asked == [("info", "openai/gsm8k", "v1"), ("load", "openai/gsm8k", "main", "train", COMMIT)]


def test_commit_is_not_asked_for_again(monkeypatch):
    hub = FakeHub(monkeypatch, [HUB_ROWS["gsm8k"][0]])
    load_set("gsm8k", revision=COMMIT)
    assert [asked[0] for asked in hub.asked] == ["load"]


def test_hub_row_is_named_by_its_set_and_number(monkeypatch):
    FakeHub(monkeypatch, [HUB_ROWS["gsm8k"][0], {"question": "", "answer": "1"}])
    with pytest.raises(ProblemSetError, match=r"openai/gsm8k \(test\), row 2: the question in 'question' is empty"):
        load_set("gsm8k")


def test_hub_set_of_other_columns_is_said_unless_mapped(monkeypatch):
    FakeHub(monkeypatch, [{"prompt": "Q?", "label": "2"}])
    with pytest.raises(ProblemSetError, match=r"openai/gsm8k \(test\) has no column 'question', found prompt, label"):
        load_set("gsm8k")
    assert sample("gsm8k", fields={"question": "prompt", "answer": "label"}) == [Problem("test_0", "Q?", "2")]


def test_empty_hub_set_is_said(monkeypatch):
    FakeHub(monkeypatch, [])
    with pytest.raises(ProblemSetError, match="is empty"):
        load_set("gsm8k")


def http_error(name, message):
    """An error of the HTTP client that the hub's library uses, which is another one in other versions."""
    client = importlib.import_module(huggingface_hub.errors.HTTPError.__module__.partition(".")[0])
    if hasattr(client, name):
        return getattr(client, name)(message)
    response = client.Response(404, request=client.Request("GET", "https://example.invalid"))
    return getattr(huggingface_hub.errors, name)(message, response=response)


def named_error(name, message, base=Exception):
    return type(name, (base,), {})(message)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: http_error("GatedRepoError", "no"), "is gated"),
        (lambda: http_error("RepositoryNotFoundError", "no"), "missing from the hub or private"),
        (lambda: http_error("RevisionNotFoundError", "no"), "has no revision 'v9'"),
        (lambda: ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub"), "can't be reached"),
        (lambda: http_error("ConnectError", "no route"), "can't be reached (no route)"),
        (lambda: http_error("ReadTimeout", ""), "can't be reached (ReadTimeout)"),
        (lambda: named_error("DatasetNotFoundError", "Dataset 'x' is a gated dataset on the Hub."), "is gated"),
        (lambda: named_error("DatasetNotFoundError", "Dataset 'x' doesn't exist."), "missing from the hub"),
        (
            lambda: RuntimeError("Dataset scripts are no longer supported, but found x.py"),
            "RuntimeError: Dataset scripts",
        ),
        (lambda: ValueError("Unknown split\nmore"), "can't be loaded (ValueError: Unknown split)"),
    ],
)
@pytest.mark.parametrize("when", ["info_error", "load_error"])
def test_failure_of_the_hub_is_one_sentence(monkeypatch, when, make, reason):
    error = make()
    FakeHub(monkeypatch, **{when: error})
    with pytest.raises(ProblemSetError) as caught:
        load_set("gsm8k", revision="v9")
    message = str(caught.value)
    assert message.startswith("openai/gsm8k") and reason in message
    assert message.endswith(".") and "\n" not in message
    assert caught.value.__cause__ is error


def test_missing_datasets_library_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ProblemSetError, match=r"pip install 'thoughtlens\[hub\]'"):
        load_set("gsm8k")


def test_offline_mode_of_the_real_client_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=None))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ProblemSetError, match="openai/gsm8k can't be reached"):
        load_set("gsm8k")


def test_a_hub_set_without_a_commit_is_said(monkeypatch):
    FakeHub(monkeypatch)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha=None))
    with pytest.raises(ProblemSetError, match="ValueError: the hub names no commit"):
        load_set("gsm8k")
