"""An intervention changes exactly what it names, shown against the same cut done to the weights."""

import copy

import pytest
import torch
from tests.conftest import QUESTIONS, random_reasoner

from thoughtlens.cuts import Intervention, Replace, Zero
from thoughtlens.errors import OptionError
from thoughtlens.notation import thought_names
from thoughtlens.reasoning import reason, recorder_for
from thoughtlens.taps import Site, ThoughtRecorder


def think(reasoner, taps=(), **options):
    return reason(reasoner, QUESTIONS, taps=taps, max_new_tokens=4, **options)


def identity(tensor, moment):
    return tensor


def test_identity_tap_is_bit_identical_to_another(reasoner):
    one, two = think(reasoner, [identity]), think(reasoner, [identity, identity])
    assert torch.equal(one.thoughts, two.thoughts)
    assert one.tokens == two.tokens


def test_watching_changes_nothing(reasoner):
    plain, watched = think(reasoner), think(reasoner, [recorder_for(reasoner, len(QUESTIONS), 6)])
    torch.testing.assert_close(watched.thoughts, plain.thoughts, rtol=0, atol=1e-4)
    assert watched.tokens == plain.tokens


def test_replacing_thoughts_by_themselves_changes_nothing(reasoner):
    plain = think(reasoner, [identity])
    patched = think(reasoner, [Intervention(Site.THOUGHT, Replace(plain.thoughts))])
    assert torch.equal(patched.thoughts, plain.thoughts)
    assert patched.tokens == plain.tokens


def test_zeroing_one_thought_changes_it_and_only_later_ones(reasoner):
    plain = think(reasoner, [identity])
    cut = think(reasoner, [Intervention(Site.THOUGHT, Zero(), queries=frozenset({"z3"}))])
    assert torch.equal(cut.thoughts[:, :2], plain.thoughts[:, :2])
    assert (cut.thoughts[:, 2] == 0).all()
    assert ((cut.thoughts[:, 3:] - plain.thoughts[:, 3:]).abs().amax(dim=(1, 2)) > 0).all()


def without_head(reasoner, layer, head):
    """The same model with the head's rows of the output projection set to zero: everywhere, in every pass."""
    lm = copy.deepcopy(reasoner.lm)
    width = lm.config.hidden_size // lm.config.num_attention_heads
    channels = slice(head * width, (head + 1) * width)
    with torch.no_grad():
        if lm.config.model_type == "gpt2":
            lm.transformer.h[layer].attn.c_proj.weight[channels] = 0  # (in, out)
        else:
            lm.model.layers[layer].self_attn.o_proj.weight[:, channels] = 0  # (out, in)
    return lm


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (2, 3)])
def test_head_ablation_equals_the_same_cut_in_the_weights(layer, head, tokenizer, monkeypatch):
    """The 2025 scripts zeroed a slice after the output projection, which mixes heads and removes none.

    The weights are cut from `bot` on, as the intervention is: the question's pass is the model's own in both.
    """
    for family in ("gpt2", "llama"):
        reasoner = random_reasoner(family, tokenizer)
        edited = think(reasoner, [Intervention(Site.HEAD, Zero(), layers=frozenset({layer}), heads=frozenset({head}))])
        expected = think_with_late_cut(reasoner, without_head(reasoner, layer, head))
        torch.testing.assert_close(edited.thoughts, expected, rtol=0, atol=1e-4)
        assert (edited.thoughts - think(reasoner).thoughts).abs().max() > 1e-3


@torch.no_grad()
def think_with_late_cut(reasoner, cut):
    """Thoughts of a model that reads the question whole and everything after it without the head; batch of one."""
    thoughts = []
    for question in QUESTIONS:
        ids = reasoner.tokenizer(question)["input_ids"]
        past = reasoner.lm.base_model(torch.tensor([ids]), use_cache=True).past_key_values
        inputs, of_question = cut.get_input_embeddings()(torch.tensor([[reasoner.markers.bot]])), []
        for _ in range(6):
            out = cut.base_model(inputs_embeds=inputs, past_key_values=past, use_cache=True)
            of_question.append(reasoner.projection(out.last_hidden_state[:, -1]))
            inputs = of_question[-1][:, None]
        thoughts.append(torch.cat(of_question))
    return torch.stack(thoughts)


def test_zeroed_edge_carries_nothing_and_leaves_the_rest(reasoner):
    plain, seen = (recorder_for(reasoner, len(QUESTIONS), 6) for _ in range(2))
    cut = Intervention(
        Site.PATTERN,
        Zero(),
        layers=frozenset({0}),
        heads=frozenset({2}),
        queries=frozenset({"z4"}),
        keys=frozenset({"z1"}),
    )
    think(reasoner, [plain])
    think(reasoner, [cut, seen])
    row, column = 4, 3  # row z4 of (bot, z1, …), column z1 of (first, question, bot, z1, …)
    assert (seen.attention[:, 0, 2, row, column] == 0).all()
    rest = torch.ones_like(plain.attention, dtype=torch.bool)
    rest[:, 0, 2, row, column] = False
    rest[:, :, :, row + 1 :] = False  # later rows see changed thoughts
    rest[:, 1:, :, row] = False  # and so do later layers of the same row
    torch.testing.assert_close(seen.attention[rest], plain.attention[rest], rtol=0, atol=1e-6)
    sums = seen.attention[:, 0, 2, row].sum(-1)
    torch.testing.assert_close(sums, 1 - plain.attention[:, 0, 2, row, column], rtol=0, atol=1e-6)


def test_taps_are_met_in_order(reasoner):
    early, late = ThoughtRecorder(), ThoughtRecorder()
    think(reasoner, [early, Intervention(Site.THOUGHT, Zero()), late])
    assert all((thought == 0).all() for thought in late.thoughts)
    assert all((thought != 0).any() for thought in early.thoughts)
    assert len(early.thoughts) == len(thought_names(6))


def test_values_are_not_edited():
    with pytest.raises(OptionError, match="recorded but not edited"):
        Intervention(Site.VALUE, Zero())
