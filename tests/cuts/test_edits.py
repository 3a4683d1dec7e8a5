"""Edits that need nothing else, against closed forms: what they change, by how much, and what they leave alone."""

import pytest
import torch
from tests.conftest import QUESTIONS, Scripted

from thoughtlens.cuts import (
    Add,
    Intervention,
    Replace,
    Scale,
    Zero,
    ablate_head,
    knock_out,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.cuts.edits import Stop
from thoughtlens.errors import OptionError
from thoughtlens.notation import query_names, slot_codes, thought_names
from thoughtlens.reasoning import reason, recorder_for
from thoughtlens.taps import Moment, Site

SAID = ["The answer is: 8", "The answer is: 1234", "<<12+3=15>> The answer is: 6", "I do not know"]
THOUGHTS = thought_names(6)
CODES = slot_codes(6)


def identity(tensor, moment):
    return tensor


def think(reasoner, taps, **options):
    return reason(reasoner, QUESTIONS, taps=taps, **({"max_new_tokens": 4} | options))


class Keeper:
    """Keeps every tensor of a site and layer, by the name of its query, while all problems are present."""

    def __init__(self):
        self.kept = {}

    def __call__(self, tensor, moment):
        if len(moment.rows) == len(QUESTIONS):
            name = next((n for n, code in CODES.items() if (moment.queries == code).all()), "mixed")
            self.kept[moment.site, moment.layer, name] = tensor.clone()
        return tensor


@pytest.mark.parametrize("site", [Site.THOUGHT, Site.PATTERN, Site.HEAD])
def test_a_multiple_of_one_is_bit_identical(site, reasoner):
    plain = think(reasoner, [identity])
    edited = think(reasoner, [Intervention(site, Scale(1.0))])
    assert torch.equal(edited.thoughts, plain.thoughts) and torch.equal(edited.states, plain.states)
    assert edited.tokens == plain.tokens


@pytest.mark.parametrize(("site", "width"), [(Site.THOUGHT, 32), (Site.HEAD, None)])
def test_adding_nothing_is_bit_identical(site, width, reasoner):
    channels = width or 32 // reasoner.lm.config.num_attention_heads
    plain = think(reasoner, [identity])
    edited = think(reasoner, [Intervention(site, Add((0.0,) * channels))])
    assert torch.equal(edited.states, plain.states)
    assert edited.tokens == plain.tokens


@pytest.mark.parametrize("site", [Site.THOUGHT, Site.PATTERN, Site.HEAD])
def test_a_multiple_of_nothing_is_zero(site, reasoner):
    scaled, zeroed = (think(reasoner, [Intervention(site, edit)]) for edit in (Scale(0.0), Zero()))
    assert torch.equal(scaled.states, zeroed.states)
    assert scaled.tokens == zeroed.tokens


def test_what_is_added_is_there(reasoner):
    vector = tuple(float(k) for k in range(32))
    plain = think(reasoner, [identity])
    edited = think(reasoner, [Intervention(Site.THOUGHT, Add(vector), queries=frozenset({"z1"}))])
    torch.testing.assert_close(edited.thoughts[:, 0], plain.thoughts[:, 0] + torch.arange(32.0))


@pytest.mark.parametrize("keys", [{"z1"}, {"question"}, {"first", "bot"}, {"z4"}])
@pytest.mark.parametrize("heads", [None, {1}])
def test_a_blocked_edge_carries_exactly_nothing_and_the_rest_shares_it_in_proportion(keys, heads, reasoner):
    """In the first layer, which sees the same inputs: A / (1 − a), where a is the mass of what is blocked."""
    plain, seen = (recorder_for(reasoner, len(QUESTIONS), 6) for _ in range(2))
    think(reasoner, [plain])
    think(reasoner, [*knock_out("z4", keys, layers={0}, heads=heads).parts, seen])
    row, columns = query_names(6).index("z4"), [CODES[key] for key in keys]
    before, after = plain.attention[:, 0, :, row], seen.attention[:, 0, :, row]
    hit = torch.tensor([heads is None or head in heads for head in range(before.shape[1])])
    assert (after[:, hit][..., columns] == 0).all()
    torch.testing.assert_close(after.sum(-1), torch.ones(after.shape[:2]), rtol=0, atol=1e-6)
    expected = before.clone()
    expected[..., columns] = 0
    expected /= 1 - before[..., columns].sum(-1, keepdim=True)
    torch.testing.assert_close(after[:, hit], expected[:, hit], rtol=0, atol=1e-6)
    torch.testing.assert_close(after[:, ~hit], before[:, ~hit], rtol=0, atol=1e-6)


def test_a_block_keeps_every_row_of_every_layer_a_partition(reasoner):
    seen = recorder_for(reasoner, len(QUESTIONS), 6)
    think(Scripted(reasoner, SAID), [*knock_out(["z3", "eot", "answer"], ["z1", "z2"]).parts, seen], max_new_tokens=20)
    rows = [query_names(6).index(name) for name in ("z3", "eot", "answer")]
    cut = seen.attention[:, :, :, rows]
    assert (cut[..., [CODES["z1"], CODES["z2"]]].nan_to_num() == 0).all()
    sums = seen.attention.sum(-1)
    assert (sums[~sums.isnan()] - 1).abs().max() <= 1e-5
    others = [row for row in range(2, 9) if row not in rows]
    assert (seen.attention[:, :, :, others][..., CODES["z1"]].nan_to_num(1) > 0).all()


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_a_weakened_edge_moves_this_share_and_the_rest_stays(factor, reasoner):
    plain, seen = Keeper(), Keeper()
    made = weaken_edge("z4", "z1", factor, layers={0}) if factor else zero_value_edge("z4", "z1", layers={0})
    think(reasoner, [plain])
    think(reasoner, [*made.parts, seen])
    before, after = plain.kept[Site.PATTERN, 0, "z4"], seen.kept[Site.PATTERN, 0, "z4"]
    column = -4  # z1 of the keys …, bot, z1, z2, z3, z4 when z4 is read
    torch.testing.assert_close(after[..., column], factor * before[..., column], rtol=0, atol=1e-6)
    rest = [place for place in range(before.shape[-1]) if place != before.shape[-1] + column]
    torch.testing.assert_close(after[..., rest], before[..., rest], rtol=0, atol=1e-6)
    values = plain.kept[Site.VALUE, 0, "z4"].repeat_interleave(before.shape[1] // plain_groups(plain), dim=1)
    moved = before[..., column, None] * values[..., column, None, :]
    lost = plain.kept[Site.HEAD, 0, "z4"] - seen.kept[Site.HEAD, 0, "z4"]
    torch.testing.assert_close(lost, (1 - factor) * moved, rtol=0, atol=1e-6)


def plain_groups(keeper):
    return keeper.kept[Site.VALUE, 0, "z4"].shape[1]


def test_a_cut_at_eot_changes_no_thought(reasoner):
    plain, cut = (
        think(reasoner, taps) for taps in ([identity], ablate_head("L0H1", queries=["eot"], edit=Zero()).parts)
    )
    assert torch.equal(cut.thoughts, plain.thoughts) and torch.equal(cut.states, plain.states)
    assert not torch.equal(
        answer_states(reasoner, []), answer_states(reasoner, ablate_head("L0H1", queries=["eot"], edit=Zero()))
    )


def answer_states(reasoner, made):
    """What leaves the last layer's heads at eot."""
    keeper = Keeper()
    think(reasoner, [*(made.parts if made else []), keeper])
    return keeper.kept[Site.HEAD, 2, "eot"]


def test_a_cut_at_thoughts_leaves_what_eot_itself_puts_out(reasoner):
    """With thoughts frozen, nothing that is cut in the last layer reaches any other position."""
    plain_kept, cut_kept = Keeper(), Keeper()
    plain = think(reasoner, [plain_kept])
    freeze = Intervention(Site.THOUGHT, Replace(plain.thoughts))
    cut = think(reasoner, [*ablate_head("L2H1", queries=THOUGHTS, edit=Zero()).parts, freeze, cut_kept])
    assert cut.tokens == plain.tokens
    for name in query_names(6)[:-1]:
        before, after = (kept.kept[Site.HEAD, 2, name] for kept in (plain_kept, cut_kept))
        if name in THOUGHTS:
            assert (after[:, 1] == 0).all() and torch.equal(after[:, [0, 2, 3]], before[:, [0, 2, 3]])
        else:
            assert torch.equal(after, before)


@pytest.mark.parametrize("name", ["bot", "eot", "answer", "text"])
def test_each_slot_can_be_cut_alone(name, reasoner):
    """A tap after the cut meets zeros at this slot and nowhere else."""
    zeros, others = [], []

    def watch(tensor, moment: Moment):
        if moment.site is Site.HEAD and moment.layer == 1:
            there = moment.queries[:, 0] == moment.slots[name]
            zeros.append(tensor[there, 2])
            others.append(tensor[~there & (moment.queries[:, 0] >= 0), 2])
        return tensor

    think(Scripted(reasoner, SAID), [*ablate_head("L1H2", queries=[name], edit=Zero()).parts, watch], max_new_tokens=20)
    assert len(torch.cat(zeros)) >= 3 and (torch.cat(zeros) == 0).all()
    assert (torch.cat(others) != 0).any(-1).any(-1).all()


def test_a_stop_is_no_edit_of_a_thought(reasoner):
    with pytest.raises(OptionError, match="thoughts can't be stopped while they are thought; pass fewer n_thoughts"):
        think(reasoner, [Intervention(Site.THOUGHT, Stop(), queries=frozenset({"z6"}))])
