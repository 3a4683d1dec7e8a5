import numpy as np
import pytest
import xarray as xr
from tests.analysis.effects_made import made_effects

from thoughtlens.analysis import influence, summarise
from thoughtlens.errors import OptionError
from thoughtlens.notation import edge_name, edge_names, key_names, query_names

N = 100


@pytest.fixture
def attention():
    """Attention of z_q to z_k that is larger the nearer they are."""
    queries, keys = query_names(3), key_names(3)
    cells = xr.DataArray(
        np.zeros((len(queries), len(keys))), dims=("query", "key"), coords={"query": queries, "key": keys}
    )
    for (query, key), value in {("z2", "z1"): 0.5, ("z3", "z1"): 0.1, ("z3", "z2"): 0.3}.items():
        cells.loc[{"query": query, "key": key}] = value
    return cells


@pytest.fixture
def edges():
    return {name: name for name in (edge_name(*ends) for ends in edge_names(3))}


def cut_to_break(n_broken):
    """Each edge breaks so many of a hundred problems."""
    return made_effects({label: np.arange(N) >= n for label, n in n_broken.items()}, baseline=np.ones(N, dtype=bool))


FEW = {"n_resamples": 20, "n_flips": 20}


@pytest.fixture(scope="module")
def summary():
    return summarise(cut_to_break({"z2 ⊣ z1": 0, "z3 ⊣ z1": 30, "z3 ⊣ z2": 10}))


def test_edges_go_from_each_thought_to_the_earlier_ones():
    assert edge_names(3) == [("z2", "z1"), ("z3", "z1"), ("z3", "z2")]


def test_influence_is_what_cutting_the_edge_costs(summary, attention, edges):
    maps = influence(summary, edges, attention)
    estimate = maps["accuracy"].sel(value="estimate")
    expected = [[np.nan] * 3, [0.0, np.nan, np.nan], [-0.3, -0.1, np.nan]]
    np.testing.assert_allclose(estimate, expected, atol=1e-12)
    np.testing.assert_allclose(maps["gold_logprob"].sel(value="estimate"), 2 * estimate, atol=1e-6)
    assert maps["accuracy"].sel(query="z3", key="z1", value="high") < -0.2


def test_disagreement_is_the_difference_of_places(summary, attention, edges):
    apart = influence(summary, edges, attention)["disagreement"]
    # By influence 0, 1, ½; by attention 1, 0, ½.
    assert apart.sel(query="z2", key="z1") == -1.0
    assert apart.sel(query="z3", key="z1") == 1.0
    assert apart.sel(query="z3", key="z2") == 0.0


def test_disagreement_sums_to_zero_whatever_ties_there_are(attention, edges):
    maps = influence(summarise(cut_to_break({"z2 ⊣ z1": 5, "z3 ⊣ z1": 5, "z3 ⊣ z2": 0}), **FEW), edges, attention)
    assert maps["disagreement"].sum().item() == pytest.approx(0)
    assert abs(maps["disagreement"]).max() <= 1


def test_influences_that_differ_by_rounding_alone_have_one_rank(attention, edges):
    right = np.ones(N, dtype=bool)
    rounding = {label: np.full(N, -1.0 - 1e-7 * k) for k, label in enumerate(edges.values())}
    effects = made_effects(dict.fromkeys(rounding, right), baseline=right, logprob=rounding)
    apart = influence(summarise(effects, **FEW), edges, attention)["disagreement"]
    # All three at ½ by influence; by attention 1, 0, ½.
    np.testing.assert_allclose([apart.sel(query=q, key=k) for q, k in edge_names(3)], [-0.5, 0.5, 0.0])


def test_edges_that_were_not_cut_are_blank_in_every_map(attention, edges):
    summary = summarise(cut_to_break({"z3 ⊣ z1": 30, "z3 ⊣ z2": 10}), **FEW)
    del edges["z2 ⊣ z1"]
    maps = influence(summary, edges | {"eot ⊣ z1": "unused"}, attention)
    for name in ("accuracy", "attention", "disagreement"):
        assert np.isnan(maps[name].sel(query="z2", key="z1")).all()
    assert maps["attention"].sel(query="z3", key="z2") == 0.3


def test_a_plan_without_edges_says_what_to_do(attention):
    with pytest.raises(OptionError, match="--edges all"):
        influence(summarise(cut_to_break({"L0H0": 3}), **FEW), {}, attention)
