"""The commands on checkpoints: what doctor says of damaged and foreign folders, modes, published numbers, the cache."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.commands import call, sentence
from tests.models.test_official_layout import base_model

from thoughtlens.evaluation import Outcome, expectations
from thoughtlens.models import bundled, known_checkpoints


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copied(tmp_path):
    """A copy of a bundled checkpoint, and its state."""
    folder = tmp_path / "copied"
    shutil.copytree(bundled()["tiny-gpt2"], folder)
    return folder, load_file(folder / "model.safetensors")


WTE = "codi.transformer.wte.weight"


def no_weights(folder, state):
    (folder / "model.safetensors").unlink()


def written(change):
    return lambda folder, state: save_file(change(dict(state)), folder / "model.safetensors")


def without(part):
    return written(lambda state: {key: tensor for key, tensor in state.items() if part not in key})


def adapter_alone(folder, state):
    no_weights(folder, state)
    save_file({"base_model.model.h.0.lora_A.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")


def base_alone(folder, state):
    lm = base_model("gpt2", 577)
    save_file({key: tensor.clone() for key, tensor in lm.state_dict().items()}, folder / "model.safetensors")


def file_of(name, content):
    return lambda folder, state: (folder / name).write_text(content, "utf-8")


def no_tokenizer(folder, state):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def a_shard_alone(folder, state):
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")


DAMAGED = {
    "no weights": (no_weights, "holds neither model.safetensors nor pytorch_model.bin"),
    "cut off": (lambda f, s: (f / "model.safetensors").write_bytes(b"\x00" * 9), "can't be read as safetensors"),
    "a layer's key missing": (without("h.1.attn.c_attn.bias"), "lacks 'transformer.h.1.attn.c_attn.bias'"),
    "half a projection": (without("prj.3.weight"), "lacks 'prj.3.weight' of the projection"),
    "a key too many": (written(lambda s: s | {"extra": torch.ones(1)}), "has the unexpected key 'extra'"),
    "of another size": (
        written(lambda s: s | {"prj.1.weight": torch.ones(9, 9)}),
        "projection that does not fit together",
    ),
    "LoRA alone": (adapter_alone, "LoRA weights without the base they adapt"),
    "the base": (base_alone, "is this the base model?"),
    "an empty configuration": (file_of("config.json", ""), "an empty config.json; name the base model with --base"),
    "no tokenizer": (no_tokenizer, "holds no tokenizer"),
    "one shard of two": (a_shard_alone, "lacks model-00001-of-00002.safetensors, expected 2 shards"),
    "Huginn": (file_of("config.json", '{"model_type": "huginn_raven"}'), "Huginn recurs in depth"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_doctor_names_the_cause_in_one_sentence(case, copied):
    damage, said = DAMAGED[case]
    damage(*copied)
    found = sentence("doctor", "--model", copied[0])
    assert said in found and "not ready: " in found


def test_doctor_says_what_a_folder_is_and_warns_of_what_it_assumed(copied):
    folder, state = copied
    (folder / "thoughtlens.json").unlink()
    key = next(key for key in state if key.endswith("attn.c_attn.weight"))
    rows, columns = state[key].shape
    name = key.removesuffix(".weight")
    lora = {
        f"{name}.lora_A.default.weight": torch.zeros(2, rows),
        f"{name}.lora_B.default.weight": torch.zeros(columns, 2),
    }
    save_file(state | lora, folder / "model.safetensors")
    facts = json.loads(call("doctor", "--model", folder, "--json").stdout)
    assert facts["ready"] and facts["facts"]["thoughts"] == "6 (default)"
    assert facts["facts"]["lora_alpha"] == "32 (default)" and "with layer norm" in facts["facts"]["feedback"]
    assert [warning.split(" is ")[0] for warning in facts["assumptions"]] == [
        "assumed: n_thoughts",
        "assumed: lora_alpha",
        "assumed: remove_eos",
    ]
    told = json.loads(call("doctor", "--model", folder, "--alpha", 32, "--json").stdout)
    assert told["facts"]["lora_alpha"] == "32.0 (option)" and len(told["assumptions"]) == 2
    shown = call("doctor", "--model", "tiny-llama").stdout
    assert "codi, layout CODI" in shown and shown.rstrip().endswith("ready")


def test_a_run_in_a_mode_without_thoughts_ends_after_its_accuracy(copied, tmp_path):
    folder, _ = copied
    (folder / "thoughtlens.json").write_text('{"family": "codi", "n_thoughts": 6, "modes": ["direct"]}')
    asked = ("--model", folder, "--mode", "direct", "--n", 3, "--out", tmp_path / "run")
    facts = json.loads(call("run", *asked, "--json").stdout)
    assert (facts["n_thoughts"], facts["n"]) == (0, 3)
    assert not (tmp_path / "run" / "analysis").exists()
    assert "holds no thoughts, expected a run in the mode latent" in sentence("analyze", tmp_path / "run")
    assert "expected latent, direct" in sentence("run", "--model", folder, "--mode", "verbal", "--out", tmp_path / "no")


def test_published_numbers_are_measured_with_a_bundled_model_standing_in(tmp_path):
    name = "zen-E/CODI-llama3.2-1b-Instruct"
    options = ("--as", name, "--base", bundled()["tiny-llama"], "--problems", "arithmetic", "--n", 20)
    [of] = json.loads(call("reproduce", bundled()["tiny-llama"], *options, "--json").stdout)["outcomes"]
    assert (of["expected"], of["published_n"], of["n"], of["protocol"]) == (0.556, 1319, 20, "official-padding-v4-cuda")
    assert 0 <= of["low"] <= of["found"] <= of["high"] <= 1 and of["answer_rule"] == "official"
    assert 0 < of["padding"] < 1 and of["agrees"] == (of["low"] <= 0.556 <= of["high"])
    exact = call("reproduce", bundled()["tiny-llama"], *options, "--protocol", "exact").stdout
    assert "exact" in exact and "figure 3" in exact


def test_what_cannot_be_reproduced_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in sentence("reproduce", "zen-E/CODI-gpt2")
    assert "no known checkpoint 'tiny-gpt2'" in sentence("reproduce", "tiny-gpt2")
    assert "no published accuracy of ModalityDance/latent-tts-codi" in sentence(
        "reproduce", "ModalityDance/latent-tts-codi"
    )


def test_an_outcome_agrees_by_its_interval_or_by_what_is_allowed():
    of = {
        "set": "s",
        "protocol": "exact",
        "answer_rule": "official",
        "published_n": 9,
        "within": 0.01,
        "source": "",
        "n": 9,
    }
    rest = of | {"padding": None, "rerun": ""}
    assert Outcome(expected=0.5, found=0.509, low=0.505, high=0.51, **rest).agrees
    assert Outcome(expected=0.5, found=0.6, low=0.49, high=0.7, **rest).agrees
    assert not Outcome(expected=0.5, found=0.6, low=0.55, high=0.7, **rest).agrees


def test_the_table_of_known_checkpoints_is_complete_and_shown():
    facts = json.loads(call("models", "--known", "--json").stdout)
    assert set(facts) == set(known_checkpoints()) and len(facts) >= 45
    for name, of in facts.items():
        assert ("refused" in of) != ({"about", "family"} <= set(of)), name
        for published in of.get("accuracy", ()):
            assert {"set", "n", "value", "within", "protocol", "source"} <= set(published), name
    assert [of["value"] for of in expectations("bmarti44/coconut-curriculum-checkpoints/pause-multipass")] == [94.8]
    assert "Jacobi" in call("models", "--known").stdout


def test_the_cache_is_listed_and_cleared(copied, tmp_path):
    call("doctor", "--model", copied[0])
    facts = json.loads(call("cache", "--json").stdout)
    assert facts["folder"] == str(tmp_path / "cache")
    assert [item["holds"] for item in facts["items"]] == ["checksums of 1 weights files"]
    freed = json.loads(call("cache", "--clear", "--json").stdout)["freed"]
    assert freed == facts["items"][0]["bytes"] and "nothing in" in call("cache").stdout
