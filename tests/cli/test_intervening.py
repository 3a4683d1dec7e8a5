"""`thoughtlens intervene` as a user calls it, on a bundled model."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.commands import call, sentence, undrawn


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut") / "run"
    sample = folder.parent / "problems.jsonl"
    call("sample", "--problems", "arithmetic", "--n", 16, "--out", sample)
    call("extract", "--problems", sample, "--record", "values", "--out", folder)
    return folder


@pytest.fixture
def unplotted(monkeypatch):
    """Studies without their figures, which the first one has."""
    monkeypatch.setattr("thoughtlens.reports.study_files.study_figures", lambda *_, **__: {})


@pytest.fixture(scope="module")
def studied(run):
    options = ("--heads", "L0H0,L0H3,L3H3", "--thoughts", "z2,z3,z4", "--edges", "all", "--whole", "--controls", 2)
    orders = ("--order", "attention", "--order", "value-weighted", "--order", "cause", "--random-orders", 2)
    with undrawn():
        return json.loads(call("intervene", run, *options, *orders, "--n", 8, "--study", "first", "--json").stdout)


def test_the_headline_counts_what_was_made(studied):
    # 3 heads, 3 thoughts, 15 edges, all thoughts zeroed and shuffled, 6 stops.
    assert (studied["n"], studied["n_cuts"]) == (8, 3 + 3 + 15 + 2 + 6)
    assert studied["n_orders"] == 5 * 3
    assert {row["order"] for row in studied["orders"]} == {"attention", "value-weighted", "cause"}
    assert studied["n_failed"] == 0


def test_effects_and_figures_are_written(run, studied):
    effects = xr.open_zarr(run / "studies" / "first" / "effects.zarr", consolidated=False)
    assert effects.sizes == {
        "intervention": len(pd.read_csv(run / "studies" / "first" / "effects.csv")) + 1,
        "problem": 8,
    }
    assert studied["baseline"]["accuracy"]["estimate"] == pytest.approx(float(effects["correct"][0].mean()))
    drawn = {path.stem for path in (run / "studies" / "first" / "figures").glob("*.png")}
    assert {"effect_forest", "effect_map_heads", "influence_maps_edges", "ablation_curve"} <= drawn


def test_the_run_as_it_was_and_the_baseline_answer_alike(run, studied):
    effects = xr.open_zarr(run / "studies" / "first" / "effects.zarr", consolidated=False)
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    answers = {row["id"]: row["answer"] or "" for row in rows}
    assert [answers[str(name)] for name in effects["problem"].values] == list(effects["answer"].values[0])


def test_the_first_order_ends_where_the_others_do(run, studied):
    effects = xr.open_zarr(run / "studies" / "first" / "effects.zarr", consolidated=False)
    last = [f"{name} · first 3" for name in ("attention", "value-weighted", "cause", "random order 1")]
    values = effects["gold_logprob"].sel(intervention=last).values
    np.testing.assert_allclose(values, values[:1].repeat(4, 0), rtol=1e-4, atol=1e-4)


def test_a_dry_run_counts_and_cuts_nothing(run, studied):
    before = (run / "studies" / "first" / "effects.csv").read_bytes()
    options = ("--heads", "all", "--order", "attention", "--random-orders", 3, "--controls", 1)
    facts = json.loads(call("intervene", run, *options, "--dry-run", "--json").stdout)
    assert (facts["n_cuts"], facts["n_orders"], facts["n_problems"]) == (16, 4 * 16, 16)
    assert facts["n_passes"] == 16 * (1 + 16 + 16 + facts["n_controls"] + 4 * 16)  # each head by its mean, too
    assert facts["seconds"] > 0
    assert [row["discordant"] for row in facts["bounds"]] == [0.05, 0.1, 0.2] and facts["pilot"] is None
    said = call("intervene", run, *options, "--dry-run")
    assert "16 variants" in said.stdout and "accuracy, if 20% of the problems flip: no change" in said.stdout
    assert "with 16 problems" not in said.stderr and "with 1 controls the p of a cut" in said.stderr
    assert (run / "studies" / "first" / "effects.csv").read_bytes() == before


def test_the_closing_text_of_a_study_says_what_costs_and_what_signs_mean(run, unplotted):
    text = call("intervene", run, "--heads", "l0h3", "--edges", "z3:z2", "--n", 12, "--study", "closing").stdout
    lines = text.splitlines()
    assert len(lines) <= 12
    table = pd.read_csv(run / "studies" / "closing" / "effects.csv", index_col="intervention")
    assert sorted(table.index) == ["L0H3 mean", "L0H3 resample", "z3 ⊣ z2"]
    assert "an effect is the value with the cut minus without it" in text
    for name in ("L0H3 resample", "z3 ⊣ z2"):
        assert f"{name} {table.loc[name, 'joint_logprob']:.2f}".replace("-", "−") in text
    assert "z3 ⊣ z2: z3 cannot attend to z2" in text
    [listed] = [line for line in call("status", run).stdout.splitlines() if line.startswith("study closing, n = 12")]
    assert "--edges z3:z2 --n 12 --study closing" in listed


def test_top_heads_follow_a_ranking_that_says_how_far_it_can_be_trusted(run, unplotted):
    result = call("intervene", run, "--heads", "top:2", "--n", 4, "--json")
    assert json.loads(result.stdout)["n_cuts"] == 2
    *others, last = result.stderr.splitlines()
    assert last.startswith("Note: the heads of --heads top:2 are selected on these problems")
    assert all(line.startswith("Note: the ranking of heads") for line in others)


def test_a_study_can_grow_and_is_not_taken_for_another(run, studied, unplotted):
    more = ("--heads", "L1H1", "--study", "first", "--n", 8)
    assert "seed.problems is 0 there and 1 here" in sentence("intervene", run, *more, "--seed", 1)
    grown = json.loads(call("intervene", run, *more, "--json").stdout)
    assert (grown["study"], grown["n_exploratory"], studied["n_exploratory"]) == ("first", 2, 0)
    assert grown["n_cuts"] == studied["n_cuts"] + 1 and grown["n_orders"] == studied["n_orders"]
    table = pd.read_csv(run / "studies" / "first" / "effects.csv")
    assert table["intervention"][table["exploratory"]].to_list() == ["L1H1 resample", "L1H1 mean"]
    written = json.loads((run / "studies" / "first" / "manifest.json").read_text())["plans"]
    assert len(written) == 2 and written[0]["call"].startswith("thoughtlens ")


def test_variants_restorations_and_donors_are_told_beside_the_cuts(run, unplotted):
    options = ("--heads", "L0H3", "--effects", "total,direct,indirect", "--restore", "thoughts", "--donors", 2)
    said = call("intervene", run, *options, "--holdout", 0.5, "--controls", 1, "--study", "beside", "--full").stdout
    said = " ".join(said.split())
    table = pd.read_csv(run / "studies" / "beside" / "effects.csv", index_col="intervention")
    head = table.loc["L0H3 resample"]
    assert head["joint_logprob"] == pytest.approx(
        head["joint_logprob_direct"] + head["joint_logprob_indirect"], abs=1e-6
    )
    assert head["joint_logprob_mean_low"] <= table.loc["L0H3 mean", "joint_logprob"] <= head["joint_logprob_mean_high"]
    assert table["recovered"].notnull().sum() == 6 and table["kind"].to_list().count("restored") == 6
    assert "total" in said and "indirect" in said and "share of this that comes back" in said
    assert "means over 2 donors" in said
    assert table.loc["L0H3 resample", "n"] < 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "nothing to cut"),
        (("--heads", "L9H0"), "'9' among its layers"),
        (("--heads", "all", "--edit", "blur"), "no edit 'blur'"),
        (("--heads", "all", "--order", "taste"), "no ranking of heads by 'taste'"),
        (("--thoughts", "all", "--order", "attention"), "two heads or more"),
        (("--heads", "all", "--thoughts", "z1", "--except", "L0H1"), "one family that is named"),
        (("--restore", "moods"), "--restore is 'moods'"),
        (("--heads", "all", "--effects", "total,long"), "--effects names 'long'"),
        (("--heads", "all", "--holdout", 1.5), "the held-out share is 1.5"),
        (("--heads", "all", "--analysis", "nowhere", "--order", "attention"), "has no analysis nowhere"),
        (("--heads", "all", "--donors", 16), "found 16 donors a problem, but only 15 other problems"),
        (("--heads", "all", "--pilot", 2), "--pilot goes with --dry-run"),
        (("--heads", "all", "--dry-run", "--pilot", 2), "makes the controls of the plan, which has none"),
        (("--heads", "all", "--controls", -1), "--controls"),
        (("--heads", "all", "--margin", 0), "found the margins 0.0 nats and 0.02 of accuracy"),
        (("--heads", "all", "--n", 99), "99"),
        (("--heads", "all", "--batch-size", 0), "--batch-size is 0, expected at least 1"),
        (("--plan", "nowhere.json"), "nowhere.json"),
        (("--heads", "all", "--model", "tiny-llama"), "not the model of the run"),
        (("--heads", "all", "--workers", 2), "--engine ray"),
        (("--heads", "all", "--study", "../out"), "a study is called '../out'"),
    ],
)
def test_a_wrong_call_ends_in_one_sentence(run, options, said):
    assert said in sentence("intervene", run, *options)


def test_a_folder_that_is_no_run_says_so(tmp_path):
    assert "expected a run folder" in sentence("intervene", tmp_path, "--heads", "all")
