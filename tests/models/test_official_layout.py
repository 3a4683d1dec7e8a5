"""Checkpoints in the official layout, made by peft and torch as the official code makes them, read by our loader."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tests import oracle
from tests.conftest import QUESTIONS
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.activations import NewGELUActivation

from thoughtlens.errors import CheckpointError
from thoughtlens.models import load
from thoughtlens.reasoning import reason

# peft asks transformers by a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

HIDDEN, INNER, RANK = 32, 48, 8
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


class Official(nn.Module):
    """The official module: a base model resized by three tokens, under peft's LoRA, and the projection."""

    def __init__(self, base: nn.Module, targets: list[str], alpha: int) -> None:
        super().__init__()
        base.resize_token_embeddings(base.config.vocab_size + 3, mean_resizing=False)
        lora = LoraConfig(
            r=RANK,
            lora_alpha=alpha,
            target_modules=targets,
            lora_dropout=0.1,
            bias="none",
            fan_in_fan_out=base.config.model_type == "gpt2",
        )
        self.codi = get_peft_model(base, lora)
        self.prj = nn.Sequential(nn.Dropout(0.0), nn.Linear(HIDDEN, INNER), nn.GELU(), nn.Linear(INNER, HIDDEN))
        self.prj.add_module("ln", nn.LayerNorm(HIDDEN))


def base_model(family: str, vocabulary: int, tied: bool = True) -> nn.Module:
    if family == "gpt2":
        config = GPT2Config(vocab_size=vocabulary, n_positions=128, n_embd=HIDDEN, n_layer=2, n_head=4)
        return GPT2LMHeadModel(config)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=8,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
        )
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))


class Made:
    """An official checkpoint on disk: `folder` with the weights, `base` with configuration and tokenizer."""

    def __init__(self, tmp_path, tokenizer, family="gpt2", *, alpha=32, tied=True, mixed=False):
        torch.manual_seed(0)
        self.base, self.folder = tmp_path / "base", tmp_path / "checkpoint"
        self.folder.mkdir()
        base = base_model(family, len(tokenizer), tied)
        base.config.save_pretrained(self.base)
        tokenizer.save_pretrained(self.base)
        self.module = Official(base, TARGETS[family], alpha).eval()
        with torch.no_grad():  # peft starts B at zero, which would hide a wrong merge
            for name, parameter in self.module.named_parameters():
                if "lora_" in name or "prj" in name:
                    parameter.normal_(std=0.1)
                if mixed and "lora_" not in name and "prj" not in name:
                    parameter.copy_(parameter.bfloat16().float())
        self.state = dict(self.module.state_dict())
        if mixed:
            self.state = {k: v if "lora_" in k or "prj" in k else v.bfloat16() for k, v in self.state.items()}
        self.save(self.state)

    def save(self, state):
        torch.save(state, self.folder / "pytorch_model.bin")

    def load(self, **options):
        return load(self.folder, base=self.base, **options)


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bfloat16 base"])
@pytest.mark.parametrize(("family", "tied"), [("gpt2", True), ("llama", True), ("llama", False)])
def test_loaded_model_gives_the_numbers_of_the_peft_module(family, tied, mixed, tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer, family, tied=tied, mixed=mixed)
    reasoner = made.load()
    lm = made.module.codi.get_base_model()
    trace = reason(reasoner, QUESTIONS, max_new_tokens=6)
    for row, question in enumerate(QUESTIONS):
        ids = tokenizer(question)["input_ids"]
        sequence, thoughts = oracle.think(lm, made.module.prj, ids, len(tokenizer) + 1, len(tokenizer) + 2, 6)
        torch.testing.assert_close(trace.thoughts[row], thoughts, rtol=0, atol=1e-5)
        with torch.no_grad():
            ours = reasoner.lm(inputs_embeds=sequence).logits
            torch.testing.assert_close(ours, lm(inputs_embeds=sequence).logits, rtol=0, atol=1e-5)
        assert trace.tokens[row] == oracle.greedy(lm, sequence, len(tokenizer) + 2, tokenizer.eos_token_id, 6)


def test_keys_are_those_of_the_published_checkpoint(tmp_path, tokenizer):
    """The layout of the published GPT-2 checkpoint; if peft changed its names, the test above would prove less."""
    keys = set(Made(tmp_path, tokenizer).state)
    block = "codi.base_model.model.transformer.h.0"
    assert {
        "codi.base_model.model.transformer.wte.weight",
        f"{block}.attn.c_attn.base_layer.bias",
        f"{block}.mlp.c_proj.lora_A.default.weight",
        f"{block}.attn.c_proj.lora_B.default.weight",
        "codi.base_model.model.lm_head.weight",
        "prj.1.weight",
        "prj.ln.bias",
    } <= keys


def test_alpha_is_32_unless_given(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer, alpha=8)
    question = reason(made.load(alpha=8), QUESTIONS[:1], max_new_tokens=1).thoughts
    ids = tokenizer(QUESTIONS[0])["input_ids"]
    lm = made.module.codi.get_base_model()
    _, expected = oracle.think(lm, made.module.prj, ids, len(tokenizer) + 1, len(tokenizer) + 2, 6)
    torch.testing.assert_close(question[0], expected, rtol=0, atol=1e-5)
    assert (reason(made.load(), QUESTIONS[:1], max_new_tokens=1).thoughts - question).abs().max() > 1e-2


def test_loaded_gpt2_has_its_activation_in_one_kernel(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    kinds = [{type(m) for m in lm.modules()} for lm in (made.module.codi, made.load().lm)]
    assert [NewGELUActivation in kind for kind in kinds] == [True, False]


def test_a_changed_checkpoint_is_merged_anew(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    before = made.load().projection[1].bias
    made.save(made.state | {"prj.1.bias": made.state["prj.1.bias"] + 1})
    torch.testing.assert_close(made.load().projection[1].bias, before + 1)


def test_safetensors_is_preferred_and_the_same(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    before = made.load()
    state = {name: tensor.clone().contiguous() for name, tensor in made.state.items()}
    save_file(state, made.folder / "model.safetensors")
    (made.folder / "pytorch_model.bin").write_bytes(b"not read")
    after = made.load()
    assert torch.equal(before.lm.lm_head.weight, after.lm.lm_head.weight)


def test_weights_stay_tied_and_provenance_is_recorded(tmp_path, tokenizer):
    reasoner = Made(tmp_path, tokenizer).load(dtype="bfloat16")
    assert reasoner.lm.lm_head.weight is reasoner.lm.get_input_embeddings().weight
    assert reasoner.lm.dtype == torch.bfloat16
    assert len(reasoner.provenance["sha256"]) == 64
    assert json.dumps(dict(reasoner.provenance))


def without(key):
    return lambda state: {name: tensor for name, tensor in state.items() if name != key}


def with_key(key, shape=(2,)):
    return lambda state: state | {key: torch.zeros(shape)}


BLOCK = "codi.base_model.model.transformer.h.1.attn"
WRONG = {
    "decoder key missing": (without(f"{BLOCK}.c_attn.base_layer.bias"), "transformer.h.1.attn.c_attn.bias"),
    "adapted key missing": (
        without(f"{BLOCK}.c_attn.base_layer.weight"),
        "transformer.h.1.attn.c_attn.base_layer.weight",
    ),
    "embedding missing": (without("codi.base_model.model.transformer.wte.weight"), "transformer.wte.weight"),
    "lora half missing": (without(f"{BLOCK}.c_proj.lora_B.default.weight"), "transformer.h.1.attn.c_proj.lora_B"),
    "projection key missing": (without("prj.ln.weight"), "lacks 'prj.ln.weight'"),
    "decoder key too many": (with_key("codi.base_model.model.transformer.h.9.extra"), "transformer.h.9.extra"),
    "projection key too many": (with_key("prj.7.weight"), "unexpected key 'prj.7.weight'"),
    "decoder key twice": (with_key("codi.transformer.h.1.attn.c_attn.base_layer.bias", (96,)), "twice"),
    "foreign key": (with_key("decoder.wte.weight"), "unexpected key 'decoder.wte.weight'"),
    "embeddings of another base": (
        with_key("codi.base_model.model.transformer.wte.weight", (99, HIDDEN)),
        "99 embeddings",
    ),
    "untied head": (with_key("codi.base_model.model.lm_head.weight", (577, HIDDEN)), "lm_head that differs"),
    "misshapen lora": (with_key(f"{BLOCK}.c_proj.lora_A.default.weight", (RANK, 7)), "attn.c_proj"),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_key_is_accounted_for(case, tmp_path, tokenizer):
    spoil, message = WRONG[case]
    made = Made(tmp_path, tokenizer)
    made.save(spoil(made.state))
    with pytest.raises(CheckpointError) as caught:
        made.load()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_model_is_not_a_checkpoint(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer)
    base_model("gpt2", len(tokenizer)).save_pretrained(made.base)
    with pytest.raises(CheckpointError, match="is this the base model"):
        load(made.base)


def test_llama_weights_on_a_gpt2_base_are_refused(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer, "llama")
    base_model("gpt2", len(tokenizer)).config.save_pretrained(made.base)
    with pytest.raises(CheckpointError, match="architecture the right one"):
        made.load()


def test_checkpoint_without_config_asks_for_the_base(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match="name the base model with --base"):
        load(Made(tmp_path, tokenizer).folder)


def settings(content):
    return lambda made: (made.folder / "thoughtlens.json").write_text(content)


def configuration(**changed):
    def change(made):
        path = made.base / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def tokenizer_of(change):
    def save(made):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(made.base)
        change(tokenizer)
        tokenizer.save_pretrained(made.base)

    return save


WRONG_FILES = {
    "settings are no JSON": (settings("{"), "thoughtlens.json is no JSON object"),
    "settings are a list": (settings("[1]"), "thoughtlens.json is no JSON object"),
    "thoughts are a word": (settings('{"n_thoughts": "six"}'), "sets n_thoughts to 'six', expected a number"),
    "unknown architecture": (configuration(model_type="codi"), "no configuration that transformers knows"),
    "another architecture": (configuration(model_type="bert"), "is of type 'bert'; CODI is read on gpt2 and llama"),
    "attention in another order": (configuration(reorder_and_upcast_attn=True), "sets reorder_and_upcast_attn"),
    "other positions": (configuration(n_positions=64), "checkpoint does not fit the base"),
    "no tokenizer": (
        lambda made: [path.unlink() for path in made.base.glob("*token*")],
        "holds no tokenizer; copy the base model's tokenizer files there",
    ),
    "tokens beyond the markers": (
        tokenizer_of(lambda tokenizer: tokenizer.add_tokens(["<one>", "<two>"])),
        "tokens, but the model's markers begin at",
    ),
    "a marker in another place": (
        tokenizer_of(lambda tokenizer: tokenizer.add_tokens(["<|bocot|>"])),
        "has <|bocot|> at 574, expected 575 as the model has `bot`; pass the base model that the checkpoint was",
    ),
    "no end token": (
        tokenizer_of(lambda tokenizer: setattr(tokenizer, "eos_token", None)),
        "names no end token; pass the base model's own tokenizer",
    ),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_files_that_do_not_fit_the_checkpoint_end_in_one_sentence(case, tmp_path, tokenizer):
    spoil, message = WRONG_FILES[case]
    made = Made(tmp_path, tokenizer)
    spoil(made)
    with pytest.raises(CheckpointError) as caught:
        made.load()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_llama_base_without_a_tokenizer_is_refused(tmp_path, tokenizer):
    made = Made(tmp_path, tokenizer, "llama")
    for path in made.base.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="holds no tokenizer; copy the base model's tokenizer files there"):
        made.load()


def test_a_file_in_the_place_of_a_folder_is_said(tmp_path, tokenizer):
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a file; pass the folder that holds it"):
        load(Made(tmp_path, tokenizer).folder / "pytorch_model.bin")
