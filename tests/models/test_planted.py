"""A model whose truth is known: what is measured on it must be what was planted."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from tests.conftest import QUESTIONS, usually
from transformers import GPT2Config, GPT2LMHeadModel

from thoughtlens.analysis import analyze, hub_test
from thoughtlens.cuts import Intervention, Replace, Zero
from thoughtlens.errors import CheckpointError, OptionError
from thoughtlens.evaluation import doctor, evaluate
from thoughtlens.models import (
    PLANTED,
    Codi,
    Markers,
    Strengths,
    load,
    planted_attention,
    planted_problems,
    planted_reasoner,
    projection,
)
from thoughtlens.notation import thought_names
from thoughtlens.problems import Problem
from thoughtlens.reasoning import reason, recorder_for
from thoughtlens.schema import attention_dataset, check_attention
from thoughtlens.taps import ATTENTION, Site

LEVELS = {
    "default": Strengths(),
    "weak": Strengths(hub=0.6, sequential=0.6, skip=0.6, sink=0.5),
    "strong": Strengths(hub=0.95, sequential=0.9, skip=1.0, sink=1.0),
}


TWO = usually("default", "strong", of=LEVELS)


@pytest.fixture(scope="module")
def reasoner() -> Codi:
    return planted_reasoner()


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return planted_problems(40, seed=3)


def measure(reasoner, questions, **options):
    recorder = recorder_for(reasoner, len(questions), reasoner.n_thoughts)
    trace = reason(reasoner, questions, taps=[recorder], **options)
    return attention_dataset(
        recorder.attention.numpy(),
        problem_ids=[f"p{row}" for row in range(len(questions))],
        correct=np.zeros(len(questions)),
        n_question_tokens=np.array(trace.n_question_tokens),
    )


@cache
def measured(level: str):
    questions = [problem.question for problem in planted_problems(40, seed=3)]
    return check_attention(measure(planted_reasoner(LEVELS[level]), questions))


@cache
def analysed(level: str):
    dataset = measured(level)
    return analyze(dataset, correct=dataset["correct"], n_resamples=200)


def estimates(level: str, measure: str) -> dict[str, float]:
    values = analysed(level).heads[measure].sel(value="estimate")
    return {role: float(values.sel(layer=layer, head=head)) for role, (layer, head) in PLANTED.items()}


def solved(reasoner, problems, taps=()) -> list[bool]:
    texts = reason(reasoner, [problem.question for problem in problems], taps=taps).texts
    return [reasoner.read_answer(text) == problem.answer for text, problem in zip(texts, problems, strict=True)]


@pytest.mark.parametrize("level", TWO)
def test_attention_of_thoughts_is_what_was_planted(level):
    dataset = measured(level)
    thoughts = thought_names(6)
    for problem in dataset["problem"].values:
        expected = planted_attention(int(dataset["n_question_tokens"].sel(problem=problem)), LEVELS[level])
        found = dataset["attention"].sel(problem=problem, query=thoughts)
        np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-3)


@pytest.mark.parametrize("level", TWO)
def test_strengths_are_read_off_the_attention(level):
    rows = measured(level)["attention"].mean("problem")
    strengths = LEVELS[level]

    def head(role):
        layer, number = PLANTED[role]
        return rows.sel(layer=layer, head=number)

    for before, thought in zip(thought_names(6), thought_names(6)[1:], strict=False):
        assert float(head("hub").sel(query=thought, key="z1")) == pytest.approx(strengths.hub, abs=1e-3)
        assert float(head("sequential").sel(query=thought, key=before)) == pytest.approx(strengths.sequential, abs=1e-3)
        assert float(head("sink").sel(query=thought, key="first")) == pytest.approx(strengths.sink, abs=1e-3)
    first_three = head("skip").sel(query="z6", key=["z1", "z2", "z3"])
    assert float(first_three.sum()) == pytest.approx(strengths.skip, abs=1e-3)


@pytest.mark.parametrize("level", TWO)
def test_measured_preferences_equal_those_worked_out_by_hand(level):
    strengths = LEVELS[level]
    # A row q (from 0) gives w to its target and (1 - w)/q to each of q others, `first` among them: its thought mass is
    # 1 - (1 - w)/q, of which q - 1 earlier thoughts beside the target have (1 - w)/q each.
    rows = np.arange(2, 6)

    def even_share(w):
        return ((1 - (1 - w) / rows) / rows).sum()

    hub, sequential, skip = strengths.hub, strengths.sequential, strengths.skip
    assert estimates(level, "sequential")["sequential"] == pytest.approx(
        4 * sequential / even_share(sequential), abs=1e-3
    )
    found = analysed(level).heads["preference"].sel(layer=1, head=0, thought="z1", value="estimate")
    assert PLANTED["hub"] == (1, 0)
    assert float(found) == pytest.approx(4 * hub / even_share(hub), abs=1e-3)
    # The last row has three others: z4, z5 and `first`.
    mass = 1 - (1 - skip) / 3
    assert estimates(level, "skip")["skip"] == pytest.approx(skip / (mass * 3 / 5), abs=1e-3)
    for role in ("even", "carrier", "thoughts", "nothing"):
        assert estimates(level, "largest_preference")[role] == pytest.approx(1, abs=1e-3)
        assert estimates(level, "sequential")[role] == pytest.approx(1, abs=1e-3)
        assert estimates(level, "skip")[role] == pytest.approx(1, abs=1e-3)


def test_planted_heads_are_on_top_of_their_lists():
    for measure, role, threshold in (
        ("largest_preference", "hub", 2.3),
        ("sequential", "sequential", 1.1),
        ("skip", "skip", 1.5),
    ):
        values = estimates("default", measure)
        assert max(values, key=values.get) == role
        assert [name for name, value in values.items() if value > threshold] == [role]
    ranking = analysed("default").ranking
    layer, head = PLANTED["hub"]
    assert str(ranking["name"].values[0]) == f"L{layer}H{head}"
    assert str(ranking["hub"].values[0]) == "z1"


@pytest.mark.parametrize("level", TWO)
def test_hub_test_names_the_hub_head_and_no_other(level):
    found = hub_test(measured(level))
    significant = {
        role: str(found["hub"].sel(layer=layer, head=head).item())
        for role, (layer, head) in PLANTED.items()
        if found["p_corrected"].sel(layer=layer, head=head) < 0.05
    }
    assert significant == {"hub": "z1"}


@pytest.mark.parametrize("role", ["even", "nothing"])
def test_even_head_has_no_preference(role):
    layer, head = PLANTED[role]
    preference = analysed("default").heads["preference"].sel(layer=layer, head=head, thought=thought_names(6)[:-1])
    # 1e-9 for float64 sums: without noise the interval has no width.
    assert (preference.sel(value="low") <= 1 + 1e-9).all()
    assert (preference.sel(value="high") >= 1 - 1e-9).all()


def test_its_own_problems_are_solved(reasoner):
    assert all(solved(reasoner, planted_problems(300, seed=0)))


@pytest.mark.parametrize("role", PLANTED)
def test_only_the_carrier_carries_the_answer(role, reasoner, problems):
    layer, head = PLANTED[role]
    cut = Intervention(Site.HEAD, Zero(), frozenset({layer}), frozenset({head}))
    share = np.mean(solved(reasoner, problems, [cut]))
    assert share == (0 if role == "carrier" else 1)


@pytest.mark.parametrize(
    ("query", "broken"), [("bot", True), ("z1", False), ("z6", False), ("eot", False), ("answer", True)]
)
def test_carrier_acts_at_bot_and_at_the_answer(query, broken, reasoner, problems):
    layer, head = PLANTED["carrier"]
    cut = Intervention(Site.HEAD, Zero(), frozenset({layer}), frozenset({head}), frozenset({query}))
    assert np.mean(solved(reasoner, problems, [cut])) == (0 if broken else 1)


@pytest.mark.parametrize("thought", thought_names(6))
def test_answer_is_that_of_the_donor_of_any_one_thought(thought, reasoner, problems):
    """Each thought hands on what it holds, so that one donated thought decides what comes after it."""
    questions = [problem.question for problem in problems]
    edit = Replace(reason(reasoner, questions).thoughts.roll(-1, 0))
    taps = [Intervention(Site.THOUGHT, edit, queries=frozenset({thought}))]
    texts = reason(reasoner, questions, taps=taps).texts
    donors = [*problems[1:], problems[0]]
    assert [reasoner.read_answer(text) for text in texts] == [donor.answer for donor in donors]


@pytest.mark.parametrize("thought", thought_names(6))
def test_answer_reads_the_last_thought_that_is_left(thought, reasoner, problems):
    cut = Intervention(Site.THOUGHT, Zero(), queries=frozenset({thought}))
    assert np.mean(solved(reasoner, problems, [cut])) == (0 if thought == "z1" else 1)


def test_swapped_thoughts_give_the_answer_of_the_donor(reasoner, problems):
    questions = [problem.question for problem in problems]
    donated = reason(reasoner, questions).thoughts.roll(-1, 0)
    texts = reason(reasoner, questions, taps=[Intervention(Site.THOUGHT, Replace(donated))]).texts
    donors = [*problems[1:], problems[0]]
    assert [reasoner.read_answer(text) for text in texts] == [donor.answer for donor in donors]


def test_without_its_thoughts_nothing_is_answered(reasoner, problems):
    for outcome in evaluate(reasoner, problems, conditions=("none", "zeroed")):
        assert not any(outcome.correct), outcome.condition


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_doctor_finds_it_sound(dtype):
    assert [check for check in doctor(planted_reasoner(dtype=dtype)) if not check.passed] == []


def test_numbers_of_a_problem_do_not_depend_on_its_batch(reasoner):
    together = measure(reasoner, QUESTIONS)["attention"].values
    for row, question in enumerate(QUESTIONS):
        alone = measure(reasoner, [question])["attention"].values
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_thoughts", [1, 2, 3, 5, 32])
def test_any_number_of_thoughts_can_be_planted(n_thoughts, problems):
    reasoner = planted_reasoner(n_thoughts=n_thoughts)
    dataset = measure(reasoner, [problem.question for problem in problems[:5]])
    rows = dataset["attention"].sel(query=thought_names(n_thoughts))
    for problem, n_tokens in zip(rows, dataset["n_question_tokens"].values, strict=True):
        expected = planted_attention(int(n_tokens), n_thoughts=n_thoughts)
        np.testing.assert_allclose(problem.values, expected.values, rtol=0, atol=1e-3)
    assert all(solved(reasoner, problems))


def test_a_folder_of_strengths_is_a_model(tmp_path):
    (tmp_path / "thoughtlens.json").write_text(json.dumps({"family": "planted", "n_thoughts": 4, "hub": 0.25}))
    reasoner = load(tmp_path)
    assert reasoner.n_thoughts == 4
    assert reasoner.provenance["strengths"]["hub"] == 0.25
    assert reasoner.provenance["sha256"] != load("planted").provenance["sha256"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"hubb": 0.5}, CheckpointError, "sets 'hubb', expected of a planted model"),
        ({"hub": 1.5}, OptionError, "the strength hub is 1.5, expected a share"),
        ({"hub": "much"}, OptionError, "the strength hub is 'much'"),
        ({"n_thoughts": 33}, OptionError, "the number of thoughts is 33, expected 1 to 32"),
    ],
)
def test_a_wrong_setting_is_named(settings, error, message, tmp_path):
    (tmp_path / "thoughtlens.json").write_text(json.dumps({"family": "planted"} | settings))
    with pytest.raises(error, match=message):
        load(tmp_path)


def test_building_it_leaves_the_random_numbers_alone():
    before = torch.random.get_rng_state()
    planted_reasoner()
    assert torch.equal(torch.random.get_rng_state(), before)


def random_hubs(seed: int, questions: list[str], planted_one: Codi) -> int:
    """How many heads of a small GPT-2 with random weights are called hubs."""
    torch.manual_seed(seed)
    markers = Markers(len(planted_one.tokenizer))
    # The initialisation is GPT-2's own, normal with standard deviation 0.02.
    config = GPT2Config(
        vocab_size=markers.n_embeddings, n_positions=128, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    config._attn_implementation = ATTENTION
    lm = GPT2LMHeadModel(config).eval()
    reasoner = Codi(lm, projection(64, 64).eval(), planted_one.tokenizer, markers)
    dataset = measure(reasoner, questions, max_new_tokens=1)
    return int((hub_test(dataset, n_draws=500)["p_corrected"] < 0.05).sum())


def test_random_weights_show_no_hub(reasoner):
    questions = [problem.question for problem in planted_problems(20, seed=5)]
    hubs = [random_hubs(seed, questions, reasoner) for seed in range(40)]
    assert sum(found == 0 for found in hubs) >= 38
