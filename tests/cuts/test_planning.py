"""Words become cuts: as many as there are things to cut, and a sentence for what is not there."""

import json

import pytest

from thoughtlens.cuts import (
    Asked,
    Mean,
    Noise,
    Resample,
    Scale,
    Shape,
    Zero,
    ablate_head,
    knock_out,
    named_edit,
    plan_cuts,
    stop_after,
)
from thoughtlens.errors import OptionError

SHAPE = Shape(n_layers=2, n_heads=4, n_thoughts=3)
RANKED = ["L1H3", "L0H0", "L1H2", "L0H1", "L0H2", "L0H3", "L1H0", "L1H1"]


def plan(**asked):
    return plan_cuts(Asked(**asked), SHAPE, n_groups=2, ranking=lambda: RANKED)


def labels(**asked):
    return [cut.label for cut in plan(**asked)]


def test_all_heads_are_cut_once_by_each_edit():
    found = labels(heads="all", edits=("zero", "mean"))
    assert found == [f"L{layer}H{head} {edit}" for layer in (0, 1) for head in range(4) for edit in ("zero", "mean")]


def test_top_heads_are_the_first_of_the_ranking():
    assert labels(heads="top:2") == ["L1H3 zero", "L0H0 zero"]


def test_named_heads_are_cut_where_they_are_asked_to():
    (cut,) = plan(heads="L1H2", at="thoughts,eot")
    assert cut == ablate_head("L1H2", queries=["z1", "z2", "z3", "eot"])


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


def test_edits_have_names():
    found = [named_edit(name, 7) for name in ("zero", "mean", "resample", "noise", "scale:0.5")]
    assert found == [Zero(), Mean(), Resample(7), Noise(7), Scale(0.5)]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing to cut"),
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
