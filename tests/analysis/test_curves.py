import numpy as np
import pytest
from tests.analysis.effects_made import made_effects

from thoughtlens.analysis import ablation_curve, dose_response, summarise
from thoughtlens.errors import OptionError

N = 100
RIGHT = np.ones(N, dtype=bool)


def breaking(n):
    return np.arange(N) >= n


def summary_of(steps):
    """`steps[label]` problems of a hundred are broken by the cut of that label."""
    return summarise(
        made_effects({label: breaking(n) for label, n in steps.items()}, baseline=RIGHT), n_resamples=20, n_flips=20
    )


@pytest.fixture(scope="module")
def orders():
    return {"attention": ["a1", "a2", "a3"], "effect": ["e1", "e2", "e3"]}


@pytest.fixture(scope="module")
def curve(orders):
    chance = {f"random {r}": [f"r{r}1", f"r{r}2", f"r{r}3"] for r in range(4)}
    steps = {"a1": 0, "a2": 0, "a3": 60, "e1": 60, "e2": 60, "e3": 60}
    steps |= {
        label: n for r, labels in enumerate(chance.values()) for label, n in zip(labels, (10 * r, 30, 60), strict=True)
    }
    return ablation_curve(summary_of(steps), orders, chance)


def test_a_curve_begins_at_no_loss_and_follows_its_cuts(curve):
    estimate = curve["accuracy"].sel(value="estimate")
    np.testing.assert_allclose(estimate.sel(order="attention"), [0, 0, 0, -0.6], atol=1e-12)
    np.testing.assert_allclose(estimate.sel(order="effect"), [0, -0.6, -0.6, -0.6], atol=1e-12)
    assert curve["k"].values.tolist() == [0, 1, 2, 3]


def test_the_band_is_the_spread_of_random_orders(curve):
    band = curve["random_accuracy"].sel(k=1)
    np.testing.assert_allclose(band, [-0.15, -0.3, 0.0], atol=1e-12)


def test_an_order_is_placed_among_random_orders_by_its_area(curve):
    area, p = curve["area"].sel(outcome="accuracy"), curve["p"].sel(outcome="accuracy")
    np.testing.assert_allclose(area, [-0.2, -0.6], atol=1e-12)
    # All four random orders lose more, sooner, than the order by attention; none more than the one by effect.
    np.testing.assert_allclose(p, [5 / 5, 1 / 5])


def test_without_random_orders_there_is_no_band(orders):
    curve = ablation_curve(summary_of(dict.fromkeys(["a1", "a2", "a3", "e1", "e2", "e3"], 5)), orders, {})
    assert curve["random_kl"].isnull().all() and curve["p"].isnull().all()
    assert curve["n_random"] == 0


def test_forty_random_orders_have_a_band_of_95_percent():
    chance = {f"random {r}": [f"r{r}"] for r in range(101)}
    steps = {label: r for r, (label,) in enumerate(chance.values())} | {"a1": 50}
    curve = ablation_curve(summary_of(steps), {"attention": ["a1"]}, chance)
    spread = np.minimum(np.arange(101), N) / N
    np.testing.assert_allclose(
        curve["random_accuracy"].sel(k=1)[1:], [-np.quantile(spread, 0.975), -np.quantile(spread, 0.025)], atol=1e-12
    )


def test_orders_of_other_lengths_are_refused(orders):
    with pytest.raises(OptionError, match="expected one or more of one length"):
        ablation_curve(summary_of({"a1": 0}), orders, {"random": ["a1"]})


def test_a_dose_curve_goes_through_nothing_at_dose_0():
    summary = summary_of({"half": 10, "whole": 40, "other": 3})
    curve = dose_response(summary, {"L0H0": {1.0: "whole", 0.5: "half"}, "L0H1": {1.0: "other"}})
    estimate = curve["accuracy"].sel(value="estimate")
    np.testing.assert_allclose(estimate.sel(target="L0H0"), [0, -0.1, -0.4], atol=1e-12)
    np.testing.assert_allclose(estimate.sel(target="L0H1"), [0, np.nan, -0.03], atol=1e-12)
    assert curve["dose"].values.tolist() == [0, 0.5, 1]
