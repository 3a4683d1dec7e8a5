from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtlens.analysis import moments
from thoughtlens.analysis import streamed_attention as blocks
from thoughtlens.errors import RunError


def cut(attention, size):
    return [attention.isel(problem=slice(i, i + size)) for i in range(0, attention.sizes["problem"], size)]


def test_moments_are_numpys_mean_and_population_sd(make_attention):
    attention = make_attention(n_problems=9).attention
    found = moments([attention])
    values = attention.values.astype(np.float64)
    np.testing.assert_allclose(found["mean"], values.mean(0), atol=1e-14)
    np.testing.assert_allclose(found["sd"], values.std(0, ddof=0), atol=1e-14)
    assert (found["n"] == 9).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_any_cut_into_blocks_gives_the_same_moments(make_attention, size):
    attention = make_attention(n_problems=20, missing=(0, 1, 5)).attention
    whole, parts = moments([attention]), moments(cut(attention, size))
    # Rounding of float64 sums of 20 numbers below 1.
    np.testing.assert_allclose(parts["mean"], whole["mean"], atol=1e-12)
    np.testing.assert_allclose(parts["sd"], whole["sd"], atol=1e-12)
    np.testing.assert_array_equal(parts["n"], whole["n"])


def test_small_pieces_of_one_block_give_the_same_moments(make_attention, monkeypatch):
    attention = make_attention(n_problems=20, missing=(3,)).attention
    whole = moments([attention])
    monkeypatch.setattr(blocks, "PIECE_CELLS", 1)
    np.testing.assert_allclose(moments([attention])["sd"], whole["sd"], atol=1e-12)


def test_order_of_problems_does_not_matter(make_attention):
    attention = make_attention(n_problems=12).attention
    np.testing.assert_allclose(moments([attention[::-1]])["sd"], moments([attention])["sd"], atol=1e-12)


def test_float16_sd_is_taken_after_upcasting(make_attention):
    attention = make_attention(n_problems=4000, n_layers=1, n_heads=1, dtype="float16").attention
    expected = attention.values.astype(np.float64).std(0)
    np.testing.assert_allclose(moments([attention])["sd"], expected, atol=1e-12)
    assert np.abs(attention.values.std(0) - expected).max() > 0.01


def test_missing_answer_rows_are_skipped_and_counted(make_attention):
    attention = make_attention(n_problems=6, missing=(1, 4)).attention
    found = moments(cut(attention, 2))
    assert (found["n"].sel(query="answer") == 4).all()
    assert (found["n"].drop_sel(query="answer") == 6).all()
    expected = np.delete(attention.sel(query="answer").values.astype(np.float64), [1, 4], axis=0)
    np.testing.assert_allclose(found["mean"].sel(query="answer"), expected.mean(0), atol=1e-14)
    np.testing.assert_allclose(found["sd"].sel(query="answer"), expected.std(0), atol=1e-14)


def test_a_row_that_never_exists_has_nan_moments(make_attention):
    found = moments([make_attention(n_problems=2, missing=(0, 1)).attention])
    assert found["mean"].sel(query="answer").isnull().all()
    assert found["sd"].sel(query="answer").isnull().all()
    assert found["mean"].sel(query="z1").notnull().all()


def test_mean_rows_sum_to_one(make_attention):
    found = moments([make_attention(n_problems=7, missing=(0,)).attention])
    np.testing.assert_allclose(found["mean"].sum("key"), 1.0, atol=1e-6)  # float32 rows sum to 1 to 1e-7


def test_no_problems_is_an_error():
    with pytest.raises(RunError, match="no problems"):
        moments([])


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_merging_is_exact_for_any_cuts(cuts, seed):
    # A large common offset: the textbook formula E[x²] − E[x]² loses all digits here, Chan's merge does not.
    values = 1e6 + np.random.default_rng(seed).normal(size=(sum(cuts), 1, 2))
    rows = xr.DataArray(values, dims=("problem", "query", "key"), coords={"key": ["first", "question"]})
    found = moments([rows[a:b] for a, b in pairwise(np.cumsum([0, *cuts]))])
    np.testing.assert_allclose(found["sd"], values.std(0), rtol=1e-6, atol=1e-8)
