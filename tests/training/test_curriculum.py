"""Coconut's staged curriculum: what a stage reads, written by hand, and its loss by whole passes."""

import pytest
import torch
import torch.nn.functional as F
from tests.training.conftest import tiny_lm

from thoughtlens.errors import RecipeError
from thoughtlens.models import load
from thoughtlens.problems import Problem
from thoughtlens.training import Collator, read_recipe
from thoughtlens.training.initial_model import build
from thoughtlens.training.objective import CodiModule
from thoughtlens.training.training_and_card import export

PROBLEM = Problem("a", "Tom has 5 pens. How many?", "14", ("<<5+2=7>>", "<<7*3=21>>", "<<21-9=12>>", "<<12+2=14>>"))
SHORT = Problem("b", "Ann has 2. How many?", "4", ("<<1+1=2>>", "<<2+2=4>>"))
BOT, EOT, PAD = 600, 601, 0

STAGES = {
    0: ("<<5+2=7>> <<7*3=21>> <<21-9=12>> ### 14", "<<1+1=2>> ### 4"),
    1: ("<<7*3=21>> <<21-9=12>> ### 14", "### 4"),
    2: ("<<21-9=12>> ### 14", "### 4"),
    3: ("### 14", "### 4"),
}
"""What is written after the thoughts of each stage; the answer repeats the last step."""


def rows(padded):
    return [ids[real].tolist() for ids, real in zip(padded.ids, padded.real, strict=True)]


@pytest.mark.parametrize("k", STAGES)
def test_stage_k_writes_the_steps_after_the_kth(k, tokenizer):
    batch = Collator(tokenizer, EOT, PAD, family="coconut", replaced=k).batch([PROBLEM, SHORT])
    for ids, told in zip(rows(batch.answer), STAGES[k], strict=True):
        assert ids[0] == EOT and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[1:-1]) == told
    assert [tokenizer.decode(ids) for ids in rows(batch.question)] == [f"{p.question}\n" for p in (PROBLEM, SHORT)]
    before = [tokenizer.decode(ids[1 : at + 1]) for ids, at in zip(rows(batch.answer), batch.answer_at, strict=True)]
    assert all(text.rstrip().endswith("###") for text in before)


RECIPE = """
name = "c"
family = "coconut"
thoughts = {thoughts}
{top}
[base]
type = "gpt2"
vocabulary = 400
[base.config]
n_embd = 16
n_layer = 1
n_head = 2
[[stages]]
name = "one"
rate = 1e-3
steps = 1
weights = {{ student = 1.0 }}
{one}
[[stages]]
name = "three"
rate = 1e-3
steps = 1
weights = {{ student = 1.0 }}
replaced = 3
"""


def recipe(folder, thoughts=6, top="", one="replaced = 1"):
    (folder / "c.toml").write_text(RECIPE.format(thoughts=thoughts, top=top, one=one))
    return read_recipe(folder / "c.toml")


def test_a_replaced_step_has_its_share_of_the_thoughts(tmp_path):
    made = recipe(tmp_path)
    assert [made.thoughts_in(stage) for stage in made.stages] == [2, 6]
    bundled = read_recipe("tiny-coconut")
    assert [bundled.thoughts_in(stage) for stage in bundled.stages if stage.replaced][:3] == [2, 4, 6]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"thoughts": 5}, "divides 5 thoughts among 3 replaced steps"),
        ({"one": ""}, "sets replaced to None; give it to every stage of a Coconut"),
        ({"one": "replaced = -1"}, "sets replaced to -1; give it 0 or more"),
        ({"top": "[lora]\nrank = 2"}, r"has \[lora\], which a Coconut checkpoint can't hold"),
    ],
    ids=str,
)
def test_recipes_that_can_not_be_trained_are_refused(changed, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, **changed)


def test_a_family_that_is_unknown_is_refused(tmp_path):
    text = RECIPE.format(thoughts=6, top="", one="replaced = 1").replace('"coconut"', '"cocoa"')
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(RecipeError, match="is of the family 'cocoa'; use codi or coconut"):
        read_recipe(tmp_path / "c.toml")


def test_the_loss_is_that_of_one_whole_pass_for_each_thought(tokenizer):
    """The published way: the sequence is read anew for each latent, whose embedding is the state before it."""
    torch.manual_seed(0)
    lm = tiny_lm("gpt2", len(tokenizer) + 3).double()
    bot, eot = len(tokenizer), len(tokenizer) + 1
    module = CodiModule(lm, hidden=16, inner=None, bot=bot, n_thoughts=4).double()
    module.weights = {**module.weights, "student": 1.0}
    batch = Collator(tokenizer, eot, PAD, family="coconut", replaced=2).batch([PROBLEM])
    embed = lm.get_input_embeddings()
    sequence = embed(torch.tensor([*rows(batch.question)[0], bot]))
    for _ in range(4):
        state = lm.transformer(inputs_embeds=sequence[None]).last_hidden_state[0, -1:]
        sequence = torch.cat([sequence, state])
    told = torch.tensor(rows(batch.answer)[0])
    logits = lm(inputs_embeds=torch.cat([sequence, embed(told)])[None]).logits[0]
    expected = F.cross_entropy(logits[len(sequence) : -1], told[1:])
    loss = module(batch)["loss"]
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)  # summed in float32
    found, naive = (torch.autograd.grad(of, embed.weight)[0] for of in (loss, expected))
    assert torch.allclose(found, naive, atol=1e-6)  # through the thoughts, too


def test_a_coconut_is_written_in_its_official_layout(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("thoughtlens.training.initial_model.build_tokenizer", lambda vocabulary: tokenizer)
    made = recipe(tmp_path)
    export(build(made), made, tmp_path / "model")
    reasoner = load(tmp_path / "model")
    assert (type(reasoner).__name__, reasoner.n_thoughts, reasoner.answer_prefix) == ("Coconut", 6, "###")
    assert reasoner.provenance["layout"] == "Coconut"
    assert reasoner.slots == {"bot", "eot", "answer"}
