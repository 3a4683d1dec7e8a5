from itertools import permutations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import permutation_test, rankdata, spearmanr, zscore

from thoughtlens.analysis import holm, judge, readings, spearman
from thoughtlens.analysis.attention_against_effects import (
    effects_reliability,
    group_of,
    grouped_p,
    grouped_rho,
    judged_together,
    precision_at,
)
from thoughtlens.analysis.intervals import short
from thoughtlens.errors import OptionError

HEADS = [f"L{layer}H{head}" for layer in range(4) for head in range(4)]


def units(values, names=HEADS):
    return xr.DataArray(np.asarray(values, dtype=float), dims="unit", coords={"unit": names})


def costing(means, *, noise=0.3, n=120, seed=0, names=HEADS):
    """Effects by problem of cuts that cost so much on average."""
    draws = np.random.default_rng(seed).normal(means, noise, size=(n, len(names)))
    return xr.DataArray(-draws, dims=("problem", "unit"), coords={"unit": names})


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


ONE_GROUP = [""] * 16


@pytest.mark.parametrize(
    ("unit", "group"), [("L4H5", "L4"), ("z4 ⊣ z1", "lag 3"), ("z12 ⊣ z11", "lag 1"), ("eot ⊣ z4", "eot"), ("z4", "")]
)
def test_units_are_exchangeable_within_layers_and_lags(unit, group):
    assert group_of(unit) == group


def test_within_one_group_the_correlation_is_spearmans():
    first, second = np.random.default_rng(3).normal(size=(2, 16)).round(1)
    assert grouped_rho(first, second, ONE_GROUP) == pytest.approx(spearmanr(first, second).statistic)


def test_layers_that_differ_do_not_make_a_correlation():
    """Both sides rise from layer to layer; within layers they run against each other."""
    layer, head = np.repeat(np.arange(4.0), 4), np.tile(np.arange(4.0), 4)
    groups = [f"L{name}" for name in layer]
    assert spearmanr(10 * layer + head, 10 * layer - head).statistic > 0.7
    assert grouped_rho(10 * layer + head, 10 * layer - head, groups) == pytest.approx(-1.0)
    assert np.isnan(grouped_rho(layer, head, groups))


def test_p_over_units_relabelled_within_groups_is_that_of_every_order():
    first, second = np.random.default_rng(1).normal(size=(2, 7))
    groups = ["a", "b", "a", "a", "b", "a", "b"]

    def centred(values):
        ranks = rankdata(values)
        return [
            rank - np.mean([r for r, g in zip(ranks, groups, strict=True) if g == group])
            for rank, group in zip(ranks, groups, strict=True)
        ]

    null = [
        abs(np.dot(centred(first), np.array(centred(second))[list(order)]))
        for order in permutations(range(7))
        if [groups[place] for place in order] == groups
    ]
    assert len(null) == 24 * 6
    observed = abs(np.dot(centred(first), centred(second)))
    assert grouped_p(first, second, groups) == pytest.approx(np.mean(np.array(null) >= observed - 1e-9))


def test_six_thoughts_in_perfect_order_have_a_p_of_two_in_720():
    assert grouped_p(np.arange(6.0), np.arange(6.0), [""] * 6) == pytest.approx(2 / 720)


def test_p_of_many_units_is_scipys_within_its_draws():
    first, second = np.random.default_rng(2).normal(size=(2, 16))
    second += 0.5 * first
    ranks = zscore(rankdata(first))
    scipys = permutation_test(
        (rankdata(second),),
        lambda order, axis: abs((zscore(order, axis=axis) * ranks).mean(axis)),
        permutation_type="pairings",
        n_resamples=3000,
        alternative="greater",
        rng=np.random.default_rng(0),
        vectorized=True,
    ).pvalue
    # Four standard errors of both.
    found = grouped_p(first, second, ONE_GROUP)
    assert found == pytest.approx(scipys, abs=4 * np.sqrt(scipys / 3000 + scipys / 10_000))


def test_layers_that_differ_are_no_reason_to_reject():
    """Importance and effect share nothing but that both differ between layers (an intraclass correlation of .6)."""
    rng = np.random.default_rng(8)
    groups = [head[:2] for head in HEADS]
    layers = np.repeat(rng.normal(size=(400, 2, 4)), 4, axis=-1) * np.sqrt(0.6)
    pairs = layers + rng.normal(size=(400, 2, 16)) * np.sqrt(0.4)
    rejected = [[grouped_p(*pair, its) < 0.05 for pair in pairs] for its in (groups, ONE_GROUP)]
    # 400 trials at a rate of .05 have a standard error of .011.
    assert np.mean(rejected[0]) < 0.08 < 0.12 < np.mean(rejected[1])


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
    table = costing(np.arange(16) / 20, n=25)
    items = table.transpose("unit", "problem").values
    k = items.shape[1]
    alpha = k / (k - 1) * (1 - items.var(0, ddof=1).sum() / items.sum(1).var(ddof=1))
    assert effects_reliability(table) == pytest.approx(alpha)


def test_noise_is_not_reliable():
    # Alpha of pure noise is 0 on average, and below 0.5 in all but rare tables of 16 units.
    assert effects_reliability(costing(np.zeros(16), seed=4)) < 0.5
    assert np.isnan(effects_reliability(costing(np.zeros(16), noise=0.0)))


def test_attention_that_orders_heads_as_cutting_does_predicts_it():
    means = np.linspace(0, 2, 16)
    table = judge({"raw": units(means**2)}, costing(means))
    row = table.sel(attention="raw")
    assert row["rho"] > 0.8 and row["p_holm"] < 0.01
    assert (row["k"], row["n_units"], row["n"], row["n_above"]) == (5, 16, 120, 15)
    assert row["chance"] == pytest.approx(5 / 16)
    assert "raw attention predicts the effect of cutting heads: rho = " in readings(table, unit="heads")["raw"]
    assert (
        "n = 16 heads; 5 of the top 5 by attention are among the top 5 by effect"
        in readings(table, unit="heads")["raw"]
    )


def test_attention_unrelated_to_the_effect_predicts_nothing():
    rng = np.random.default_rng(11)
    table = judge({"raw": units(rng.permutation(16))}, costing(np.zeros(16)), margin=0.0)
    sentence = readings(table, unit="heads")["raw"]
    assert sentence.startswith("raw attention is not shown to predict the effect of cutting heads")
    assert "the effects themselves are noise" in sentence


def test_attention_to_what_does_not_matter_misleads():
    means = np.linspace(0, 2, 16)
    table = judge({"raw": units(-means)}, costing(means))
    assert readings(table, unit="heads")["raw"].startswith("raw attention misled")


def test_few_units_that_agree_by_luck_are_not_called_a_prediction():
    names, means = ["z1", "z2", "z3", "z4"], [0.0, 1.0, 2.0, 3.0]
    looked = units([0, 1, 2, 3], names)
    table = judge({"raw": looked}, costing(means, names=names))
    # Four units have 24 orders, two of which correlate perfectly: p = 1/12.
    assert table["p"].item() == pytest.approx(1 / 12)
    assert "is not shown to predict" in readings(table, unit="thoughts")["raw"]


def test_every_kind_of_attention_has_a_row_over_the_units_it_knows():
    means = np.linspace(0, 2, 16)
    kinds = {
        "raw": units(means),
        "value-weighted": units(means[:10], HEADS[:10]),
        "rolled out": units(np.where(np.arange(16) < 12, means, np.nan)),
    }
    table = judge(kinds, costing(means))
    assert table["n_units"].values.tolist() == [16, 10, 12]
    assert list(readings(table, unit="heads")) == list(kinds)


def test_units_are_matched_by_name_and_not_by_place():
    means = np.linspace(0, 2, 16)
    shuffled = units(means).isel(unit=np.random.default_rng(0).permutation(16))
    table = judge({"a": units(means), "b": shuffled}, costing(means))
    assert table["rho"].sel(attention="a").values == pytest.approx(table["rho"].sel(attention="b").values)
    assert table["p_holm"].values.tolist() == holm(table["p"]).values.tolist()


def test_verdicts_of_a_study_are_corrected_together():
    means = np.linspace(0, 2, 16)
    tables = {name: judge({"raw": units(means), "flat": units(-means)}, costing(means)) for name in ("zero", "mean")}
    together = judged_together(tables)
    expected = holm(xr.concat([table["p"] for table in tables.values()], "attention")).values
    np.testing.assert_array_equal(np.concatenate([table["p_holm"] for table in together.values()]), expected)
    assert (together["zero"]["p_holm"] > tables["zero"]["p_holm"]).all()
    assert judged_together({}) == {}


def test_failed_problems_are_left_out():
    means = np.linspace(0, 2, 16)
    whole = costing(means, n=60)
    holed = whole.copy()
    holed[5, 3] = np.nan
    table = judge({"raw": units(means)}, holed)
    loss = -np.nanmean(holed.values, axis=0)
    loss = np.where(loss < 0.05, 0.0, loss)
    assert table["rho"].item() == pytest.approx(grouped_rho(means, loss, [head[:2] for head in HEADS]))


def test_effects_below_the_margin_have_no_order():
    """Thirteen of fifteen edges cost less than a thousandth of a nat; which of them costs more is noise."""
    noise = np.concatenate([[1.0, 0.6], 1e-3 * np.random.default_rng(0).normal(size=14)])
    exact = np.concatenate([[1.0, 0.6], np.zeros(14)])
    looked = units(np.arange(16)[::-1])
    tables = [judge({"raw": looked}, costing(means, noise=0.0, n=40)) for means in (noise, exact)]
    assert tables[0]["rho"].item() == tables[1]["rho"].item() and tables[0]["n_above"] == 2
    assert tables[0]["p"].item() == tables[1]["p"].item()
    assert judge({"raw": looked}, costing(noise, noise=0.0, n=40), margin=0.0)["n_above"] == 16


def test_cuts_without_any_effect_leave_nothing_to_say():
    table = judge({"raw": units(np.arange(16))}, costing(np.zeros(16), noise=0.0))
    assert table["rho"].isnull().all() and table["precision"].isnull().all()
    assert "all 16 effects are below .05 nats" in readings(table, unit="heads")["raw"]


def test_a_verdict_needs_attention():
    with pytest.raises(OptionError, match="0 kinds of attention"):
        judge({}, costing(np.zeros(16)))


@pytest.mark.parametrize(
    ("number", "text"), [(0.414, ".41"), (-0.1, "−.10"), (1.0, "1.00"), (-0.001, ".00"), (np.nan, "undefined")]
)
def test_numbers_are_short(number, text):
    assert short(number) == text
