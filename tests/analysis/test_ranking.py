"""Whether a ranking of heads can be trusted: against scipy split by split, where heads differ and where they don't."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from tests.attention_made import analysed

from thoughtlens.analysis import analysis_tables, headline, preference_sums, preferences
from thoughtlens.analysis.heads import LEAST_RELIABILITY, reliability, split_halves, unreliable


def analyzed(dataset: xr.Dataset):
    return analysed(dataset, n_resamples=20, seed=3)


@pytest.fixture
def unlike(make_attention) -> xr.Dataset:
    """Heads that lean on z2, each more than the one before, in every problem."""
    dataset = make_attention(n_problems=20, n_layers=4, n_heads=6)
    values = dataset["attention"].values.copy()
    lean = np.linspace(1, 6, 24).reshape(4, 6)[None, :, :, None]
    values[..., 3:, 4] *= lean
    return dataset.assign(attention=(dataset["attention"].dims, values / values.sum(-1, keepdims=True)))


def importance(sums: xr.Dataset) -> np.ndarray:
    found = preferences(sums.sum("problem"))
    return (found["thought_mass"] * (found["preference"].max("thought") - 1)).values.ravel()


@pytest.mark.parametrize("n", [2, 7, 30])
def test_halves_are_random_and_hold_half(n):
    halves = split_halves(n, n_splits=400, seed=1)
    assert (halves.sum("problem") == n // 2).all()
    assert set(np.unique(halves)) == {0, 1}
    # 400 splits: a share wanders by 0.025.
    np.testing.assert_allclose(halves.mean("resample"), (n // 2) / n, atol=0.1)


def test_reliability_is_spearmans_of_halves_made_one_by_one(unlike):
    sums = preference_sums(unlike["attention"].astype(np.float64))
    r, shared = [], []
    for half in split_halves(20, seed=3).values.astype(bool):
        first, second = importance(sums.isel(problem=half)), importance(sums.isel(problem=~half))
        r.append(scipy.stats.spearmanr(first, second).statistic)
        shared.append(len(set(np.argsort(-first)[:10]) & set(np.argsort(-second)[:10])))
    ranking = analyzed(unlike).ranking
    assert ranking["reliability"].item() == pytest.approx(2 * np.mean(r) / (1 + np.mean(r)), abs=1e-6)
    assert ranking["top_overlap"].item() == pytest.approx(np.mean(shared) / 10, abs=1e-9)
    assert ranking["top_overlap_by_chance"].item() == pytest.approx(10 / 24)


def test_heads_that_differ_are_ranked_reliably(unlike):
    found = analyzed(unlike)
    assert found.ranking["reliability"] > 0.9
    assert headline(found)["ranking"]["unreliable"] is None
    assert len(headline(found)["top_heads"]) == 10


def test_heads_that_differ_by_chance_are_not_named(make_attention):
    found = analyzed(make_attention(n_problems=40, n_layers=6, n_heads=8))
    facts = headline(found)
    assert found.ranking["reliability"] < LEAST_RELIABILITY
    assert facts["top_heads"] == []
    assert facts["strongest"] == {"hub": [], "sequential": [], "skip": []}
    assert f"reliability {found.ranking['reliability'].item():.2f}" in facts["ranking"]["unreliable"]
    assert (analysis_tables(found)["heads"]["reliability"] == found.ranking["reliability"].item()).all()


def test_reliability_of_chance_is_none_on_average(make_attention):
    halves, found = split_halves(12, n_splits=30).values.astype(bool), []
    for seed in range(6):
        sums = preference_sums(make_attention(n_problems=12, n_layers=5, n_heads=10, seed=seed)["attention"])
        of_halves = xr.concat([sums.isel(problem=half).sum("problem") for half in halves], "resample")
        found.append(reliability(of_halves, sums.sum("problem"))["reliability"].item())
    # Halves of one sample share no problems; 50 heads and 6 runs leave a standard error of about 0.11.
    assert abs(np.mean(found)) < 0.3


def test_one_problem_and_heads_alike_rank_nothing(make_attention, plant_attention):
    for dataset in (make_attention(n_problems=1), plant_attention(lambda q, k: 3.0 if k == "z1" else 1.0)):
        found = analyzed(dataset)
        assert np.isnan(found.ranking["reliability"])
        assert "can't be judged" in unreliable(found.ranking)
        assert headline(found)["top_heads"] == []


def test_undefined_heads_take_no_part(unlike):
    values = unlike["attention"].values.copy()
    values[:, 0, 0] = 0.0
    values[:, 0, 0, :, 0] = 1.0
    sums = preference_sums(xr.DataArray(values, dims=unlike["attention"].dims, coords=unlike["attention"].coords))
    halves = xr.concat([sums.isel(problem=slice(0, 10)).sum("problem")], "resample")
    found = reliability(halves, sums.sum("problem"))
    assert found["top_overlap_by_chance"].item() == pytest.approx(10 / 23)
    assert np.isfinite(found["reliability"])
