"""Cuts as tensors do what interventions do copy by copy, in steps of fixed shapes and in steps that grow."""

import numpy as np
import pytest
import torch
from tests.conftest import random_reasoner
from tests.cut_oracle import PROBLEMS
from tests.host_calls import no_host_calls

from thoughtlens.cuts import (
    Add,
    Block,
    Intervention,
    Scale,
    Zero,
    ablate_head,
    ablate_thought,
    cut,
    knock_out,
    stop_after,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.cuts.edit_tensors import EditTensors, tensors_of, unfit
from thoughtlens.cuts.edits import Noisy, Plus, Replace
from thoughtlens.cuts.interventions import Variants
from thoughtlens.cuts.passes import Cutting, batch_of, sizes_of
from thoughtlens.notation import group_code
from thoughtlens.reasoning import BatchPass, Steps, tell, think
from thoughtlens.taps import Site, Taps

N_THOUGHTS = 3
SOME = PROBLEMS[:3]


def values(reasoner, site, n=3, seed=0):
    config, rng = reasoner.lm.config, torch.Generator().manual_seed(seed)
    width = config.hidden_size // config.num_attention_heads
    shape = (n, N_THOUGHTS, config.hidden_size)
    if site is Site.HEAD:
        shape = (n, config.num_hidden_layers, config.num_attention_heads, N_THOUGHTS + 4, width)
    return torch.randn(shape, generator=rng)


def kinds(reasoner):
    """Cuts of every kind, by name; some with parts that meet in a cell, in an order that matters."""
    config = reasoner.lm.config
    vector = tuple(0.1 * k for k in range(config.hidden_size // config.num_attention_heads))
    shared = values(reasoner, Site.HEAD)
    one = {"layers": frozenset({1}), "heads": frozenset({0, 2})}
    at = frozenset({"z2", "eot", "text"})

    def heads(edit, **address):
        return Intervention(Site.HEAD, edit, **one | address)

    def thoughts(edit, *names):
        return Intervention(Site.THOUGHT, edit, queries=frozenset(names) or None)

    return {
        "nothing": (),
        "head zero": ablate_head("L1H0", edit=Zero()).parts,
        "head scaled": (heads(Scale(0.5), queries=at),),
        "head added to": (heads(Add(vector)),),
        "head replaced": (heads(Replace(shared)),),
        "another head replaced by the same values": (heads(Replace(shared), heads=frozenset({3})),),
        "head replaced by one problem": (heads(Replace(values(reasoner, Site.HEAD, 1)), queries=at),),
        "noise": (heads(Noisy(values(reasoner, Site.HEAD, seed=2)), layers=None),),
        "thrice in a cell": (heads(Plus(shared)), heads(Scale(-2.0), queries=at), heads(Plus(shared), queries=at)),
        "thought zero": ablate_thought("z2", edit=Zero()).parts,
        "thoughts scaled": ablate_thought(None, edit=Scale(1.5)).parts,
        "thought replaced": (thoughts(Replace(values(reasoner, Site.THOUGHT)), "z1", "z3"),),
        "thought noise": (thoughts(Noisy(values(reasoner, Site.THOUGHT, seed=3)), "z2"), thoughts(Scale(2.0), "z2")),
        "edge blocked": knock_out("z3", "z1").parts,
        "edges blocked in a head": knock_out(["z2", "answer"], ["question", "bot"], layers=[0], heads=[1]).parts,
        "edge zeroed": zero_value_edge("eot", ["z1", "z2"]).parts,
        "edge weakened": weaken_edge("z2", "first", 0.25).parts,
        "a row weakened": (Intervention(Site.PATTERN, Scale(0.5), queries=frozenset({"eot"})),),
        "all at once": cut(
            *knock_out("z3", "z1").parts,
            *ablate_head("L0H1", edit=Zero()).parts,
            *ablate_thought("z1", edit=Zero()).parts,
        ).parts,
        "stopped": stop_after(1, n_thoughts=N_THOUGHTS).parts,
    }


def test_every_kind_of_cut_as_tensors_equals_the_cut_copy_by_copy(reasoner, short_texts):
    batch, cuts, steps = batch_of(reasoner, SOME, N_THOUGHTS), list(kinds(reasoner).values()), Steps(reasoner)
    one, other = (Cutting(reasoner, batch, N_THOUGHTS, steps=its) for its in (None, steps))
    torch.testing.assert_close(other.thoughts, one.thoughts, rtol=0, atol=1e-5)
    apart, together = one.outcomes(cuts), other.outcomes(cuts)
    assert steps._rooms
    for name, expected, found in zip(apart._fields, apart, together, strict=True):
        if expected.dtype == float:
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
        else:
            assert (found == expected).all(), name
    moved = abs(apart.joint_logprob - apart.joint_logprob[0]).max(1)
    assert (moved[1:] > 2e-4).all()  # ten times what may differ


@pytest.fixture
def gpt2(tokenizer, short_texts):
    return random_reasoner("gpt2", tokenizer)


def test_other_cuts_of_a_sweep_are_other_contents_of_the_same_tensors(gpt2):
    reasoner = gpt2
    steps, batch = Steps(reasoner), batch_of(reasoner, SOME, N_THOUGHTS)
    cutting = Cutting(reasoner, batch, N_THOUGHTS, steps=steps)
    sweep = [ablate_head((layer, head), edit=Zero()).parts for layer in range(2) for head in range(4)]
    found = [cutting.outcomes(sweep[start : start + 4]).joint_logprob for start in (0, 4)]
    # One room for the cuts, and those of free decoding and of the pass without cuts.
    assert len({room for room in steps._rooms.values() if room.n_rows >= 4 * len(SOME)}) == 1
    plain = Cutting(reasoner, batch, N_THOUGHTS).outcomes(sweep).joint_logprob
    np.testing.assert_allclose(np.concatenate(found), plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["Zero", "Plus"])
def test_what_cannot_be_put_so_is_made_copy_by_copy(name, gpt2):
    """A function, and more parts in one cell than there are planes."""
    reasoner, config = gpt2, gpt2.lm.config
    edit = Plus(values(reasoner, Site.HEAD)) if name == "Plus" else lambda tensor, moment: 0 * tensor
    parts = (Intervention(Site.HEAD, edit),) * (9 if name == "Plus" else 1)
    shape = config.num_hidden_layers, config.num_attention_heads, N_THOUGHTS
    assert tensors_of([parts], sizes_of(reasoner, 1, len(SOME), N_THOUGHTS)) is None
    usual = [ablate_thought("z1"), ablate_head("L0H0")]
    assert unfit([*usual, cut(*parts, label="odd")], *shape) == ["odd"]
    found = []
    for steps in (None, Steps(reasoner)):
        cutting = Cutting(reasoner, batch_of(reasoner, SOME, N_THOUGHTS), N_THOUGHTS, steps=steps)
        found.append(cutting.outcomes([parts]).joint_logprob)
    np.testing.assert_array_equal(*found)


@torch.inference_mode()
def test_no_cut_asks_the_host(reasoner):
    made = [tuple(part for part in parts) for name, parts in kinds(reasoner).items() if name != "stopped"]
    n = len(SOME)
    reading = BatchPass(reasoner, Taps(), N_THOUGHTS)
    reading.question([reasoner.question(problem.question) for problem in SOME])
    # Some tokens are of a group, which is a key of its own and part of the question.
    reading.keys[:, -3:-1] = group_code("src")
    every = {"keys": frozenset({"src"}), "queries": frozenset({"z2"})}
    made += [(Intervention(Site.SCORES, Block(), **every),), (Intervention(Site.PATTERN, Zero(), **every),)]
    edits = tensors_of(made, sizes_of(reasoner, len(made), n, N_THOUGHTS))
    assert isinstance(edits, EditTensors)
    batch = Steps(reasoner).enter(reading, len(made), taps=Taps([edits]))
    with no_host_calls():
        thinking = think(batch, reasoner.markers.bot, N_THOUGHTS)
    mark = batch.mark()
    with no_host_calls():
        tell(batch, thinking.state, [reasoner.spoken("12")] * len(thinking.state))
    batch.back_to(mark)
    batch._room.begin_to_say(torch.full((len(thinking.state),), 9))
    with no_host_calls():
        batch._say(batch._with_room(2), 2)
    # As a tap of a batch that grows, too.
    for taps in (Taps([edits]), Taps([Variants(made, n)])):
        grown = think(reading.fork(len(made), taps=taps), reasoner.markers.bot, N_THOUGHTS)
        torch.testing.assert_close(grown.state, thinking.state, rtol=0, atol=1e-5)


def test_a_block_of_all_that_a_row_sees_fails_as_it_does_copy_by_copy(gpt2):
    """Not even padding, or a position that is not there yet, is left to look at."""
    reasoner = gpt2
    every = frozenset({"first", "question", "bot", "z1"})
    blind = (Intervention(Site.SCORES, Block(), queries=frozenset({"z1"}), keys=every),)
    cutting = Cutting(reasoner, batch_of(reasoner, SOME, N_THOUGHTS), N_THOUGHTS, steps=Steps(reasoner))
    failed = cutting.outcomes([blind, ()]).failure != ""
    assert failed[0].all()
    assert not failed[1].any()
