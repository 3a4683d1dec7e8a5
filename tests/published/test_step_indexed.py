import numpy as np
import pytest

from thoughtlens.analysis import thought_map
from thoughtlens.published import step_indexed


def test_main_band_is_self_attention(plant_attention):
    """The defect of the earlier scripts, proved by hand: a model that looks only at itself fills [s, s − 1]."""
    steps = step_indexed(plant_attention(lambda query, key: 1.0 if query == key else 0.0).attention)
    expected = np.diag(np.ones(5), -1)
    np.testing.assert_array_equal(steps.isel(problem=0, layer=0, head=0), expected)


def test_true_previous_thought_sits_two_columns_left(plant_attention):
    previous = {f"z{k + 1}": f"z{k}" for k in range(1, 6)}
    steps = step_indexed(plant_attention(lambda q, k: 1.0 if k == previous.get(q, "first") else 0.0).attention)
    np.testing.assert_array_equal(steps.isel(problem=0, layer=0, head=0), np.diag(np.ones(4), -2))


def test_hand_built_example(plant_attention):
    weight = {("z1", "z1"): 2, ("z2", "z1"): 3, ("z2", "z2"): 4, ("z3", "z1"): 5, ("z3", "z2"): 6, ("z3", "z3"): 7}
    dataset = plant_attention(lambda q, k: weight.get((q, k), 100 - 7 if k == "first" else 0.0), n_thoughts=3)
    sums = {"z1": 95, "z2": 100}
    expected = [[0, 0, 0], [2 / sums["z1"], 0, 0], [3 / sums["z2"], 4 / sums["z2"], 0]]
    np.testing.assert_allclose(step_indexed(dataset.attention).isel(problem=0, layer=1, head=1), expected, rtol=1e-6)


@pytest.mark.parametrize("n_thoughts", [1, 2, 6, 32])
def test_cells_are_the_named_cells(make_attention, n_thoughts):
    attention = make_attention(n_thoughts=n_thoughts).attention
    steps = step_indexed(attention)
    assert steps.dims == ("problem", "layer", "head", "row", "column")
    assert (steps.sel(row=0) == 0).all()
    assert (steps.sel(column=n_thoughts - 1) == 0).all()
    for s in range(1, n_thoughts):
        for j in range(n_thoughts):
            cell = steps.sel(row=s, column=j).values
            expected = attention.sel(query=f"z{s}", key=f"z{j + 1}").values if j < s else 0.0
            np.testing.assert_array_equal(cell, expected)


def test_it_is_what_the_scripts_recorded(make_attention):
    """Their loop: step s feeds bot (s = 0) or z{s}, and writes the last row over the thought positions so far, [:s]."""
    attention = make_attention(n_thoughts=6).attention
    recorded = np.zeros((*attention.shape[:3], 6, 6), dtype=np.float32)
    fed = ["bot", "z1", "z2", "z3", "z4", "z5"]
    positions = ["z1", "z2", "z3", "z4", "z5", "z6"]
    for s in range(6):
        for j, key in enumerate(positions[:s]):
            recorded[..., s, j] = attention.sel(query=fed[s], key=key)
    np.testing.assert_array_equal(step_indexed(attention), recorded)


def test_mean_of_maps_is_map_of_mean(make_attention):
    attention = make_attention().attention.astype(np.float64)
    np.testing.assert_allclose(
        step_indexed(attention.mean("problem")), step_indexed(attention).mean("problem"), atol=1e-14
    )


def test_dtype_is_kept_and_convention_is_stated(make_attention):
    steps = step_indexed(make_attention(dtype="float16").attention)
    assert steps.dtype == np.float16
    assert "self-attention" in steps.attrs["convention"]


def test_it_does_not_change_what_it_reads(make_attention):
    attention = make_attention().attention
    before = thought_map(attention).values.copy()
    step_indexed(attention)[:] = 0
    np.testing.assert_array_equal(thought_map(attention), before)


def test_earlier_flow_is_one_for_every_head_and_so_says_nothing(make_attention):
    steps = step_indexed(make_attention().attention).astype(np.float64).mean("problem").values
    below = np.tril(steps, -1).sum((-1, -2))
    with_diagonal = np.tril(steps).sum((-1, -2))
    np.testing.assert_array_equal(below / with_diagonal, 1.0)
