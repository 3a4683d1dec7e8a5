import json

import numpy as np
import pytest
from tests.analysis.effects_made import made_effects

from thoughtlens.analysis import doses, edge_ends, families, head_places

RIGHT = np.ones(4, dtype=bool)


def part(site, edit, **address):
    return {"site": site, "edit": edit} | dict.fromkeys(("layers", "heads", "queries", "keys")) | address


def plan(cuts, controls=None):
    return made_effects(
        dict.fromkeys(cuts, RIGHT),
        baseline=RIGHT,
        specs={label: json.dumps(parts) for label, parts in cuts.items()},
        controls=controls,
    )


@pytest.fixture
def cuts():
    head = [part("head", "zero", layers=[layer], heads=[5]) for layer in range(2)]
    return {
        "first": [head[0]],
        "second": [head[1]],
        "both": head,
        "a whole layer": [part("head", "zero", layers=[0])],
        "no z2": [part("thought", "zero", queries=["z2"])],
        "edge": [part("scores", "block", queries=["z4"], keys=["z1"])],
        "edge of one head": [part("scores", "block", queries=["z4"], keys=["z2"], layers=[0], heads=[1])],
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
        "mean": [part("head", {"name": "mean"}, layers=[0], heads=[5])],
        "late": [part("head", "zero", layers=[0], heads=[5], queries=["answer"])],
    }
    found = families(plan(more))
    assert found["heads, zero"] == {"L0H5": "first", "L1H5": "second"}
    assert found["heads, mean"] == {"L0H5": "mean"}
    assert found["heads, zero at answer"] == {"L0H5": "late"}


def test_degrees_of_a_cut_are_doses_and_the_largest_is_in_the_family():
    grades = {
        f"to {x}": [part("head", {"name": "scale", "factor": x}, layers=[1], heads=[0])] for x in (0.5, 0.0, 0.75)
    }
    effects = plan(grades)
    assert doses(effects) == {"L1H0": {0.5: "to 0.5", 1.0: "to 0.0", 0.25: "to 0.75"}}
    assert families(effects) == {"heads": {"L1H0": "to 0.0"}}


def test_units_are_read_back_into_places():
    assert head_places({"L3H11": "a", "L0H0": "b"}) == {(3, 11): "a", (0, 0): "b"}
    assert edge_ends({"z4 ⊣ z1": "a", "answer ⊣ z6": "b"}) == {("z4", "z1"): "a", ("answer", "z6"): "b"}
