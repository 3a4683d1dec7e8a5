"""The models in the package: sound, small, and as good as their cards say."""

import json

import numpy as np
import pytest
from tests.conftest import usually

from thoughtlens.analysis import proportion_interval
from thoughtlens.evaluation import decode_thoughts, doctor, evaluate, results_read
from thoughtlens.models import bundled, load, read_card
from thoughtlens.problems import draw, load_set


@pytest.mark.parametrize("name", bundled())
def test_doctor_finds_every_bundled_model_sound(name):
    failed = [check for check in doctor(load(name)) if not check.passed]
    assert failed == []


@pytest.mark.parametrize("name", bundled())
def test_bundled_model_is_small(name):
    assert sum(file.stat().st_size for file in bundled()[name].iterdir()) < 4 * 2**20


TRAINED = ("tiny-gpt2", "tiny-llama")


@pytest.mark.parametrize("name", TRAINED)
def test_trained_model_needs_its_thoughts(name):
    accuracy = {condition: share["accuracy"] for condition, share in read_card(name)["accuracy"].items()}
    assert read_card(name)["accuracy"]["own"]["n"] >= 2000
    assert accuracy["own"] >= 0.97
    assert accuracy["explicit"] >= 0.98
    for broken in ("none", "zeroed", "averaged", "swapped"):
        assert accuracy["own"] - accuracy[broken] >= 0.70


def test_answers_of_the_control_do_not_depend_on_its_thoughts():
    accuracy = {condition: share["accuracy"] for condition, share in read_card("tiny-gpt2-control")["accuracy"].items()}
    for broken in ("zeroed", "averaged", "swapped"):
        assert abs(accuracy["own"] - accuracy[broken]) <= 0.02


def test_control_has_the_architecture_of_the_model_it_controls():
    control, model = read_card("tiny-gpt2-control"), read_card("tiny-gpt2")
    for name in ("architecture", "layers", "heads", "hidden", "parameters", "thoughts"):
        assert control[name] == model[name]
    assert control["training"]["stages"] == model["training"]["stages"]


@pytest.mark.parametrize("name", bundled())
def test_card_is_of_the_bundled_problems(name):
    of = read_card(name)["problems"]
    assert load_set(of["name"], of["split"]).fingerprint == of["fingerprint"]


# One model of each way to feed thoughts back; the cards of all are checked by night.
@pytest.mark.parametrize("name", usually("tiny-gpt2", "tiny-coconut", of=bundled()))
def test_card_accuracies_hold_on_a_sample(name):
    """Each accuracy of the card lies in a 99.9 % interval around what a sample of 200 gives."""
    card = read_card(name)
    problems = draw(load_set(card["problems"]["name"], card["problems"]["split"]), 200, seed=1).problems
    for outcome in evaluate(load(name), problems):
        found = proportion_interval(sum(outcome.correct), 200, confidence=0.999)
        claimed = card["accuracy"][outcome.condition]["accuracy"]
        assert float(found.sel(value="low")) <= claimed <= float(found.sel(value="high")), outcome.condition


@pytest.mark.parametrize("name", usually("tiny-gpt2", of=TRAINED))
def test_card_says_what_thoughts_name(name):
    """On a sample, a step's result is read off the thought that the card names as often as the card says."""
    problems = draw(load_set("arithmetic", "test"), 300, seed=1).problems
    read = results_read(decode_thoughts(load(name), problems), problems)
    for row in read_card(name)["lens"]:
        of_thought = read.sel(step=row["step"], stage="state_out", thought=row["thought"])
        n = int(of_thought["n"])
        found = proportion_interval(round(float(of_thought["own"]) * n), n, confidence=0.999)
        assert float(found.sel(value="low")) <= row["own"] <= float(found.sel(value="high"))


@pytest.mark.parametrize("name", bundled())
def test_card_is_json_without_nan(name):
    json.dumps(read_card(name), allow_nan=False)


def test_any_text_can_be_encoded_and_decoded():
    reasoner = load("tiny-gpt2")
    text = "Janet’s ducks lay 16 eggs per day – she earns $1,234.50 (≈ 10 %)\nünï 日本 \U0001f986"
    assert reasoner.tokenizer.decode(reasoner.tokenizer(text)["input_ids"]) == text


def test_numbers_below_100_are_one_token():
    reasoner = load("tiny-gpt2")
    lengths = [len(reasoner.tokenizer(str(number))["input_ids"]) for number in range(100)]
    assert np.all(np.array(lengths) == 1)
