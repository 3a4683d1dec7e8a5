import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from thoughtlens.analysis import (
    bootstrap_mean,
    bootstrap_ratio,
    interval,
    intervals,
    proportion_interval,
    resample_weights,
    spearman,
)
from thoughtlens.analysis.intervals import (
    bootstrap_t,
    effective_size,
    paired_difference_interval,
    shrunk,
    weighted_sums,
)
from thoughtlens.errors import OptionError


def problems(values):
    values = np.asarray(values)
    return xr.DataArray(values, dims=("problem", *(f"dim{i}" for i in range(1, values.ndim))))


def test_each_resample_draws_as_many_problems_as_there_are():
    weights = resample_weights(37, n_resamples=50)
    assert (weights.sum("problem") == 37).all()
    assert (weights.isel(resample=0) == 1).all()


def test_draws_are_multinomial():
    weights = resample_weights(20, n_resamples=20_000).values[1:].astype(float)
    # Multinomial: mean 1, variance 1 − 1/n, covariance −1/n; 20,000 draws are good to about 3 %.
    covariance = np.cov(weights.T)
    np.testing.assert_allclose(weights.mean(0), 1.0, atol=0.03)
    np.testing.assert_allclose(np.diag(covariance), 1 - 1 / 20, atol=0.06)
    np.testing.assert_allclose(covariance[~np.eye(20, dtype=bool)].mean(), -1 / 20, atol=0.005)


def test_weights_of_blocks_add_up():
    values = problems(np.random.default_rng(0).normal(size=(11, 3)))
    weights = resample_weights(11, n_resamples=9)
    parts = [weighted_sums(values[s], weights[:, s]) for s in (slice(0, 4), slice(4, 11))]
    np.testing.assert_allclose(parts[0] + parts[1], weights.values.astype(float) @ values.values, atol=1e-12)


def test_ratio_interval_is_scipys():
    rng = np.random.default_rng(3)
    below = rng.gamma(2.0, size=200)
    above = 0.7 * below + rng.normal(size=200, scale=0.3)
    found = bootstrap_ratio(problems(above), problems(below), n_resamples=20_000)
    oracle = scipy.stats.bootstrap(
        (above, below),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=rng,
    )
    assert found.sel(value="estimate").item() == pytest.approx(above.sum() / below.sum(), rel=1e-12)
    # Monte Carlo error of a 2.5 % quantile of 20,000 resamples: about 2 % of the interval's width.
    width = oracle.confidence_interval.high - oracle.confidence_interval.low
    assert found.sel(value="low").item() == pytest.approx(oracle.confidence_interval.low, abs=0.03 * width)
    assert found.sel(value="high").item() == pytest.approx(oracle.confidence_interval.high, abs=0.03 * width)


def test_mean_interval_is_scipys_for_every_cell():
    values = np.random.default_rng(4).exponential(size=(150, 2, 3))
    found = bootstrap_mean(problems(values), n_resamples=20_000)
    oracle = scipy.stats.bootstrap((values,), np.mean, axis=0, n_resamples=5_000, method="percentile", rng=1, batch=500)
    np.testing.assert_allclose(found.sel(value="estimate"), values.mean(0), rtol=1e-12)
    # Half-widths are 0.16; quantiles of 5,000 resamples wander by 0.004.
    np.testing.assert_allclose(found.sel(value="low"), oracle.confidence_interval.low, atol=0.012)
    np.testing.assert_allclose(found.sel(value="high"), oracle.confidence_interval.high, atol=0.012)


def test_interval_covers_the_truth_as_often_as_it_says():
    """2,000 samples of 80 normals, side by side as cells; the percentile interval is a little short at n = 80."""
    values = problems(np.random.default_rng(5).normal(loc=2.0, size=(80, 2000)))
    found = bootstrap_mean(values, n_resamples=1000)
    covered = (found.sel(value="low") <= 2.0) & (found.sel(value="high") >= 2.0)
    assert 0.92 <= covered.mean().item() <= 0.965


def test_ratio_interval_covers_the_truth():
    rng = np.random.default_rng(6)
    below = rng.gamma(3.0, size=(120, 1500))
    above = 1.3 * below * rng.uniform(0.5, 1.5, size=below.shape)
    found = bootstrap_ratio(problems(above), problems(below), confidence=0.9)
    covered = (found.sel(value="low") <= 1.3) & (found.sel(value="high") >= 1.3)
    assert 0.87 <= covered.mean().item() <= 0.92


def test_same_seed_same_interval_and_another_seed_another():
    values = problems(np.random.default_rng(0).normal(size=40))
    once, again, other = (bootstrap_mean(values, seed=seed) for seed in (1, 1, 2))
    xr.testing.assert_identical(once, again)
    assert not once.equals(other)


def test_chunks_of_cells_do_not_change_the_interval(monkeypatch):
    values = problems(np.random.default_rng(0).normal(size=(20, 3, 5)))
    whole = bootstrap_mean(values, n_resamples=50)
    monkeypatch.setattr(intervals, "CHUNK_CELLS", 120)
    # One matrix product or many may round differently.
    xr.testing.assert_allclose(bootstrap_mean(values, n_resamples=50), whole, rtol=1e-12)


def test_labels_and_dims_survive():
    values = xr.DataArray(
        np.random.default_rng(0).normal(size=(3, 10, 2)),
        dims=("layer", "problem", "part"),
        coords={"layer": [0, 1, 2], "part": ["a", "b"]},
    )
    found = bootstrap_mean(values)
    assert found.dims == ("layer", "part", "value")
    np.testing.assert_allclose(found.sel(part="b", value="estimate"), values.sel(part="b").mean("problem"))


def test_one_denominator_serves_many_numerators():
    rng = np.random.default_rng(0)
    above, below = problems(rng.normal(size=(30, 4))), problems(rng.gamma(2.0, size=30))
    found = bootstrap_ratio(above, below)
    np.testing.assert_allclose(found.sel(value="estimate"), above.values.sum(0) / below.values.sum(), rtol=1e-12)


def test_missing_problems_are_left_out_of_both_sums():
    above, below = problems([1.0, np.nan, 3.0, 4.0]), problems([2.0, 100.0, np.nan, 4.0])
    assert bootstrap_ratio(above, below).sel(value="estimate").item() == pytest.approx(5 / 6)


def test_resamples_without_a_value_are_left_out_of_the_interval():
    values = problems([1.0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(bootstrap_mean(values), [1.0, 1.0, 1.0])


def test_nothing_known_gives_nan():
    assert bootstrap_mean(problems([np.nan, np.nan])).isnull().all()
    assert bootstrap_ratio(problems([1.0, 2.0]), problems([0.0, 0.0])).isnull().all()


def test_one_problem_gives_an_interval_without_width():
    np.testing.assert_array_equal(bootstrap_mean(problems([0.25])), [0.25] * 3)


def test_no_cells_give_no_cells():
    assert bootstrap_mean(problems(np.ones((4, 0)))).shape == (0, 3)


@pytest.mark.parametrize(("n", "n_resamples"), [(0, 10), (10, 0)])
def test_nothing_to_resample_is_an_error(n, n_resamples):
    with pytest.raises(OptionError, match="at least one"):
        resample_weights(n, n_resamples=n_resamples)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, float("nan")])
def test_impossible_confidence_is_an_error(confidence):
    samples = xr.DataArray(np.zeros(3), dims="resample")
    with pytest.raises(OptionError, match="between 0 and 1"):
        interval(samples, confidence=confidence)
    with pytest.raises(OptionError, match="between 0 and 1"):
        proportion_interval(1, 2, confidence=confidence)


@given(n=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
@settings(deadline=None)
def test_wilson_interval_is_scipys(n, share, confidence):
    n_true = round(share * n)
    oracle = scipy.stats.binomtest(n_true, n).proportion_ci(confidence_level=confidence, method="wilson")
    estimate, low, high = proportion_interval(n_true, n, confidence=confidence).values
    assert (estimate, low, high) == pytest.approx((n_true / n, oracle.low, oracle.high), abs=1e-12)
    assert 0 <= low <= estimate <= high <= 1


@given(arrays.arrays(np.float64, (2, 3, 7), elements=st.integers(0, 4).map(float)))
@settings(deadline=None)
def test_spearman_is_scipys_with_ties_in_every_row(values):
    for found, first, second in zip(spearman(*values), *values, strict=True):
        alike = np.ptp(first) == 0 or np.ptp(second) == 0
        oracle = np.nan if alike else scipy.stats.spearmanr(first, second).statistic
        assert found == pytest.approx(oracle, abs=1e-12, nan_ok=True)


def test_spearman_of_what_is_unknown_or_nothing_is_nan():
    assert np.isnan(spearman([1.0, np.nan, 3.0], [1.0, 2.0, 3.0]))
    assert np.isnan(spearman([], []))


def test_all_of_ten_is_not_certainty():
    assert proportion_interval(10, 10).sel(value="low").item() == pytest.approx(0.722, abs=1e-3)


def test_a_proportion_of_nothing_is_nan():
    assert proportion_interval(0, 0).isnull().all()


def test_the_score_interval_is_that_of_a_published_example():
    """Airway hyper-responsiveness before and after a transplant: 7 of 21 children one way, 1 the other."""
    # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33: Tango's interval is −.517 to −.026.
    found = paired_difference_interval(7, 1, 21)
    np.testing.assert_allclose(found, [-6 / 21, -0.517, -0.026], atol=5e-4)


@pytest.mark.parametrize(("lost", "gained", "n"), [(7, 1, 21), (0, 0, 30), (3, 0, 100), (0, 4, 9), (40, 38, 500)])
def test_the_score_interval_inverts_the_score_test(lost, gained, n):
    """At each end the score statistic, of the most likely multinomial with that difference, is the quantile."""

    def score(delta):
        def surprise(q):
            shares = [q, q + delta, 1 - 2 * q - delta]
            return -scipy.special.xlogy([lost, gained, n - lost - gained], shares).sum()

        low, high = max(0.0, -delta), (1 - delta) / 2
        q = scipy.optimize.minimize_scalar(surprise, (low, high), bounds=(low, high), options={"xatol": 1e-12}).x
        return abs(gained - lost - n * delta) / np.sqrt(n * (2 * q + delta - delta**2))

    for confidence in (0.9, 0.95):
        ends = paired_difference_interval(lost, gained, n, confidence=confidence)[1:]
        z = scipy.stats.norm.ppf((1 + confidence) / 2)
        assert [score(end) for end in ends] == pytest.approx([z, z], rel=1e-4)


def test_the_score_interval_covers_a_loss_that_rarely_shows():
    """One problem of a hundred is lost: of all samples of a hundred a third shows nothing."""
    lost = np.random.default_rng(0).binomial(100, 0.01, size=4000)
    _, low, high = paired_difference_interval(lost, 0, 100).T
    assert ((low <= -0.01) & (high >= -0.01)).mean() > 0.92


def test_bootstrap_t_is_that_of_a_loop():
    values = np.random.default_rng(1).exponential(size=12)
    found = bootstrap_t(xr.DataArray(values, dims="problem"), n_resamples=200, seed=4).values
    weights = resample_weights(12, n_resamples=200, seed=4).values[1:]
    drawn = [np.repeat(values, row) for row in weights]
    t = [(its.mean() - values.mean()) / its.std() for its in drawn]
    low, high = values.mean() - np.quantile(t, [0.975, 0.025]) * values.std()
    assert found == pytest.approx([values.mean(), max(low, values.min()), min(high, values.max())])


def test_bootstrap_t_covers_the_mean_of_a_skewed_population():
    """A tenth of the problems loses much: percentiles of the mean cover too little, and the bootstrap-t enough."""
    rng = np.random.default_rng(0)
    losses = np.where(rng.random((100, 500)) < 0.2, -rng.exponential(1.0, (100, 500)), 0.0)
    values = xr.DataArray(losses, dims=("problem", "sample"))
    held = [
        ((its.sel(value="low") <= -0.2) & (its.sel(value="high") >= -0.2)).mean().item()
        for its in (bootstrap_t(values), bootstrap_mean(values))
    ]
    # 500 samples: a share of .95 wanders by .01.
    assert held[0] > 0.93 and held[0] > held[1]


def test_bootstrap_t_leaves_missing_problems_out():
    values = np.random.default_rng(5).normal(size=30)
    holed = np.concatenate([[np.nan], values, [np.nan]])
    found = bootstrap_t(xr.DataArray(holed, dims="problem"), n_resamples=4000)
    np.testing.assert_allclose(found, bootstrap_t(xr.DataArray(values, dims="problem"), n_resamples=4000), atol=0.03)
    assert found[0] == pytest.approx(values.mean())
    assert bootstrap_t(xr.DataArray(np.full(3, np.nan), dims="problem")).isnull().all()


@pytest.mark.parametrize(("values", "size"), [([1, -1, 1, 1], 4), ([5, 0, 0], 1), ([0, 0], 0), ([2, np.nan, 2], 2)])
def test_the_effective_size_counts_the_values_that_carry_a_sum(values, size):
    assert effective_size(values) == pytest.approx(size)


def test_shrinking_has_the_error_of_the_posterior():
    """Where effects and noise are normal, the squared error falls from σ² to σ²τ²/(σ² + τ²)."""
    rng = np.random.default_rng(0)
    truth = rng.normal(1.0, 0.5, size=(100, 40))
    raw = truth + rng.normal(size=truth.shape)
    found = [shrunk(row, np.ones(40), k=5, n_draws=400) for row in raw]
    error = np.mean([(values - true) ** 2 for (values, _), true in zip(found, truth, strict=True)])
    assert error == pytest.approx(0.2, abs=0.06) and np.mean((raw - truth) ** 2) > 0.9
    chances = np.array([chance for _, chance in found])
    among = np.argsort(np.argsort(truth, axis=1), axis=1) < 5
    # A chance is the share of heads with that chance that are among the five.
    likely = chances > 0.3
    assert among[likely].mean() == pytest.approx(chances[likely].mean(), abs=0.08)
