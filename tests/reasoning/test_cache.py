"""A cache with room holds what transformers' own holds, and masks are its own, bit by bit, whatever is done."""

import pytest
import torch
from tests.conftest import QUESTIONS
from transformers import DynamicCache

from thoughtlens.reasoning import ROOM, reason, recorder_for, roomy_cache
from thoughtlens.reasoning.batch_pass import Context
from thoughtlens.reasoning.protocols import PROTOCOLS


def states(n_positions: int, n_problems: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n_problems, 2, n_positions, 4), torch.randn(n_problems, 2, n_positions, 4)


def same(found, expected) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.fixture(params=[True, False], ids=["inference", "gradients"])
def mode(request):
    with torch.inference_mode(request.param):
        yield


def test_appending_gives_what_transformers_gives(mode):
    ours, theirs = roomy_cache(), DynamicCache()
    for n_positions in (5, *[1] * (ROOM + 3), 2 * ROOM, 1):
        new = states(n_positions)
        same(ours.update(*new, 0), theirs.update(*new, 0))
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_what_was_forgotten_or_has_left_does_not_come_back(mode):
    ours, theirs = roomy_cache(), DynamicCache()
    for caches in (ours, theirs):
        torch.manual_seed(0)
        caches.update(*states(6), 0)
        caches.crop(-2)
        caches.update(*states(1), 0)
        caches.batch_select_indices(torch.tensor([2, 0]))
        caches.update(*states(1, n_problems=2), 0)
    for name in ("keys", "values"):
        same([getattr(ours.layers[0], name)], [getattr(theirs.layers[0], name)])
    assert ours.get_seq_length() == 6


def test_a_step_writes_in_place_until_the_room_is_used_up():
    with torch.inference_mode():
        cache = roomy_cache()
        places = [cache.update(*states(n_positions), 0)[0].data_ptr() for n_positions in (7, *[1] * (ROOM + 1))]
    assert len(set(places[:-1])) == 1
    assert places[-1] != places[0]


def test_gradients_pass_through_positions_that_were_forgotten():
    """Training reads a text, forgets it, and reads another before it goes back through both."""
    cache = roomy_cache()
    first, second = (torch.ones(1, 1, 2, 3, requires_grad=True) for _ in range(2))
    keys, _ = cache.update(first, first, 0)
    loss = (keys**2).sum()
    cache.crop(-1)
    keys, _ = cache.update(second, second, 0)
    (loss + (keys**2).sum()).backward()
    assert first.grad.flatten().tolist() == [4.0] * 3 + [2.0] * 3
    assert second.grad.flatten().tolist() == [2.0] * 6


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_the_mask_of_one_position_is_the_one_that_transformers_makes(protocol, reasoner, monkeypatch):
    found = []
    for ours in (True, False):
        monkeypatch.setattr(Context, "_sees_all", ours)
        recorder = recorder_for(reasoner, len(QUESTIONS), 6)
        trace = reason(reasoner, QUESTIONS, taps=[recorder], max_new_tokens=4, protocol=protocol)
        found.append((trace.states, recorder.attention.nan_to_num(-1.0)))
    same(*found)
