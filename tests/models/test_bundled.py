"""The models in the package: sound, small, and as good as their cards say."""

import json

import numpy as np
import pytest

from thoughtlens.analysis import proportion_interval
from thoughtlens.models.catalog import bundled, read_card
from thoughtlens.models.loading import load
from thoughtlens.problems import draw, load_set
from thoughtlens.runs.conditions import evaluate
from thoughtlens.runs.doctor import doctor


@pytest.mark.parametrize("name", bundled())
def test_doctor_finds_every_bundled_model_sound(name):
    failed = [check for check in doctor(load(name)) if not check.passed]
    assert failed == []


@pytest.mark.parametrize("name", bundled())
def test_bundled_model_is_small(name):
    assert sum(file.stat().st_size for file in bundled()[name].iterdir()) < 4 * 2**20


def test_card_reaches_the_bar():
    accuracy = {name: share["accuracy"] for name, share in read_card("tiny-gpt2")["accuracy"].items()}
    assert read_card("tiny-gpt2")["accuracy"]["own"]["n"] >= 2000
    assert accuracy["own"] >= 0.95
    assert accuracy["explicit"] >= 0.95
    for broken in ("none", "zeroed", "averaged", "swapped"):
        assert accuracy["own"] - accuracy[broken] >= 0.60


def test_card_is_of_the_bundled_problems():
    card = read_card("tiny-gpt2")
    assert load_set("arithmetic", "test").fingerprint == card["problems"]["fingerprint"]


def test_card_accuracies_hold_on_a_sample():
    """Each accuracy of the card lies in a 99.9 % interval around what a sample of 300 gives."""
    card = read_card("tiny-gpt2")
    problems = draw(load_set("arithmetic", "test"), 300, seed=1).problems
    for outcome in evaluate(load("tiny-gpt2"), problems):
        found = proportion_interval(sum(outcome.correct), 300, confidence=0.999)
        claimed = card["accuracy"][outcome.condition]["accuracy"]
        assert float(found.sel(value="low")) <= claimed <= float(found.sel(value="high")), outcome.condition


def test_card_is_json_without_nan():
    json.dumps(read_card("tiny-gpt2"), allow_nan=False)


def test_any_text_can_be_encoded_and_decoded():
    reasoner = load("tiny-gpt2")
    text = "Janet’s ducks lay 16 eggs per day – she earns $1,234.50 (≈ 10 %)\nünï 日本 \U0001f986"
    assert reasoner.tokenizer.decode(reasoner.tokenizer(text)["input_ids"]) == text


def test_numbers_below_100_are_one_token():
    reasoner = load("tiny-gpt2")
    lengths = [len(reasoner.tokenizer(str(number))["input_ids"]) for number in range(100)]
    assert np.all(np.array(lengths) == 1)
