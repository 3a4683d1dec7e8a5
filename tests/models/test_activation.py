"""The fused activation is the same function."""

import copy

import torch
from tests.conftest import random_reasoner
from transformers.activations import NewGELUActivation

from thoughtlens.models import fuse_gelu
from thoughtlens.reasoning import reason


def spelled_out(lm):
    return [module for module in lm.modules() if isinstance(module, NewGELUActivation)]


def test_fused_model_thinks_the_same(tokenizer):
    plain = random_reasoner("gpt2", tokenizer)
    fused = random_reasoner("gpt2", tokenizer)
    fuse_gelu(fused.lm)
    assert len(spelled_out(plain.lm)) == 3
    assert not spelled_out(fused.lm)
    questions = ["Tom has 5 apples.", "How many?"]
    found, expected = (reason(reasoner, questions, max_new_tokens=1).thoughts for reasoner in (fused, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)  # six thoughts in a row amplify rounding


def test_fused_layer_equals_the_formula_in_double_precision(tokenizer):
    lm = random_reasoner("gpt2", tokenizer, torch.float64).lm
    inputs = torch.linspace(-6, 6, 97, dtype=torch.float64)
    expected = spelled_out(lm)[0](inputs)
    found = fuse_gelu(copy.deepcopy(lm)).transformer.h[0].mlp.act(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_other_activations_are_left_alone(tokenizer):
    lm = random_reasoner("llama", tokenizer).lm
    before = [type(module) for module in lm.modules()]
    assert [type(module) for module in fuse_gelu(lm).modules()] == before
