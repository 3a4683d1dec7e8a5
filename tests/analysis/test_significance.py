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
    mcnemar_power,
    sign_flips,
    studentised,
)
from thoughtlens.analysis.statistics import weighted_sums
from thoughtlens.errors import OptionError


def over_problems(values, *dims: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values), dims=("problem", *dims))


def every_t(values: np.ndarray) -> np.ndarray:
    """Student's t of every sign pattern, one pattern at a time: (patterns, cells)."""
    patterns = product((1, -1), repeat=len(values))
    return np.array([scipy.stats.ttest_1samp(np.array(signs)[:, None] * values, 0).statistic for signs in patterns])


@pytest.mark.parametrize("n", [1, 5, 12])
def test_few_problems_have_every_flip_once_and_the_observed_first(n):
    flips = sign_flips(n).values
    assert {tuple(row) for row in flips} == set(product((1, -1), repeat=n))
    assert (flips[0] == 1).all()


def test_many_problems_have_fair_and_independent_signs():
    flips = sign_flips(30, n_flips=20_000, seed=2).values[1:].astype(float)
    # 20,000 draws: a mean and a correlation wander by 0.007.
    np.testing.assert_allclose(flips.T @ flips / len(flips), np.eye(30), atol=0.035)
    np.testing.assert_allclose(flips.mean(0), 0.0, atol=0.035)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_p_is_that_of_scipys_enumeration(alternative):
    values = np.random.default_rng(0).normal(0.4, size=(9, 4))
    found = sign_flip_test(over_problems(values, "cell"), alternative=alternative)
    for cell in range(4):
        oracle = scipy.stats.permutation_test(
            (values[:, cell],), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
        )
        assert found["p"][cell].item() == pytest.approx(oracle.pvalue, abs=1e-12)
        assert found["mean"][cell].item() == pytest.approx(values[:, cell].mean(), abs=1e-12)


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_max_t_is_that_of_brute_force(alternative):
    values = np.random.default_rng(1).normal(0.5, [0.5, 1.0, 3.0], size=(8, 3))
    found = sign_flip_test(over_problems(values, "cell"), alternative=alternative)
    t = every_t(values)
    t = np.abs(t) if alternative == "two-sided" else t
    expected = (t.max(1)[:, None] >= t[0] - 1e-9).mean(0)
    np.testing.assert_allclose(found["p_familywise"], expected, rtol=1e-12)
    assert (found["p_familywise"] > found["p"]).any()


def test_a_family_may_be_some_dims_alone():
    values = over_problems(np.random.default_rng(2).normal(0.4, size=(8, 2, 3)), "layer", "head")
    found = sign_flip_test(values, family=("head",))["p_familywise"]
    for layer in range(2):
        np.testing.assert_allclose(found[layer], sign_flip_test(values[:, layer])["p_familywise"], rtol=1e-12)


def test_drawn_flips_come_near_the_enumeration():
    values = np.random.default_rng(3).normal(0.3, size=(14, 5))
    found = sign_flip_test(over_problems(values, "cell"), n_flips=20_000)["p"]
    signs = 1 - 2 * (np.arange(2**14)[:, None] >> np.arange(14) & 1)
    sums = np.abs(signs @ values)
    # A share of 20,000 wanders by 0.0035 at most.
    np.testing.assert_allclose(found, (sums >= sums[0] - 1e-9).mean(0), atol=0.012)


def test_p_beyond_the_drawn_flips_is_bounded_and_never_too_small():
    """Of 16 problems all alike, 2 of 65,536 flips reach the mean: too few to be drawn among 500."""
    flips = sign_flips(16, n_flips=500, seed=0)
    values = over_problems(np.ones(16))
    z = studentised(weighted_sums(values, flips), (values**2).sum("problem"))
    found = flip_p_values(z).item()
    assert found == pytest.approx(2 * np.exp(-8))
    assert 2 / 2**16 <= found < 1 / 501


def test_familywise_error_is_kept_where_nothing_differs():
    rng = np.random.default_rng(4)
    tested = [sign_flip_test(over_problems(rng.normal(size=(20, 10)), "cell"), n_flips=199) for _ in range(300)]
    false = np.mean([(found["p_familywise"] <= 0.05).any() for found in tested])
    # 300 trials at a rate of 0.05: standard error 0.013.
    assert 0.02 <= false <= 0.09


def test_missing_problems_are_left_out():
    values = np.random.default_rng(5).normal(0.4, size=8)
    with_gaps = np.concatenate([values[:3], [np.nan], values[3:], [np.nan]])
    full, gaps = (sign_flip_test(over_problems(each)) for each in (values, with_gaps))
    assert gaps["n"] == 8
    assert gaps["p"].item() == pytest.approx(full["p"].item(), abs=1e-12)


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
