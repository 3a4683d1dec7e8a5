"""Words become cuts: as many as there are things to cut, and a sentence for what is not there."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from thoughtlens.cuts import (
    Intervention,
    Mean,
    Noise,
    Plan,
    Resample,
    Scale,
    Zero,
    ablate_head,
    ablate_kv_group,
    ablate_thought,
    cut,
    freeze_thoughts,
    knock_out,
    plan_cuts,
    stop_after,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.cuts.plan import named_edit, plan_from_json
from thoughtlens.errors import OptionError
from thoughtlens.taps import Site

RUN = SimpleNamespace(
    path=Path("run"),
    manifest={"layout": {"n_layers": 2, "n_heads": 4, "n_thoughts": 3}},
    attention={},
    require_attention=lambda: None,
)
GROUPED = SimpleNamespace(lm=SimpleNamespace(config=SimpleNamespace(num_key_value_heads=2)))
RANKED = ["L1H3", "L0H0", "L1H2", "L0H1", "L0H2", "L0H3", "L1H0", "L1H1"]
MASS = xr.DataArray(np.arange(8.0).reshape(2, 4), dims=("layer", "head"), coords={"layer": [0, 1], "head": range(4)})


def analysis(reliability=1.0):
    ranking = xr.Dataset({"reliability": reliability, "n": 40, "n_ranked": 40, "name": ("place", RANKED)})
    return SimpleNamespace(ranking=ranking, heads={"thought_mass": MASS.expand_dims(value=["estimate"])})


def measures():
    return xr.Dataset({"mass": MASS + 1.0, "norm": xr.ones_like(MASS)})


def planned(edits=("zero",), **asked):
    return plan_cuts(RUN, edits=edits, reasoner=GROUPED, analysis=analysis, measures=measures, **asked)


def plan(**asked):
    return list(planned(**asked).cuts)


def labels(**asked):
    return [cut.label for cut in plan(**asked)]


def test_all_heads_are_cut_once_by_each_edit():
    found = labels(heads="all", edits=("zero", "mean"))
    assert found == [f"L{layer}H{head} {edit}" for layer in (0, 1) for head in range(4) for edit in ("zero", "mean")]


def test_top_heads_are_the_first_of_the_ranking():
    assert labels(heads="top:2") == ["L1H3 zero", "L0H0 zero"]


def test_named_heads_are_cut_where_they_are_asked_to():
    (cut,) = plan(heads="L1H2", at="thoughts,eot")
    assert cut == ablate_head("L1H2", queries=["z1", "z2", "z3", "eot"], edit=Zero())


def test_a_group_is_all_heads_of_a_key_value_head():
    cuts = plan(kv_groups="all")
    assert [(min(part.layers), sorted(part.heads)) for cut in cuts for part in cut.parts] == [
        (0, [0, 1]), (0, [2, 3]), (1, [0, 1]), (1, [2, 3]),
    ]  # fmt: skip
    assert plan(kv_groups="L1G1") == [cuts[3]]


def test_edges_run_from_each_thought_to_each_earlier_one():
    assert labels(edges="all") == ["z2 ⊣ z1", "z3 ⊣ z1", "z3 ⊣ z2"]
    assert labels(edges="readout,z3:z2") == [*(f"{q} ⊣ z{k}" for q in ("eot", "answer") for k in (1, 2, 3)), "z3 ⊣ z2"]


def test_an_edge_is_blocked_and_weakened_by_each_scale_down_to_nothing():
    found = labels(edges="z3:z1", edits=("scale:0.5", "mean"))
    assert found == ["z3 ⊣ z1", "z3 ⊣ z1 scale 0.5", "z3 ⊣ z1 zero"]


def test_whole_cuts_are_of_all_thoughts_at_once():
    found = labels(whole=True, edits=("zero", "resample"))
    stops = ["no thoughts", "stop after z1", "stop after z2"]
    assert found == ["thoughts zero", "thoughts resample", *stops, "thoughts shuffle"]


def test_what_can_be_frozen_is():
    found = labels(heads="L0H0", thoughts="z2", whole=True, frozen=True)
    assert found[:3] == ["L0H0 zero, thoughts frozen", "z2 zero, thoughts frozen", "thoughts zero"]
    assert "no thoughts" in found


def test_a_file_of_cuts_is_read_back_as_it_was_written(tmp_path):
    cuts = [knock_out("z3", "z1", heads=[2]), stop_after(1, n_thoughts=3)]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps([{"label": cut.label, "parts": cut.spec()} for cut in cuts]))
    assert plan(file=file) == cuts
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(Plan(tuple(cuts), {cuts[0].label: (cuts[1],)}).as_json()))
    assert plan(file=whole) == cuts


def test_edits_have_names():
    found = [named_edit(name, 7) for name in ("zero", "mean", "resample", "noise", "scale:0.5")]
    assert found == [Zero(), Mean(), Resample(7), Noise(7), Scale(0.5)]


def test_names_may_be_listed_and_edits_and_cuts_given_as_they_are():
    one = stop_after(1, n_thoughts=3)
    assert plan(heads=["L0H1", "L1H0"], edits=[Mean()], cuts=[one]) == [
        ablate_head("L0H1", edit=Mean()), ablate_head("L1H0", edit=Mean()), one,
    ]  # fmt: skip


def test_a_ranking_that_can_not_be_trusted_is_followed_and_the_plan_says_so():
    poor = plan_cuts(RUN, heads="top:2", edits=["zero"], holdout=0.5, analysis=lambda: analysis(0.1))
    assert [cut.unit for cut in poor.cuts] == ["L1H3", "L0H0"]
    (note,) = poor.notes
    assert note.startswith("the ranking of heads is unreliable") and note.endswith("no better than a draw.")
    assert planned(heads="top:2", holdout=0.5).notes == ()
    same = "the heads of --heads top:2 are selected on these problems; --holdout 0.5 tests them on others."
    assert planned(heads="top:2").notes == (same,)


def test_the_run_is_analysed_once_and_only_where_the_plan_asks_for_it():
    made = []

    def counted():
        made.append(1)
        return analysis()

    plan_cuts(RUN, heads="L0H0", controls=2, analysis=counted, measures=measures)
    assert made == []
    found = plan_cuts(RUN, heads="top:1", edits=["zero"], controls=2, caliper=0.6, analysis=counted, measures=measures)
    assert made == [1]
    # The masses of L1H3, L1H2 and L1H1 are 8, 7 and 6, and the logarithms of 1 to 8 have a standard deviation of 0.66.
    assert [control.unit for control in found.controls["L1H3 zero"]] == ["L1H2", "L1H1"]
    (row,) = found.controlled["balance"]
    assert row == {
        "cut": "L1H3 zero", "n_controls": 2, "mass": 8.0, "mass_controls": 6.5, "norm": 1.0, "norm_controls": 1.0
    }  # fmt: skip


def test_a_cut_without_a_control_within_the_caliper_is_named_and_keeps_none():
    found = plan_cuts(
        RUN, heads="L0H0,L1H3", edits=["zero"], controls=3, caliper=0.5, analysis=analysis, measures=measures
    )
    assert found.notes == (
        "no control within the caliper (no head near enough in attention mass and output norm) for L0H0 zero",
    )
    assert {label: len(its) for label, its in found.controls.items()} == {"L1H3 zero": 2}


def test_a_cut_knows_its_family_its_unit_and_its_dose():
    zeroed, late, half = (
        ablate_head("L1H2", edit=Zero()),
        ablate_head((0, 3), queries=["eot", "z2"], edit=Zero()),
        weaken_edge("z3", "z1", 0.5),
    )
    found = [zeroed, late, half, ablate_thought("z2", edit=Resample(3)), knock_out("z3", "z2")]
    assert [(cut.family, cut.unit, cut.dose) for cut in found] == [
        ("heads", "L1H2", None),
        ("heads", "L0H3", None),
        ("edges", "z3 ⊣ z1", 0.5),
        ("thoughts", "z2", None),
        ("edges", "z3 ⊣ z2", None),
    ]
    assert zero_value_edge("z3", "z1").dose is None
    several = cut(Intervention(Site.HEAD, Zero(), frozenset({0}), frozenset({1, 2})))
    of_one_head = knock_out("z3", "z1", layers=[0], heads=[1])
    frozen = freeze_thoughts(half), freeze_thoughts(zeroed)
    assert [(one.family, one.unit, one.dose) for one in frozen] == [
        ("edges", "z3 ⊣ z1", 0.5),
        ("heads", "L1H2", None),
    ]
    for one in (several, of_one_head):
        assert (one.family, one.unit, one.dose) == ("", "", None)
    for one in (stop_after(2, n_thoughts=3), ablate_thought(None, edit=Zero()), ablate_thought(None, edit=Mean())):
        assert (one.family, one.unit) == ("whole", "")
    group = ablate_kv_group(1, 1, n_heads=4, n_groups=2, edit=Zero())
    assert (group.family, group.unit) == ("kv_groups", "L1G1")


def test_a_plan_comes_back_from_json_with_what_it_knows_of_its_cuts():
    asked = {"heads": "all", "kv_groups": "L1G1", "thoughts": "all", "edges": "z3:z1", "edits": ["zero", "scale:0.5"]}
    found = planned(**asked, whole=True, controls=2, orders=["cause"])
    back = plan_from_json(json.loads(json.dumps(found.as_json())))
    assert back == found and back.extended(found) == found
    for one, other in zip(back.made, found.made, strict=True):
        assert (one.family, one.unit, one.dose) == (other.family, other.unit, other.dose)
    assert {one.family for one in found.cuts} == {"heads", "kv_groups", "thoughts", "edges", "whole"}


def test_steps_of_orders_know_their_order_and_how_many_they_cut():
    found = planned(heads="all", edits=("zero", "mean"), orders=["attention"], random_orders=1)
    steps = found.steps({"attention": RANKED})
    assert [(step.order, step.k) for step in steps[:8]] == [("attention", k) for k in range(1, 9)]
    assert set(steps[1].parts) == {*ablate_head("L1H3", edit=Zero()).parts, *ablate_head("L0H0", edit=Zero()).parts}
    assert [(step.order, step.k) for step in steps[8:]] == [("random order 1", k) for k in range(1, 9)]
    assert found.n_steps == len(steps) and found.steps({}) == ()
    assert steps[0].unit == "" != found.cuts[0].unit
    assert found.n_passes(10) == 10 * (1 + 16 + 16)
    # A plan without single heads has no orders, and its passes are counted all the same.
    edges = planned(edges="z3:z1,z3:z2")
    assert edges.n_passes(10) == 10 * (1 + len(edges.made))


def test_a_plan_that_is_extended_keeps_what_it_had_and_marks_what_is_new():
    first = planned(heads="L0H0", controls=1, orders=())
    further = planned(heads="L0H0,L0H1", at="eot", thoughts="z1", controls=1)
    whole = first.extended(further)
    assert whole.cuts == (*first.cuts, *further.cuts)
    new = {cut.label for cut in whole.made} - {cut.label for cut in first.made}
    assert set(whole.exploratory) == new and not new & {cut.label for cut in first.made}
    assert whole.extended(first) == whole.extended(further) == whole
    for label, controls in further.controls.items():
        assert [control.parts for control in whole.controls[label]] == [control.parts for control in controls]
    assert len({cut.label for cut in whole.made}) == len(whole.made) == len(first.made) + len(further.made)


def test_orders_are_those_of_the_first_plan():
    first = planned(heads="all")
    with pytest.raises(OptionError, match=r"planned with no orders and is now asked for orders by cause and 10 random"):
        first.extended(planned(heads="all", orders=["cause"]))
    ordered = planned(heads="L0H0,L0H1", orders=["cause"], random_orders=2)
    whole = ordered.extended(first)
    assert list(whole.single_heads) == ["L0H0", "L0H1"] and whole.n_steps == 6


def test_orders_need_two_single_heads():
    with pytest.raises(OptionError, match="two heads or more"):
        planned(heads="L0H0", thoughts="all", orders=["attention"])
    with pytest.raises(OptionError, match="holds no values to rank heads by"):
        planned(heads="all", orders=["value-weighted"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing to cut"),
        ({"heads": "all", "orders": ["taste"]}, "no ranking of heads by 'taste'"),
        ({"heads": "all", "restore": "moods"}, "--restore is 'moods', expected one of heads, thoughts, edges"),
        ({"heads": "all", "donors": 0}, "--donors is 0, expected 1 or more"),
        ({"heads": "all", "paths": "total,long"}, "--effects names 'long', expected some of total, direct, indirect"),
        ({"heads": "all", "thoughts": "z1", "leave_out": "L0H1"}, "one family that is named, found heads, thoughts"),
        ({"leave_out": "L0H1"}, "one family that is named, found nothing; name one"),
        ({"edges": "z3:z1", "leave_out": "z3:z2"}, "--except names z3:z2, which is not among the edges named"),
        ({"heads": "all", "controls": -1}, "--controls"),
        ({"heads": "top:9"}, "top:1 to top:8"),
        ({"heads": "top:x"}, "top:1 to top:8"),
        ({"heads": "H2"}, "'H2'"),
        ({"thoughts": "z4"}, "'z4'"),
        ({"edges": "z1:z2"}, "causal mask"),
        ({"edges": "z3"}, "--edges names 'z3', expected .* such as z4:z1"),
        ({"edges": "first:z1"}, "'first'"),
        ({"heads": "all", "edits": ("cut",)}, "no edit 'cut'"),
        ({"heads": "all", "edits": ("scale:much",)}, "no edit 'scale:much'"),
        ({"heads": "all", "edits": ("zero:1",)}, "no edit 'zero:1'"),
        ({"heads": "all", "at": "question"}, "'question'"),
        ({"kv_groups": "L0H1"}, "L4G1"),
    ],
)
def test_what_is_not_there_is_named_in_a_sentence(asked, said):
    with pytest.raises(OptionError, match=said):
        plan(**asked)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"label": "x"}]', '[{"parts": [{"site": "moon", "edit": "zero"}]}]']
)
def test_a_file_that_is_no_plan_is_refused(text, tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(OptionError):
        plan(file=file)
