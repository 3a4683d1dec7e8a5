"""Designs of a study: joint cuts, restorations, variants, donors, and a half that chooses; and their forecast."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tests.conftest import random_reasoner
from tests.cut_oracle import PROBLEMS, late, projections, without_heads

from thoughtlens import schema
from thoughtlens.analysis.effects_by_design import recovered, variant_effects
from thoughtlens.cuts import (
    Plan,
    Resample,
    ablate_head,
    ablate_thought,
    estimate_study,
    freeze_thoughts,
    intervene,
    knock_out,
    plan_cuts,
)
from thoughtlens.cuts.cost_and_power import warnings
from thoughtlens.cuts.cut_types import of_donor, restore_edge, restore_head
from thoughtlens.cuts.study import prepared
from thoughtlens.cuts.study_batches import head_measures, record_values
from thoughtlens.errors import OptionError
from thoughtlens.models import PLANTED, load, planted_problems, planted_reasoner
from thoughtlens.problems import sample
from thoughtlens.runs import extract, open_run

pytestmark = pytest.mark.usefixtures("short_texts")

SET = [replace(problem, id=f"{problem.id}{k}") for k in (1, 2, 3) for problem in PROBLEMS]
RESAMPLED = ablate_head("L0H1", edit=Resample())
EVEN = xr.DataArray(np.ones((3, 4)), dims=("layer", "head"), coords={"layer": range(3), "head": range(4)})


def alike():
    return xr.Dataset({"mass": EVEN, "norm": EVEN})


@pytest.fixture(scope="module")
def reasoner(tokenizer):
    return random_reasoner("gpt2", tokenizer, n_thoughts=3)


@pytest.fixture(scope="module")
def extracted(reasoner, tmp_path_factory):
    return extract(reasoner, SET, tmp_path_factory.mktemp("extracted") / "run", max_new_tokens=2).path


@pytest.fixture
def run(extracted, tmp_path):
    return open_run(shutil.copytree(extracted, tmp_path / "run"))


def logprob(effects, label):
    return effects["joint_logprob"].sel(intervention=label).values


def test_another_problem_s_values_are_the_default_and_the_mean_is_a_variant_of_heads(run, reasoner):
    plan = plan_cuts(run, heads="L0H1", thoughts="z2", edges="z3:z1")
    assert [cut.label for cut in plan.cuts] == ["L0H1 resample", "z2 resample", "z3 ⊣ z1"]
    assert {label: [*its] for label, its in plan.variants.items()} == {"L0H1 resample": ["mean"]}
    both = plan_cuts(run, heads="L0H1", thoughts="z2", edits=["zero", "resample", "scale:0.5"])
    assert [cut.label for cut in both.cuts] == ["L0H1 resample", "L0H1 scale 0.5", "z2 resample", "z2 scale 0.5"]
    assert {label: [*its] for label, its in both.variants.items()} == {
        "L0H1 resample": ["zero"],
        "z2 resample": ["zero"],
    }
    effects = intervene(run, plan, reasoner=reasoner)
    assert effects["kind"].values.tolist() == ["baseline", "cut", "cut", "cut", "variant"]
    assert effects.attrs["donor_rule"].startswith(
        "another problem's values, drawn by seed 0: for 12 problems one of as many steps"
    )
    assert effects["donor"].values[4].tolist() == [""] * 12 != effects["donor"].values[1].tolist()


def test_what_is_named_together_is_one_cut_and_what_is_excepted_is_left_out(run):
    singles = plan_cuts(run, edges="all", leave_out="z3:z2")
    assert [cut.label for cut in singles.cuts] == ["z2 ⊣ z1", "z3 ⊣ z1"]
    (joint,) = plan_cuts(run, edges="all", leave_out="z3:z2", together=True).cuts
    assert joint.label == "all edges but z3:z2 together" and (joint.family, joint.unit) == ("edges", "")
    assert set(joint.parts) == {*knock_out("z2", "z1").parts, *knock_out("z3", "z1").parts}
    (heads,) = plan_cuts(run, heads="L0H1,L2H3", together=True).cuts
    assert heads.label == "L0H1, L2H3 together resample"
    assert heads.parts == (*RESAMPLED.parts, *ablate_head("L2H3", edit=Resample()).parts)
    (mixed,) = plan_cuts(run, heads="L0H1", thoughts="z2", edges="z3:z1", together=True).cuts
    assert mixed.label == "L0H1 and z2 and z3:z1 together resample" and (len(mixed.parts), mixed.family) == (3, "")
    all_but_two = plan_cuts(run, heads="all", leave_out="L0H1,L2H3", together=True).cuts[0]
    assert len(all_but_two.parts) == 10 and not set(all_but_two.parts) & set(heads.parts)


def test_several_donors_average_log_probabilities_and_the_first_alone_answers(run, reasoner):
    cut = ablate_thought(["z1", "z2", "z3"], edit=Resample(4))
    many = intervene(run, Plan((cut, knock_out("z3", "z1")), donors=3), reasoner=reasoner, study="many")
    alone = [of_donor(replace(cut, label=f"donor {rank}"), rank) for rank in range(3)]
    each = intervene(run, alone, reasoner=reasoner, study="each")
    donors = each["donor"].values[1:]
    assert all(len({*its}) == 3 and name not in its for its, name in zip(donors.T, each["problem"].values, strict=True))
    for name in ("gold_logprob", "joint_logprob", "kl"):
        mean = each[name].values[1:].astype(float).mean(0)
        np.testing.assert_allclose(many[name].values[1], mean, rtol=0, atol=1e-5)
    for name in ("correct", "answer", "donor"):
        assert many[name].values[1].tolist() == each[name].values[1].tolist()
    assert "means over 3 donors" in many.attrs["donor_rule"]


def test_heads_are_matched_by_what_they_write(run, reasoner):
    mass = EVEN.expand_dims(value=["estimate"])
    found = head_measures(run, reasoner, mass, [problem.id for problem in SET[:4]])
    heads = record_values(reasoner, prepared(run, [RESAMPLED], None, None, reasoner, 4)[2], RESAMPLED.parts).heads
    width = 32 // 4
    for layer in range(3):
        written = projections(reasoner.lm, layer).detach()
        for head in range(4):
            out = heads[:4, layer, head, :-1] @ written[head * width : (head + 1) * width]
            assert float(found["norm"][layer, head]) == pytest.approx(float(out.norm(dim=-1).mean()), rel=1e-4)
    assert (found["mass"] == EVEN).all()


def test_a_cut_in_two_roles_is_made_once(run, reasoner, passes):
    """A single head is the first step of its orders, and the last steps of all orders are one cut."""
    plan = plan_cuts(run, heads="L0H1,L1H2,L2H0", edits=["zero"], orders=["attention"], random_orders=2)
    told = []
    effects = intervene(run, plan, reasoner=reasoner, progress=told.append)
    n_distinct = len({frozenset(json.dumps(part) for part in json.loads(str(spec))) for spec in effects["spec"].values})
    assert effects.sizes["intervention"] == 1 + 3 + 9 and n_distinct <= 1 + 3 + 3 + 1
    assert sum(passes) == n_distinct * len(SET)
    assert sum(told) == plan.n_passes(len(SET)) == 13 * len(SET)
    last = effects.sel(intervention=[f"{order} · first 3" for order in ("attention", "random order 1")])
    np.testing.assert_array_equal(*last["gold_logprob"].values)


def test_frozen_cuts_have_a_family_of_their_own(run, reasoner):
    from thoughtlens.analysis.effects import families

    heads = [ablate_head(name, edit=Resample()) for name in ("L0H1", "L1H2")]
    effects = intervene(run, [*heads, *map(freeze_thoughts, heads)], reasoner=reasoner)
    assert effects["edit"].values.tolist()[1:] == ["resample"] * 2 + ["resample, thoughts frozen"] * 2
    found = families(effects)
    assert [list(its) for its in found.values()] == [["L0H1", "L1H2"]] * 2
    assert len(found) == 2 and all(name.startswith("heads, resample") for name in found)


def test_restored_units_are_those_of_the_run_in_one_with_another_problem_s_thoughts(run, reasoner):
    corrupted = ablate_thought(None, edit=Resample())
    thoughts = plan_cuts(run, restore="thoughts")
    assert thoughts.cuts == (corrupted,)
    edges = plan_cuts(run, restore="edges").restored
    names = ["z2 ⊣ z1", "z3 ⊣ z1", "z3 ⊣ z2", *(f"{query} ⊣ z{k}" for query in ("eot", "answer") for k in (1, 2, 3))]
    assert [cut.unit for cut in edges] == names
    others = freeze_thoughts(ablate_thought(["z1", "z3"], edit=Resample()))
    plan = Plan((corrupted, others), restored=(*thoughts.restored, restore_head("L1H2"), restore_edge("eot", "z2")))
    effects = intervene(run, plan, reasoner=reasoner)
    assert effects["kind"].values.tolist() == ["baseline", "cut", "cut"] + ["restored"] * 5
    # z2 put back where all are another problem's: z1 and z3 are another problem's.
    np.testing.assert_allclose(logprob(effects, "z2 restored"), logprob(effects, others.label), rtol=0, atol=3e-5)
    assert not np.allclose(logprob(effects, "eot ⊣ z2 restored"), logprob(effects, corrupted.label), atol=1e-6)


def test_all_edges_put_back_give_the_head_what_it_had_of_the_thoughts(run, reasoner):
    """Where the thoughts are the problem's own, an edge put back changes nothing: what is removed is what is given."""
    every = [restore_edge(query, f"z{k}") for query in ("z3", "eot", "answer") for k in (1, 2)]
    own = [replace(cut, parts=cut.parts[1:], label=f"{cut.unit} as it was") for cut in every]
    effects = intervene(run, own, reasoner=reasoner)
    for cut in own:
        np.testing.assert_allclose(logprob(effects, cut.label), logprob(effects, "none"), rtol=0, atol=3e-5)


def test_the_recovered_share_is_that_of_the_loss_and_is_not_told_of_a_loss_within_the_margin(run, reasoner):
    effects = intervene(run, plan_cuts(run, restore="thoughts"), reasoner=reasoner)
    found = recovered(effects, margin=0.0, n_resamples=20)
    uncut, corrupted = logprob(effects, "none"), logprob(effects, "thoughts resample")
    for name in ("z1", "z2", "z3"):
        share = (logprob(effects, f"{name} restored") - corrupted).mean() / (uncut - corrupted).mean()
        one = found["share"].isel(intervention=found["unit"].values.tolist().index(name)).sel(value="estimate")
        assert float(one) == pytest.approx(share, rel=1e-3)
    wide = abs(float(found["loss"])) * 1.01
    assert recovered(effects, margin=wide, n_resamples=20)["share"].isnull().all()


def test_a_planted_answer_comes_back_with_the_thought_that_the_answer_reads(tmp_path):
    """The carrier reads the last thought at the answer, so that this one is sufficient, and z1 is not."""
    reasoner = planted_reasoner()
    run = extract(reasoner, planted_problems(5, seed=3), tmp_path / "run")
    layer, head = PLANTED["carrier"]
    plan = plan_cuts(
        run, heads=f"L{layer}H{head},L1H0", edits=["zero"], paths="total,direct,indirect", restore="thoughts"
    )
    effects = intervene(run, plan, reasoner=reasoner)
    share = recovered(effects, n_resamples=50)["share"].sel(value="estimate").values.tolist()
    assert share[:5] == pytest.approx([0.0] * 5, abs=0.02) and share[5] == pytest.approx(1.0, abs=0.02)
    paths = variant_effects(effects, n_resamples=50).sel(value="estimate")
    # Path effects against edited weights: all of it anew, and thoughts given as they were.
    before = [late(reasoner, reasoner.lm, problem) for problem in run.problems()]
    after = without_heads(reasoner, [(layer, head)])
    given = [
        [late(reasoner, after, problem, given=thoughts) for problem, thoughts in zip(run.problems(), fed, strict=True)]
        for fed in ([None] * 5, [one.thoughts for one in before])
    ]
    total, direct = (
        np.mean([cut.prefix + cut.logprob - one.prefix - one.logprob for cut, one in zip(its, before, strict=True)])
        for its in given
    )
    carrier = paths.sel(intervention=f"L{layer}H{head} zero")
    expected = {"total": total, "direct": direct, "indirect": total - direct}
    for name, value in expected.items():
        assert float(carrier.sel(variant=name)) == pytest.approx(value, abs=1e-3), name
    assert direct < -1
    np.testing.assert_allclose(paths.sel(intervention="L1H0 zero").values, 0.0, atol=1e-3)


def test_a_head_that_only_writes_thoughts_has_no_direct_effect(run, reasoner):
    early = ablate_head("L0H1", edit=Resample(), queries=["bot"])
    plan = plan_cuts(run, heads="L0H1", at="bot", edits=["resample"], paths="total,indirect")
    assert plan.cuts == (early,) and [*plan.variants[early.label]] == ["direct"]
    effects = intervene(run, plan, reasoner=reasoner)
    found = variant_effects(effects, n_resamples=20).sel(value="estimate", intervention=early.label)
    total, direct, indirect = (float(found.sel(variant=name)) for name in ("total", "direct", "indirect"))
    assert total == pytest.approx(direct + indirect, abs=1e-6)
    assert total == pytest.approx((logprob(effects, early.label) - logprob(effects, "none")).mean(), abs=1e-4)


def test_a_held_out_half_is_tested_and_the_other_chooses(run, reasoner, passes):
    asked = {"heads": "L0H1,L1H2,L2H0", "edits": ["mean"], "orders": ["cause", "attention"], "random_orders": 1}
    plan = plan_cuts(run, **asked, holdout=0.5, holdout_seed=2)
    ids = [problem.id for problem in SET]
    tested = schema.tested_half(ids, 0.5, 2)
    told = []
    effects = intervene(run, plan, reasoner=reasoner, progress=told.append)
    assert [str(name) for name in effects["problem"].values] == [
        name for name, its in zip(ids, tested, strict=True) if its
    ]
    assert (effects.attrs["holdout"], effects.attrs["n_choosing"]) == (0.5, (~tested).sum())
    assert sum(told) == plan.n_passes(tested.sum(), (~tested).sum())
    assert effects.sizes["intervention"] == 1 + 3 + 9
    passes.clear()
    assert intervene(run, plan, reasoner=reasoner).identical(effects) and not passes


def test_the_order_by_cause_comes_from_the_half_that_chooses(run, reasoner):
    """Zeroing needs no other problems, so that cuts of the choosing problems alone must rank heads likewise."""
    heads = "L0H1,L1H2,L2H0,L1H0,L0H3"
    plan = plan_cuts(run, heads=heads, edits=["zero"], orders=["cause"], random_orders=0, holdout=0.5)
    effects = intervene(run, plan, reasoner=reasoner)
    every = intervene(run, list(plan.cuts), reasoner=reasoner, study="every")
    tested = schema.tested_half([problem.id for problem in SET], 0.5)
    for side, same in ((~tested, True), (tested, False)):
        cost = (every["joint_logprob"] - every["joint_logprob"][0]).isel(problem=np.flatnonzero(side)).mean("problem")
        order = [plan.cuts[place].parts[0] for place in np.argsort(cost.values[1:])]
        steps = [
            json.loads(str(effects["spec"].sel(intervention=f"cause · first {k}").item())) for k in (1, 2, 3, 4, 5)
        ]
        found = [{(part["layers"][0], part["heads"][0]) for part in step} for step in steps]
        expected = [{(min(part.layers), min(part.heads)) for part in order[:k]} for k in (1, 2, 3, 4, 5)]
        assert (found == expected) == same


def test_a_half_without_problems_and_another_half_under_the_same_name_are_refused(run, reasoner):
    with pytest.raises(OptionError, match=r"0\.001 and --holdout-seed 0 0 of 12 problems are tested"):
        intervene(run, plan_cuts(run, heads="L0H1", holdout=0.001), reasoner=reasoner)
    intervene(run, plan_cuts(run, heads="L0H1", holdout=0.5), reasoner=reasoner, study="mine")
    from thoughtlens.errors import RunError

    with pytest.raises(RunError, match=r"holdout_seed is 0 there and 1 here"):
        intervene(run, plan_cuts(run, heads="L0H1", holdout=0.5, holdout_seed=1), reasoner=reasoner, study="mine")


def test_a_dry_run_takes_a_tenth_of_the_study_and_gives_bounds(run, reasoner, passes):
    plan = plan_cuts(run, heads="all", controls=2, measures=alike)
    facts = estimate_study(run, plan, reasoner=reasoner)
    assert facts["n_passes"] == 12 * (1 + 12 + 12 + facts["n_controls"])
    assert 0 < sum(passes) <= facts["n_passes"] / 10
    assert [row["discordant"] for row in facts["bounds"]] == [0.05, 0.1, 0.2]
    assert not (run.path / "studies").exists()


def test_what_can_not_pass_holm_is_said_before_cutting():
    cuts = tuple(ablate_head((0, k), edit=Resample()) for k in range(12))
    few = warnings(Plan(cuts, {cuts[0].label: cuts[1:6]}), 8)
    # 12 · 2 · 0.5⁸ = .094 and 12 · 2 · 0.5⁹ = .047; 12 / (1 + 239) = .05.
    assert "with 8 problems no p of accuracy can pass Holm's correction over 12 cuts; 9 problems" in few[0]
    assert "below 20 problems there is no p of log-probability" in few[1]
    assert few[2].startswith("with 5 controls the p of a cut among them is 0.17 or more") and "239 controls" in few[2]
    assert warnings(Plan(cuts[:1], {cuts[0].label: cuts[:19] * 2}), 200) == ()


def test_a_pilot_says_its_cost_first_keeps_to_the_choosing_half_and_is_refused_where_it_is_dear(run, reasoner, passes):
    plan = plan_cuts(run, heads="L0H0,L0H1,L0H2,L1H0", controls=6, measures=alike)
    n_controls = len({control.label for its in plan.controls.values() for control in its})
    heard = []

    def say(sentence):
        heard.append((sentence, sum(passes)))

    n_passes = plan.n_passes(12)
    n = n_passes // 5 // (1 + n_controls)
    assert 2 <= n < 5  # of the choosing half
    with pytest.raises(OptionError, match=rf"expected at most a fifth of the study's {n_passes}; pass --pilot {n}\."):
        estimate_study(run, plan, reasoner=reasoner, pilot=n + 1)
    with pytest.raises(
        OptionError, match=r"--pilot is 1, expected 2 to \d, the problems of the choosing half; pass an"
    ):
        estimate_study(run, plan, reasoner=reasoner, pilot=1)
    facts = estimate_study(run, plan, reasoner=reasoner, pilot=n, say=say)
    ((sentence, before),) = heard
    assert f"{n * (1 + n_controls)} passes" in sentence and sum(passes) >= before + n * n_controls
    pilot = facts["pilot"]
    assert (pilot["n_problems"], pilot["n_passes"]) == (n, n * (1 + n_controls)) and pilot["nats"] > 0 < pilot["sd"]
    # The same controls of the same problems, by hand.
    choosing = [
        problem.id for problem, its in zip(SET, schema.tested_half([p.id for p in SET], 0.5), strict=True) if not its
    ]
    assert n <= len(choosing)
    with pytest.raises(OptionError, match="makes the controls of the plan, which has none"):
        estimate_study(run, plan_cuts(run, heads="all"), reasoner=reasoner, pilot=2)


def test_top_heads_and_orders_follow_the_analysis_of_a_name(run, reasoner):
    import thoughtlens as tl

    tl.analyze(run, seed=3, name="mine", n_resamples=20)
    ranking = [str(name) for name in tl.open_analysis(run, "mine").ranking["name"].values]
    plan = plan_cuts(run, heads="top:3", edits=["zero"], orders=["attention"], random_orders=0, analysis="mine")
    assert [cut.unit for cut in plan.cuts] == ranking[:3] and plan.rankings == {"attention": tuple(ranking)}
    with pytest.raises(OptionError, match=r"the analysis mine was made with --holdout None, expected .*'share': 0\.5"):
        plan_cuts(run, heads="top:3", holdout=0.5, analysis="mine")
    effects = intervene(run, plan, reasoner=reasoner)
    first = json.loads(str(effects["spec"].sel(intervention="attention · first 1").item()))
    assert first == plan.cuts[0].spec()


def test_edges_that_cost_nothing_one_by_one_cost_answers_together(tmp_path):
    reasoner = load("tiny-llama")
    longer = [problem for problem in sample("arithmetic", n=300, seed=42) if len(problem.steps) == 3][:40]
    run = extract(reasoner, longer, tmp_path / "run")
    joint = plan_cuts(run, file=Path(__file__).parents[1] / "data" / "plan_joint_edges.json").cuts[0]
    named = plan_cuts(run, edges="all", leave_out="z3:z2,z5:z4", together=True).cuts[0]
    assert set(joint.parts) == set(named.parts)
    singles = plan_cuts(run, edges="all", leave_out="z3:z2,z5:z4").cuts
    effects = intervene(run, [named, *singles], reasoner=reasoner)
    lost = (effects["joint_logprob"] - effects["joint_logprob"][0]).mean("problem").values[1:]
    assert lost[0] < -0.2 < -0.1 < lost[1:].min()
