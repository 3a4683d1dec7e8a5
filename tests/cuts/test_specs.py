"""Interventions and cuts as words and as JSON: each has a label, comes back from its spec, or is refused."""

import json
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtlens.cuts import (
    Add,
    Block,
    Cut,
    Donor,
    Intervention,
    Mean,
    Noise,
    Replace,
    Resample,
    Scale,
    Zero,
    ablate_head,
    ablate_kv_group,
    ablate_thought,
    cut,
    freeze_thoughts,
    knock_out,
    patch_head,
    patch_thought,
    shuffle_thoughts,
    stop_after,
    weaken_edge,
    zero_value_edge,
)
from thoughtlens.cuts.cut_types import cut_from_spec, thoughts_left
from thoughtlens.cuts.edits import NAMED, Own, Received, Shuffle, Stop
from thoughtlens.cuts.interventions import as_spec, from_spec
from thoughtlens.errors import OptionError
from thoughtlens.notation import key_names, query_names, thought_names
from thoughtlens.taps import Site

CONSTRUCTED = {
    "L4H5 zero": ablate_head("L4H5", edit=Zero()),
    "L4H5 mean at answer, eot": ablate_head((4, 5), edit=Mean(), queries=["eot", "answer"]),
    "L2G1 zero": ablate_kv_group(2, 1, n_heads=8, n_groups=2, edit=Zero()),
    "z3 zero": ablate_thought("z3", edit=Zero()),
    "z2, z10 noise 7": ablate_thought(["z10", "z2"], edit=Noise(7)),
    "z4 ⊣ z1, L4H5": knock_out("z4", "z1", layers=[4], heads=[5]),
    "z4 ⊣ z1": knock_out("z4", "z1"),
    "z4 ⊣ z1 zero": zero_value_edge("z4", "z1"),
    "answer ⊣ z1, z2 scale 0.25, L0": weaken_edge("answer", ["z2", "z1"], 0.25, layers={0}),
    "z3 donor gsm_7": patch_thought("z3", "gsm_7"),
    "L0H1 donor gsm_7 at z6": patch_head("L0H1", "gsm_7", queries=["z6"]),
    "thoughts shuffle": shuffle_thoughts(),
    "thoughts shuffle 3": shuffle_thoughts(3),
    "stop after z2": stop_after(2, n_thoughts=6),
    "no thoughts": stop_after(0, n_thoughts=6),
    "L1H0 resample, thoughts frozen": freeze_thoughts(ablate_head("L1H0", edit=Resample())),
    "L1H0 zero, z5, z6 frozen": freeze_thoughts(ablate_head("L1H0", edit=Zero()), thoughts=["z6", "z5"]),
    "L1H0 zero + z2 zero": cut(*ablate_head("L1H0", edit=Zero()).parts, *ablate_thought("z2", edit=Zero()).parts),
}


@pytest.mark.parametrize(("label", "made"), CONSTRUCTED.items(), ids=list(CONSTRUCTED))
def test_every_named_cut_reads_well_and_comes_back_from_json(label, made):
    assert made.label == label
    assert cut_from_spec(json.loads(json.dumps(made.spec())), made.label) == made


def test_labels_are_unique_over_a_large_plan():
    thoughts, heads = thought_names(6), list(product(range(12), range(12)))
    edits = [Zero(), Mean(), Noise(), Noise(1), Resample(2), Scale(0.0), Scale(0.5), Scale(1.0), Own(), Donor("p1")]
    plan = [ablate_head(head, edit=edit) for head in heads for edit in edits]
    plan += [
        ablate_head(head, queries=queries, edit=Zero())
        for head in heads
        for queries in (["eot"], thoughts, ["bot", "eot"])
    ]
    plan += [ablate_thought(names, edit=e) for n in (1, 2, 3) for names in combinations(thoughts, n) for e in edits]
    edges = [(q, k) for q, k in product(query_names(6), key_names(6)) if q != k]
    for make in (knock_out, zero_value_edge):
        plan += [make(q, k, layers=layers) for q, k in edges for layers in (None, [0], [1], [1, 2], [12])]
        plan += [make(q, k, layers=[1], heads=[2]) for q, k in edges]
    plan += [weaken_edge(q, k, factor) for q, k in edges for factor in (0.25, 0.5, 0.75)]
    plan += [stop_after(k, n_thoughts=6) for k in range(6)] + [shuffle_thoughts(seed) for seed in range(9)]
    plan += [freeze_thoughts(one, thoughts=names) for one in plan[:3] for names in (None, ["z1"], ["z1", "z2"])]
    labels = [one.label for one in plan]
    assert len(labels) > 3000 and len(set(labels)) == len(labels)


NUMBERS = st.frozensets(st.integers(0, 200), min_size=1, max_size=6)
QUERIES = st.frozensets(st.sampled_from([*query_names(12), "text"]), min_size=1, max_size=6)
KEYS = st.frozensets(st.sampled_from(key_names(12)), min_size=1, max_size=6)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
SEEDS = st.integers(0, 2**63 - 1)
EDITS = {
    "zero": st.builds(Zero),
    "block": st.builds(Block),
    "scale": st.builds(Scale, FLOATS | st.integers(-3, 3)),
    "add": st.builds(Add, st.lists(FLOATS | st.integers(-3, 3), min_size=1, max_size=5).map(tuple)),
    "stop": st.builds(Stop),
    "mean": st.builds(Mean),
    "resample": st.builds(Resample, SEEDS),
    "noise": st.builds(Noise, SEEDS),
    "donor": st.builds(Donor, st.text(min_size=1)),
    "own": st.builds(Own),
    "received": st.builds(Received, st.text(min_size=1)),
    "shuffle": st.builds(Shuffle, SEEDS),
}


@st.composite
def interventions(draw):
    edit = draw(st.sampled_from(sorted(EDITS)).flatmap(EDITS.get))
    site = draw(st.sampled_from(sorted(edit.sites)))
    layers = draw(st.none() | NUMBERS) if site is not Site.THOUGHT else None
    heads = draw(st.none() | NUMBERS) if site is not Site.THOUGHT else None
    keys = draw(KEYS if isinstance(edit, Block) else st.none() | KEYS) if site in (Site.SCORES, Site.PATTERN) else None
    queries = draw(QUERIES if isinstance(edit, Stop) else st.none() | QUERIES)
    return Intervention(site, edit, layers, heads, queries, keys)


@settings(max_examples=50)
@given(interventions())
def test_any_intervention_comes_back_from_its_spec(part):
    assert from_spec(json.loads(json.dumps(as_spec(part)))) == part
    assert part.label.strip() == part.label != ""


@given(interventions(), st.randoms())
def test_equal_interventions_have_one_spec_and_one_label(part, rng):
    """Sets that were filled in another order may list their members in another."""

    def refilled(values):
        return None if values is None else frozenset(rng.sample(sorted(values), len(values)))

    twin = Intervention(part.site, part.edit, *map(refilled, (part.layers, part.heads, part.queries, part.keys)))
    assert twin == part
    assert json.dumps(as_spec(twin)) == json.dumps(as_spec(part)) and twin.label == part.label


def test_numbers_are_listed_as_numbers():
    """8 and 80 fall into one place of a small hash table, so that their set may list either first."""
    one, other = (Intervention(Site.HEAD, Zero(), heads=frozenset(its)) for its in ([8, 80, 16], [16, 80, 8]))
    assert as_spec(one)["heads"] == as_spec(other)["heads"] == [8, 16, 80]


def test_a_factor_is_a_number_however_it_is_written():
    assert weaken_edge("z2", "z1", 0).spec() == weaken_edge("z2", "z1", 0.0).spec()
    assert weaken_edge("z2", "z1", 1).label == "z2 ⊣ z1 scale 1.0"


def test_every_edit_has_a_strategy():
    assert set(EDITS) == set(NAMED)


ONE = {"site": "head", "edit": "zero"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Intervention(Site.VALUE, Zero()), "values can be recorded but not edited"),
        (lambda: Intervention(Site.SCORES, Zero()), "the edit zero says nothing at scores; make it at head, pattern"),
        (lambda: Intervention(Site.HEAD, Block()), "the edit block says nothing at head; make it at scores"),
        (lambda: Intervention(Site.PATTERN, Mean()), "the edit mean says nothing at pattern; make it at head, thought"),
        (lambda: Intervention(Site.PATTERN, Add((1.0,))), "the edit add says nothing at pattern"),
        (lambda: Intervention(Site.HEAD, Shuffle()), "the edit shuffle says nothing at head; make it at thought"),
        (lambda: Intervention(Site.HEAD, Stop(), queries=frozenset({"z6"})), "the edit stop says nothing at head"),
        (lambda: Intervention(Site.HEAD, Zero(), keys=frozenset({"z1"})), "found keys at head"),
        (lambda: Intervention(Site.THOUGHT, Zero(), layers=frozenset({1})), "found layers or heads at thought"),
        (lambda: Intervention(Site.THOUGHT, Zero(), heads=frozenset({1})), "found layers or heads at thought"),
        (lambda: Intervention(Site.SCORES, Block()), "found a block of every key"),
        (lambda: Intervention(Site.THOUGHT, Stop()), "found a stop of every thought without their names"),
        (lambda: as_spec(Intervention(Site.THOUGHT, Replace(None))), "expected one of zero, block, scale"),
        (lambda: cut(), "found no intervention, expected at least one"),
        (lambda: cut_from_spec([]), "found no intervention, expected at least one"),
        (lambda: cut_from_spec(ONE), "expected a list of interventions; write one as"),
        (lambda: cut_from_spec("L4H5"), "expected a list of interventions"),
        (lambda: cut_from_spec(["L4H5"]), "expected an intervention such as"),
        (lambda: cut_from_spec([None]), "expected an intervention such as"),
        (lambda: cut_from_spec([{"site": "head"}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"site": "heads"}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"edit": "zeroed"}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "scale"}}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "zero", "factor": 1}}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "scale", "factor": "half"}}]), "expected an intervention"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "noise", "seed": "one"}}]), "expected an intervention"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "noise", "seed": 1.5}}]), "expected an intervention"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "donor", "problem": 7}}]), "expected an intervention"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "add", "vector": 1.0}}]), "expected an intervention"),
        (lambda: cut_from_spec([ONE | {"layers": 4}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"heads": ["5"]}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"queries": "z1"}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"queries": [1]}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"queries": [""]}]), "expected an intervention such as"),
        (lambda: cut_from_spec([ONE | {"layer": [4]}]), "layer"),
        (lambda: Scale(float("nan")), "found the factor nan, expected a finite number"),
        (lambda: cut_from_spec([ONE | {"edit": {"name": "scale", "factor": float("inf")}}]), "found the factor inf"),
        (lambda: ablate_head("L4", edit=Zero()), "found the head 'L4', expected one such as L4H5"),
        (
            lambda: ablate_kv_group(0, 2, n_heads=8, n_groups=2, edit=Zero()),
            "found group 2 of 2 over 8 heads; expected 0 to 1",
        ),
        (lambda: ablate_kv_group(0, 0, n_heads=8, n_groups=3, edit=Zero()), "found group 0 of 3 over 8 heads"),
        (lambda: stop_after(6, n_thoughts=6), "found a stop after 6 of 6 thoughts, expected 0 to 5"),
        (lambda: stop_after(-1, n_thoughts=6), "found a stop after -1 of 6 thoughts"),
        (lambda: thoughts_left(stop_after(2, n_thoughts=8).parts, 6), "expected the last of 6 thoughts and nothing"),
        (
            lambda: thoughts_left((*stop_after(2, n_thoughts=6).parts, *ablate_head("L0H0", edit=Zero()).parts), 6),
            "nothing else",
        ),
        (lambda: thoughts_left((Intervention(Site.THOUGHT, Stop(), queries=frozenset({"z1"})),), 6), "found a stop of"),
        (lambda: freeze_thoughts(shuffle_thoughts()), "leaves no thought that could be frozen"),
        (lambda: freeze_thoughts(stop_after(2, n_thoughts=6)), "leaves no thought that could be frozen"),
    ],
)
def test_what_is_no_cut_is_refused_in_one_sentence(make, said):
    with pytest.raises(OptionError) as caught:
        make()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_parts_of_an_address_may_be_left_out_and_mean_everywhere():
    assert cut_from_spec([ONE]) == Cut("heads zero", (Intervention(Site.HEAD, Zero()),))
    assert cut_from_spec([ONE | {"layers": None}], "mine").label == "mine"
