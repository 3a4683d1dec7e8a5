"""Batches hold every problem once, within their limits and with little padding; memory that runs out halves them."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import QUESTIONS, random_reasoner

from thoughtlens.cuts.passes import cannot_be_run
from thoughtlens.errors import OptionError
from thoughtlens.problems import Problem
from thoughtlens.runs import extract, open_run
from thoughtlens.runs.batches import Halving, bisect, padding, plan
from thoughtlens.runs.storage_layout import MOST_PROBLEMS, problems_for

pytestmark = pytest.mark.usefixtures("short_answers")

PROBLEMS = [Problem(f"p{row}", question, "8") for row, question in enumerate(QUESTIONS * 3)]
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def reasoner(tokenizer):
    return random_reasoner("gpt2", tokenizer)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 200))
def test_every_problem_is_in_one_batch_within_both_limits(lengths, batch_size, n_tokens):
    batches = plan(lengths, batch_size, n_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= n_tokens


@given(LENGTHS, st.integers(1, 9))
def test_equal_lengths_need_no_padding(lengths, batch_size):
    given_order = [
        list(range(start, min(start + batch_size, len(lengths)))) for start in range(0, len(lengths), batch_size)
    ]
    assert padding([7] * len(lengths), given_order) == 0


def test_padding_is_what_a_count_of_cells_says():
    lengths, batches = [3, 1, 2, 2], [[0, 1], [2, 3]]
    padded = [[0] * 2 + [1] if length == 1 else [1] * length for length in lengths]
    cells = sum(len(batch) * max(len(padded[index]) for index in batch) for batch in batches)
    assert padding(lengths, batches) == (cells - sum(lengths)) / sum(lengths)


def test_run_is_the_same_sorted_and_alone(reasoner, tmp_path):
    """Sorted batches against one problem a pass, where nothing can be sorted or padded."""
    alone = extract(reasoner, PROBLEMS, tmp_path / "alone", batch_size=1, dtype="float32")
    batched = extract(reasoner, PROBLEMS, tmp_path / "batched", batch_size=5, dtype="float32")
    for name in ("attention", "n_question_tokens", "correct"):
        found, expected = (run.attention[name].values for run in (batched, alone))
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert batched.results() == alone.results()
    assert [row["id"] for row in batched.results()] == [problem.id for problem in PROBLEMS]


def test_manifest_says_how_problems_were_batched(reasoner, tmp_path):
    notes = extract(reasoner, PROBLEMS, tmp_path / "run", batch_size=4).manifest["notes"]
    lengths = [len(reasoner.prompt(problem.question)) for problem in PROBLEMS]
    longest_first = np.sort(lengths)[::-1].reshape(3, 4)
    waste = (longest_first.max(1) * 4).sum() / sum(lengths) - 1
    assert notes["plan"]["padding"] == pytest.approx(waste, abs=1e-4)
    assert notes["plan"]["batch_size"] == 4
    assert "out_of_memory" not in notes


class Small:
    """A reasoner on a device that holds a few problems; everything else is the model's own."""

    def __init__(self, reasoner, room):
        self.reasoner, self.room = reasoner, room

    def __getattr__(self, name):
        return getattr(self.reasoner, name)

    def feed_back(self, hidden):
        if len(hidden) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return self.reasoner.feed_back(hidden)


def test_memory_that_runs_out_halves_the_batch_and_the_run_goes_on(reasoner, tmp_path, caplog):
    whole = extract(reasoner, PROBLEMS, tmp_path / "whole", batch_size=8, dtype="float32")
    with caplog.at_level(logging.WARNING, "thoughtlens"):
        small = extract(Small(reasoner, 3), PROBLEMS, tmp_path / "small", batch_size=8, shard_size=9, dtype="float32")
    values = [run.attention["attention"].values for run in (small, whole)]
    np.testing.assert_allclose(*values, atol=1e-6, rtol=0)
    assert small.results() == whole.results()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"{n} problems do not fit into the device's memory together; going on with {n // 2}" for n in (8, 4)
    ]
    assert small.manifest["notes"]["out_of_memory"] == {"times": 2, "batch_size": 2}


def test_a_problem_too_large_for_the_device_is_said_and_the_run_can_go_on(reasoner, tmp_path):
    with pytest.raises(OptionError, match="one problem alone does not fit"):
        extract(Small(reasoner, 0), PROBLEMS, tmp_path / "run", batch_size=4)
    extract(reasoner, PROBLEMS, tmp_path / "run")
    assert len(open_run(tmp_path / "run").results()) == len(PROBLEMS)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9))
def test_halving_does_every_piece_once_in_order(n_problems, batch_size, room):
    tried = []

    def work(batch):
        tried.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError
        return sum(batch)

    done = list(Halving(batch_size).work_off(plan([1] * n_problems, batch_size), work))
    assert [index for batch, _ in done for index in batch] == list(range(n_problems))
    assert all(result == sum(batch) for batch, result in done)
    assert sum(size > room for size in tried) <= np.log2(batch_size) + 1  # a size that failed is not tried again


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_bisection_finds_what_fails_alone_and_does_the_rest_once_in_order(n_problems, spoilt):
    tried, done_alone = [], {}

    def work(batch):
        tried.append(list(batch))
        if spoilt & set(batch):
            raise ValueError(f"{sorted(spoilt & set(batch))}")
        return "done"

    def alone(index, error):
        done_alone[index] = str(error)
        return "failed"

    found = list(bisect([range(n_problems)], work, alone, fails=lambda error: isinstance(error, ValueError)))
    assert [index for batch, _ in found for index in batch] == list(range(n_problems))
    failed = [index for batch, how in found if how == "failed" for index in batch]
    assert failed == sorted(spoilt & set(range(n_problems)))
    assert done_alone == {index: f"[{index}]" for index in failed}
    assert len(tried) <= 1 + 2 * len(failed) * np.ceil(np.log2(max(2, n_problems)))


# What torch's CPU allocator says, which has no error of its own.
OF_THE_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to …")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), MemoryError(), OF_THE_CPU])
def test_bisection_passes_on_what_is_no_failure_of_the_batch(error):
    def work(batch):
        raise error if len(batch) < 4 else RuntimeError("no such row")

    with pytest.raises(type(error)) as found:
        list(bisect([range(4)], work, lambda k, e: None, fails=cannot_be_run))
    assert found.value is error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), MemoryError(), OF_THE_CPU])
def test_batches_are_halved_whatever_memory_runs_out(error):
    def work(batch):
        if len(batch) > 2:
            raise error
        return "done"

    passes = Halving(8)
    assert [list(batch) for batch, _ in passes.work_off([range(8)], work)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert (passes.failures, passes.batch_size) == (2, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("sizes", [(16, 32, 6), (32, 32, 6), (48, 48, 32), (3, 4, 6)])
def test_a_shard_is_64_megabytes_or_a_problem_or_the_most(sizes, dtype):
    n_layers, n_heads, n_thoughts = sizes
    bytes_each = np.zeros((n_layers, n_heads, n_thoughts + 3, n_thoughts + 5), dtype).nbytes
    n_problems = problems_for(*sizes, dtype)
    assert n_problems * bytes_each <= 64e6 or n_problems == 1
    assert (n_problems + 64) * bytes_each > 64e6 or n_problems == MOST_PROBLEMS


def test_a_model_whose_single_problem_fills_a_shard_still_runs():
    assert problems_for(200, 200, 32, "float32") == 1
