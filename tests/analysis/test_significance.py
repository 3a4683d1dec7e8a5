"""P-values against enumeration, scipy and closed forms."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from thoughtlens.analysis import (
    benjamini_hochberg,
    detectable_mean,
    detectable_proportion,
    holm,
    mcnemar,
    sign_flip_test,
)
from thoughtlens.analysis.significance import (
    detectable_one_way,
    equivalent_means,
    equivalent_proportions,
    flip_p_values,
    flipped_t,
    mcnemar_power,
    mean_p,
    sign_flips,
)
from thoughtlens.errors import OptionError


def over_problems(values, *dims: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values), dims=("problem", *dims))


def naive_t(values: np.ndarray) -> float:
    """Student's t corrected for skewness as Hall (1992) writes it, with scipy's moments."""
    n, skewness = len(values), scipy.stats.skew(values)
    t = np.sqrt(n) * values.mean() / values.std()
    return t + skewness / np.sqrt(n) * (2 * t**2 + 1) / 6 + skewness**2 / n * t**3 / 27


def every_t(values: np.ndarray, **options) -> np.ndarray:
    """The corrected t of every flip, one flip and one cell at a time: (flips, cells)."""
    flips = sign_flips(len(values), **options).values
    return np.array([[naive_t(signs * column) for column in values.T] for signs in flips])


def test_signs_are_fair_and_independent_and_the_observed_are_first():
    flips = sign_flips(30, n_flips=20_000, seed=2).values
    assert (flips[0] == 1).all()
    assert (abs(flips) == 1).all()
    drawn = flips[1:].astype(float)
    # 20,000 draws: a mean and a correlation wander by 0.007.
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), np.eye(30), atol=0.035)
    np.testing.assert_allclose(drawn.mean(0), 0.0, atol=0.035)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_p_is_that_of_naive_flips_and_max_t_their_largest(alternative):
    values = np.random.default_rng(1).exponential([0.5, 1.0, 3.0], size=(24, 3)) - [0.3, 0.7, 2.4]
    found = sign_flip_test(over_problems(values, "cell"), alternative=alternative, n_flips=150, seed=3)
    t = every_t(values, n_flips=150, seed=3)
    t = np.abs(t) if alternative == "two-sided" else t
    np.testing.assert_allclose(found["p"], (t >= t[0] - 1e-9).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["p_familywise"], (t.max(1)[:, None] >= t[0] - 1e-9).mean(0), rtol=1e-12)
    assert (found["p_familywise"] > found["p"]).any()
    np.testing.assert_allclose(found["mean"], values.mean(0), atol=1e-12)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_p_comes_near_scipys_where_differences_are_symmetric(alternative):
    values = np.random.default_rng(0).normal(0.3, size=(22, 3))
    found = sign_flip_test(over_problems(values, "cell"), alternative=alternative)["p"]
    for cell in range(3):
        oracle = scipy.stats.permutation_test(
            (values[:, cell],), np.mean, permutation_type="samples", n_resamples=9_999, alternative=alternative, rng=1
        )
        # Shares of 10,000 draws wander by 0.005; a sample of 22 has some skewness by chance.
        assert found[cell].item() == pytest.approx(oracle.pvalue, abs=0.03)


def test_a_family_may_be_some_dims_alone():
    values = over_problems(np.random.default_rng(2).normal(0.2, size=(20, 2, 3)), "layer", "head")
    found = sign_flip_test(values, family=("head",), n_flips=500)["p_familywise"]
    for layer in range(2):
        alone = sign_flip_test(values[:, layer], n_flips=500)["p_familywise"]
        np.testing.assert_allclose(found[layer], alone, rtol=1e-12)


def test_p_is_never_below_one_of_all_flips():
    """Of 40 problems all alike, 2 of 10¹² flips reach the mean: none of 500 does."""
    for values in (np.ones(40), 1.0 + np.random.default_rng(0).random(40)):
        found = sign_flip_test(over_problems(values), n_flips=500)
        assert found["p"].item() == found["p_familywise"].item() == pytest.approx(1 / 501)


def test_below_twenty_problems_there_is_no_p():
    values = np.random.default_rng(5).normal(2.0, size=(25, 2))
    values[19:, 0] = np.nan
    found = sign_flip_test(over_problems(values, "cell"), n_flips=99)
    assert found["n"].values.tolist() == [19, 25]
    for name in ("p", "p_familywise"):
        assert np.isnan(found[name][0])
        assert found[name][1].item() == pytest.approx(0.01)


def test_skewed_differences_are_not_taken_for_effects():
    """Of 500 samples of 50 log-normal differences of mean 0, flips of the plain mean reject 11 %, Student's t too."""
    rng = np.random.default_rng(7)
    values = over_problems(rng.lognormal(size=(50, 500)) - np.exp(0.5), "sample")
    p = flip_p_values(flipped_t(values, sign_flips(50, n_flips=400), 50))
    # 500 trials at a rate of 0.07: standard error 0.011.
    assert 0.03 <= (p <= 0.05).mean() <= 0.09
    assert (scipy.stats.ttest_1samp(values, 0).pvalue <= 0.05).mean() > 0.1


def test_one_sided_p_of_a_mean_is_scipys_where_there_is_no_skewness():
    half = np.random.default_rng(3).normal(size=(15, 4))
    values = np.concatenate([half, -half]) + np.array([0.0, 0.1, 0.3, -0.2])
    found = mean_p(*(over_problems(values**power, "cell").sum("problem") for power in (1, 2, 3)), 30)
    np.testing.assert_allclose(found, scipy.stats.ttest_1samp(values, 0, alternative="greater").pvalue, rtol=1e-6)


def test_one_sided_p_of_problems_that_are_alike_is_that_of_their_signs():
    for value, expected in ((1.0, 0.5**16), (-1.0, 1.0), (0.0, 1.0)):
        sums = [xr.DataArray(16 * value**power) for power in (1, 2, 3)]
        assert mean_p(*sums, 16).item() == expected


def test_familywise_error_is_kept_where_nothing_differs():
    rng = np.random.default_rng(4)
    values = over_problems(rng.normal(size=(20, 300, 10)), "trial", "cell")
    false = (sign_flip_test(values, family=("cell",), n_flips=199)["p_familywise"] <= 0.05).any("cell").mean().item()
    # 300 trials at a rate of 0.05: standard error 0.013.
    assert 0.02 <= false <= 0.09


def test_missing_problems_are_left_out():
    values = np.random.default_rng(5).normal(0.4, size=28)
    with_gaps = np.concatenate([values[:3], [np.nan], values[3:], [np.nan]])
    found = sign_flip_test(over_problems(with_gaps), n_flips=200)
    assert found["n"] == 28
    flips = sign_flips(30, n_flips=200).values
    kept = np.isfinite(with_gaps)
    t = np.abs([naive_t(signs[kept] * values) for signs in flips])
    assert found["p"].item() == pytest.approx((t >= t[0] - 1e-9).mean(), abs=1e-12)


def test_no_difference_at_all_is_no_evidence():
    found = sign_flip_test(over_problems(np.zeros((30, 2)), "cell"))
    assert (found["p"] == 1).all()
    assert sign_flip_test(over_problems(np.full((5, 2), np.nan), "cell"))["p"].isnull().all()


P_VALUES = arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1))


@given(P_VALUES)
@settings(deadline=None)
def test_q_values_are_scipys(p):
    np.testing.assert_allclose(
        benjamini_hochberg(xr.DataArray(p, dims="head")), scipy.stats.false_discovery_control(p), rtol=1e-12
    )


@given(arrays.arrays(np.float64, st.integers(1, 7), elements=st.floats(0, 1)))
@settings(max_examples=60, deadline=None)
def test_holm_is_the_closed_test_of_bonferroni(p):
    """An adjusted p-value is the largest Bonferroni p of all sets of hypotheses that contain its own."""
    members = [np.array(inside, dtype=bool) for inside in product((0, 1), repeat=len(p)) if any(inside)]
    bonferroni = [min(1.0, inside.sum() * p[inside].min()) for inside in members]
    expected = [
        max(value for value, inside in zip(bonferroni, members, strict=True) if inside[i]) for i in range(len(p))
    ]
    np.testing.assert_allclose(holm(xr.DataArray(p, dims="cut")), expected, rtol=1e-12)


@pytest.mark.parametrize("correct", [benjamini_hochberg, holm])
def test_corrections_keep_labels_and_leave_nan_out(correct):
    p = xr.DataArray(
        [[0.01, np.nan, 0.03], [0.2, 0.001, np.nan]], dims=("layer", "head"), coords={"layer": [3, 5], "head": range(3)}
    )
    found = correct(p)
    known = np.isfinite(p.values)
    assert (found.isnull() == p.isnull()).all()
    np.testing.assert_allclose(found.values[known], correct(xr.DataArray(p.values[known], dims="i")))
    by_layer = correct(p, over=("head",))
    assert by_layer.dims == p.dims
    np.testing.assert_allclose(by_layer.sel(layer=5), correct(p.sel(layer=5)))
    assert correct(p.isel(head=[1], layer=[0])).isnull().all()


@given(lost=st.integers(0, 30), gained=st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_mcnemar_is_an_enumeration_of_fair_coins(lost, gained):
    before = np.repeat([True, False, True, False], [lost, gained, 4, 3])
    after = np.repeat([False, True, True, False], [lost, gained, 4, 3])
    found = mcnemar(over_problems(before), over_problems(after))
    m = lost + gained
    heads = np.arange(m + 1)
    share = np.array([scipy.special.comb(m, k) for k in heads]) / 2.0**m
    expected = share[np.abs(heads - m / 2) >= abs(lost - m / 2) - 1e-9].sum()
    assert (found["lost"].item(), found["gained"].item(), found["n"].item()) == (lost, gained, m + 7)
    assert found["p"].item() == pytest.approx(expected, rel=1e-9)


def test_mcnemar_pairs_one_baseline_with_many_cuts():
    rng = np.random.default_rng(6)
    before, after = rng.random(50) < 0.8, rng.random((3, 50)) < 0.5
    found = mcnemar(over_problems(before), xr.DataArray(after, dims=("cut", "problem"), coords={"cut": list("abc")}))
    for cut in range(3):
        alone = mcnemar(over_problems(before), over_problems(after[cut]))
        assert found["p"].isel(cut=cut).item() == alone["p"].item()


def test_a_detectable_mean_is_detected_as_often_as_it_says():
    delta = detectable_mean(2.0, 60, power=0.8)
    draws = np.random.default_rng(7).normal(delta, 2.0, size=(20_000, 60))
    z = draws.mean(1) / (2.0 / 60**0.5)
    # 20,000 trials: a share wanders by 0.003.
    assert (np.abs(z) > scipy.stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.012)


def power_by_enumeration(discordant, difference, n, alpha):
    """Every count of lost and gained problems, its probability, and whether scipy's exact test finds it."""
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    counts = [(lost, gained, n - lost - gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]
    found = [
        lost + gained > 0 and scipy.stats.binomtest(lost, lost + gained).pvalue <= alpha for lost, gained, _ in counts
    ]
    return scipy.stats.multinomial.pmf(counts, n, shares)[found].sum()


@pytest.mark.parametrize(("discordant", "difference", "n"), [(0.5, 0.4, 24), (0.3, 0.3, 20), (0.9, 0.1, 12)])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_power_is_that_of_every_outcome(discordant, difference, n, alpha):
    expected = power_by_enumeration(discordant, difference, n, alpha)
    assert mcnemar_power(discordant, difference, n, alpha=alpha) == pytest.approx(expected, abs=1e-9)


def test_six_discordant_problems_are_not_enough():
    """With six lost on average, the exact test finds a loss little more often than not."""
    assert mcnemar_power(0.06, 0.06, 100) == pytest.approx(0.56, abs=0.01)
    assert mcnemar_power(detectable_one_way(100), detectable_one_way(100), 100) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(("discordant", "n", "alpha"), [(0.2, 200, 0.05), (0.1, 500, 0.05 / 59), (1.0, 30, 0.05)])
def test_a_detectable_proportion_is_detected_as_often_as_it_says(discordant, n, alpha):
    delta = detectable_proportion(discordant, n, alpha=alpha)
    shares = [(discordant + delta) / 2, (discordant - delta) / 2, 1 - discordant]
    lost, gained, _ = np.random.default_rng(8).multinomial(n, shares, size=20_000).T
    exact = np.minimum(1.0, 2 * scipy.stats.binom.sf(np.maximum(lost, gained) - 1, lost + gained, 0.5))
    # 20,000 trials: a share wanders by 0.003.
    assert (exact <= alpha).mean() == pytest.approx(0.8, abs=0.012)


def test_too_few_problems_detect_no_proportion():
    assert np.isnan(detectable_proportion(0.05, 20))


def test_impossible_questions_are_refused():
    with pytest.raises(OptionError, match="a p-value needs at least one"):
        sign_flips(0)
    with pytest.raises(OptionError, match=r"alpha 5"):
        detectable_mean(1.0, 10, alpha=5)
    with pytest.raises(OptionError, match=r"discordant share is 1\.2"):
        detectable_proportion(1.2, 10)


@pytest.mark.parametrize("n", [50, 200, 500])
def test_no_effect_is_rarely_said_of_an_effect_as_large_as_the_margin(n):
    """Of a population in which few problems lose much, most samples of twenty show nothing but noise."""
    rng = np.random.default_rng(n)
    rare = np.where(rng.random((n, 200)) < 0.05, -1.0, rng.normal(0, 0.01, (n, 200)))
    heavy = -rng.lognormal(np.log(0.05) - 0.5 * 1.5**2, 1.5, (n, 200))
    for losses in (rare, heavy, rng.normal(-0.05, 0.2, (n, 200))):
        said = equivalent_means(over_problems(losses, "sample"), 0.05, n_resamples=200)
        # Two hundred samples at a rate of .05: a standard error of .015.
        assert said.mean() <= 0.085


def test_no_effect_is_said_of_effects_that_are_small_and_not_of_too_few():
    rng = np.random.default_rng(0)
    small = over_problems(rng.normal(0.002, 0.1, (500, 20)), "cut")
    assert equivalent_means(small, 0.05).mean() > 0.9
    assert not equivalent_means(small[:199], 0.05).any()
    single = xr.zeros_like(small)
    single[0] = 0.4
    assert not equivalent_means(single, 0.05).any()


@pytest.mark.parametrize("n", [133, 200, 500])
def test_no_effect_on_accuracy_is_rarely_said_of_a_loss_as_large_as_the_margin(n):
    for gained in (0.0, 0.01):
        counts = np.random.default_rng(1).multinomial(n, [0.02 + gained, gained, 0.98 - 2 * gained], size=5000)
        assert equivalent_proportions(counts[:, 0], counts[:, 1], n, 0.02).mean() <= 0.075
