"""A study of a run: the same effects however it is cut into batches and broken off, and what it refuses."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from tests.conftest import random_reasoner
from tests.cut_oracle import PROBLEMS

import thoughtlens as tl
from thoughtlens.cuts import (
    Add,
    Cut,
    Intervention,
    Mean,
    Noise,
    Plan,
    Resample,
    Scale,
    Zero,
    ablate_head,
    ablate_thought,
    controls_for,
    cut,
    estimate_study,
    freeze_thoughts,
    intervene,
    knock_out,
    patch_head,
    patch_thought,
    plan_cuts,
    shuffle_thoughts,
    stop_after,
    studies,
)
from thoughtlens.cuts.edits import Own
from thoughtlens.cuts.passes import Cutting, batch_of
from thoughtlens.cuts.plan import shape_of
from thoughtlens.cuts.replacement_values import donors
from thoughtlens.errors import CheckpointError, OptionError, RunError
from thoughtlens.files import fingerprint, write_json
from thoughtlens.models import PLANTED, planted_problems, planted_reasoner
from thoughtlens.problems import load_set
from thoughtlens.reports import open_effects, study, study_headline
from thoughtlens.runs import extract, open_run
from thoughtlens.schema import check_effects
from thoughtlens.taps import Site

pytestmark = pytest.mark.usefixtures("short_texts")

SET = [replace(problem, id=f"{problem.id}{k}") for k in (1, 2) for problem in PROBLEMS]
BARE = [ablate_head("L0H1", edit=Zero()), knock_out("z3", "z1"), stop_after(1, n_thoughts=3)]
DRAWN = [
    ablate_head("L1H2", edit=Mean()),
    ablate_thought("z2", edit=Resample(3)),
    ablate_head("L2H0", edit=Noise(1)),
    patch_thought("z3", "eva1"),
    freeze_thoughts(ablate_head("L1H0", edit=Zero())),
    shuffle_thoughts(),
]


@pytest.fixture(scope="module")
def reasoner(tokenizer):
    return random_reasoner("gpt2", tokenizer, n_thoughts=3)


@pytest.fixture(scope="module")
def extracted(reasoner, tmp_path_factory):
    return extract(reasoner, SET, tmp_path_factory.mktemp("extracted") / "run", max_new_tokens=2).path


@pytest.fixture
def run(extracted, tmp_path):
    return open_run(shutil.copytree(extracted, tmp_path / "run"))


@pytest.fixture
def again(extracted, tmp_path):
    return open_run(shutil.copytree(extracted, tmp_path / "again"))


@pytest.fixture(scope="module")
def with_mine(short_texts, extracted, reasoner, tmp_path_factory):
    folder = shutil.copytree(extracted, tmp_path_factory.mktemp("begun") / "run")
    intervene(open_run(folder), BARE[:1], study="mine", reasoner=reasoner)
    return folder


@pytest.fixture
def begun(with_mine, tmp_path):
    """A run with the study `mine` of the first cut."""
    return open_run(shutil.copytree(with_mine, tmp_path / "begun"))


@pytest.fixture(scope="module")
def at_once(short_texts, extracted, reasoner, tmp_path_factory):
    """The effects of all cuts, of all problems in one batch."""
    folder = shutil.copytree(extracted, tmp_path_factory.mktemp("at_once") / "run")
    return intervene(open_run(folder), [*BARE, *DRAWN], reasoner=reasoner)


def alike():
    """Measures in which all heads are alike, so that any may be the control of any."""
    even = xr.DataArray(np.ones((3, 4)), dims=("layer", "head"), coords={"layer": range(3), "head": range(4)})
    return xr.Dataset({"mass": even, "norm": even})


def assert_same(found, expected, tolerance=3e-5):
    coordinates = ("intervention", "problem", "kind", "spec", "family", "unit", "edit", "at", "order", "k")
    for name in (*coordinates, "correct", "said_prefix", "answer", "failed", "donor"):
        assert found[name].values.tolist() == expected[name].values.tolist(), name
    for name in ("prefix_logprob", "gold_logprob", "joint_logprob", "kl"):
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=0, atol=tolerance)


def test_effects_are_those_of_the_cuts_on_the_run_s_problems(run, reasoner):
    effects = intervene(run, BARE, reasoner=reasoner)
    assert [str(label) for label in effects["intervention"].values] == ["none", *(one.label for one in BARE)]
    assert [str(name) for name in effects["problem"].values] == [problem.id for problem in SET]
    cutting = Cutting(reasoner, batch_of(reasoner, SET, 3), 3)
    expected = [cutting.baseline, cutting.outcomes([one.parts for one in BARE])]
    for name in ("prefix_logprob", "gold_logprob", "joint_logprob", "kl"):
        values = np.concatenate([getattr(outcomes, name) for outcomes in expected])
        np.testing.assert_allclose(effects[name].values, values, rtol=0, atol=3e-5)
    assert effects["answer"].values.tolist() == [row for outcomes in expected for row in outcomes.answer.tolist()]
    assert (effects["kl"].values[0] == 0).all() and (effects["kl"].values[1:] >= 0).all()
    stored = check_effects(open_effects(run))
    assert_same(stored, effects, 0.0)
    assert json.loads(str(stored["spec"].values[1])) == BARE[0].spec()


def test_batches_change_nothing(run, at_once, reasoner):
    """Here of one problem each; of three in the next test."""
    assert_same(intervene(run, [*BARE, *DRAWN], reasoner=reasoner, batch_size=1), at_once)


def test_a_study_that_was_broken_off_goes_on_and_does_nothing_twice(run, again, at_once, reasoner, passes):
    plan = [*BARE, *DRAWN]
    passes.clear()
    expected = intervene(again, plan, reasoner=reasoner, batch_size=3)
    assert_same(expected, at_once)
    in_one_go, done = sum(passes), []
    passes.clear()

    def killed(n_passes):
        done.append(n_passes)
        if sum(done) >= 3 * (1 + len(plan)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        intervene(run, plan, reasoner=reasoner, batch_size=3, progress=killed)
    (manifest,) = studies(run.path).values()
    assert manifest.finished is None and not list(run.path.glob("studies/*/effects.zarr"))
    said = []
    found = intervene(run, plan, reasoner=reasoner, batch_size=3, progress=said.append)
    assert_same(found, expected, 0.0)
    assert sum(passes) == in_one_go
    assert sum(said) == len(SET) * (1 + len(plan))
    (manifest,) = studies(run.path).values()
    assert manifest.finished is not None
    passes.clear()
    assert_same(intervene(run, plan, reasoner=reasoner, batch_size=3), expected, 0.0)
    assert sum(passes) == 0 and len(studies(run.path)) == 1


def test_a_plan_that_grows_makes_only_what_is_new(run, again, reasoner, passes):
    intervene(run, BARE[:2], study="mine", reasoner=reasoner)
    passes.clear()
    grown = intervene(run, BARE, study="mine", reasoner=reasoner)
    assert sum(passes) == len(SET) * 2  # the baseline, which the new cut is compared with, and the new cut
    assert_same(grown, intervene(again, BARE, reasoner=reasoner), 0.0)
    passes.clear()
    renamed = [replace(BARE[1], label="edge"), BARE[0]]
    found = intervene(run, renamed, study="mine", reasoner=reasoner)
    assert found["intervention"].values.tolist() == ["none", *(one.label for one in BARE), "edge"]
    np.testing.assert_array_equal(found["gold_logprob"][4], found["gold_logprob"][2])
    assert sum(passes) == 0


def test_what_is_added_to_a_study_is_exploratory(run, reasoner):
    first = plan_cuts(run, heads="L0H1,L0H2", edits=["zero"], orders=["cause"], random_orders=1)
    intervene(run, first, study="mine", reasoner=reasoner)
    grown = intervene(
        run,
        plan_cuts(run, heads="L0H1,L1H0", edits=["zero"], controls=1, measures=alike),
        study="mine",
        reasoner=reasoner,
    )
    added = grown["intervention"].values[grown["exploratory"].values].tolist()
    assert added[0] == "L1H0 zero" and {label[:7] for label in added[1:]} == {"control"}
    kinds = dict(zip(grown["intervention"].values.tolist(), grown["kind"].values.tolist(), strict=True))
    assert [label for label in kinds if kinds[label] == "order"] == [
        f"{order} · first {k}" for order in ("cause", "random order 1") for k in (1, 2)
    ]
    again = intervene(run, first, study="mine", reasoner=reasoner)
    assert_same(again, grown, 0.0)
    assert again["exploratory"].values.tolist() == grown["exploratory"].values.tolist()
    assert (
        check_effects(open_effects(run, "mine"))["exploratory"].values.tolist() == again["exploratory"].values.tolist()
    )


def test_the_plan_is_written_and_hashed_before_the_first_cut(run, reasoner):
    plan, folder, seen = (
        plan_cuts(run, heads="L0H1", edits=["zero"], controls=1, measures=alike, seed=5),
        run.path / "studies" / "mine",
        [],
    )

    def look(n_passes):
        seen.append(sorted(path.name for path in folder.iterdir()))
        written = json.loads((folder / "manifest.json").read_text())["plans"]
        assert [entry["sha256"] for entry in written] == [fingerprint(folder / "plan.json")]

    intervene(run, plan, study="mine", reasoner=reasoner, progress=look, call="by hand", n=5)
    # The first call tells what was known before any cut was made.
    assert seen[0] == [".lock", "manifest.json", "manifest.json.sha256", "outcomes", "plan.json"]
    said = json.loads((folder / "plan.json").read_text())
    assert [(cut["label"], cut["kind"], cut["exploratory"]) for cut in said["cuts"]] == [
        ("L0H1 zero", "cut", False), (plan.controls["L0H1 zero"][0].label, "control", False),
    ]  # fmt: skip
    assert said["cuts"][0]["parts"] == plan.cuts[0].spec() and said["controls"] == {
        "L0H1 zero": [said["cuts"][1]["label"]]
    }
    manifest = studies(run.path)["mine"]
    assert (manifest.n, manifest.seed) == (5, {"problems": 5, "plan": 5})
    assert manifest.options == {
        "n_thoughts": 3, "batch_size": 32, "donors": 1, "holdout": None, "holdout_seed": 0
    }  # fmt: skip
    assert manifest.margins == {"margin": 0.05, "accuracy_margin": 0.02}
    (written,) = manifest.plans
    assert (written.call, written.controls) == (
        "by hand",
        {"n": 1, "caliper": 0.5, "balance": written.controls["balance"]},
    )
    assert written.date <= str(manifest.finished) and "torch" in written.versions
    assert manifest.model == {name: reasoner.provenance.get(name) for name in manifest.model}


def test_a_study_has_a_name_of_its_own_for_each_call_that_would_give_other_numbers(run, reasoner, monkeypatch):
    plan = plan_cuts(run, heads="L0H1")
    calls = [
        (plan, {}),
        (plan, {"n": 5}),
        (plan, {"n": 5, "seed": 3}),
        (plan, {"batch_size": 2}),
        (plan_cuts(run, heads="L0H1", edits=["mean"]), {}),
        (plan_cuts(run, heads="L0H1", controls=1, measures=alike), {}),
        (plan_cuts(run, heads="L0H1", seed=1), {}),
    ]
    # The study is begun, or found; no cut is made.
    monkeypatch.setattr("thoughtlens.cuts.study._closed", lambda _, folder, *rest: folder.name)
    names = [intervene(run, cuts, reasoner=reasoner, **how) for cuts, how in [*calls, *calls]]
    assert names[:7] == names[7:] and len(set(names)) == 7
    assert set(studies(run.path)) == set(names)


def written(run):
    return {path: path.read_bytes() for path in (run.path / "studies").rglob("[!.]*") if path.is_file()}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"n": 5}, "n is 8 there and 5 here"),
        ({"seed": 1}, "seed.problems is 0 there and 1 here"),
        ({"batch_size": 2}, "batch_size is 32"),
        ({"margin": 0.1}, "margins.margin is 0.05 there and 0.1 here"),
    ],
)
def test_another_study_under_the_same_name_is_refused_without_force(begun, reasoner, other, said):
    before = written(begun)
    with pytest.raises(
        RunError, match=rf"studies/mine is another study: .*{said}.* --study, or replace it with --force\."
    ):
        intervene(begun, BARE[:2], study="mine", reasoner=reasoner, **other)
    assert before == written(begun)
    forced = intervene(begun, BARE[1:], study="mine", reasoner=reasoner, force=True, **other)
    assert forced["intervention"].values.tolist() == ["none", BARE[1].label, BARE[2].label]
    assert not forced["exploratory"].values.any()


def test_another_model_under_the_same_name_is_refused_without_force(begun, reasoner):
    folder = begun.path / "studies" / "mine"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["sha256"] = "0" * 64
    write_json(folder / "manifest.json", manifest, sealed=True)
    with pytest.raises(RunError, match=r"model.sha256 is '0000"):
        intervene(begun, BARE[:1], study="mine", reasoner=reasoner)


def test_a_plan_that_was_altered_is_refused_without_force(begun, reasoner):
    plan = begun.path / "studies" / "mine" / "plan.json"
    plan.write_text(plan.read_text().replace("L0H1", "L0H2"))
    with pytest.raises(RunError, match=r"plan.json is missing or altered, expected the plan that the study was begun"):
        intervene(begun, BARE[:1], study="mine", reasoner=reasoner)
    forced = intervene(begun, BARE[:1], study="mine", reasoner=reasoner, force=True)
    assert forced["intervention"].values.tolist() == ["none", BARE[0].label]


def test_a_kill_between_manifest_and_plan_leaves_a_study_that_goes_on(begun, reasoner, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("thoughtlens.cuts.study._write_plan", lambda folder, plan: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            intervene(begun, BARE[:2], study="mine", reasoner=reasoner)
    grown = intervene(begun, BARE[:2], study="mine", reasoner=reasoner)
    assert grown["exploratory"].values.tolist() == [False, False, True]


def test_answers_under_a_cut_have_the_room_that_was_asked_for(tmp_path):
    planted = planted_reasoner()
    run = extract(planted, planted_problems(2), tmp_path / "run")
    cuts = [ablate_head("L1H2", edit=Zero())]
    # "The answer is: " and a number.
    intervene(run, cuts, study="enough", reasoner=planted, max_new_tokens=6)
    with pytest.raises(RunError, match=r"the gold answer of planted_0 takes 6 tokens, expected 5 at most"):
        intervene(run, cuts, study="short", reasoner=planted, max_new_tokens=5)


def test_a_manifest_that_is_none_and_a_name_that_no_folder_has_are_refused(begun, reasoner):
    for name in ("../mine", "a/b", "", ".", "mine."):
        with pytest.raises(OptionError, match="a study is called"):
            intervene(begun, BARE[:1], study=name, reasoner=reasoner)
    (begun.path / "studies" / "mine" / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match=r"manifest.json lacks 'finished'; delete the folder"):
        intervene(begun, BARE[:1], study="mine", reasoner=reasoner)


def test_two_cuts_of_one_label_are_refused_in_a_study_too(begun, reasoner):
    with pytest.raises(OptionError, match="two cuts are called 'L0H1 zero'"):
        intervene(begun, [replace(BARE[1], label="L0H1 zero")], study="mine", reasoner=reasoner)
    assert intervene(begun, BARE[:1], study="mine", reasoner=reasoner).sizes["intervention"] == 2


def test_an_estimate_writes_nothing(run, reasoner):
    plan = plan_cuts(
        run, heads="L0H1,L0H2", edits=["zero"], controls=1, measures=alike, orders=["attention"], random_orders=2
    )
    facts = estimate_study(run, plan, reasoner=reasoner)
    n_controls = len(plan.made) - 2
    assert facts.pop("seconds") > 0 and facts.pop("bounds") and facts.pop("warnings") and facts.pop("pilot") is None
    assert facts == {
        "n_problems": 8, "n_choosing": 0, "n_cuts": 2, "n_variants": 0, "n_restored": 0, "n_controls": n_controls,
        "n_orders": 6, "n_passes": 8 * (1 + 2 + n_controls + 6),
    }  # fmt: skip
    assert not (run.path / "studies").exists()


def test_a_torn_line_of_outcomes_is_made_again_and_no_other(run, reasoner, passes):
    expected = intervene(run, BARE, reasoner=reasoner)
    (file,) = run.path.glob("studies/*/outcomes/*.jsonl")
    file.write_text(file.read_text("utf-8")[:-40], "utf-8")
    passes.clear()
    assert_same(intervene(run, BARE, reasoner=reasoner), expected, 0.0)
    assert sum(passes) == len(SET) * 2  # the baseline, and the cut whose line is torn
    passes.clear()
    assert_same(intervene(run, BARE, reasoner=reasoner), expected, 0.0)
    assert not passes


def test_n_and_seed_draw_the_same_problems(run, reasoner):
    ids = [intervene(run, BARE[:1], reasoner=reasoner, n=5, seed=seed)["problem"].values.tolist() for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids[0])) == 5 and set(ids[0]) <= {problem.id for problem in SET}


def test_the_donor_is_whose_values_were_put_in_place(run, reasoner):
    plan = [
        ablate_thought("z2", edit=Resample(3)),
        patch_head("L0H0", "ann2"),
        ablate_head("L0H1", edit=Zero()),
        DRAWN[4],
    ]
    donor = intervene(run, plan, reasoner=reasoner)["donor"].values.tolist()
    ids = [problem.id for problem in SET]
    others = donors([len(problem.steps) for problem in SET], 3)
    assert donor[1] == [ids[place] for place in others] and donor[2] == ["ann2"] * 8
    assert donor[0] == donor[3] == donor[4] == [""] * 8


def test_controls_stand_beside_their_cuts(run, reasoner):
    controls = controls_for(BARE[:1], n=2, seed=0, shape=shape_of(run))
    effects = intervene(run, Plan(tuple(BARE[:1]), controls), reasoner=reasoner)
    assert effects["kind"].values.tolist() == ["baseline", "cut", "control", "control"]
    assert len(json.loads(effects.attrs["controls"])["L0H1 zero"]) == 2


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ([], "the plan has no cut, expected at least one"),
        ([Cut("idle", ())], "the cut 'idle' has no parts"),
        ([BARE[0], replace(BARE[1], label="L0H1 zero")], "two cuts are called 'L0H1 zero', expected each label once"),
        ([replace(BARE[0], label="none")], "two cuts are called 'none'"),
        ([ablate_head("L3H0", edit=Zero())], "names '3' among its layers, expected 0 to 2"),
        ([ablate_head("L0H4", edit=Zero())], "names '4' among its heads, expected 0 to 3"),
        ([ablate_head("L0H0", queries=["z4"], edit=Zero())], "names 'z4' among its queries"),
        ([ablate_head("L0H0", queries=["question"], edit=Zero())], "names 'question' among its queries"),
        ([ablate_head("L0H0", queries=[], edit=Zero())], "names no queries, expected some"),
        ([ablate_thought("bot", edit=Zero())], "names 'bot' among its queries, expected z1, z2, z3"),
        ([knock_out("z2", "text")], "names 'text' among its keys"),
        ([knock_out("z2", [])], "names no keys"),
        ([knock_out("bot", ["first", "question", "bot"])], "leaves bot nothing to look at; leave one of its keys"),
        ([knock_out(["z3", "z1"], ["first", "question", "bot", "z1"])], "leaves z1 nothing to look at"),
        ([knock_out(["bot", "z1"], ["z2", "z3"])], "names keys that come after its queries"),
        ([knock_out("eot", "answer")], "names keys that come after its queries"),
        ([patch_thought("z1", "nobody")], "the donor 'nobody' is not among the 8 problems that are cut"),
        ([stop_after(3, n_thoughts=6)], "expected the last of 3 thoughts and nothing else"),
        ([cut(*stop_after(1, n_thoughts=3).parts, *BARE[0].parts)], "use `stop_after`"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_is_run(plan, said, run, reasoner, passes):
    with pytest.raises(OptionError) as caught:
        intervene(run, plan, reasoner=reasoner)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not passes and not (run.path / "studies").exists()


def test_what_needs_others_is_refused_where_there_are_none(run, reasoner, passes):
    with pytest.raises(OptionError, match="found one problem, which has no other to take from"):
        intervene(run, [ablate_thought("z1", edit=Resample())], reasoner=reasoner, n=1, allow_failed=True)
    with pytest.raises(OptionError, match="found no other problem to take a mean over; study at least 2"):
        intervene(run, [ablate_thought("z1", edit=Mean())], reasoner=reasoner, n=1, allow_failed=True)
    assert not passes


def test_a_folder_in_the_place_of_a_manifest_is_said(run):
    (run.path / "studies" / "mine" / "manifest.json").mkdir(parents=True)
    with pytest.raises(RunError, match=r"manifest.json can't be read \(Is a directory\); delete the folder, or name"):
        studies(run.path)


def test_a_batch_of_no_problem_is_refused(run, reasoner):
    with pytest.raises(OptionError, match="the batch size is 0, expected at least 1; pass another --batch-size"):
        intervene(run, BARE, reasoner=reasoner, batch_size=0)


def test_a_run_that_was_padded_as_the_official_code_does_is_not_cut(reasoner, tmp_path):
    padded = extract(reasoner, SET[:2], tmp_path / "padded", max_new_tokens=2, protocol="official-padding-v5")
    with pytest.raises(OptionError, match="made under official-padding-v5, and cuts are exact; extract it without"):
        intervene(padded, BARE, reasoner=reasoner)


def test_a_model_that_is_not_the_run_s_is_refused(run, reasoner):
    other = replace(reasoner, provenance={"name": "other", "sha256": "0" * 64})
    with pytest.raises(CheckpointError, match="other is not the model of the run: its sha256 is"):
        intervene(run, BARE, reasoner=other)


@pytest.fixture
def broken(extracted, tmp_path):
    """A run one of whose problems has a gold answer that does not fit into the room for answers."""
    path = shutil.copytree(extracted, tmp_path / "broken")
    lines = (path / "problems.jsonl").read_text("utf-8").splitlines()
    row = json.loads(lines[5]) | {"answer": ("7 " * 300).strip()}
    (path / "problems.jsonl").write_text("\n".join([*lines[:5], json.dumps(row), *lines[6:]]) + "\n", "utf-8")
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    manifest["options"]["problems"]["fingerprint"] = load_set(path / "problems.jsonl").fingerprint
    write_json(path / "manifest.json", manifest, sealed=True)
    return open_run(path)


PLAN = [BARE[0], ablate_head("L1H2", edit=Mean()), ablate_thought("z1", edit=Own()), patch_thought("z2", "ann1")]


def test_a_problem_that_can_not_be_run_stops_the_study_with_one_sentence(broken, reasoner):
    with pytest.raises(RunError) as caught:
        intervene(broken, PLAN, reasoner=reasoner)
    assert str(caught.value).startswith("problem few2 can't be run without a cut (the gold answer of few2 takes")
    assert "--allow-failed" in str(caught.value) and "\n" not in str(caught.value)
    assert not list(broken.path.glob("studies/*/effects.zarr"))


def test_where_failures_are_allowed_they_are_failed_and_never_wrong(broken, run, reasoner):
    found = intervene(broken, PLAN, reasoner=reasoner, allow_failed=True)
    others = [place for place in range(8) if place != 5]
    assert found["failed"].values[:, 5].all() and not found["failed"].values[:, others].any()
    assert np.isnan(found["gold_logprob"].values[:, 5]).all() and (found["answer"].values[:, 5] == "").all()
    sound = intervene(run, [PLAN[0], *PLAN[2:]], reasoner=reasoner)
    rows = [0, 1, 3, 4]  # the mean is over one problem less
    for name in ("gold_logprob", "kl"):
        np.testing.assert_allclose(
            found[name].values[rows][:, others], sound[name].values[:, others], rtol=0, atol=3e-5
        )
    with pytest.raises(RunError, match="problem few2 can't be run"):  # what was allowed once is not allowed for good
        intervene(broken, PLAN, reasoner=reasoner)


def test_a_donor_that_can_not_be_run_makes_a_failure_and_no_wrong_answer(broken, reasoner):
    found = intervene(broken, [patch_thought("z2", "few2"), BARE[0]], reasoner=reasoner, allow_failed=True)
    assert found["failed"].values[1].all() and found["failed"].values[2].sum() == 1


def test_a_cut_that_can_not_be_made_is_named(run, reasoner):
    narrow = cut(Intervention(Site.HEAD, Add((1.0, 2.0)), frozenset({0})), label="narrow")
    with pytest.raises(RunError, match=r"under the cut 'narrow' \(found a vector of 2 numbers to add at head, expect"):
        intervene(run, [*BARE, narrow], reasoner=reasoner, n=3)
    found = intervene(run, [*BARE, narrow], reasoner=reasoner, n=3, allow_failed=True)
    assert found["failed"].values.sum(1).tolist() == [0, 0, 0, 0, 3]
    assert_same(found.isel(intervention=slice(0, 4)), intervene(run, BARE, reasoner=reasoner, n=3))


def test_a_cut_whose_numbers_overflow_is_failed(run, reasoner):
    loud = cut(Intervention(Site.THOUGHT, Scale(1e38)), Intervention(Site.THOUGHT, Scale(1e38)), label="loud")
    with pytest.raises(RunError, match=r"under the cut 'loud' \(log-probability nan"):
        intervene(run, [loud], reasoner=reasoner)
    found = intervene(run, [loud, BARE[0]], reasoner=reasoner, allow_failed=True)
    assert found["failed"].values.any(1).tolist() == [False, True, False]


def test_on_the_planted_model_the_carrier_is_first_and_looking_does_not_find_it(tmp_path):
    """Its attention is even; hub, sink and sequential heads look at thoughts and carry nothing."""
    reasoner = planted_reasoner()
    run = tl.extract(reasoner, planted_problems(24, seed=3), tmp_path / "run")
    plan = [ablate_head((layer, head), edit=Zero()) for layer in range(2) for head in range(4)]
    effects = intervene(run, plan, reasoner=reasoner)
    correct = dict(zip(effects["intervention"].values.tolist(), effects["correct"].values.mean(1), strict=True))
    carrier = "L{}H{} zero".format(*PLANTED["carrier"])
    assert carrier == "L0H3 zero"
    assert {label for label, share in correct.items() if share == 0} == {carrier}
    assert all(share == 1 for label, share in correct.items() if label != carrier)
    done = study(run, effects, n_resamples=200)
    headline = study_headline(run, done)
    assert headline["top"][0]["cut"] == carrier
    lost = {row["cut"]: row["joint_logprob"]["estimate"] for row in headline["top"]}
    assert lost[carrier] < -1
    for role in ("sink", "even"):
        assert lost["L{}H{} zero".format(*PLANTED[role])] == pytest.approx(0, abs=1e-4)
    assert headline["n_significant"] == {"accuracy": 1, "joint_logprob": 1, "gold_logprob": 1}
    (rows,) = headline["verdict"].values()
    for row in rows:
        assert row["p"] > 0.5 and "is not shown to predict the effect of cutting heads" in row["reading"]
