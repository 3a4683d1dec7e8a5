"""CODI and Coconut on other bases of transformers: each passes the doctor and the oracle, or is refused by name."""

import pytest
import torch
import transformers
from tests import oracle
from tests.conftest import QUESTIONS
from torch import nn

from thoughtlens.errors import CheckpointError
from thoughtlens.evaluation import doctor
from thoughtlens.models import load, norm_factors
from thoughtlens.reasoning import reason, recorder_for

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
GROUPED = {"intermediate_size": 48, "num_key_value_heads": 2}
BASES = {
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 8},
    "Mistral": GROUPED | {"sliding_window": 8},
    "Phi": {"intermediate_size": 48, "num_key_value_heads": 2, "partial_rotary_factor": 0.5},
    "GPTNeoX": {"intermediate_size": 48},
    "Gemma": GROUPED | {"head_dim": 8},
}


def base_of(name, vocabulary):
    ids = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = getattr(transformers, f"{name}Config")(**ids, **SIZES, **BASES[name])
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.mark.parametrize("name", BASES)
def test_another_base_gives_its_own_numbers(name, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    v = len(tokenizer)
    base, folder = tmp_path / "base", tmp_path / "checkpoint"
    folder.mkdir()
    base_of(name, v).config.save_pretrained(base)
    tokenizer.save_pretrained(base)
    lm = base_of(name, v + 3)
    prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
    prj.add_module("ln", nn.LayerNorm(32))
    state = {f"codi.{key}": tensor for key, tensor in lm.state_dict().items()}
    torch.save(state | {f"prj.{key}": tensor for key, tensor in prj.state_dict().items()}, folder / "pytorch_model.bin")
    reasoner = load(folder, base=base)
    ids = reasoner.question(QUESTIONS[0])  # Qwen2 cuts numbers otherwise, whatever the tokenizer's own file says
    sequence, thoughts = oracle.think(lm, prj, ids, v + 1, v + 2, 6)
    recorder = recorder_for(reasoner, 1, 6)
    trace = reason(reasoner, QUESTIONS[:1], taps=[recorder], max_new_tokens=4)
    torch.testing.assert_close(trace.thoughts[0], thoughts, rtol=0, atol=1e-5)
    assert trace.tokens[0] == oracle.greedy(lm, sequence, [v + 2], tokenizer.eos_token_id, 4)
    expected = oracle.attention_rows(oracle.eager(lm), sequence, len(ids), 6, [0], 0)[:, :, :8, :10]
    torch.testing.assert_close(recorder.attention[0, :, :, :8, :10], expected, rtol=0, atol=1e-5)
    assert [check for check in doctor(reasoner) if not check.passed] == []
    assert len(norm_factors(reasoner.lm)) == 2


def test_a_base_whose_attention_is_capped_is_refused_by_name(tmp_path, tokenizer):
    transformers.Gemma2Config().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save({"codi.x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"'gemma2', which caps its attention scores \(attn_logit_softcapping\)"):
        load(tmp_path)
