"""Norms as shares: what attention's measures can be taken of."""

import numpy as np
import pytest
import xarray as xr

from thoughtlens.analysis import analyze, value_shares
from thoughtlens.schema import VALUE_WEIGHTED


def as_norms(dataset: xr.Dataset, scale: np.ndarray) -> xr.Dataset:
    """Attention whose every row moves as much as `scale` (problem, layer, head, query) says."""
    return dataset.drop_vars("attention").assign(
        {VALUE_WEIGHTED: (dataset["attention"].dims, dataset["attention"].values * scale[..., None])}
    )


def scales(dataset: xr.Dataset) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.01, 90.0, dataset["attention"].shape[:-1])


def test_shares_do_not_depend_on_how_much_a_row_moves(make_attention):
    dataset = make_attention(missing=(2,))
    found = value_shares(as_norms(dataset, scales(dataset)))
    xr.testing.assert_allclose(found["attention"], dataset["attention"].astype(float), rtol=1e-6)
    assert found["attention"].dtype == np.float64
    assert VALUE_WEIGHTED not in found


def test_every_measure_runs_on_shares(make_attention):
    """The summary of norms that are attention times what each row moves is that of attention."""
    dataset = make_attention(missing=(2,))
    of_shares = analyze(value_shares(as_norms(dataset, scales(dataset))), correct=dataset["correct"], n_resamples=20)
    plain = analyze(dataset, correct=dataset["correct"], n_resamples=20)
    for one, other in zip(of_shares, plain, strict=True):
        if isinstance(one, xr.Dataset):
            xr.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_a_row_that_moves_nothing_is_undefined_and_nothing_else_is(make_attention):
    dataset = make_attention()
    scale = scales(dataset)
    scale[1, 0, 2, 4] = 0.0
    found = value_shares(as_norms(dataset, scale))["attention"]
    undefined = found.isnull()
    assert undefined[1, 0, 2, 4].all()
    assert int(undefined.sum()) == dataset.sizes["key"]
