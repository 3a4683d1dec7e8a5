"""Every metric against a triple loop written from its formula, and against closed forms."""

import numpy as np
import pytest

from thoughtlens.analysis import (
    composition,
    preference_sums,
    preferences,
    readout,
    readout_sums,
    shares,
    thought_map,
    thought_mass,
)
from thoughtlens.analysis.attention_measures import cell_sets, expected_sums
from thoughtlens.notation import query_names, thought_names

SIZES = [1, 2, 3, 4, 5, 6, 12, 32]


def model_preferences(dataset):
    return preferences(preference_sums(dataset.attention).sum(["problem", "layer", "head"]))


def loop_preference(patterns, n_thoughts, in_set):
    """Observed over expected by loops, over [n, T, T] patterns; only rows with at least two earlier thoughts."""
    observed = expected = 0.0
    for pattern in patterns:
        for q in range(2, n_thoughts):
            mass = sum(float(pattern[q, k]) for k in range(q))
            for k in range(q):
                if in_set(q, k):
                    observed += float(pattern[q, k])
                    expected += mass / q
    return observed / expected if expected else np.nan


@pytest.fixture(params=[3, 4, 5, 6, 9], ids=lambda t: f"T={t}")
def looped(request, make_attention):
    n_thoughts = request.param
    dataset = make_attention(n_problems=4, n_thoughts=n_thoughts, seed=n_thoughts)
    cells = thought_map(dataset.attention).values.reshape(-1, n_thoughts, n_thoughts)
    return dataset, cells, n_thoughts


# Oracles: float32 cells, summed in float64 by both, so they agree to rounding of float64.
LOOP = {"rtol": 1e-12}


def test_key_preference_is_the_loop(looped):
    dataset, cells, n_thoughts = looped
    expected = [loop_preference(cells, n_thoughts, lambda q, k, key=key: k == key) for key in range(n_thoughts)]
    np.testing.assert_allclose(model_preferences(dataset)["preference"], expected, **LOOP)


def test_lag_profile_is_the_loop(looped):
    dataset, cells, n_thoughts = looped
    expected = [loop_preference(cells, n_thoughts, lambda q, k, d=d: q - k == d) for d in range(1, n_thoughts)]
    np.testing.assert_allclose(model_preferences(dataset)["lag_preference"], expected, **LOOP)


def test_sequential_preference_is_lag_one(looped):
    dataset, cells, n_thoughts = looped
    expected = loop_preference(cells, n_thoughts, lambda q, k: q - k == 1)
    np.testing.assert_allclose(model_preferences(dataset)["sequential"], expected, **LOOP)


def test_skip_preference_is_the_loop(looped):
    dataset, cells, n_thoughts = looped
    half, last = -(-n_thoughts // 2), n_thoughts - 1
    observed = sum(float(pattern[last, k]) for pattern in cells for k in range(half))
    mass = sum(float(pattern[last, k]) for pattern in cells for k in range(last))
    # With 3 thoughts the first half is all that the last thought sees: the ratio would be 1 whatever it does.
    expected = np.nan if half == last else observed / (mass * half / last)
    np.testing.assert_allclose(model_preferences(dataset)["skip"], expected, **LOOP)


def test_thought_mass_is_the_loop(looped):
    dataset, cells, n_thoughts = looped
    expected = np.mean([[pattern[q, :q].astype(np.float64).sum() for q in range(1, n_thoughts)] for pattern in cells])
    np.testing.assert_allclose(model_preferences(dataset)["thought_mass"], expected, **LOOP)


def test_levels_are_sums_not_means_of_ratios(make_attention):
    dataset = make_attention(n_problems=3, n_layers=2, n_heads=4)
    by_head = preferences(preference_sums(dataset.attention).sum("problem"))
    by_layer = preferences(preference_sums(dataset.attention).sum(["problem", "head"]))
    cells = thought_map(dataset.attention)
    head = cells.sel(layer=1, head=2).values
    layer = cells.sel(layer=1).values.reshape(-1, 6, 6)
    assert by_head["sequential"].sel(layer=1, head=2).item() == pytest.approx(
        loop_preference(head, 6, lambda q, k: q - k == 1), rel=1e-12
    )
    assert by_layer["sequential"].sel(layer=1).item() == pytest.approx(
        loop_preference(layer, 6, lambda q, k: q - k == 1), rel=1e-12
    )


@pytest.mark.parametrize("n_thoughts", SIZES)
def test_even_attention_has_no_preference_at_any_size(plant_attention, n_thoughts):
    found = model_preferences(plant_attention(lambda query, key: 1.0, n_thoughts=n_thoughts))
    np.testing.assert_allclose(found["preference"][: max(0, n_thoughts - 1) if n_thoughts > 2 else 0], 1.0, rtol=1e-12)
    np.testing.assert_allclose(found["lag_preference"][: n_thoughts if n_thoughts > 2 else 0], 1.0, rtol=1e-12)
    for name, least in (("sequential", 3), ("skip", 4)):
        assert found[name].item() == pytest.approx(1.0 if n_thoughts >= least else np.nan, rel=1e-12, nan_ok=True)


def test_column_sums_call_even_attention_a_hub_and_preference_does_not(plant_attention):
    dataset = plant_attention(lambda query, key: 1.0 if query == "bot" or key.startswith("z") else 0.0)
    column_sums = thought_map(dataset.attention).mean(["problem", "layer", "head"]).sum("query")
    assert column_sums["key"].values[column_sums.argmax("key")] == "z1"
    assert column_sums.max() / (1 / 6) > 2  # "strong hub" by the earlier score, of attention without any preference
    # float32 rows: 1/3 and 1/5 are rounded at 6e-8.
    np.testing.assert_allclose(model_preferences(dataset)["preference"][:-1], 1.0, rtol=1e-6)


def test_null_does_not_depend_on_the_mass_of_the_rows(plant_attention):
    """Rows may differ in thought mass as they like: an even split of it is still no preference."""
    mass = {f"z{k}": 10.0**-k for k in range(1, 7)}
    found = model_preferences(plant_attention(lambda q, k: mass.get(q, 1.0) if k.startswith("z") else 1.0))
    np.testing.assert_allclose(found["preference"][:-1], 1.0, rtol=1e-6)  # float32 rows


def test_planted_hub_has_the_preference_that_was_planted(plant_attention):
    """Weight w on z2 and 1 on all else gives row q (from 0) A = w/(w+q+3) on z2 and M = (w+q−1)/(w+q+3)."""
    w = 5.0
    found = model_preferences(plant_attention(lambda q, k: w if k == "z2" != q else 1.0))["preference"]
    rows = range(2, 6)
    # Row q (from 0) sees first, question, bot, q earlier thoughts and itself.
    observed = sum(w / (w + q + 3) for q in rows)
    expected = sum((w + q - 1) / (w + q + 3) / q for q in rows)
    assert found.sel(thought="z2").item() == pytest.approx(observed / expected, rel=1e-6)
    assert found["thought"].values[np.nanargmax(found)] == "z2"
    assert (found.drop_sel(thought=["z2", "z6"]) < 1).all()


def test_planted_sequential_head_is_sequential_only(plant_attention):
    previous = {f"z{k + 1}": f"z{k}" for k in range(1, 6)}
    found = model_preferences(plant_attention(lambda q, k: 1.0 if k in ("first", previous.get(q)) else 0.0))
    # All thought mass (1/2 a row) on one of q cells: Σ 1/2 over Σ 1/(2q), q = 2 … 5.
    assert found["sequential"].item() == pytest.approx(4 / sum(1 / q for q in range(2, 6)), rel=1e-6)
    assert (found["lag_preference"].sel(lag=[2, 3, 4, 5]) == 0).all()
    assert found["skip"].item() == 0


def test_self_attention_is_not_sequential(plant_attention):
    """The earlier scripts' main band was each thought's attention to itself."""
    found = model_preferences(plant_attention(lambda q, k: 1e4 if q == k else 1.0))
    np.testing.assert_allclose(found["sequential"], 1.0, rtol=1e-3)  # the small cells keep float32's relative digits
    assert found["thought_mass"] < 1e-2


@pytest.mark.parametrize("n_thoughts", SIZES)
def test_shares_and_preferences_never_crash_and_say_nan_where_nothing_can_be_said(make_attention, n_thoughts):
    dataset = make_attention(n_thoughts=n_thoughts)
    found = model_preferences(dataset)
    assert found["preference"].sel(thought=f"z{n_thoughts}").isnull()
    assert found["sequential"].isnull() == (n_thoughts < 3)
    assert found["skip"].isnull() == (n_thoughts < 4)
    assert found["thought_mass"].isnull() == (n_thoughts < 2)
    assert found.sizes["lag"] == n_thoughts - 1
    assert shares(dataset.attention).sizes["query"] == n_thoughts


def test_a_head_without_thought_mass_is_undefined_not_zero(plant_attention):
    found = model_preferences(plant_attention(lambda q, k: 0.0 if k.startswith("z") and q != k else 1.0))
    assert found[["preference", "sequential", "skip"]].to_array().isnull().all()
    assert found["thought_mass"] == 0


def test_excess_over_the_null_cancels_over_keys(make_attention):
    sums = preference_sums(make_attention().attention)
    excess = sums["preference"] - expected_sums(sums)["preference"]
    np.testing.assert_allclose(excess.sum("thought"), 0.0, atol=1e-12)


def test_order_of_problems_does_not_matter(make_attention):
    dataset = make_attention(n_problems=8)
    turned = model_preferences(dataset.isel(problem=slice(None, None, -1)))
    np.testing.assert_allclose(turned["preference"], model_preferences(dataset)["preference"], rtol=1e-12)


def test_a_missing_thought_row_is_left_out(make_attention):
    dataset = make_attention(n_problems=3)
    values = dataset.attention.values.copy()
    values[1, :, :, 4, :] = np.nan  # z4 of one problem
    cells = thought_map(dataset.attention).values.reshape(-1, 6, 6).copy()
    cells[6:12, 3, :] = 0.0  # without mass a row has no say
    found = model_preferences(dataset.assign(attention=dataset.attention.copy(data=values)))
    expected = [loop_preference(cells, 6, lambda q, k, key=key: k == key) for key in range(6)]
    np.testing.assert_allclose(found["preference"], expected, **LOOP)


def test_cell_sets_can_be_changed_without_changing_the_next(make_attention):
    before = model_preferences(make_attention())["sequential"].item()
    cell_sets(6)["sequential"][:] = 7.0
    assert model_preferences(make_attention())["sequential"].item() == before


@pytest.mark.parametrize("n_thoughts", SIZES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_parts_of_a_row_sum_to_one(make_attention, n_thoughts, dtype):
    parts = composition(make_attention(n_thoughts=n_thoughts, dtype=dtype).attention)
    # The tolerances of the schema for rows on disk and in memory.
    np.testing.assert_allclose(parts.sum("part"), 1.0, atol=2e-3 if dtype == "float16" else 1e-5)


def test_composition_is_the_loop(make_attention):
    dataset = make_attention(n_problems=1, n_layers=1, n_heads=1)
    row = dataset.attention.isel(problem=0, layer=0, head=0)
    parts = composition(row)
    thoughts = thought_names(6)
    for query in query_names(6):
        cells = {str(key): float(row.sel(query=query, key=key)) for key in row["key"].values}
        itself = 0.0 if query == "answer" else cells.pop(query)
        expected = {
            "first": cells["first"],
            "question": cells["question"],
            "bot": cells.get("bot", 0.0),
            "earlier thoughts": sum(cells.get(z, 0.0) for z in thoughts),
            "self": itself,
            "eot": cells.get("eot", 0.0),
            "answer": cells["answer"],
        }
        for part, value in expected.items():
            assert parts.sel(query=query, part=part).item() == pytest.approx(value, abs=1e-12), (query, part)


def test_composition_of_a_missing_row_is_nan(make_attention):
    parts = composition(make_attention(n_problems=2, missing=(1,)).attention)
    assert parts.isel(problem=1).sel(query="answer").isnull().all()
    assert parts.drop_sel(query="answer").notnull().all()


def test_thought_mass_is_strictly_below_the_diagonal(make_attention):
    attention = make_attention().attention
    expected = np.tril(thought_map(attention).values.astype(np.float64), -1).sum(-1)
    np.testing.assert_allclose(thought_mass(attention), expected, atol=1e-14)


def test_shares_of_a_row_sum_to_one(make_attention):
    found = shares(make_attention().attention)
    np.testing.assert_allclose(found.sum("key").sel(query=["z2", "z3", "z6"]), 1.0, rtol=1e-12)
    assert found.sel(query="z1").isnull().all()
    assert found.sel(query="z3", key=["z3", "z4"]).isnull().all()


def test_readout_is_each_rows_spread_over_thoughts(make_attention):
    attention = make_attention(missing=(2,)).attention
    found = readout(readout_sums(attention).sum("problem"))
    rows = attention.sel(query=["eot", "answer"], key=thought_names(6)).values.astype(np.float64)
    totals = np.nansum(rows, axis=0)
    np.testing.assert_allclose(found, totals / totals.sum(-1, keepdims=True), rtol=1e-12)
