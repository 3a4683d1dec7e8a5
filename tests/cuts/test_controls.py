"""Controls do the same to something else: never to what is cut, and to what the plan cuts only where they must."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr

from thoughtlens.cuts import Block, Cut, Intervention, Shape, Zero, controls_for
from thoughtlens.cuts.controls import extra
from thoughtlens.cuts.plan import cumulative
from thoughtlens.errors import OptionError
from thoughtlens.taps import Site

SHAPE = Shape(n_layers=3, n_heads=4, n_thoughts=6)


@dataclass(frozen=True)
class Other:
    """Another edit than zero."""

    def __call__(self, tensor, moment):
        """The tensor itself."""
        return tensor


def head(layer, *heads, edit=None, queries=None):
    part = Intervention(Site.HEAD, edit or Zero(), frozenset({layer}), frozenset(heads), queries=queries)
    return Cut(", ".join(f"L{layer}H{h}" for h in heads), (part,))


def thought(name):
    return Cut(name, (Intervention(Site.THOUGHT, Zero(), queries=frozenset({name})),))


def edge(query, key, heads=None):
    part = Intervention(Site.SCORES, Block(), heads=heads, queries=frozenset({query}), keys=frozenset({key}))
    return Cut(f"{query} ⊣ {key}", (part,))


def heads_of(cut):
    return {(layer, h) for part in cut.parts for layer in part.layers for h in part.heads}


def ends_of(cut):
    (part,) = cut.parts
    return *part.queries, *part.keys


@pytest.fixture
def plan():
    return [head(1, 2), head(1, 0), thought("z2"), edge("z4", "z2")]


def test_controls_of_a_head_are_other_heads_of_its_layer_with_the_same_edit_and_scope():
    cut = head(1, 2, queries=frozenset({"eot"}))
    found = controls_for([cut], n=20, seed=0, shape=SHAPE)["L1H2"]
    assert {heads_of(control).pop() for control in found} == {(1, 0), (1, 1), (1, 3)}
    for control in found:
        (part,) = control.parts
        assert replace(part, heads=cut.parts[0].heads) == cut.parts[0]


def test_heads_of_the_plan_are_taken_last(plan):
    controls = controls_for(plan, n=2, seed=3, shape=SHAPE)
    assert {heads_of(control).pop() for control in controls["L1H2"]} == {(1, 1), (1, 3)}
    third = controls_for(plan, n=3, seed=3, shape=SHAPE)["L1H2"][2]
    assert heads_of(third) == {(1, 0)}


def test_no_control_cuts_what_its_cut_cuts():
    cut = head(0, 0, 1)
    found = controls_for([cut], n=50, seed=0, shape=Shape(2, 6, 6))[cut.label]
    assert all(not heads_of(control) & heads_of(cut) and len(heads_of(control)) == 2 for control in found)
    # Pairs of the four other heads: 4 · 3 / 2.
    assert len({frozenset(heads_of(control)) for control in found}) == len(found) == 6


def measured(mass, norm):
    coords = {"layer": range(3), "head": range(4)}
    return xr.Dataset(
        {
            name: xr.DataArray(np.exp(np.reshape(logs, (3, 4)).astype(float)), dims=("layer", "head"), coords=coords)
            for name, logs in (("mass", mass), ("norm", norm))
        }
    )


def test_matched_heads_are_within_the_caliper_in_mass_and_norm_and_the_nearest_of_any_layer_comes_first():
    like = measured([0, 0, 0, 9, 4.2, 5, 7, 5.1, 4.9, 5.4, 5.3, 0], [0, 0, 0, 0, 0, 0, 0, 3, 0.2, 0, 0.1, 0])
    sd = np.std([0, 0, 0, 9, 4.2, 5, 7, 5.1, 4.9, 5.4, 5.3, 0]), np.std([0] * 7 + [3, 0.2, 0, 0.1, 0])
    apart = {place: max(abs(m - 5) / sd[0], n / sd[1]) for place, m, n in [
        ((1, 0), 4.2, 0), ((1, 3), 5.1, 3), ((2, 0), 4.9, 0.2), ((2, 1), 5.4, 0), ((2, 2), 5.3, 0.1),
    ]}  # fmt: skip
    near = sorted((place for place, far in apart.items() if far <= 0.25), key=apart.get)
    assert (1, 3) not in near and len(near) == 3  # the norm of L1H3 is another, though its mass is the nearest
    found = controls_for([head(1, 1)], n=9, seed=0, shape=SHAPE, like=like, caliper=0.25)["L1H1"]
    assert [heads_of(control).pop() for control in found] == near
    # Those that the plan cuts, too: without them the controls of the top heads would all have less mass.
    both = controls_for([head(1, 1), head(2, 2)], n=9, seed=0, shape=SHAPE, like=like, caliper=0.25)
    assert [heads_of(control).pop() for control in both["L1H1"]] == near


def test_a_head_that_has_nothing_like_it_has_no_control_rather_than_a_bad_one():
    like = measured([0, 0, 0, 9, 4, 5, 7, 5, 5, 5, 5, 0], [0] * 12)
    assert controls_for([head(0, 3)], n=9, seed=0, shape=SHAPE, like=like, caliper=0.25) == {"L0H3": ()}


def test_where_damage_depends_on_mass_alone_no_cut_is_the_extreme_one_more_often_than_by_chance():
    """With a caliper the smallest p of n controls is as rare as 1 / (1 + n); among heads of a layer it is not."""
    rng = np.random.default_rng(0)
    shape, counts = Shape(n_layers=12, n_heads=12, n_thoughts=6), {True: [], False: []}
    coords = {"layer": range(12), "head": range(12)}
    for seed in range(6):
        mass = xr.DataArray(np.exp(rng.normal(0, 0.8, (12, 12))), dims=("layer", "head"), coords=coords)
        like = xr.Dataset({"mass": mass, "norm": mass.copy(data=np.exp(rng.normal(0, 0.2, (12, 12))))})
        damage = (mass * np.exp(rng.normal(0, 0.4, (12, 12)))).values
        top = [divmod(int(place), 12) for place in np.argsort(-mass.values.ravel())[:30]]
        cuts = [head(*place) for place in top]
        for matched in counts:
            options = {"like": like} if matched else {}
            found = controls_for(cuts, n=10, seed=seed, shape=shape, **options)
            for cut, place in zip(cuts, top, strict=True):
                its = [damage[heads_of(control).pop()] for control in found[cut.label]]
                if its:
                    counts[matched].append((damage[place] > max(its), 1 / (1 + len(its))))
    extreme, expected = (np.mean(values) for values in zip(*counts[True], strict=True))
    assert len(counts[True]) > 140 and extreme < expected + 0.05
    assert np.mean([first for first, _ in counts[False]]) > 0.3


def test_controls_of_a_thought_are_other_thoughts(plan):
    found = controls_for(plan, n=9, seed=0, shape=SHAPE)["z2"]
    assert {name for control in found for name in control.parts[0].queries} == {"z1", "z3", "z4", "z5", "z6"}


def test_controls_of_an_edge_keep_its_lag(plan):
    found = controls_for(plan, n=3, seed=0, shape=SHAPE)["z4 ⊣ z2"]
    assert {ends_of(control) for control in found} == {("z3", "z1"), ("z5", "z3"), ("z6", "z4")}


def test_an_edge_of_a_lag_of_its_own_comes_as_near_as_it_can():
    found = controls_for([edge("z6", "z1")], n=2, seed=0, shape=SHAPE)["z6 ⊣ z1"]
    assert {ends_of(control) for control in found} == {("z5", "z1"), ("z6", "z2")}


def test_an_edge_from_the_answer_stays_the_answers():
    found = controls_for([edge("answer", "z1", frozenset({2}))], n=9, seed=0, shape=SHAPE)["answer ⊣ z1"]
    assert {ends_of(control) for control in found} == {("answer", f"z{k}") for k in range(2, 7)}
    assert {control.parts[0].heads for control in found} == {frozenset({2})}


def test_what_has_no_address_of_its_own_stays_in_the_control():
    everywhere = Intervention(Site.THOUGHT, Other())
    cut = Cut("L0H0, frozen", (everywhere, *head(0, 0).parts))
    for control in controls_for([cut], n=3, seed=0, shape=SHAPE)[cut.label]:
        assert everywhere in control.parts and heads_of(Cut("", control.parts[1:])) <= {(0, 1), (0, 2), (0, 3)}


def test_a_layer_is_moved_to_another_layer():
    cut = Cut("layer 1", (Intervention(Site.HEAD, Zero(), frozenset({1})),))
    found = controls_for([cut], n=5, seed=0, shape=SHAPE)["layer 1"]
    assert {layer for control in found for layer in control.parts[0].layers} == {0, 2}
    assert {control.parts[0].heads for control in found} == {None}


def test_labels_are_unique_and_shared_controls_are_one_cut():
    cuts = [head(1, 0), head(1, 1), head(2, 0)]
    controls = controls_for(cuts, n=3, seed=0, shape=SHAPE)
    every = {control.label: control for its in controls.values() for control in its}
    assert len({frozenset(heads_of(control)) for control in every.values()}) == len(every)
    assert cuts[1] in controls["L1H0"] and cuts[0] in controls["L1H1"]
    new = extra(controls, cuts)
    assert sorted(control.label for control in new) == [f"control L{p}" for p in ("1H2", "1H3", "2H1", "2H2", "2H3")]


def test_the_same_head_cut_otherwise_is_another_control():
    cuts = [head(1, 0), replace(head(1, 0, edit=Other()), label="other L1H0")]
    controls = controls_for(cuts, n=3, seed=0, shape=SHAPE)
    assert len(extra(controls, cuts)) == 6
    assert len({control.label for control in extra(controls, cuts)}) == 6
    for cut in cuts:
        assert {control.parts[0].edit for control in controls[cut.label]} == {cut.parts[0].edit}


def test_same_seed_same_controls(plan):
    once, again, otherwise = (controls_for(plan, n=2, seed=seed, shape=Shape(3, 40, 6)) for seed in (7, 7, 8))
    assert once == again != otherwise


@pytest.mark.parametrize(
    ("cut", "shape"),
    [
        (head(0, 0, 1, 2, 3), SHAPE),
        (thought("z1"), Shape(3, 4, 1)),
        (edge("z2", "z1"), Shape(3, 4, 2)),
        (Cut("all thoughts", (Intervention(Site.THOUGHT, Zero()),)), SHAPE),
    ],
    ids=["all heads", "the only thought", "the only edge", "everything"],
)
def test_a_cut_without_anything_like_it_says_so(cut, shape):
    with pytest.raises(OptionError, match=f"{cut.label}' has no control"):
        controls_for([cut], n=5, seed=0, shape=shape)


def test_no_controls_are_not_asked_for(plan):
    with pytest.raises(OptionError, match="0 controls"):
        controls_for(plan, n=0, seed=0, shape=SHAPE)


@pytest.fixture
def rankings():
    cuts = [head(layer, h) for layer in range(2) for h in range(3)]
    return {"attention": cuts, "effect": cuts[::-1]}


def orders_of(steps, *, random):
    """The steps of the rankings, or of the random orders, by the order's name."""
    found = {}
    for step in steps:
        if step.order.startswith("random order") == random:
            found.setdefault(step.order, []).append(step)
    for name, its in found.items():
        assert [(step.k, step.label) for step in its] == [(k, f"{name} · first {k}") for k in range(1, len(its) + 1)]
    return found


def test_each_step_of_an_order_adds_the_next_of_its_ranking(rankings):
    steps = orders_of(cumulative(rankings, n_random=4), random=False)
    assert {name: len(its) for name, its in steps.items()} == {"attention": 6, "effect": 6}
    for name, ranking in rankings.items():
        for k, step in enumerate(steps[name], start=1):
            assert heads_of(step) == set().union(*(heads_of(cut) for cut in ranking[:k]))


def test_random_orders_are_orders_of_the_same_cuts_whatever_the_ranking(rankings):
    steps = orders_of(cumulative(rankings, n_random=4, seed=2), random=True)
    assert [len(its) for its in steps.values()] == [6] * 4
    firsts = []
    for its in steps.values():
        assert [len(heads_of(step)) for step in its] == [1, 2, 3, 4, 5, 6]
        firsts.append(tuple(sorted(heads_of(its[1]))))
    assert len(set(firsts)) > 1
    turned = cumulative(dict(reversed(rankings.items())), n_random=4, seed=2)
    assert orders_of(turned, random=True) == steps


def test_rankings_of_other_cuts_are_refused(rankings):
    with pytest.raises(OptionError, match="the same cuts"):
        cumulative(rankings | {"short": rankings["effect"][:2]})
    with pytest.raises(OptionError, match="names random orders"):
        cumulative({"random order 1": rankings["effect"]})
