"""Half precision is measured, said and warned of; `auto` leaves it where it moves too much; batches fit into memory."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from tests.attention_made import unsaved
from tests.conftest import random_reasoner

import thoughtlens as tl
from thoughtlens import evaluation
from thoughtlens.analysis.cautions import MOST_MOVED, precision_in_words, precision_warnings
from thoughtlens.errors import CheckpointError
from thoughtlens.models import load, precision
from thoughtlens.models.loader import checked, identity
from thoughtlens.reasoning import reason, recorder_for
from thoughtlens.reports import summary
from thoughtlens.runs.batches import LARGEST, TOKENS, USUAL, fitting
from thoughtlens.runs.model_precision import MEASURED, arithmetic, settled

PROBLEMS = tl.draw(tl.load_set("arithmetic"), 8, 0)


def prompts_of(reasoner):
    return [reasoner.prompt(problem.question) for problem in PROBLEMS.problems]


@pytest.fixture(scope="module")
def half():
    return load("tiny-llama", device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def measured(half):
    return settled(half, prompts_of(half), 6)


def test_what_is_measured_is_the_difference_of_passes_made_by_hand(half, measured):
    same, facts = measured
    assert same is half
    assert (facts["dtype"], facts["n"], facts["left_out"], facts["chosen"]) == ("bfloat16", MEASURED, "", "")
    some = prompts_of(half)
    seen = {}
    for name, model in (("half", half), ("float32", load("tiny-llama", device="cpu"))):
        recorder = recorder_for(model, len(some), 6)
        trace = reason(model, some, taps=[recorder], n_thoughts=6, max_new_tokens=1)
        seen[name] = recorder.attention, trace.thoughts.float()
    cells = (seen["half"][0] - seen["float32"][0]).abs()
    thought = (seen["half"][1] - seen["float32"][1])[:, 2].norm(dim=-1) / seen["float32"][1][:, 2].norm(dim=-1)
    assert facts["float32"]["attention"]["z3"] == pytest.approx(float(cells[..., 3, :].max()), rel=0.01)
    assert facts["float32"]["thoughts"]["z3"] == pytest.approx(float(thought.max()), rel=0.01)
    assert list(facts["batches"]["attention"]) == ["bot", "z1", "z2", "z3", "z4", "z5", "z6", "eot"]
    assert list(facts["batches"]["thoughts"]) == ["z1", "z2", "z3", "z4", "z5", "z6"]
    assert 0 < facts["batches"]["largest"] == max(facts["batches"]["attention"].values())


def test_full_precision_is_not_measured():
    reasoner = load("tiny-gpt2", device="cpu")
    assert settled(reasoner, prompts_of(reasoner), 6) == (reasoner, None)


def test_without_memory_float32_is_left_out_and_said_to_be(half, monkeypatch):
    monkeypatch.setattr("thoughtlens.runs.model_precision.free_memory", lambda device: 100)
    _, facts = settled(half, prompts_of(half), 6)
    assert facts["float32"] is None
    assert facts["left_out"] == "float32 needs 0.0 GiB, 0.0 are free"
    assert precision_in_words(facts).endswith("It was not compared with float32: float32 needs 0.0 GiB, 0.0 are free.")


@pytest.mark.parametrize(("bound", "becomes"), [(0.0001, "float32"), (1.0, "bfloat16")])
def test_auto_stays_in_half_precision_only_below_the_bound(half, monkeypatch, bound, becomes):
    monkeypatch.setattr("thoughtlens.runs.model_precision.MOST_MOVED", bound)
    chosen = dataclasses.replace(half, provenance={**half.provenance, "asked_dtype": "auto"})
    found, facts = settled(chosen, prompts_of(half), 6)
    assert (found.provenance["dtype"], str(found.lm.dtype)) == (becomes, f"torch.{becomes}")
    assert facts["chosen"].startswith(f"{becomes}, ")
    # Who goes on with the run takes what it has, and measures nothing; who cuts in it too.
    manifest = {"options": {"model": identity(found)}, "precision": facts}
    assert checked(manifest, chosen).provenance["dtype"] == becomes
    again, told = settled(chosen, [], 6, manifest)
    assert (again.provenance["dtype"], told) == (becomes, facts)


def test_a_run_in_half_precision_says_it_and_warns_above_the_bound_and_float32_does_not(half, tmp_path):
    facts = {}
    for name, reasoner in (("half", half), ("float32", load("tiny-llama", device="cpu"))):
        run = tl.extract(reasoner, PROBLEMS, tmp_path / name, batch_size=5)
        with unsaved():
            found = summary(run, tl.analyze(run, n_resamples=20))
        facts[name] = run.manifest, [warning for warning in found["warnings"] if "bfloat16" in warning]
    manifest, warnings = facts["half"]
    largest = max(manifest["precision"][name]["largest"] for name in ("batches", "float32"))
    assert largest > MOST_MOVED
    assert warnings == precision_warnings(manifest["precision"])
    assert f"moves a cell of attention by up to {largest:.2g} (more than 0.02)" in warnings[0]
    assert json.loads((tmp_path / "half" / "manifest.json").read_text())["precision"] == manifest["precision"]
    assert "precision" not in facts["float32"][0] and facts["float32"][1] == []
    assert facts["float32"][0]["batching"] == {"batch_size": 5, "tokens": TOKENS, "chosen": "asked for"}


def test_below_the_bound_nothing_is_warned_of(measured):
    calm = {"largest": MOST_MOVED, "attention": {}, "thoughts": {}}
    assert precision_warnings({"dtype": "float16", "batches": calm, "float32": None}) == []


def test_doctor_finds_a_sound_model_sound_in_half_precision_and_a_broken_one_broken(half, measured, monkeypatch):
    assert [check.name for check in evaluation.doctor(half, measured[1]) if not check.passed] == []
    assert all(check.passed for check in evaluation.doctor(half))  # not compared with float32
    record = evaluation.checks._record

    def mixed_up(reasoner, questions, taps=()):
        attention, trace = record(reasoner, questions, taps)
        return (attention.flip(0) if len(questions) > 1 else attention), trace

    monkeypatch.setattr("thoughtlens.evaluation.checks._record", mixed_up)
    broken = {check.name for check in evaluation.doctor(half, measured[1]) if not check.passed}
    assert broken == {"batched = alone", "incremental = one full eager pass"}


def test_an_answer_that_one_batch_alone_reaches_breaks_no_model_in_half_precision(half, measured, monkeypatch):
    record = evaluation.checks._record

    def unanswered(reasoner, questions, taps=()):
        attention, trace = record(reasoner, questions, taps)
        if len(questions) == 1:
            attention[..., -1, :] = torch.nan
        return attention, trace

    monkeypatch.setattr("thoughtlens.evaluation.checks._record", unanswered)
    assert all(check.passed for check in evaluation.doctor(half, measured[1]))
    whole = evaluation.doctor(load("tiny-llama", device="cpu"))
    assert {check.name: check.measured for check in whole if not check.passed} == {
        "batched = alone": "largest difference inf, allowed 1e-04"
    }


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("tf32", "cpu", "tf32 is a mode of NVIDIA GPUs and the device is cpu; use float32 there"),
        ("bfloat16", "mps", "bfloat16 is not measured on mps, expected float32; use that, or another --device"),
    ],
)
def test_what_a_device_lacks_is_refused(dtype, device, expected):
    with pytest.raises(CheckpointError, match=expected):
        precision(dtype, torch.device(device))


def test_mps_works_in_float32_and_tf32_is_taken_on_cuda():
    assert [precision(dtype, torch.device("mps")) for dtype in ("auto", "float32")] == ["float32", "float32"]
    assert precision("tf32", torch.device("cuda")) == "tf32"


def test_tf32_is_on_while_its_run_lasts_alone():
    flag = torch.backends.cuda.matmul
    with arithmetic(SimpleNamespace(provenance={"dtype": "tf32"})):
        assert flag.allow_tf32
        with arithmetic(SimpleNamespace(provenance={"dtype": "float32"})):
            assert not flag.allow_tf32
        assert flag.allow_tf32
    assert not flag.allow_tf32


def test_a_model_that_does_not_fit_the_card_is_refused_with_both_sizes(monkeypatch):
    from thoughtlens.models.loader import _check_room

    # Free are 0.5 GiB, and as much is kept by PyTorch and not in use.
    sizes = {"mem_get_info": (2**29, 2**31), "memory_reserved": 2**30, "memory_allocated": 2**29}
    for name, size in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    weights = {"a": torch.empty(2**29, device="meta")}
    _check_room(weights, torch.bfloat16, torch.device("cuda"), "M")
    with pytest.raises(CheckpointError, match=r"M needs 2\.0 GiB on cuda, 1\.0 are free; use another --device or"):
        _check_room(weights, torch.float32, torch.device("cuda"), "M")


def test_batches_are_as_large_as_memory_allows_and_32_on_a_cpu(tokenizer):
    reasoner = random_reasoner("llama", tokenizer)
    assert fitting(reasoner, 50, 6, 256)[:2] == (USUAL, TOKENS)
    sizes = [fitting(reasoner, 50, 6, 256, free=free).batch_size for free in (0, 2**22, 2**24, 2**26, 2**40)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == LARGEST and len(set(sizes)) > 3
    # Twice the cache, in the model's own numbers: 3 layers of 2 key-value heads of 4 channels, float32.
    found = fitting(reasoner, 50, 6, 100, free=2**24)
    cache = 2 * 2 * 3 * 2 * 4 * 4 * 156
    assert found.batch_size <= 0.5 * 2**24 / cache
    assert found.tokens == max(TOKENS, found.batch_size * 50)
    assert found.chosen.startswith(f"{found.batch_size}, of about ")
