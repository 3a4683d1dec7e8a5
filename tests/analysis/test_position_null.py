"""Key effects against closed forms, least squares by scipy, and on heads that look by lag alone."""

import numpy as np
import pytest
import xarray as xr
from scipy.linalg import lstsq

from thoughtlens.analysis import analysis_tables, analyze, key_effects, resample_weights
from thoughtlens.analysis.nulls import position_effects

T = 6
NAMES = [f"z{number}" for number in range(1, T + 1)]
RNG = np.random.default_rng(0)


NOTHING = np.zeros(T)


def log_linear(key=NOTHING, lag=NOTHING, n_thoughts=T) -> xr.DataArray:
    """exp(row + lag + key) below the diagonal, with rows that have nothing in common."""
    q, k = np.indices((n_thoughts, n_thoughts))
    logs = np.array([-1.0, 0.3, -2.0, 0.7, -0.5, 0.1, 0.9])[:n_thoughts, None] + lag[np.maximum(q - k, 0)] + key[k]
    names = [f"z{number}" for number in range(1, n_thoughts + 1)]
    values = np.where(q > k, np.exp(logs), 0.0)
    return xr.DataArray(values, dims=("query", "key"), coords={"query": names, "key": names})


def test_an_effect_is_what_a_key_has_beyond_the_line_through_all_keys():
    key = np.array([0.4, -0.2, 1.1, 0.0, -0.6, 9.0])
    line = np.polynomial.Polynomial.fit(np.arange(T - 1), key[:-1], 1)(np.arange(T - 1))
    found = key_effects(log_linear(key, lag=RNG.normal(size=T)))
    np.testing.assert_allclose(found[:-1], key[:-1] - line, atol=1e-9)
    assert np.isnan(found[-1])


def test_any_solution_of_the_model_has_the_same_effects():
    """Least squares by scipy, of noisy cells, with a line of any slope given to rows, lags and keys."""
    cells = log_linear() * np.exp(RNG.normal(size=(T, T)))
    q, k = (places[1:] for places in np.tril_indices(T, k=-1))
    dummies = np.column_stack([np.eye(T)[q], np.eye(T)[q - k], np.eye(T)[k]])
    key = lstsq(dummies, np.log(cells.values[q, k]))[0][2 * T : 3 * T - 1]
    for slope in (0.0, 2.0):
        tilted = key + slope * np.arange(T - 1)
        line = np.polynomial.Polynomial.fit(np.arange(T - 1), tilted, 1)(np.arange(T - 1))
        np.testing.assert_allclose(key_effects(cells)[:-1], tilted - line, atol=1e-9)


def test_a_head_that_looks_one_thought_back_has_no_key_effect(plant_attention):
    follow = {f"z{number + 1}": f"z{number}" for number in range(1, T)}
    dataset = plant_attention(lambda q, k: 30.0 if follow.get(q) == k else 1.0, n_problems=25)
    found = analyze(dataset, n_resamples=20)
    # Its preference for z5 is large all the same, since z6 is all that sees it.
    assert found.model["preference"].sel(thought="z5", value="estimate") > 3
    assert (found.position_null["effect"] == 0.0).all()
    assert (found.position_null["p"] == 1.0).all()


def test_a_hub_has_the_effect_that_its_strength_leaves_beyond_the_line(plant_attention):
    dataset = plant_attention(lambda q, k: 9.0 if k == "z2" else 1.0, n_problems=25)
    found = analyze(dataset, n_resamples=20)
    effect = found.position_null["effect"].sel(value="estimate")
    # The leverage of the second of five points on their line is .3.
    assert effect.sel(key="z2").item() == pytest.approx(0.7 * np.log(9.0), rel=1e-4)
    assert effect.values.argmax() == 1
    assert found.position_null["p"].sel(key="z2") < 1e-6
    table = analysis_tables(found)["position_null"]
    assert list(table) == ["key", "effect", "low", "high", "p", "n"]
    assert table["key"].tolist() == NAMES[:-1]
    assert (table["n"] == 25).all()


def test_noise_of_problems_is_not_taken_for_an_effect():
    """Of 200 runs of 60 problems whose rows look by lag alone, each problem in its own way."""
    n, runs = 60, 200
    means = log_linear(lag=np.array([0, 2, 0.5, 0, 0, 0])).values
    values = means * np.exp(RNG.normal(0, 0.6, size=(n, runs, T, T)))
    weights = resample_weights(n, n_resamples=200).values
    samples = np.tensordot(weights, values, (1, 0)) / n
    dims = ("resample", "run", "query", "key")
    found = position_effects(xr.DataArray(samples, dims=dims, coords={"query": NAMES, "key": NAMES}), n)
    # 200 trials of five keys at a rate of 0.05.
    assert 0.02 <= (found["p"] <= 0.05).mean() <= 0.08
    low, high = (found["effect"].sel(value=name) for name in ("low", "high"))
    assert 0.9 <= ((low <= 0) & (high >= 0)).mean() <= 0.98


def test_too_few_thoughts_or_problems_say_nothing(make_attention):
    assert key_effects(log_linear(n_thoughts=3)).isnull().all()
    assert key_effects(log_linear(n_thoughts=4))[:-1].notnull().all()
    found = analyze(make_attention(n_problems=19), n_resamples=20).position_null
    assert found["effect"].notnull().all()
    assert found["p"].isnull().all()
