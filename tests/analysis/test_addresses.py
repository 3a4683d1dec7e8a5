"""What was cut stands beside each cut: family, unit, edit, positions and dose, read back as the cuts that compare."""

import numpy as np
import pytest
from tests.analysis.effects_made import made_effects

from thoughtlens.analysis import families
from thoughtlens.analysis.effects import doses
from thoughtlens.cuts import (
    Intervention,
    Mean,
    Noise,
    Resample,
    Scale,
    Zero,
    ablate_head,
    ablate_kv_group,
    ablate_thought,
    cut,
    freeze_thoughts,
    knock_out,
    patch_thought,
    shuffle_thoughts,
    stop_after,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.cuts.cut_types import address_of, cut_from_spec
from thoughtlens.errors import OptionError
from thoughtlens.notation import edge_name, head_name, head_place
from thoughtlens.taps import Site

RIGHT = np.ones(4, dtype=bool)
HEAD, BOTH = (
    ablate_head("L0H5", edit=Zero()),
    cut(*ablate_head("L0H5", edit=Zero()).parts, *ablate_head("L1H5", edit=Zero()).parts),
)
LAYER = cut(Intervention(Site.HEAD, Zero(), frozenset({0})))


@pytest.mark.parametrize(
    ("made", "family", "unit", "edit", "at", "dose"),
    [
        (HEAD, "heads", "L0H5", "zero", "", None),
        (ablate_head("L3H11", edit=Mean(), queries=["eot", "answer"]), "heads", "L3H11", "mean", "answer, eot", None),
        (ablate_head("L0H5", queries=["z10", "z2"], edit=Zero()), "heads", "L0H5", "zero", "z2, z10", None),
        (ablate_head("L0H5", edit=Scale(0.25)), "heads", "L0H5", "scale", "", 0.75),
        (ablate_kv_group(1, 0, n_heads=4, n_groups=2, edit=Zero()), "kv_groups", "L1G0", "zero", "", None),
        (ablate_thought("z2", edit=Resample(3)), "thoughts", "z2", "resample, 3", "", None),
        (patch_thought("z2", "eva"), "thoughts", "z2", "donor, eva", "", None),
        (knock_out("z4", "z1"), "edges", "z4 ⊣ z1", "block", "", None),
        (zero_value_edge("answer", "z6"), "edges", "answer ⊣ z6", "zero", "", None),
        (weaken_edge("z4", "z1", 0.0), "edges", "z4 ⊣ z1", "scale", "", 1.0),
        (ablate_thought(None, edit=Noise(1)), "whole", "", "noise, 1", "", None),
        (stop_after(5, n_thoughts=6), "whole", "", "stop", "", None),
        (shuffle_thoughts(2), "whole", "", "shuffle, 2", "", None),
    ],
    ids=lambda value: getattr(value, "label", None),
)
def test_a_cut_of_one_thing_says_what_it_is_and_so_does_its_spec(made, family, unit, edit, at, dose):
    for one in (made, cut_from_spec(made.spec())) if family != "kv_groups" else (made,):
        found = address_of(one)
        assert (found["family"], found["unit"], found["edit"], found["at"]) == (family, unit, edit, at)
        assert found["dose"] == dose if dose is not None else np.isnan(found["dose"])
        assert (found["order"], found["k"]) == ("", 0)


@pytest.mark.parametrize(
    "made",
    [BOTH, LAYER, knock_out("z4", "z2", layers=[0], heads=[1]), knock_out("z4", ["z1", "z2"])],
    ids=lambda made: made.label,
)
def test_a_cut_of_several_things_is_of_no_unit(made):
    assert (address_of(made)["family"], address_of(made)["unit"]) == ("", "")


def test_a_cut_with_thoughts_frozen_is_of_the_unit_that_it_cuts_by_an_edit_of_its_own():
    found = address_of(freeze_thoughts(HEAD))
    assert (found["family"], found["unit"], found["edit"]) == ("heads", "L0H5", "zero, thoughts frozen")


def test_a_group_of_one_head_is_that_head():
    assert ablate_kv_group(1, 2, n_heads=4, n_groups=4, edit=Zero()) == ablate_head("L1H2", edit=Zero())


def plan(cuts, controls=None):
    addresses = {label: address_of(made) for label, made in cuts.items()}
    return made_effects(dict.fromkeys(cuts, RIGHT), baseline=RIGHT, addresses=addresses, controls=controls)


@pytest.fixture
def cuts():
    return {
        "first": HEAD,
        "second": ablate_head("L1H5", edit=Zero()),
        "both": BOTH,
        "a whole layer": LAYER,
        "no z2": ablate_thought("z2", edit=Zero()),
        "edge": knock_out("z4", "z1"),
        "edge of one head": knock_out("z4", "z2", layers=[0], heads=[1]),
    }


def test_single_units_are_found_and_cuts_of_several_are_not(cuts):
    assert families(plan(cuts)) == {
        "heads": {"L0H5": "first", "L1H5": "second"},
        "thoughts": {"z2": "no z2"},
        "edges": {"z4 ⊣ z1": "edge"},
    }


def test_controls_are_in_no_family(cuts):
    found = families(plan(cuts, controls={"first": ["second"]}))
    assert found["heads"] == {"L0H5": "first"}


def test_other_edits_and_scopes_are_families_of_their_own(cuts):
    more = cuts | {
        "mean": ablate_head("L0H5", edit=Mean()),
        "late": ablate_head("L0H5", queries=["answer"], edit=Zero()),
    }
    found = families(plan(more))
    assert found["heads, zero"] == {"L0H5": "first", "L1H5": "second"}
    assert found["heads, mean"] == {"L0H5": "mean"}
    assert found["heads, zero at answer"] == {"L0H5": "late"}


def test_degrees_of_a_cut_are_doses_and_the_largest_is_in_the_family():
    effects = plan({f"to {x}": ablate_head("L1H0", edit=Scale(x)) for x in (0.5, 0.0, 0.75)})
    assert doses(effects) == {"L1H0": {0.5: "to 0.5", 1.0: "to 0.0", 0.25: "to 0.75"}}
    assert families(effects) == {"heads": {"L1H0": "to 0.0"}}


def test_a_unit_that_is_zeroed_at_the_same_positions_has_that_as_its_whole_dose():
    half = ablate_head("L1H0", edit=Scale(0.5), queries=["answer"])
    everywhere, there = ablate_head("L1H0", edit=Zero()), ablate_head("L1H0", queries=["answer"], edit=Zero())
    assert doses(plan({"half": half, "everywhere": everywhere})) == {}
    found = doses(plan({"half": half, "everywhere": everywhere, "there": there}))
    assert found == {"L1H0 at answer": {0.5: "half", 1.0: "there"}}


def test_names_of_units_are_written_and_read_in_one_place():
    assert [head_name(3, 11), head_name(0, 0), edge_name("answer", "z6")] == ["L3H11", "L0H0", "answer ⊣ z6"]
    assert [head_place(name) for name in ("L3H11", "L0H0")] == [(3, 11), (0, 0)]
    for name in ("z6", "L3G1"):
        with pytest.raises(OptionError, match="expected one such as L4H5"):
            head_place(name)
