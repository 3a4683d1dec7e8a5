"""The architecture stays, what was learnt goes."""

import pytest
import torch
from tests.conftest import QUESTIONS, random_reasoner
from typer.testing import CliRunner

from thoughtlens.cli import app
from thoughtlens.errors import OptionError
from thoughtlens.evaluation import doctor
from thoughtlens.models import load, randomize, reasoner_of
from thoughtlens.reasoning import reason
from thoughtlens.runs import open_run

BUNDLED = ["tiny-gpt2", "tiny-llama", "planted"]


def weights(reasoner):
    parts = (reasoner.lm, reasoner.projection)
    return {f"{k}.{name}": tensor for k, part in enumerate(parts) for name, tensor in part.state_dict().items()}


@pytest.mark.parametrize("name", BUNDLED)
def test_shapes_stay_and_every_learnt_matrix_goes(name):
    before = load(name)
    after = randomize(before, seed=1)
    old, new = weights(before), weights(after)
    assert {k: (v.shape, v.dtype) for k, v in old.items()} == {k: (v.shape, v.dtype) for k, v in new.items()}
    assert not [k for k in old if old[k].dim() == 2 and torch.equal(old[k], new[k])]
    assert (after.n_thoughts, after.markers, after.closing) == (before.n_thoughts, before.markers, before.closing)
    assert not after.lm.training


@pytest.mark.parametrize("name", BUNDLED)
def test_weights_spread_as_the_configuration_says(name):
    """Embeddings are drawn with the standard deviation `initializer_range`; the mean of n draws of s² is off by
    s² √(2/n), here five times that."""
    lm = randomize(load(name), seed=3).lm
    table = lm.get_input_embeddings().weight
    expected = lm.config.initializer_range**2
    assert abs(table.square().mean() - expected) < 5 * expected * (2 / table.numel()) ** 0.5


def test_projection_is_drawn_as_pytorch_draws_it(tokenizer):
    """Uniform within ±1/√fan-in, reaching near the ends; the norm starts as the identity."""
    projection = randomize(random_reasoner("llama", tokenizer), seed=0).projection
    for layer in (projection[1], projection[3]):
        bound = layer.in_features**-0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert (projection.ln.weight == 1).all() and (projection.ln.bias == 0).all()


def test_same_seed_same_weights_whatever_was_drawn_before_and_in_whatever_precision():
    reasoner = load("tiny-gpt2")
    first = randomize(reasoner, seed=5)
    torch.rand(7)
    again, wide = randomize(reasoner, seed=5), randomize(load("tiny-gpt2", dtype="float64"), seed=5)
    torch.testing.assert_close(weights(again), weights(first), rtol=0, atol=0)
    assert wide.lm.dtype == torch.float64
    torch.testing.assert_close(weights(wide), {k: v.double() for k, v in weights(first).items()}, rtol=0, atol=0)
    assert first.provenance["sha256"] == again.provenance["sha256"] == wide.provenance["sha256"]
    other = randomize(reasoner, seed=6)
    assert other.provenance["sha256"] != first.provenance["sha256"]
    assert not torch.equal(other.lm.lm_head.weight, first.lm.lm_head.weight)


def test_the_original_and_the_random_numbers_of_others_are_left_alone():
    reasoner = load("tiny-llama")
    before, provenance = {k: v.clone() for k, v in weights(reasoner).items()}, dict(reasoner.provenance)
    state = torch.random.get_rng_state()
    randomize(reasoner, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(weights(reasoner), before, rtol=0, atol=0)
    assert reasoner.provenance == provenance


def test_weights_that_were_tied_stay_tied():
    lm = randomize(load("tiny-llama"), seed=1).lm
    assert lm.lm_head.weight is lm.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_reasoner_with_random_weights_is_sound(family, tokenizer):
    fresh = randomize(random_reasoner(family, tokenizer), seed=2)
    assert [check for check in doctor(fresh) if not check.passed] == []


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed, tokenizer):
    with pytest.raises(OptionError, match="the seed of the random weights is"):
        randomize(random_reasoner("gpt2", tokenizer), seed=seed)


def test_a_run_with_random_weights_is_another_run_and_its_model_comes_back(tmp_path):
    def call(*options):
        how = ["--problems", str(problems), "--max-new-tokens", "4", "--out", str(tmp_path / "run")]
        return CliRunner().invoke(app, ["extract", *how, *options])

    problems = tmp_path / "some.jsonl"
    problems.write_text('{"question": "Tom has 3 pens. How many pens does he have?", "answer": "3"}\n')
    assert call("--random-weights", "4").exit_code == 0
    for options in ((), ("--random-weights", "5")):
        refused = call(*options)
        assert refused.exit_code == 2
        assert "there: --model tiny-gpt2-random-weights-4; here: --model tiny-gpt2" in refused.stderr
    manifest = open_run(tmp_path / "run").manifest
    expected = randomize(load("tiny-gpt2"), seed=4)
    found, thoughts = reasoner_of(manifest), reason(expected, QUESTIONS, max_new_tokens=1).thoughts
    assert torch.equal(reason(found, QUESTIONS, max_new_tokens=1).thoughts, thoughts)
    assert found.provenance["name"] == "tiny-gpt2-random-weights-4"
