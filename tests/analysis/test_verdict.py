from itertools import permutations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import permutation_test, spearmanr

from thoughtlens.analysis import judge, readings, resample_weights, spearman
from thoughtlens.analysis.statistics import short
from thoughtlens.analysis.verdict import effects_reliability, precision_at, relabelling_p
from thoughtlens.errors import OptionError

HEADS = [f"L{layer}H{head}" for layer in range(4) for head in range(4)]


def units(values, names=HEADS):
    return xr.DataArray(np.asarray(values, dtype=float), dims="unit", coords={"unit": names})


def damages(means, *, noise=0.3, n=120, seed=0, names=HEADS):
    draws = np.random.default_rng(seed).normal(means, noise, size=(n, len(names)))
    return xr.DataArray(draws, dims=("problem", "unit"), coords={"unit": names})


@pytest.mark.parametrize("ties", [False, True])
def test_the_correlation_is_scipys(ties):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 30, 16))
    if ties:
        first, second = first.round(), second.round()
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-12)


def test_units_that_are_all_alike_have_no_correlation():
    assert np.isnan(spearman(np.zeros(5), np.arange(5.0)))
    assert np.isnan(spearman(np.array([1.0, np.nan, 2.0]), np.arange(3.0)))


def test_p_over_relabelled_units_is_that_of_every_order():
    first, second = np.random.default_rng(1).normal(size=(2, 6))
    rho = spearmanr(first, second).statistic
    null = [abs(spearmanr(first, second[list(order)]).statistic) for order in permutations(range(6))]
    assert relabelling_p(first, second) == pytest.approx(np.mean(np.array(null) >= abs(rho) - 1e-9))


def test_six_thoughts_in_perfect_order_have_a_p_of_two_in_720():
    assert relabelling_p(np.arange(6.0), np.arange(6.0)) == pytest.approx(2 / 720)


def test_p_of_many_units_is_scipys_within_its_draws():
    first, second = np.random.default_rng(2).normal(size=(2, 16))
    second += 0.5 * first
    scipys = permutation_test(
        (second,),
        lambda order: abs(spearmanr(first, order).statistic),
        permutation_type="pairings",
        n_resamples=3000,
        alternative="greater",
        rng=np.random.default_rng(0),
        vectorized=False,
    ).pvalue
    # Four standard errors of both.
    assert relabelling_p(first, second) == pytest.approx(scipys, abs=4 * np.sqrt(scipys / 3000 + scipys / 10_000))


def test_precision_counts_the_units_that_are_first_in_both():
    looked, cut = np.array([9.0, 8, 7, 1, 2, 3]), np.array([9.0, 1, 8, 2, 7, 3])
    assert precision_at(looked, cut, 3) == pytest.approx(2 / 3)


def test_precision_under_ties_is_its_mean_over_ways_to_break_them():
    rng = np.random.default_rng(0)
    looked, cut = np.array([2.0, 1, 1, 1, 0]), np.array([0.0, 1, 1, 2, 1])
    broken = [
        len(set(np.argsort(-looked - 0.1 * a)[:2]) & set(np.argsort(-cut - 0.1 * b)[:2])) / 2
        for a, b in rng.random((20_000, 2, 5))
    ]
    assert precision_at(looked, cut, 2) == pytest.approx(np.mean(broken), abs=0.01)


def test_reliability_is_cronbachs_alpha():
    table = damages(np.arange(16) / 20, n=25)
    items = table.transpose("unit", "problem").values
    k = items.shape[1]
    alpha = k / (k - 1) * (1 - items.var(0, ddof=1).sum() / items.sum(1).var(ddof=1))
    assert effects_reliability(table) == pytest.approx(alpha)


def test_noise_is_not_reliable():
    # Alpha of pure noise is 0 on average, and below 0.5 in all but rare tables of 16 units.
    assert effects_reliability(damages(np.zeros(16), seed=4)) < 0.5
    assert np.isnan(effects_reliability(damages(np.zeros(16), noise=0.0)))


def test_attention_that_orders_heads_as_cutting_does_predicts_it():
    means = np.linspace(0, 2, 16)
    table = judge({"raw": units(means**2)}, damages(means), resample_weights(120))
    row = table.sel(attention="raw")
    assert row["rho"].sel(value="estimate") == pytest.approx(spearmanr(means, damages(means).mean("problem")).statistic)
    assert row["rho"].sel(value="low") > 0.8
    assert (row["k"], row["n_units"], row["n"]) == (5, 16, 120)
    assert row["chance"] == pytest.approx(5 / 16)
    assert "raw attention predicts the effect of cutting heads: rho = " in readings(table, unit="heads")["raw"]
    assert (
        "n = 16 heads; 5 of the top 5 by attention are among the top 5 by effect"
        in readings(table, unit="heads")["raw"]
    )


def test_attention_unrelated_to_the_effect_predicts_nothing():
    rng = np.random.default_rng(11)
    table = judge({"raw": units(rng.permutation(16))}, damages(np.zeros(16)), resample_weights(120))
    sentence = readings(table, unit="heads")["raw"]
    assert sentence.startswith("looking did not predict cutting")
    assert "the effects themselves are noise" in sentence


def test_attention_to_what_does_not_matter_misleads():
    means = np.linspace(0, 2, 16)
    table = judge({"raw": units(-means)}, damages(means), resample_weights(120))
    assert readings(table, unit="heads")["raw"].startswith("raw attention misled")


def test_few_units_that_agree_by_luck_are_not_called_a_prediction():
    names, means = ["z1", "z2", "z3", "z4"], [0.0, 1.0, 2.0, 3.0]
    looked = units([0, 1, 2, 3], names)
    table = judge({"raw": looked}, damages(means, names=names), resample_weights(120))
    # Four units have 24 orders, two of which correlate perfectly: p = 1/12.
    assert table["p"].item() == pytest.approx(1 / 12)
    assert "no better than chance over thoughts" in readings(table, unit="thoughts")["raw"]


def test_every_kind_of_attention_has_a_row_over_the_units_it_knows():
    means = np.linspace(0, 2, 16)
    kinds = {
        "raw": units(means),
        "value-weighted": units(means[:10], HEADS[:10]),
        "rolled out": units(np.where(np.arange(16) < 12, means, np.nan)),
    }
    table = judge(kinds, damages(means), resample_weights(120))
    assert table["n_units"].values.tolist() == [16, 10, 12]
    assert list(readings(table, unit="heads")) == list(kinds)


def test_units_are_matched_by_name_and_not_by_place():
    means = np.linspace(0, 2, 16)
    shuffled = units(means).isel(unit=np.random.default_rng(0).permutation(16))
    table = judge({"a": units(means), "b": shuffled}, damages(means), resample_weights(120))
    assert table["rho"].sel(attention="a").values == pytest.approx(table["rho"].sel(attention="b").values)


def test_attention_that_varies_over_problems_widens_the_interval():
    means = np.linspace(0, 2, 16)
    weights = resample_weights(120)
    looked = damages(means, noise=8.0, seed=9)
    samples = xr.dot(weights.astype(float), looked, dim="problem") / 120
    table = judge({"fixed": samples.isel(resample=0), "resampled": samples}, damages(means), weights)
    width = table["rho"].sel(value="high") - table["rho"].sel(value="low")
    assert table["rho"].sel(value="estimate").values == pytest.approx(table["rho"].values[0, 0])
    assert width.sel(attention="resampled") > 1.5 * width.sel(attention="fixed")


def test_failed_problems_are_left_out():
    means = np.linspace(0, 2, 16)
    whole = damages(means, n=60)
    holed = whole.copy()
    holed[5, 3] = np.nan
    table = judge({"raw": units(means)}, holed, resample_weights(60))
    assert table["rho"].sel(value="estimate").item() == pytest.approx(
        spearmanr(means, np.nanmean(holed.values, axis=0)).statistic
    )


def test_differences_that_are_rounding_alone_are_none():
    dead = np.concatenate([[1.0], 1e-7 * np.random.default_rng(0).normal(size=15)])
    exact = np.concatenate([[1.0], np.zeros(15)])
    looked = units(np.arange(16)[::-1])
    weights = resample_weights(40)
    tables = [judge({"raw": looked}, damages(means, noise=0.0, n=40), weights) for means in (dead, exact)]
    assert tables[0]["rho"].values == pytest.approx(tables[1]["rho"].values)


def test_the_interval_holds_its_estimate():
    rng = np.random.default_rng(0)
    means = rng.exponential(size=16) * 0.1
    table = judge({"raw": units(means)}, damages(means, noise=1.0, n=300), resample_weights(300))
    low, high = (table["rho"].sel(value=name).item() for name in ("low", "high"))
    assert low <= table["rho"].sel(value="estimate").item() <= high


def test_cuts_without_any_effect_leave_nothing_to_say():
    table = judge({"raw": units(np.arange(16))}, damages(np.zeros(16), noise=0.0), resample_weights(120))
    assert table["rho"].isnull().all() and table["precision"].isnull().all()
    assert "all 16 are alike" in readings(table, unit="heads")["raw"]


def test_a_verdict_needs_attention():
    with pytest.raises(OptionError, match="0 kinds of attention"):
        judge({}, damages(np.zeros(16)), resample_weights(120))


@pytest.mark.parametrize(
    ("number", "text"), [(0.414, ".41"), (-0.1, "−.10"), (1.0, "1.00"), (-0.001, ".00"), (np.nan, "undefined")]
)
def test_numbers_are_short(number, text):
    assert short(number) == text
