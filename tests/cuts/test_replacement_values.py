"""Edits that put values of other passes in place, against values worked out one problem at a time by transformers."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import oracle
from tests.cut_oracle import PROBLEMS
from tests.cuts.test_values import eager_pass

from thoughtlens.cuts import (
    Intervention,
    Mean,
    Noise,
    Resample,
    Shape,
    Zero,
    ablate_head,
    ablate_thought,
    patch_head,
    patch_thought,
    shuffle_thoughts,
)
from thoughtlens.cuts.edits import Own
from thoughtlens.cuts.replacement_values import bind, derangement, donors
from thoughtlens.cuts.study_batches import Target, record_values
from thoughtlens.errors import OptionError
from thoughtlens.notation import query_names
from thoughtlens.reasoning import BatchPass, tell, think
from thoughtlens.taps import HeadRecorder, Site, Taps, ThoughtRecorder

pytestmark = pytest.mark.usefixtures("short_texts")

POSITIONS = [*query_names(6), "text"]
HEAD = Intervention(Site.HEAD, Mean(), frozenset({1}), frozenset({2}))


def target(reasoner, batches=((0, 1, 2, 3),)):
    prompts = tuple(reasoner.prompt(problem.question) for problem in PROBLEMS)
    return Target(Path("unused"), tuple(PROBLEMS), batches, Shape(3, 8, 6), prompts)


def recorded(reasoner, **options):
    return record_values(reasoner, target(reasoner, **options), [HEAD])


@torch.no_grad()
def naive(reasoner):
    """Thoughts (problem, thought, hidden) and heads (problem, layer, head, position, channel), one eager pass each."""
    lm, markers = oracle.eager(reasoner.lm), reasoner.markers
    thoughts, heads = [], []
    for problem in PROBLEMS:
        question = reasoner.question(problem.question)
        sequence, its = oracle.think(lm, reasoner.projection, question, markers.bot, markers.eot, 6)
        prefix, value = reasoner.spoken(problem.answer)
        told = lm.get_input_embeddings()(torch.tensor([[*prefix, *value[:-1]]]))  # the end token is said, not read
        start, end = len(question), sequence.shape[1] + len(prefix)
        layers = []
        for _, _, out, _ in eager_pass(lm, torch.cat([sequence, told], dim=1)):
            out = out.unflatten(-1, (lm.config.num_attention_heads, -1))  # (position, head, channel)
            answer = end - 1
            text = [place for place in range(sequence.shape[1], len(out)) if place != answer]
            rows = [*out[start : sequence.shape[1]], out[answer], out[text].mean(0)]
            layers.append(torch.stack(rows, dim=1))
        thoughts.append(its)
        heads.append(torch.stack(layers))
    return torch.stack(thoughts), torch.stack(heads)


def passed(reasoner, parts, places=range(4)):
    """Thoughts as they were fed and heads as they went on, of some problems under interventions."""
    problems = [PROBLEMS[place] for place in places]
    fed = ThoughtRecorder()
    config = reasoner.lm.config
    channels = config.hidden_size // config.num_attention_heads
    seen = HeadRecorder(
        n_problems=len(problems), n_layers=3, n_heads=config.num_attention_heads, n_thoughts=6, n_channels=channels
    )
    with torch.inference_mode():
        reading = BatchPass(reasoner, Taps([*parts, fed, seen]), 6)
        reading.question([reasoner.question(problem.question) for problem in problems])
        state = think(reading, reasoner.markers.bot, 6).state
        tell(reading, state, [reasoner.spoken(problem.answer) for problem in problems])
    return torch.stack(fed.thoughts, dim=1), seen.heads


def bound_parts(made, kept, places=range(4)):
    return bind(kept, [made.parts], places)[0]


def test_what_is_kept_is_what_each_problem_thinks_alone(reasoner):
    thoughts, heads = naive(reasoner)
    kept = recorded(reasoner)
    torch.testing.assert_close(kept.thoughts, thoughts, rtol=0, atol=1e-5)
    torch.testing.assert_close(kept.heads, heads, rtol=0, atol=1e-5)


def test_what_is_kept_does_not_depend_on_batches(reasoner):
    together, apart = recorded(reasoner), recorded(reasoner, batches=((3,), (1, 0), (2,)))
    torch.testing.assert_close(apart.thoughts, together.thoughts, rtol=0, atol=1e-5)
    torch.testing.assert_close(apart.heads, together.heads, rtol=0, atol=1e-5)


def test_a_mean_ablated_head_gives_the_mean_over_the_other_problems_at_every_position(reasoner):
    _, heads = naive(reasoner)
    kept = recorded(reasoner)
    _, seen = passed(reasoner, bound_parts(ablate_head("L1H2", edit=Mean()), kept))
    for problem in range(4):
        expected = heads[[other for other in range(4) if other != problem], 1, 2].mean(0)
        torch.testing.assert_close(seen[problem, 1, 2], expected, rtol=0, atol=1e-5)
    others = [head for head in range(heads.shape[2]) if head != 2]
    torch.testing.assert_close(seen[:, 1, others, 0], heads[:, 1, others, 0], rtol=0, atol=1e-5)  # beside it, at bot


def test_a_mean_ablated_thought_is_the_mean_over_the_other_problems(reasoner):
    thoughts, _ = naive(reasoner)
    fed, _ = passed(reasoner, bound_parts(ablate_thought("z3", edit=Mean()), recorded(reasoner)))
    expected = [thoughts[[other for other in range(4) if other != problem], 2].mean(0) for problem in range(4)]
    torch.testing.assert_close(fed[:, 2], torch.stack(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(fed[:, :2], thoughts[:, :2], rtol=0, atol=1e-5)


def test_with_a_held_out_half_the_mean_and_the_donors_are_of_the_side_that_gives_them(reasoner):
    """Problems 0 and 3 choose: their own value leaves their own mean, and no donor crosses over."""
    thoughts, _ = naive(reasoner)
    divided = replace(target(reasoner, ((1, 2), (0, 3))), choosing=frozenset({0, 3}))
    kept = record_values(reasoner, divided, [HEAD])
    fed, _ = passed(reasoner, bound_parts(ablate_thought("z3", edit=Mean()), kept))
    both = thoughts[[0, 3], 2].mean(0)
    expected = torch.stack([thoughts[3, 2], both, both, thoughts[0, 2]])
    torch.testing.assert_close(fed[:, 2], expected, rtol=0, atol=1e-5)
    assert divided.pool.donors(0).tolist() == [3, 2, 1, 0]
    assert (divided.shards(), divided.shards(choosing=True)) == ([0], [1])


@pytest.mark.parametrize("seed", [0, 5])
def test_a_resampled_head_gives_what_another_problem_of_as_many_steps_had(seed, reasoner):
    thoughts, heads = naive(reasoner)
    kept = recorded(reasoner)
    others = donors([len(problem.steps) for problem in PROBLEMS], seed).tolist()
    assert others == [2, 3, 0, 1]  # problems 0 and 2 have one step, 1 and 3 two
    _, seen = passed(reasoner, bound_parts(ablate_head("L1H2", edit=Resample(seed)), kept))
    torch.testing.assert_close(seen[:, 1, 2], heads[others, 1, 2], rtol=0, atol=1e-5)
    fed, _ = passed(reasoner, bound_parts(ablate_thought("z5", edit=Resample(seed)), kept))
    torch.testing.assert_close(fed[:, 4], thoughts[others, 4], rtol=0, atol=1e-5)


def test_a_donor_gives_every_problem_what_it_had(reasoner):
    thoughts, heads = naive(reasoner)
    kept = recorded(reasoner)
    fed, _ = passed(reasoner, bound_parts(patch_thought(["z2", "z6"], "eva"), kept))
    torch.testing.assert_close(fed[:, [1, 5]], thoughts[2, [1, 5]].expand(4, -1, -1), rtol=0, atol=1e-5)
    _, seen = passed(reasoner, bound_parts(patch_head("L0H1", "eva"), kept))
    torch.testing.assert_close(seen[:, 0, 1], heads[2, 0, 1].expand(4, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("edit", [Own(), Resample(1), Noise(1)])
def test_half_of_a_batch_gets_the_values_of_its_own_problems(edit, reasoner):
    kept = recorded(reasoner)
    for made in (ablate_head("L1H2", edit=edit), ablate_thought(["z2", "z3"], edit=edit)):
        fed, seen = passed(reasoner, bound_parts(made, kept))
        for places in ([2, 1], [3]):
            some_fed, some_seen = passed(reasoner, bound_parts(made, kept, places), places)
            torch.testing.assert_close(some_fed, fed[places], rtol=0, atol=1e-4)
            torch.testing.assert_close(some_seen, seen[places], rtol=0, atol=1e-4)


def test_what_a_problem_itself_had_changes_nothing(reasoner):
    thoughts, heads = naive(reasoner)
    kept = recorded(reasoner)
    everywhere = Intervention(Site.HEAD, Own()), Intervention(Site.THOUGHT, Own())
    for part in everywhere:
        fed, seen = passed(reasoner, bind(kept, [(part,)], range(4))[0])
        torch.testing.assert_close(fed, thoughts, rtol=0, atol=1e-5)
        torch.testing.assert_close(seen, heads, rtol=0, atol=1e-5)


def test_frozen_heads_undo_what_is_cut_before_them(reasoner):
    """Heads of the last two layers as they were, whatever happens in the first: the text alone is said anew."""
    _, heads = naive(reasoner)
    freeze = Intervention(Site.HEAD, Own(), layers=frozenset({1, 2}))
    cut = Intervention(Site.HEAD, Zero(), layers=frozenset({0}))
    _, seen = passed(reasoner, bind(recorded(reasoner), [(cut, freeze)], range(4))[0])
    torch.testing.assert_close(seen[:, 1:, :, :-1], heads[:, 1:, :, :-1], rtol=0, atol=1e-5)
    assert (seen[:, 0] == 0).all()


def test_noise_is_as_long_as_what_was_there(reasoner):
    thoughts, heads = naive(reasoner)
    kept = recorded(reasoner)
    fed, _ = passed(reasoner, bound_parts(ablate_thought("z1", edit=Noise()), kept))
    torch.testing.assert_close(fed[:, 0].norm(dim=-1), thoughts[:, 0].norm(dim=-1), rtol=1e-5, atol=0)
    _, seen = passed(reasoner, bound_parts(ablate_head("L0H3", edit=Noise(), queries=["bot"]), kept))
    lengths = heads[:, 0, 3, 0].norm(dim=-1)
    torch.testing.assert_close(seen[:, 0, 3, 0].norm(dim=-1), lengths, rtol=1e-4, atol=0)


def test_noise_of_another_seed_problem_or_position_is_another(reasoner):
    """Directions that are independent and uniform: cosines of mean 0 and variance 1 / n, here n = 32."""
    kept = recorded(reasoner)
    fed = [passed(reasoner, bound_parts(ablate_thought(["z1", "z4"], edit=Noise(s)), kept))[0] for s in range(6)]
    directions = torch.nn.functional.normalize(torch.stack(fed)[:, :, [0, 3]], dim=-1).flatten(0, 2)
    cosines = (directions @ directions.T)[*torch.triu_indices(len(directions), len(directions), 1)]
    assert cosines.abs().max() < 0.9
    assert cosines.mean().abs() < 4 / (32 * len(cosines)) ** 0.5 * 4
    assert 0.5 / 32 < cosines.var() < 2 / 32
    again = passed(reasoner, bound_parts(ablate_thought(["z1", "z4"], edit=Noise(3)), kept))[0]
    assert torch.equal(again, fed[3])


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_thoughts_are_the_problems_own_and_none_is_in_its_place(seed, reasoner):
    thoughts, _ = naive(reasoner)
    fed, _ = passed(reasoner, bound_parts(shuffle_thoughts(seed), recorded(reasoner)))
    for problem in range(4):
        distance = torch.cdist(fed[problem], thoughts[problem])
        found = distance.argmin(1).tolist()
        assert distance.min(1).values.max() < 1e-4
        assert sorted(found) == list(range(6)) and all(place != where for place, where in enumerate(found))


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_a_derangement_moves_everything(n, seed):
    order = derangement(n, seed)
    assert sorted(order) == list(range(n)) and all(place != where for place, where in enumerate(order))
    assert order == derangement(n, seed)


def test_every_derangement_is_as_likely():
    counts = Counter(tuple(derangement(4, seed)) for seed in range(1800))
    assert len(counts) == 9  # !4
    assert all(140 < count < 260 for count in counts.values())  # 200 ± 4.5 standard deviations


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.integers(0, 99))
def test_donors_are_others_with_as_many_steps_where_there_are_any(n_steps, seed):
    chosen = donors(n_steps, seed).tolist()
    assert chosen == donors(n_steps, seed).tolist()
    for place, donor in enumerate(chosen):
        assert donor != place
        if n_steps[place] and n_steps.count(n_steps[place]) > 1:
            assert n_steps[donor] == n_steps[place]


def test_where_steps_are_not_known_donors_are_of_like_length_and_differ():
    lengths = [7, 30, *range(50, 62), 90]
    chosen = [donors([0] * 15, seed, lengths=lengths).tolist() for seed in range(40)]
    near = sorted(range(15), key=lambda other: abs(lengths[other] - 55))[1:11]
    assert {row[lengths.index(55)] for row in chosen} == set(near)  # of the ten nearest each, and no other
    ranks = torch.stack([donors([0] * 15, 3, lengths=lengths, rank=rank) for rank in range(14)])
    assert all(sorted(ranks[:, place].tolist()) == [k for k in range(15) if k != place] for place in range(15))
    mixed = donors([2, 2, 2, 0, 0], 1, lengths=[5, 6, 7, 8, 9], rank=1)
    assert set(mixed[:3].tolist()) <= {0, 1, 2}
    with pytest.raises(OptionError, match="found 15 donors a problem, but only 14 other problems; pass fewer --donors"):
        donors([0] * 15, 3, rank=14)


def test_a_problem_alone_has_no_donor_and_a_thought_alone_no_order():
    with pytest.raises(OptionError, match="found one problem"):
        donors([3], 0)
    with pytest.raises(OptionError, match="found 1 thoughts"):
        derangement(1, 0)


@pytest.mark.parametrize("edit", [Own(), Mean(), Resample(), Noise()])
def test_an_edit_without_its_values_is_refused_when_it_is_met(edit, reasoner):
    with pytest.raises(OptionError, match="needs what other passes gave; make it with `intervene`"):
        passed(reasoner, [Intervention(Site.THOUGHT, edit)])
