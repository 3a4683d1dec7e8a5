import numpy as np
import pytest
import xarray as xr
from tests.analysis.effects_made import made_effects

from thoughtlens.analysis import curves, judge, resample_weights, summarise
from thoughtlens.plots import effects as effect_panels

N = 100
PLACES = [(layer, head) for layer in range(2) for head in range(3)]
HEADS = {f"L{layer}H{head}": f"L{layer}H{head}" for layer, head in PLACES}


@pytest.fixture
def summary():
    """Head h of layer l breaks 10·l + h problems of a hundred, but L0H0 mends 20; L1H2 has three controls."""
    baseline = np.arange(N) >= 20
    rows = {label: np.arange(N) >= 20 + 10 * layer + head for (layer, head), label in zip(PLACES, HEADS, strict=True)}
    rows["L0H0"] = np.ones(N, dtype=bool)
    controls = {"L1H2": ["a", "b", "c"], "L1H1": ["a"]}
    rows |= {name: np.arange(N) >= 20 + k for name, k in (("a", 4), ("b", 0), ("c", 1))}
    return summarise(made_effects(rows, baseline=baseline, controls=controls), n_resamples=100, n_flips=200)


def test_a_forest_has_the_most_damaging_cut_on_top_and_no_controls_among_its_rows(summary):
    data = effect_panels.effect_forest_data(summary, outcome="accuracy")
    assert data["cut"].values.tolist() == ["L1H2", "L1H1", "L1H0", "L0H2", "L0H1", "L0H0"]
    np.testing.assert_allclose(data["cost"].sel(value="estimate"), [0.12, 0.11, 0.10, 0.02, 0.01, -0.20], atol=1e-12)
    assert data["significant"].values.tolist() == [True, True, True, False, False, True]


def test_each_cut_of_a_forest_has_its_own_controls(summary):
    controls = effect_panels.effect_forest_data(summary, outcome="accuracy")["controls"]
    np.testing.assert_allclose(controls.sel(cut="L1H2"), [0.04, 0.0, 0.01], atol=1e-12)
    np.testing.assert_allclose(controls.sel(cut="L1H1"), [0.04, np.nan, np.nan], atol=1e-12)


def test_a_forest_of_too_many_cuts_keeps_those_farthest_from_0_and_says_so(summary):
    data = effect_panels.effect_forest_data(summary, outcome="accuracy", most=2)
    assert data["cut"].values.tolist() == ["L1H2", "L0H0"]
    assert "2 of 6 cuts" in data.attrs["title"]


def test_a_map_has_a_cell_a_head_and_none_where_nothing_was_cut(summary):
    some = {place: label for place, label in HEADS.items() if place != "L0H1"}
    data = effect_panels.effect_map(summary, some, outcome="accuracy")
    np.testing.assert_allclose(data["score"], [[-0.20, np.nan, 0.02], [0.10, 0.11, 0.12]], atol=1e-12)
    np.testing.assert_array_equal(data["marked"], [[True, False, False], [True, True, True]])


def test_a_scatter_matches_attention_and_cost_by_name(summary):
    names = list(HEADS.values())
    looked = xr.DataArray([5.0, 4, np.nan, 2, 1, 0], dims="unit", coords={"unit": names[::-1]})
    data = effect_panels.attention_against_effect(
        looked, summary, dict(zip(names, names, strict=True)), outcome="accuracy"
    )
    assert data["unit"].values.tolist() == ["L1H2", "L1H1", "L0H2", "L0H1", "L0H0"]
    assert data["attention"].sel(unit="L0H1") == 1.0
    assert data["cost"].sel(unit="L0H2", value="estimate") == pytest.approx(0.02)


def test_a_scatter_is_titled_with_its_verdict(summary):
    names = list(HEADS.values())
    looked = xr.DataArray(np.arange(6.0), dims="unit", coords={"unit": names})
    damage = xr.DataArray(np.tile(np.arange(6.0), (10, 1)), dims=("problem", "unit"), coords={"unit": names})
    row = judge({"raw": looked}, damage, resample_weights(10)).sel(attention="raw")
    data = effect_panels.attention_against_effect(looked, summary, dict(zip(names, names, strict=True)), row)
    assert data.attrs["title"] == "attention against effect: rho = 1.00 [1.00, 1.00]"


def test_curves_are_drawn_as_costs_with_their_ends_in_order(summary):
    table = curves.ablation_curve(summary, {"attention": ["L0H1", "L1H2"]}, {"random": ["a", "b"]})
    for outcome in ("accuracy", "kl"):
        cost = effect_panels.ablation_curve_data(table, outcome=outcome)["cost"].sel(order="attention", k=2)
        assert 0 < cost.sel(value="low") <= cost.sel(value="estimate") <= cost.sel(value="high")
    chance = effect_panels.ablation_curve_data(table, outcome="accuracy")["chance"]
    np.testing.assert_allclose(chance.sel(k=1), [0.04, 0.04, 0.04], atol=1e-12)


def test_doses_keep_the_costly_targets_in_their_order(summary):
    doses = {"x": {1.0: "L0H1"}, "y": {1.0: "L1H2"}, "z": {1.0: "L1H0"}}
    table = curves.dose_response(summary, doses)
    data = effect_panels.dose_response_data(table, outcome="accuracy", most=2)
    assert data["target"].values.tolist() == ["y", "z"]
    assert data.attrs["title"].endswith("2 of 3")
