"""Extraction: every problem once, in order, the same whatever the batches, and what it refuses."""

import json
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from tests.conftest import QUESTIONS, random_reasoner

from thoughtlens import files
from thoughtlens.errors import OptionError, RunError
from thoughtlens.models import load
from thoughtlens.problems import Problem, sample
from thoughtlens.reasoning import reason
from thoughtlens.runs import MEAN, extract, open_run

pytestmark = pytest.mark.usefixtures("short_answers")

PROBLEMS = [Problem(f"p{row}", question, "8") for row, question in enumerate(QUESTIONS * 3)]


@pytest.fixture(scope="module")
def reasoner(tokenizer):
    return random_reasoner("gpt2", tokenizer)


def values(run):
    return run.attention["attention"].values.astype(np.float32)


def test_run_holds_every_problem_once_and_in_order(reasoner, tmp_path):
    run = extract(reasoner, PROBLEMS, tmp_path / "run", batch_size=5, shard_size=8)
    ids = [problem.id for problem in PROBLEMS]
    assert [str(name) for name in run.attention["problem"].values] == ids
    assert [row["id"] for row in run.results()] == ids
    lines = (tmp_path / "run" / "problems.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids
    lengths = [len(reasoner.tokenizer(problem.question)["input_ids"]) for problem in PROBLEMS]
    assert run.attention["n_question_tokens"].values.tolist() == lengths


def test_batches_shards_and_order_change_nothing(reasoner, tmp_path):
    one = extract(reasoner, PROBLEMS, tmp_path / "one", batch_size=1, dtype="float32")
    many = extract(reasoner, PROBLEMS, tmp_path / "many", batch_size=16, shard_size=5, dtype="float32")
    backwards = extract(reasoner, PROBLEMS[::-1], tmp_path / "back", batch_size=16, dtype="float32")
    np.testing.assert_allclose(values(many), values(one), atol=1e-5, rtol=0)
    np.testing.assert_allclose(values(backwards)[::-1], values(one), atol=1e-5, rtol=0)
    assert many.results() == backwards.results()[::-1] == one.results()


def test_answers_of_a_sound_model_do_not_depend_on_its_batch(tmp_path, monkeypatch):
    """True answers, so that the `answer` rows exist and are compared."""
    monkeypatch.setattr("thoughtlens.runs.extraction.reason", reason)
    problems = sample("arithmetic", n=12)
    model = load("tiny-gpt2")
    one = extract(model, problems, tmp_path / "one", batch_size=1, dtype="float32")
    many = extract(model, problems, tmp_path / "many", batch_size=12, dtype="float32")
    assert np.isfinite(values(one)).all()
    np.testing.assert_allclose(values(many), values(one), atol=1e-5, rtol=0)
    assert many.results() == one.results()


def test_a_model_that_computes_nan_is_refused(tokenizer, tmp_path):
    broken = random_reasoner("gpt2", tokenizer)
    with torch.no_grad():
        broken.lm.transformer.h[1].attn.c_attn.weight.fill_(torch.nan)
    with pytest.raises(RunError, match="of attention is NaN, and only answer rows may be missing"):
        extract(broken, PROBLEMS, tmp_path / "run")


def test_interrupted_run_goes_on_and_comes_out_the_same(reasoner, tmp_path):
    class Interrupted(Exception):
        pass

    done = []

    def interrupt(n_problems):
        done.append(n_problems)
        if sum(done) > 6:
            raise Interrupted

    whole = extract(reasoner, PROBLEMS, tmp_path / "whole", batch_size=2, shard_size=4)
    with pytest.raises(Interrupted):
        extract(reasoner, PROBLEMS, tmp_path / "broken", batch_size=2, shard_size=4, progress=interrupt)
    with pytest.raises(RunError, match="1 of 3 shards"):
        open_run(tmp_path / "broken")
    resumed = extract(reasoner, PROBLEMS, tmp_path / "broken", batch_size=2, shard_size=4)
    xr.testing.assert_identical(resumed.attention.load(), whole.attention.load())
    assert resumed.results() == whole.results()


def test_a_complete_run_is_not_extracted_again(reasoner, tmp_path, monkeypatch):
    extract(reasoner, PROBLEMS, tmp_path / "run")
    monkeypatch.setattr("thoughtlens.runs.extraction.reason", lambda *a, **k: pytest.fail("thought again"))
    done = []
    extract(reasoner, PROBLEMS, tmp_path / "run", progress=done.append)
    assert sum(done) == len(PROBLEMS)


@pytest.fixture
def hashed(monkeypatch):
    """How often each file was hashed."""
    counts = Counter()
    original = files.fingerprint

    def counting(path):
        counts[path.as_posix()] += 1
        return original(path)

    for name in ("files", "runs.writer", "runs.reader"):
        monkeypatch.setattr(f"thoughtlens.{name}.fingerprint", counting)
    return counts


def test_each_array_is_hashed_once_as_it_is_written_and_once_where_the_run_goes_on(reasoner, tmp_path, hashed):
    def arrays():
        return {name: n for name, n in hashed.items() if "/c/" in name}

    run = extract(reasoner, PROBLEMS, tmp_path / "run", shard_size=4)
    n_files = len(arrays())
    assert n_files == 3 * 3 + len(run.attention.coords)  # three variables in three shards, and the labels
    assert set(arrays().values()) == {1}
    extract(reasoner, PROBLEMS, tmp_path / "run", shard_size=4)
    assert set(arrays().values()) == {2}
    open_run(tmp_path / "run")  # of a user, who is told of every damage
    assert set(arrays().values()) == {3}


def test_each_question_is_tokenized_once(reasoner, tmp_path):
    class Counting:
        asked: ClassVar = Counter()

        def __getattr__(self, name):
            return getattr(reasoner, name)

        def prompt(self, text):
            self.asked[text] += 1
            return reasoner.prompt(text)

    problems = [Problem(f"p{row}", f"{row} {question}", "8") for row, question in enumerate(QUESTIONS)]
    extract(Counting(), problems, tmp_path / "run", batch_size=2)
    assert Counting.asked == {problem.question: 1 for problem in problems}


def test_other_options_are_refused_by_name(reasoner, tmp_path):
    extract(reasoner, PROBLEMS, tmp_path / "run")
    with pytest.raises(RunError, match=r"there: --thoughts \d+; here: --thoughts 5;"):
        extract(reasoner, PROBLEMS, tmp_path / "run", n_thoughts=5)
    with pytest.raises(
        RunError, match=r"there: problems \w{12} \(drawn by another --seed, or of another file\); here: problems"
    ):
        changed = [Problem(p.id, p.question + "?", p.answer) for p in PROBLEMS]
        extract(reasoner, changed, tmp_path / "run")


@pytest.mark.parametrize("n_thoughts", [0, -1, 33])
def test_number_of_thoughts_out_of_range_is_refused(n_thoughts, reasoner, tmp_path):
    with pytest.raises(OptionError, match="expected 1 to 32"):
        extract(reasoner, PROBLEMS, tmp_path / "run", n_thoughts=n_thoughts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "the batch size is 0, expected at least 1; pass another --batch-size"),
        (
            {"protocol": "padded"},
            "no protocol 'padded', expected one of exact, official-padding-.*; pass another --protocol",
        ),
        (
            {"protocol": "official-padding-v5", "keep": MEAN},
            "can't keep means under official-padding-v5, whose rows give to padding too; leave --keep out",
        ),
    ],
    ids=["batch size", "protocol", "keep"],
)
def test_a_way_of_extracting_that_there_is_not_is_refused(options, said, reasoner, tmp_path):
    with pytest.raises(OptionError, match=said):
        extract(reasoner, PROBLEMS, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("n_thoughts", [1, 32])
def test_extreme_numbers_of_thoughts(n_thoughts, reasoner, tmp_path):
    run = extract(reasoner, PROBLEMS, tmp_path / "run", n_thoughts=n_thoughts)
    assert run.attention.sizes["query"] == n_thoughts + 3


def test_a_question_too_long_is_refused_before_anything_is_written(reasoner, tmp_path):
    long = Problem("endless", "apples " * 400, "1")
    with pytest.raises(OptionError, match="problem endless needs"):
        extract(reasoner, [*PROBLEMS, long], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_question_too_long_for_the_model_is_refused_before_the_first_pass(reasoner, tmp_path):
    problems = [PROBLEMS[0], Problem("long", "How many? " * 200, "1")]
    with pytest.raises(OptionError, match=r"problem long needs \d+ positions, but the model has 256; leave it out or"):
        extract(reasoner, problems, tmp_path / "run")
    assert not (tmp_path / "run").exists()
