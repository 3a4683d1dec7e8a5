"""A cut that makes a model write steps in the place of its answer destroys answers, however it is forced."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import thoughtlens as tl
from thoughtlens.cuts import Zero, ablate_head, plan_cuts
from thoughtlens.cuts.passes import Cutting, batch_of, variables_of
from thoughtlens.models import load
from thoughtlens.problems import sample
from thoughtlens.reports import study, study_headline
from thoughtlens.schema import check_effects

PLAN = Path(__file__).parents[1] / "data" / "plan_forced_prefix.json"


@pytest.fixture(scope="module")
def llama():
    return load("tiny-llama")


@pytest.fixture(scope="module")
def done(llama, tmp_path_factory):
    """The fewest problems that show it: the cut breaks some, and behind the forced prefix it costs next to nothing."""
    run = tl.extract(llama, sample("arithmetic", n=24, seed=42), tmp_path_factory.mktemp("forced") / "run")
    effects = tl.intervene(run, plan_cuts(run, file=PLAN, reasoner=llama), reasoner=llama)
    return run, study(run, check_effects(effects), n_resamples=200)


def test_a_forced_prefix_does_not_hide_answers_that_are_gone(done):
    summary = done[1].summary.isel(intervention=0)
    label = json.loads(PLAN.read_text())[0]["label"]
    assert str(summary["intervention"].item()) == label
    assert abs(summary["gold_logprob"].sel(value="estimate")) < 0.001
    assert summary["p"].sel(outcome="gold_logprob") > 0.05
    assert summary["joint_logprob"].sel(value="estimate") < -0.2
    assert summary["p_holm"].sel(outcome="joint_logprob") < 0.01


def test_accuracy_is_split_by_whether_the_prefix_is_said(done):
    summary = done[1].summary.isel(intervention=0)
    # All broken answers are among those that begin with something else.
    assert summary["n_broken"] == summary["n_unsaid"] == 24 - summary["n_said"] > 0
    assert summary["accuracy_unsaid"] == -1.0 and summary["accuracy_said"] == 0.0
    assert summary["said_prefix"].sel(value="estimate") == pytest.approx(-int(summary["n_broken"]) / 24)
    assert summary["baseline_said_prefix"].sel(value="estimate") == 1.0


def test_headlines_rank_by_prefix_and_answer_together(done):
    facts = study_headline(*done)
    assert facts["top"][0]["joint_logprob"]["estimate"] < -0.2
    assert facts["top"][0]["n_unsaid"] == facts["top"][0]["n_broken"] > 0
    assert facts["n_significant"] == {"accuracy": 0, "joint_logprob": 1, "gold_logprob": 0}
    assert facts["top"][0]["shown"] == {"accuracy": "not shown", "joint_logprob": "a loss", "gold_logprob": "not shown"}


def test_what_the_forced_prefix_hides_is_warned_of(done):
    hidden, few = study_headline(*done)["warnings"]
    label = json.loads(PLAN.read_text())[0]["label"]
    assert "behind the forced prefix does not tell what these cuts do" in hidden and label in hidden
    assert "a handful of problems (fewer than 20) carries the mean effect" in few and label in few


def test_a_model_without_a_prefix_has_no_outcomes_of_it(llama):
    bare = replace(llama, wording=replace(llama.wording, prefix=""))
    problems = sample("arithmetic", n=2, seed=0)
    cutting = Cutting(bare, batch_of(bare, problems, 6), 6)
    variables = variables_of(cutting.outcomes([ablate_head("L0H0", edit=Zero()).parts]))
    assert set(variables) == {"correct", "gold_logprob", "joint_logprob", "kl", "answer", "failed"}
    assert variables["joint_logprob"].tolist() == variables["gold_logprob"].tolist()
