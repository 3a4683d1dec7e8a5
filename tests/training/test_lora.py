"""Bases under LoRA, trained for some steps, written in the official layout and loaded as a user would."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests import oracle
from tests.conftest import QUESTIONS, usually
from tests.training.conftest import FAMILIES, HIDDEN, STAGE, tiny_lm, write_recipe

from thoughtlens.errors import RecipeError
from thoughtlens.models import load
from thoughtlens.training import Options, build, export, prepare, train, train_stages
from thoughtlens.training.trainer import claim

# peft asks transformers by a name that transformers is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA = "inner = 24\n[lora]\nrank = 4\nalpha = 8\ndropout = 0.1"
STEPS = f'name = "codi"\nsteps = 6\nbatch = 4\nrate = 1e-2\nwarmup = 2\n{STAGE}'


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTLENS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", usually("llama"))
def test_trained_module_and_its_loaded_folder_give_the_same_numbers(family, bases, tmp_path, tokenizer):
    recipe = write_recipe(tmp_path / "r.toml", bases[family], tables=LORA, stages=(STEPS,))
    made = train_stages(prepare(recipe), tmp_path / "out")
    export(made, recipe, tmp_path / "out")
    module = made.module.cpu().eval()
    reasoner = load(tmp_path / "out", device="cpu")
    assert reasoner.n_thoughts == 3
    markers = reasoner.markers
    for question in QUESTIONS:
        ids = tokenizer(question)["input_ids"]
        numbers = []
        for lm, prj in ((module.causal_lm, module.prj), (reasoner.lm, reasoner.projection)):
            sequence, thoughts = oracle.think(oracle.eager(lm), prj, ids, markers.bot, markers.eot, 3)
            with torch.no_grad():
                numbers.append((thoughts, lm(inputs_embeds=sequence).logits))
        for trained, loaded in zip(*numbers, strict=True):
            torch.testing.assert_close(loaded, trained, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", usually("gpt2"))
def test_only_updates_and_projection_are_trained(family, bases, tmp_path):
    recipe = write_recipe(
        tmp_path / "r.toml", bases[family], tables=LORA, stages=(STEPS.replace("steps = 6", "steps = 2"),)
    )
    before = {name: value.clone() for name, value in build(recipe).module.state_dict().items()}
    after = train_stages(prepare(recipe), tmp_path / "out").module.cpu().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name or name.startswith("prj.")}


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_is_in_the_official_layout(family, bases, tmp_path, tokenizer):
    recipe = write_recipe(tmp_path / "r.toml", bases[family], tables=LORA)
    export(build(recipe), recipe, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "thoughtlens.json").read_text()) == {
        "family": "codi", "n_thoughts": 3, "lora_alpha": 8,
    }  # fmt: skip
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    layer = {"gpt2": "transformer.h.0.attn.c_proj", "llama": "model.layers.0.self_attn.o_proj"}[family]
    embeddings = {"gpt2": "transformer.wte", "llama": "model.embed_tokens"}[family]
    expected = {
        f"codi.base_model.model.{layer}.base_layer.weight": [HIDDEN, HIDDEN],
        f"codi.base_model.model.{layer}.lora_A.default.weight": [4, HIDDEN],
        f"codi.base_model.model.{layer}.lora_B.default.weight": [HIDDEN, 4],
        f"codi.base_model.model.{embeddings}.weight": [len(tokenizer) + 3, HIDDEN],
        "codi.base_model.model.lm_head.weight": [len(tokenizer) + 3, HIDDEN],
        "prj.1.weight": [24, HIDDEN],
        "prj.3.weight": [HIDDEN, 24],
        "prj.ln.bias": [HIDDEN],
    }
    assert {name: shapes.get(name) for name in expected} == expected
    n_adapted = {"gpt2": 4, "llama": 7}[family]  # c_proj is a layer of attention and of the MLP
    assert sum("lora_A" in name for name in shapes) == 2 * n_adapted


def test_named_targets_alone_are_adapted(bases, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", bases["llama"], tables=f'{LORA}\ntargets = ["q_proj"]')
    adapted = {name.split(".lora_A")[0] for name in build(recipe).module.state_dict() if "lora_A" in name}
    assert {name.rpartition(".")[2] for name in adapted} == {"q_proj"} and len(adapted) == 2


def test_targets_that_are_not_there_are_said(bases, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", bases["gpt2"], tables=f'{LORA}\ntargets = ["q_proj"]')
    with pytest.raises(RecipeError, match=r"\[lora\] does not fit a gpt2 base .*; name some of \('c_attn'"):
        build(recipe)


def test_bfloat16_keeps_the_base_in_it_and_the_updates_in_float32(bases, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", bases["gpt2"], top="bf16 = true", tables=LORA)
    made = train_stages(prepare(recipe), tmp_path / "out")
    export(made, recipe, tmp_path / "out")
    kinds = {name: value.dtype for name, value in load_file(tmp_path / "out" / "model.safetensors").items()}
    for name, dtype in kinds.items():
        trained = "lora_" in name or name.startswith("prj.")
        assert dtype == (torch.float32 if trained else torch.bfloat16)
    assert load(tmp_path / "out", device="cpu").lm.dtype == torch.float32


def test_base_without_lora_is_trained_whole(bases, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", bases["llama"])
    before = {name: value.clone() for name, value in build(recipe).module.state_dict().items()}
    made = train_stages(prepare(recipe), tmp_path / "out")
    assert all(not torch.equal(before[name], value.cpu()) for name, value in made.module.state_dict().items())
    export(made, recipe, tmp_path / "out")
    assert load(tmp_path / "out").n_thoughts == 3


def test_a_codi_checkpoint_is_no_base(bases, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", bases["gpt2"], tables=LORA)
    export(build(recipe), recipe, tmp_path / "out")
    with pytest.raises(RecipeError, match="pass the whole base model, not a checkpoint of CODI"):
        build(write_recipe(tmp_path / "again.toml", tmp_path / "out"))


def test_folder_without_a_model_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"empty can't be loaded as a base"):
        build(write_recipe(tmp_path / "r.toml", tmp_path / "empty"))


def test_command_trains_on_a_file_and_writes_a_card(bases, tmp_path, problem_file):
    tables = f'{LORA}\n[problems]\nname = "gsm8k_aug"\nnumbers_only = true\n[held_out]\nname = "{problem_file}"'
    stage = f'name = "codi"\nepochs = 2\nbatch = 3\nrate = 1e-3\n{STAGE}'
    write_recipe(tmp_path / "r.toml", "gpt2", tables=tables, stages=(stage,))
    options = Options(base=str(bases["llama"]), problems=str(problem_file))
    card = train(tmp_path / "r.toml", tmp_path / "out", counting=silent, options=options)
    assert card == json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["accuracy"]["own"]["n"] == 5
    assert card["training"]["stages"] == [{"name": "codi", "steps": 2, "problems": 6}]
    assert f"6 problems of {problem_file}" in (tmp_path / "out" / "README.md").read_text()


class silent:
    def __init__(self, title, total):
        pass

    def __enter__(self):
        return lambda n_more: None

    def __exit__(self, *error):
        pass


def test_a_base_of_another_architecture_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RecipeError, match="is of type 'bert'; CODI is trained on gpt2 and llama"):
        build(write_recipe(tmp_path / "r.toml", tmp_path / "base"))


def test_a_base_without_a_tokenizer_is_refused(tmp_path):
    tiny_lm("gpt2", 90).save_pretrained(tmp_path / "base")
    with pytest.raises(RecipeError, match=r"has 1 tokens .* at most 90 tokens; take the base model's own files"):
        build(write_recipe(tmp_path / "r.toml", tmp_path / "base"))


def test_a_place_that_cannot_be_written_is_said(bases, tmp_path):
    with pytest.raises(RecipeError, match=r"can't write the model folder /proc/out \(.*\); choose another --out"):
        claim(write_recipe(tmp_path / "r.toml", bases["gpt2"]), Path("/proc/out/training"))
