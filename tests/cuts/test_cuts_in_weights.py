"""What cuts of heads and edges come to, against edited weights and masks with holes: thoughts and told answers."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.conftest import FAMILIES, QUESTIONS, random_reasoner, usually
from tests.cut_oracle import (
    PROBLEMS,
    assert_as_naive,
    every_head,
    late,
    masked,
    outcomes,
    projections,
    rows,
    without_heads,
)

from thoughtlens.cuts import Intervention, Zero, ablate_head, ablate_kv_group, cut, freeze_thoughts, knock_out
from thoughtlens.cuts.passes import Cutting, batch_of
from thoughtlens.cuts.replacement_values import DonorPool, RecordedValues, bind
from thoughtlens.notation import thought_names
from thoughtlens.reasoning import reason
from thoughtlens.taps import Site

pytestmark = pytest.mark.usefixtures("short_texts")

THOUGHTS = thought_names(6)


# GPT-2's projections have biases and are stored the other way round. Where heads share keys and values, LLaMA is taken.
@pytest.fixture(scope="module", params=usually("gpt2"))
def reasoner(request, tokenizer):
    """Not to be changed: what it says uncut is worked out once."""
    return random_reasoner(request.param, tokenizer)


def thoughts_under(reasoner, made):
    return reason(reasoner, [problem.question for problem in PROBLEMS], taps=made.parts, max_new_tokens=1).thoughts


UNCUT = {}


def plain(reasoner):
    if reasoner.lm not in UNCUT:
        UNCUT[reasoner.lm] = [late(reasoner, reasoner.lm, problem) for problem in PROBLEMS]
    return UNCUT[reasoner.lm]


def assert_same_as(reasoner, made, after):
    """A cut against a model of edited weights, thoughts and outcomes."""
    naive = [late(reasoner, after, problem) for problem in PROBLEMS]
    expected = torch.stack([one.thoughts for one in naive])
    torch.testing.assert_close(thoughts_under(reasoner, made), expected, rtol=0, atol=1e-5)
    found = outcomes(reasoner, [made])[0]
    assert_as_naive(found, naive, plain(reasoner))
    assert max(outcome.kl for outcome in found) > 1e-5  # the cut does something


@pytest.mark.parametrize(("layer", "head"), [(0, 1), pytest.param(1, 0, marks=pytest.mark.nightly), (2, 3)])
def test_zeroing_a_head_is_zeroing_its_rows_of_the_output_projection(layer, head, reasoner):
    assert_same_as(reasoner, ablate_head(f"L{layer}H{head}", edit=Zero()), without_heads(reasoner, [(layer, head)]))


@pytest.mark.parametrize(("layer", "group"), [pytest.param(0, 0, marks=pytest.mark.nightly), (2, 1)])
def test_cutting_a_key_value_group_is_cutting_its_query_heads(layer, group, tokenizer):
    reasoner = random_reasoner("llama", tokenizer)
    heads = range(4 * group, 4 * group + 4)  # 8 heads share 2 key-value heads
    made = ablate_kv_group(layer, group, n_heads=8, n_groups=2, edit=Zero())
    one_by_one = cut(*(ablate_head((layer, head), edit=Zero()).parts[0] for head in heads))
    assert torch.equal(thoughts_under(reasoner, made), thoughts_under(reasoner, one_by_one))
    assert outcomes(reasoner, [made]) == outcomes(reasoner, [one_by_one])
    assert_same_as(reasoner, made, without_heads(reasoner, [(layer, head) for head in heads]))


def test_cutting_all_heads_is_removing_what_attention_puts_out(reasoner):
    """The bias of the output projection is no head's and stays."""
    reasoner = replace(reasoner, lm=copy.deepcopy(reasoner.lm))
    after = copy.deepcopy(reasoner.lm)
    with torch.no_grad():
        for layer in range(after.config.num_hidden_layers):
            projections(after, layer).zero_()
    if after.config.model_type == "gpt2":
        with torch.no_grad():
            for twin in (after, reasoner.lm):
                twin.transformer.h[0].attn.c_proj.bias.fill_(0.3)
    assert_same_as(reasoner, cut(Intervention(Site.HEAD, Zero())), after)
    heads = cut(*(ablate_head(place, edit=Zero()).parts[0] for place in every_head(reasoner)), label="all")
    assert torch.equal(thoughts_under(reasoner, heads), thoughts_under(reasoner, cut(Intervention(Site.HEAD, Zero()))))


@pytest.mark.parametrize(
    ("queries", "keys", "heads"),
    [
        ({"z4"}, {"z1"}, None),
        ({"z2", "z5"}, {"question"}, {0, 3}),
        ({"eot"}, set(THOUGHTS), None),
        ({"answer"}, {"z6", "answer"}, {1}),
        ({"bot"}, {"first"}, None),
        ({"text"}, {"eot", "bot"}, None),
    ],
)
@pytest.mark.parametrize("reasoner", usually("llama"), indirect=True)
def test_a_knocked_out_edge_is_a_hole_in_the_mask(queries, keys, heads, reasoner):
    made = knock_out(queries, keys, heads=heads)
    naive = [masked(reasoner, problem, [(heads, queries, keys)]) for problem in PROBLEMS]
    expected = torch.stack([one.thoughts for one in naive])
    torch.testing.assert_close(thoughts_under(reasoner, made), expected, rtol=0, atol=1e-4)
    assert_as_naive(outcomes(reasoner, [made])[0], naive, plain(reasoner))


def test_the_two_naive_ways_agree(reasoner):
    for problem, by_cache in zip(PROBLEMS, plain(reasoner), strict=True):
        by_mask = masked(reasoner, problem, [])
        torch.testing.assert_close(by_mask.thoughts, by_cache.thoughts, rtol=0, atol=1e-5)
        assert abs(by_mask.logprob - by_cache.logprob) < 1e-4


def frozen(reasoner, made):
    """A cut whose thoughts are bound to those of the baseline, worked out naively."""
    pool = DonorPool(tuple(p.id for p in PROBLEMS), (1, 2, 1, 2), (9,) * 4, (True,) * 4)
    recorded = RecordedValues(pool, torch.stack([one.thoughts for one in plain(reasoner)]))
    return bind(recorded, [freeze_thoughts(made).parts], range(len(PROBLEMS)))[0]


def test_a_head_cut_with_thoughts_frozen_is_a_pass_in_which_thoughts_are_given(reasoner):
    made, after = ablate_head("L1H2", edit=Zero()), without_heads(reasoner, [(1, 2)])
    before = plain(reasoner)
    naive = [late(reasoner, after, problem, given=one.thoughts) for problem, one in zip(PROBLEMS, before, strict=True)]
    cutting = Cutting(reasoner, batch_of(reasoner, PROBLEMS, 6), 6)
    found = rows(cutting.outcomes([frozen(reasoner, made), made.parts]))
    assert_as_naive(found[0], naive, before)
    assert any(abs(one.kl - other.kl) > 1e-5 for one, other in zip(*found, strict=True))


def test_freezing_all_later_thoughts_keeps_them_at_their_baseline(reasoner):
    expected = torch.stack([one.thoughts for one in plain(reasoner)])
    for made in (cut(Intervention(Site.THOUGHT, Zero(), queries=frozenset({"z2"}))), ablate_head("L0H0", edit=Zero())):
        parts = frozen(reasoner, made)
        trace = reason(reasoner, [problem.question for problem in PROBLEMS], taps=parts, max_new_tokens=1)
        kept = [k for k in range(6) if made.parts[0].site is Site.HEAD or k != 1]
        torch.testing.assert_close(trace.thoughts[:, kept], expected[:, kept], rtol=0, atol=1e-5)
        if made.parts[0].site is Site.THOUGHT:
            assert (trace.thoughts[:, 1] == 0).all()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("place", range(6))
def test_thoughts_before_an_edit_do_not_change(family, place, tokenizer):
    """The thought that a position makes is the next one: an edit at z3 leaves z3 itself alone and changes z4."""
    reasoner = random_reasoner(family, tokenizer)
    query = THOUGHTS[place]
    before = reason(reasoner, QUESTIONS, taps=[lambda tensor, moment: tensor], max_new_tokens=1).thoughts
    made = [ablate_head("L1H1", queries=[query], edit=Zero()), knock_out(query, "question")]
    for one in made:
        after = reason(reasoner, QUESTIONS, taps=one.parts, max_new_tokens=1).thoughts
        assert torch.equal(after[:, : place + 1], before[:, : place + 1])
        if place < 5:
            assert (after[:, place + 1 :] != before[:, place + 1 :]).any(-1).all()
