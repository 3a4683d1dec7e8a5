"""Steps of fixed shapes give the numbers of steps that grow, and ask the host for nothing."""

import numpy as np
import pytest
import torch
from tests.conftest import QUESTIONS, Scripted, random_reasoner, usually
from tests.host_calls import HostCall, no_host_calls
from tests.models.test_bases import BASES, base_of

from thoughtlens.models import Codi, Markers, load, norm_factors, projection
from thoughtlens.reasoning import BatchPass, Steps, captured_steps, reason, recorder_for, tell, think
from thoughtlens.taps import (
    ATTENTION,
    AttentionRecorder,
    EdgeRecorder,
    HeadRecorder,
    QuestionRecorder,
    Taps,
    ValueRecorder,
)

CLOSE = {"rtol": 0, "atol": 1e-5, "equal_nan": True}


def recorders(reasoner, n_problems):
    """One of each kind, and what each has kept, by name."""
    config = reasoner.lm.config
    sizes = {"n_problems": n_problems, "n_layers": config.num_hidden_layers, "n_thoughts": reasoner.n_thoughts}
    of_heads = sizes | {"n_heads": config.num_attention_heads}
    wide = of_heads | {"n_channels": config.hidden_size // config.num_attention_heads}
    dtype = {"dtype": reasoner.lm.dtype}
    rows, of_values = AttentionRecorder(**of_heads, **dtype), AttentionRecorder(**of_heads, **dtype)
    heads, edges = HeadRecorder(**wide), EdgeRecorder(**wide)
    tokens = QuestionRecorder(**sizes, **dtype, n_tokens=12)
    taps = [rows, ValueRecorder(of_values, norm_factors(reasoner.lm)), heads, edges, tokens]
    return taps, lambda: {
        "attention": rows.attention,
        "values": of_values.attention,
        "heads": heads.heads,
        "edges": edges.edges,
        "tokens": tokens.attention,
    }


def both(reasoner, questions=QUESTIONS, steps=None, **options):
    """Traces and records of steps that grow, and of fixed ones."""
    found = []
    for its in (None, steps or Steps(reasoner)):
        taps, kept = recorders(reasoner, len(questions))
        found.append((reason(reasoner, questions, taps=taps, steps=its, **options), kept()))
    assert its._rooms
    return found


def assert_same(one, other, tolerance=CLOSE):
    (trace, kept), (its_trace, its_kept) = one, other
    assert its_trace.tokens == trace.tokens
    torch.testing.assert_close(its_trace.thoughts, trace.thoughts, **tolerance)
    torch.testing.assert_close(its_trace.states, trace.states, **tolerance)
    for name, values in kept.items():
        torch.testing.assert_close(its_kept[name], values, **tolerance, msg=lambda said, name=name: f"{name}: {said}")


def test_fixed_steps_record_what_growing_ones_do(reasoner):
    grown, fixed = both(reasoner, max_new_tokens=20)
    assert_same(grown, fixed)
    assert fixed[1]["attention"].isnan().any()  # untrained models say no prefix


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_answers_and_their_query_are_found_by_ids_as_by_text(name):
    """LLaMA's blank before a value is a token of its own, GPT-2's is not."""
    reasoner = load(name)
    steps = Steps(reasoner)
    grown, fixed = both(reasoner, steps=steps)
    assert_same(grown, fixed)
    assert not steps.by_text
    assert (~fixed[1]["attention"].isnan().flatten(1).any(1)).sum() >= 3  # "How many?" has no answer


def test_without_taps_too(reasoner):
    grown, fixed = (reason(reasoner, QUESTIONS, max_new_tokens=5, steps=its) for its in (None, Steps(reasoner)))
    assert fixed.tokens == grown.tokens
    torch.testing.assert_close(fixed.thoughts, grown.thoughts, **CLOSE)


@pytest.mark.parametrize("name", BASES)
def test_every_base_passes_so_unless_its_attention_depends_on_the_length(name, tokenizer):
    torch.manual_seed(0)
    lm = base_of(name, len(tokenizer) + 3)
    lm.set_attn_implementation(ATTENTION)
    reasoner = Codi(lm, projection(32, 48).eval(), tokenizer, Markers(len(tokenizer)), 2)
    steps = Steps(reasoner)
    grown, fixed = (reason(reasoner, QUESTIONS, max_new_tokens=3, steps=its) for its in (None, steps))
    assert fixed.tokens == grown.tokens
    torch.testing.assert_close(fixed.thoughts, grown.thoughts, **CLOSE)
    assert bool(steps._rooms) == ("sliding_window" not in BASES[name])


@pytest.fixture
def small_rooms(monkeypatch):
    """Rooms that fit closely, so that batches of some problems leave them."""
    for name in ("ROWS", "POSITIONS", "AHEAD", "BURST"):
        monkeypatch.setattr(captured_steps, name, 1)


def test_rows_that_are_done_leave_and_longer_answers_move_to_a_larger_room(small_rooms, tokenizer):
    reasoner = random_reasoner("llama", tokenizer)
    texts = ["The answer is: 7", "x", "The answer is: 12 and so on and so on and so on and so on and on", "y"]
    found = []
    for fixed in (False, True):
        scripted, (taps, kept) = Scripted(reasoner, texts), recorders(reasoner, len(QUESTIONS))
        steps = Steps(scripted) if fixed else None
        found.append((reason(scripted, QUESTIONS, taps=taps, steps=steps), kept()))
    assert found[0][0].texts == texts
    assert_same(*found)
    assert len({(room.n_rows, room.n_positions) for room in steps._rooms.values()}) >= 4


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_a_prefix_in_other_tokens_is_found_by_text(name, monkeypatch):
    """Ids that are never said find no prefix; the texts, checked at the end, do."""
    reasoner, words_of = load(name), captured_steps.words_of
    monkeypatch.setattr(
        captured_steps, "words_of", lambda its: words_of(its)._replace(prefixes=((torch.tensor([1, 1, 1]), 0),))
    )
    steps = Steps(reasoner)
    assert_same(*both(reasoner, QUESTIONS[:3], steps=steps))
    assert steps.by_text


def test_a_room_serves_later_batches_and_memory_is_bounded(tokenizer):
    reasoner = random_reasoner("llama", tokenizer)
    steps = Steps(reasoner)
    for questions in (QUESTIONS[:2], QUESTIONS[2:]):
        assert_same(*both(reasoner, questions, steps=steps, max_new_tokens=2))
    rooms = list(steps._rooms.values())
    both(reasoner, QUESTIONS[2:], steps=steps, max_new_tokens=2)
    assert list(steps._rooms.values()) == rooms
    tight = Steps(reasoner, n_bytes=0)
    for questions in (QUESTIONS[:2], QUESTIONS[:1], QUESTIONS[:2]):
        assert_same(*both(reasoner, questions, steps=tight, max_new_tokens=2))
        assert len(tight._rooms) == 1


def test_taps_that_may_ask_the_host_pass_as_before(reasoner):
    seen = []

    def watch(tensor, moment):
        seen.append(moment.keys.shape[1])
        return tensor

    reason(reasoner, QUESTIONS[:1], taps=[watch], steps=Steps(reasoner), max_new_tokens=1)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]


def entered(reasoner, taps=None, steps=None):
    """A batch in a room, its questions read."""
    reading = BatchPass(reasoner, Taps(), reasoner.n_thoughts)
    reading.question([reasoner.question(question) for question in QUESTIONS])
    taps = recorders(reasoner, len(QUESTIONS))[0] if taps is None else taps
    return (steps or Steps(reasoner)).enter(reading, taps=Taps(taps))


@torch.inference_mode()
def test_no_step_of_thinking_telling_or_saying_asks_the_host(reasoner):
    batch = entered(reasoner)
    with no_host_calls():
        thinking = think(batch, reasoner.markers.bot, reasoner.n_thoughts)
    mark = batch.mark()
    with no_host_calls():
        tell(batch, thinking.state, [reasoner.spoken(answer) for answer in ("7", "12", "3.5", "-1")])
    batch.back_to(mark)
    batch._room.state[: len(QUESTIONS)] = thinking.state
    batch._room.begin_to_say(torch.full((len(QUESTIONS),), 9))
    with no_host_calls():
        batch._say(batch._with_room(captured_steps.BURST), captured_steps.BURST)


@pytest.mark.parametrize("reasoner", usually("gpt2"), indirect=True)
@torch.inference_mode()
def test_decoding_looks_once_a_burst(reasoner):
    looks = []
    batch = entered(reasoner)
    state = think(batch, reasoner.markers.bot, reasoner.n_thoughts).state
    with no_host_calls(looks.append):
        said, _ = batch.say(state, [30] * len(QUESTIONS))
    assert max(map(len, said)) == 30
    # Beside the looks, lists of the rows, of how much each has said, of what, and under which codes.
    assert looks.count("__int__") == int(np.ceil(30 / captured_steps.BURST))
    assert looks.count("tolist") == 4
    assert set(looks) <= {"__int__", "tolist"}


@pytest.mark.parametrize("call", ["item", "tolist", "cpu", "numpy", "nonzero", "to"])
@torch.inference_mode()
def test_a_step_that_asks_the_host_is_found(call, tokenizer):
    class Asking(AttentionRecorder):
        def __call__(self, tensor, moment):
            whole = moment.queries.new_zeros(()) if call == "item" else moment.queries
            getattr(whole, call)(*(["cpu"] if call == "to" else []))
            return super().__call__(tensor, moment)

    reasoner = random_reasoner("gpt2", tokenizer)
    rows = recorder_for(reasoner, len(QUESTIONS), reasoner.n_thoughts)
    rows.__class__ = Asking
    batch = entered(reasoner, [rows])
    with pytest.raises(HostCall, match=call if call != "to" else "to"), no_host_calls():
        think(batch, reasoner.markers.bot, 1)
