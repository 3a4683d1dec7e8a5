"""What each measure has beyond its null, against plain counting, enumeration and what is known of uniform attention."""

import itertools

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from thoughtlens.analysis import analyze
from thoughtlens.analysis.nulls import token_shares
from thoughtlens.analysis.significance import benjamini_hochberg, holm, mcnemar, sign_flip_test
from thoughtlens.labels import key_names, query_names
from thoughtlens.schema import attention_dataset


def uniform_run(n_thoughts, n_problems=4):
    """Attention that is even over every token a query sees, questions of several lengths."""
    lengths = np.arange(5, 5 + n_problems)
    shape = (n_problems, 2, 2, len(query_names(n_thoughts)), len(key_names(n_thoughts)))
    attention = np.zeros(shape)
    for problem, length in enumerate(lengths):
        for query in range(n_thoughts + 3):
            seen = np.zeros(shape[-1])
            seen[0], seen[1] = 1, length - 1
            seen[2 : query + 3] = 1
            attention[problem, :, :, query] = seen / seen.sum()
    names = [f"p{k}" for k in range(n_problems)]
    return attention_dataset(attention, problem_ids=names, correct=np.ones(n_problems, bool), n_question_tokens=lengths)


@pytest.mark.parametrize("n_thoughts", [2, 3, 6, 24])
def test_uniform_attention_has_nothing_beyond_its_null(n_thoughts):
    run = uniform_run(n_thoughts)
    found = analyze(run, correct=run["correct"].values, n_resamples=20, n_flips=16)
    excess = found.evidence["excess"].sel(value="estimate")
    assert excess.notnull().any()
    assert float(np.abs(excess).max()) <= 1e-6
    assert set(found.evidence["type"].values.ravel()) == {"diffuse"}


def test_token_shares_of_a_row_add_to_one():
    shares = token_shares(6, xr.DataArray([5, 60], dims="problem"))
    np.testing.assert_allclose(shares.sum("key"), 1.0, atol=1e-12)


def test_sign_flips_of_few_problems_are_all_of_them():
    rng = np.random.default_rng(0)
    values = rng.normal(0.4, 1.0, size=8)
    found = sign_flip_test(xr.DataArray(values, dims="problem"))
    flips = np.array(list(itertools.product((-1, 1), repeat=8)))
    expected = (np.abs(flips @ values) >= abs(values.sum()) - 1e-12).mean()
    assert float(found["p"]) == pytest.approx(expected, abs=1 / 250)


def test_corrections_are_those_of_scipy_and_of_holms_definition():
    p = np.array([0.001, 0.02, 0.03, 0.04, 0.5])
    given = xr.DataArray(p, dims="cut")
    np.testing.assert_allclose(benjamini_hochberg(given), scipy.stats.false_discovery_control(p))
    stepped = [min(1.0, max((5 - j) * p[j] for j in range(k + 1))) for k in range(5)]
    np.testing.assert_allclose(holm(given), stepped)


def test_mcnemar_is_the_exact_binomial_test():
    before = xr.DataArray(np.array([1, 1, 1, 1, 1, 1, 0, 0, 1, 0], bool), dims="problem")
    after = xr.DataArray(np.array([0, 0, 0, 0, 0, 0, 1, 0, 1, 0], bool), dims="problem")
    found = mcnemar(before, after)
    assert float(found["p"]) == pytest.approx(scipy.stats.binomtest(1, 7).pvalue)
