import numpy as np
import pytest
from scipy.stats import binom, binomtest, false_discovery_control, kstest, ttest_1samp, ttest_rel
from tests.analysis.effects_made import made_effects

from thoughtlens.analysis import (
    detectable_mean,
    detectable_proportion,
    effects_table,
    paired_differences,
    sign_flip_test,
    summarise,
)
from thoughtlens.analysis.effects import check_outcome, controls_of
from thoughtlens.errors import OptionError, RunError

N = 200


@pytest.fixture(scope="module")
def breaks_a_third():
    """200 problems, 160 solved; one cut breaks 60 of them and mends 10, one does nothing."""
    baseline = np.arange(N) < 160
    broken = baseline.copy()
    broken[:60] = False
    broken[190:] = True
    return made_effects({"L1H0": broken, "L0H0": baseline}, baseline=baseline)


@pytest.fixture(scope="module")
def chance():
    """Forty cuts that change answers and log-probabilities at random, as often for better as for worse."""
    rng = np.random.default_rng(5)
    baseline = rng.random(N) < 0.5
    flips = {f"L{k}H0": rng.random(N) < 0.2 for k in range(40)}
    correct = {label: np.where(flip, rng.random(N) < 0.5, baseline) for label, flip in flips.items()}
    base_logprob = rng.normal(size=N)
    logprob = {label: base_logprob + rng.normal(size=N) for label in correct}
    return made_effects(correct, baseline=baseline, logprob=logprob | {"none": base_logprob})


@pytest.fixture(scope="module")
def third(breaks_a_third):
    return summarise(breaks_a_third)


@pytest.fixture(scope="module")
def by_chance(chance):
    return summarise(chance)


def test_a_cut_that_breaks_a_known_share_shows_it(third):
    cut = third.sel(intervention="L1H0")
    assert (cut["n_broken"], cut["n_mended"], cut["n"], cut["n_failed"]) == (60, 10, N, 0)
    assert cut["accuracy"].sel(value="estimate") == pytest.approx(-50 / N)
    assert cut["gold_logprob"].sel(value="estimate") == pytest.approx(-2 * 50 / N)
    assert cut["accuracy"].sel(value="low") < -0.25 < cut["accuracy"].sel(value="high") < 0


def test_accuracy_is_tested_as_a_fair_coin_over_the_flipped_problems(third):
    p = third["p"].sel(outcome="accuracy")
    assert p.sel(intervention="L1H0").item() == pytest.approx(binomtest(10, 70).pvalue)
    assert p.sel(intervention="L0H0").item() == 1.0


def test_rounding_that_leans_to_one_side_is_no_effect():
    """Passes of other sizes differ in the last digits, alike in all problems: a test of signs alone would find it."""
    right = np.ones(N, dtype=bool)
    base = np.random.default_rng(0).normal(-5, 1, size=N)
    logprob = {"none": base, "rounding": base + 3e-6, "effect": base + 3e-3}
    effects = made_effects({"rounding": right, "effect": right}, baseline=right, logprob=logprob)
    p = summarise(effects)["p"].sel(outcome="gold_logprob")
    assert p.sel(intervention="rounding") == 1.0 and p.sel(intervention="effect") < 0.001
    assert (paired_differences(effects)["gold_logprob"].sel(intervention="rounding") == 0).all()


def test_log_probability_is_tested_by_sign_flips():
    shift = np.random.default_rng(0).normal(-0.4, 1.0, size=22)
    right = np.ones(22, dtype=bool)
    effects = made_effects({"z1": right}, baseline=right, logprob={"none": np.zeros(22), "z1": shift})
    differences = paired_differences(effects)["gold_logprob"].sel(intervention="z1")
    expected = sign_flip_test(differences, n_flips=500)["p"].item()
    assert summarise(effects, n_flips=500)["p"].sel(outcome="gold_logprob").item() == pytest.approx(expected)
    assert expected == pytest.approx(ttest_1samp(shift, 0).pvalue, abs=0.05)


def test_intervals_are_those_of_paired_differences(chance):
    summary = summarise(chance, n_resamples=2000)
    base = chance["gold_logprob"].sel(intervention="none").values.astype(float)
    for label in ("L3H0", "L17H0"):
        cut = chance["gold_logprob"].sel(intervention=label).values.astype(float)
        bounds = ttest_rel(cut, base).confidence_interval()
        found = summary["gold_logprob"].sel(intervention=label)
        # The bootstrap's ends agree with Student's to a tenth of the width at n = 200.
        width = bounds.high - bounds.low
        assert found.sel(value=["low", "high"]).values == pytest.approx([bounds.low, bounds.high], abs=0.1 * width)


@pytest.mark.parametrize("outcome", ["accuracy", "gold_logprob"])
def test_cuts_without_effect_are_not_rejected(by_chance, outcome):
    summary = by_chance.sel(outcome=outcome)
    assert (summary["p_holm"] > 0.05).all()
    assert (summary["p_bh"] > 0.05).all()


def test_the_largest_of_each_flip_corrects_no_less_than_one_test_and_no_more_than_holm(by_chance):
    summary = by_chance.sel(outcome="gold_logprob")
    assert (summary["p_max_t"] >= summary["p"]).all()
    # Independent cuts: Holm's first step is Bonferroni's, and max-T is Šidák's within its 10,000 draws.
    first = summary.isel(intervention=int(summary["p"].argmin("intervention")))
    sidak = 1 - (1 - first["p"].item()) ** 40
    assert first["p_max_t"].item() == pytest.approx(sidak, abs=0.05)


def test_p_values_of_cuts_without_effect_are_uniform(by_chance):
    assert kstest(by_chance["p"].sel(outcome="gold_logprob").values, "uniform").pvalue > 0.01


def test_corrections_are_over_the_cuts_and_not_over_their_controls(breaks_a_third):
    baseline = breaks_a_third["correct"].sel(intervention="none").values
    rows = {label: breaks_a_third["correct"].sel(intervention=label).values for label in ("L1H0", "L0H0")}
    controls = {"L1H0": [f"control {k}" for k in range(8)]}
    more = made_effects(rows | dict.fromkeys(controls["L1H0"], baseline), baseline=baseline, controls=controls)
    summary = summarise(more).sel(outcome="accuracy")
    p = summary["p"].sel(intervention=["L1H0", "L0H0"]).values
    assert summary["p_holm"].sel(intervention="L1H0").item() == pytest.approx(2 * p[0])
    np.testing.assert_allclose(summary["p_bh"].sel(intervention=["L1H0", "L0H0"]), false_discovery_control(p))
    assert summary["p"].sel(intervention=controls["L1H0"]).isnull().all()


def test_a_cut_is_placed_among_its_controls():
    n, baseline = 100, np.ones(100, dtype=bool)
    rows = {name: np.arange(n) >= k for name, k in (("L1H0", 30), ("a", 30), ("b", 31), ("c", 2), ("d", 0))}
    summary = summarise(made_effects(rows, baseline=baseline, controls={"L1H0": ["a", "b", "c", "d"]}))
    cut = summary.sel(intervention="L1H0", outcome="accuracy")
    assert cut["p_controls"].item() == pytest.approx((1 + 2) / (1 + 4))
    np.testing.assert_allclose(cut["controls"], [-(0.30 + 0.31 + 0.02) / 4, -0.31, 0.0])
    assert cut["n_controls"] == 4
    assert summary["p_controls"].sel(intervention="a").isnull().all()


def test_a_failed_problem_is_left_out_of_its_pair_and_never_wrong():
    baseline = np.ones(50, dtype=bool)
    right = {"z1": baseline, "z2": baseline}
    summary = summarise(made_effects(right, baseline=baseline, failed={"none": [0], "z1": [1, 2]}))
    assert summary["n"].values.tolist() == [47, 49]
    assert summary["n_failed"].values.tolist() == [3, 1]
    assert (summary[["n_broken", "n_mended"]].to_dataarray() == 0).all()
    assert (summary["accuracy"].sel(value="estimate") == 0).all()
    assert summary["baseline_accuracy"].sel(value="estimate") == 1.0


def test_a_control_that_never_ran_is_no_control():
    baseline = np.ones(20, dtype=bool)
    effects = made_effects(
        {"z1": np.arange(20) > 4, "a": baseline, "b": baseline},
        baseline=baseline,
        controls={"z1": ["a", "b"]},
        failed={"b": list(range(20))},
    )
    assert summarise(effects)["p_controls"].sel(intervention="z1", outcome="accuracy").item() == pytest.approx(1 / 2)


def test_effects_in_which_nothing_ran_are_refused():
    right = np.ones(3, dtype=bool)
    with pytest.raises(RunError, match="no problem was run"):
        summarise(made_effects({"z1": right}, baseline=right, failed={"none": [0, 1, 2]}))


def test_a_cut_that_never_ran_leaves_the_others_their_tests(breaks_a_third):
    baseline = breaks_a_third["correct"].sel(intervention="none").values
    broken = breaks_a_third["correct"].sel(intervention="L1H0").values
    summary = summarise(
        made_effects({"L1H0": broken, "z1": broken}, baseline=baseline, failed={"z1": list(range(N))})
    ).sel(outcome="accuracy")
    assert np.isnan(summary["p"].sel(intervention="z1").item())
    assert summary["p_holm"].sel(intervention="L1H0").item() == summary["p"].sel(intervention="L1H0").item()


def test_the_detectable_effect_is_found_four_times_in_five():
    rng = np.random.default_rng(3)
    n, right = 100, np.ones(100, dtype=bool)
    noise = {"z1": rng.normal(size=n)}
    mde = summarise(made_effects({"z1": right}, baseline=right, logprob=noise | {"none": np.zeros(n)}))["mde"]
    shift = mde.sel(intervention="z1", outcome="gold_logprob").item()
    drawn = rng.normal(shift, noise["z1"].std(ddof=1), size=(2000, n))
    found = ttest_rel(drawn, np.zeros((2000, n)), axis=1).pvalue < 0.05
    # 2,000 draws have a standard error of 0.009; Student's test needs a little more than the normal.
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_where_nothing_flips_the_detectable_effect_is_one_of_enough_flips():
    right = np.ones(60, dtype=bool)
    mde = summarise(made_effects({"z1": right}, baseline=right))["mde"].isel(intervention=0)
    assert np.isnan(mde.sel(outcome="gold_logprob"))
    # Six flips, all one way, are significant, and six or more of sixty must come up in four samples of five.
    assert binom.sf(5, 60, mde.sel(outcome="accuracy").item()) == pytest.approx(0.8, abs=1e-3)


def test_the_detectable_effect_is_corrected_for_the_plan():
    rng, right = np.random.default_rng(3), np.ones(100, dtype=bool)
    noise = {f"z{k}": rng.normal(size=100) for k in range(1, 5)} | {"none": np.zeros(100)}
    cuts = dict.fromkeys(list(noise)[:4], np.arange(100) > 20)
    mde = summarise(made_effects(cuts, baseline=right, logprob=noise), n_flips=100)["mde"].sel(intervention="z1")
    assert mde.sel(outcome="joint_logprob").item() == pytest.approx(
        detectable_mean(noise["z1"].astype("float32").std(ddof=1), 100, alpha=0.05 / 4), rel=1e-4
    )
    assert mde.sel(outcome="accuracy").item() == pytest.approx(detectable_proportion(0.21, 100, alpha=0.05 / 4))


def test_intervals_of_accuracy_are_never_a_single_point():
    """Where nothing flips, a loss of some hundredths is not excluded."""
    right = np.ones(100, dtype=bool)
    effect = summarise(made_effects({"z1": right}, baseline=right))["accuracy"].isel(intervention=0)
    assert effect.values.tolist() == pytest.approx([0.0, -0.037, 0.037], abs=5e-4)


def none_said(x, **attrs):
    right = np.ones(len(x), dtype=bool)
    effects = made_effects({"z1": right}, baseline=right, logprob={"none": np.zeros(len(x)), "z1": x})
    return summarise(effects.assign_attrs(attrs), n_resamples=300, n_flips=10).isel(intervention=0)["no_effect"]


def test_no_effect_is_said_where_the_interval_lies_inside_the_margin():
    small = np.random.default_rng(0).normal(0.002, 0.1, 500)
    assert none_said(small).sel(outcome=["accuracy", "joint_logprob"]).all()
    assert not none_said(small, margin=0.005, accuracy_margin=0.001).any()
    assert not none_said(small - 0.045).sel(outcome="joint_logprob")
    # Fifty problems leave room for rare ones that lose much.
    assert not none_said(small[:50]).any()


def test_later_cuts_do_not_enlarge_the_family_of_the_first_plan(chance):
    some, grown = chance.isel(intervention=slice(0, 11)), chance.isel(intervention=slice(0, 31))
    grown = grown.assign(exploratory=("intervention", np.arange(31) > 10))
    before, after = (summarise(its, n_resamples=50, n_flips=500) for its in (some, grown))
    for name in ("p", "p_holm", "p_bh", "p_max_t", "mde"):
        np.testing.assert_array_equal(before[name], after[name][:10], err_msg=name)
    alone = summarise(grown.drop_vars("exploratory"), n_resamples=50, n_flips=500)
    np.testing.assert_array_equal(alone["p_holm"][10:], after["p_holm"][10:])


def test_shrunk_effects_of_heads_are_nearer_to_the_truth_than_raw_ones():
    rng, right = np.random.default_rng(2), np.ones(40, dtype=bool)
    heads = [f"L{layer}H{head}" for layer in range(4) for head in range(4)]
    truth = rng.normal(-0.1, 0.1, size=16)
    noise = rng.normal(0, rng.gamma(2.0, 0.4, size=(1, 16)), size=(40, 16))
    logprob = dict(zip(heads, (truth + noise).T, strict=True)) | {"none": np.zeros(40)}
    addresses = {head: {"family": "heads", "unit": head, "edit": "zero"} for head in heads}
    effects = made_effects(dict.fromkeys(heads, right), baseline=right, logprob=logprob, addresses=addresses)
    summary = summarise(effects, n_resamples=50, n_flips=10)
    raw = summary["joint_logprob"].sel(value="estimate")
    assert ((summary["shrunk"] - truth) ** 2).mean() < 0.8 * ((raw - truth) ** 2).mean()
    assert summary["p_top_k"].sum() == pytest.approx(5, abs=1e-9)
    assert {"shrunk", "p_top_k"} <= set(effects_table(summary).columns)
    assert summarise(effects.drop_vars("unit").assign_coords(unit=effects["order"]))["shrunk"].isnull().all()


def test_a_loss_is_negative_with_its_ends_in_order(third):
    for outcome in ("accuracy", "joint_logprob", "gold_logprob"):
        effect = third[outcome].sel(intervention="L1H0")
        assert effect.sel(value="low") < effect.sel(value="estimate") < effect.sel(value="high") < 0
    assert third["kl"].sel(intervention="L1H0", value="low") > 0
    with pytest.raises(OptionError, match="no outcome 'loss'"):
        check_outcome("loss")


def test_the_order_of_problems_is_of_no_account(chance, by_chance):
    turned = chance.isel(problem=slice(None, None, -1))
    summary = summarise(turned, n_resamples=20, n_flips=20)
    for name in ("n_broken", "n_mended"):
        assert (by_chance[name] == summary[name]).all()
    np.testing.assert_allclose(
        paired_differences(chance).mean("problem").to_dataarray(),
        paired_differences(turned).mean("problem").to_dataarray(),
        atol=1e-12,
    )


def test_the_table_has_a_row_a_cut_and_survives_csv(tmp_path, chance):
    import pandas as pd

    label = 'z4 ⊣ z1, "all", <b>'
    odd = chance.assign_coords(intervention=["none", label, *chance["intervention"].values[2:]])
    table = effects_table(summarise(odd, n_resamples=50, n_flips=100))
    table.to_csv(tmp_path / "effects.csv", index=False)
    again = pd.read_csv(tmp_path / "effects.csv")
    assert again["intervention"][0] == label
    assert len(again) == 40
    np.testing.assert_allclose(again["gold_logprob_low"], table["gold_logprob_low"])
    assert "kl_p" not in table.columns


def test_controls_are_read_from_the_effects(breaks_a_third):
    assert controls_of(breaks_a_third) == {}


def test_rounding_that_leans_one_way_is_no_effect():
    """Copies of a batch round otherwise than the batch: by next to nothing, but in most problems alike."""
    right = np.ones(N, dtype=bool)
    leaning = -1.0 - np.linspace(1e-7, 4e-6, N)
    effects = made_effects({"L0H0": right}, baseline=right, logprob={"none": np.full(N, -1.0), "L0H0": leaning})
    cut = summarise(effects, n_flips=1000).sel(intervention="L0H0")
    assert cut["gold_logprob"].sel(value="estimate") == 0
    assert cut["p"].sel(outcome="gold_logprob") == 1.0
    precise = effects.assign_attrs(model='{"dtype": "float64"}')
    assert abs(paired_differences(precise)["gold_logprob"]).min() > 0
