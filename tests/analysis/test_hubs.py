"""The hub test against permutations done one by one, and on maps whose answer is known."""

import numpy as np
import pytest
import xarray as xr
from scipy.special import betaincinv

from thoughtlens.analysis import collect_depth_sums, hub_test, preference_sums, preferences
from thoughtlens.analysis.attention_evidence import find_types
from thoughtlens.errors import OptionError, RunError
from thoughtlens.schema import attention_dataset


def permuted(dataset: xr.Dataset, rng: np.random.Generator) -> xr.Dataset:
    """Earlier thoughts permuted within each row of each problem and head, one row at a time."""
    values = dataset["attention"].values.copy()
    for problem, layer, head in np.ndindex(values.shape[:3]):
        for row in range(1, dataset.sizes["query"] - 3):
            cells = values[problem, layer, head, row + 1, 3 : 3 + row]
            values[problem, layer, head, row + 1, 3 : 3 + row] = rng.permutation(cells)
    return dataset.assign(attention=(dataset["attention"].dims, values))


def p_values(dataset: xr.Dataset, **options: float) -> np.ndarray:
    return hub_test(dataset, n_draws=500, **options)["p"].values


def lean(query: str, key: str) -> float:
    return 3.0 if key == "z2" and query in ("z3", "z4", "z5", "z6") else 1.0


def follow(query: str, key: str) -> float:
    return 30.0 if query[0] == "z" and key == f"z{int(query[1:]) - 1}" else 1.0


@pytest.fixture
def any_preference(monkeypatch):
    """The machinery of the test at one even share, where it is exact for permuted rows, though refused to users."""
    monkeypatch.setattr("thoughtlens.analysis.hubs.LEAST", 1.0)


@pytest.mark.usefixtures("any_preference")
def test_p_values_are_uniform_where_rows_are_permuted(make_attention):
    rng = np.random.default_rng(0)
    dataset = make_attention(n_problems=40, n_layers=5, n_heads=8)
    p = np.concatenate([p_values(permuted(dataset, rng), least=1.0).ravel() for _ in range(5)])
    # 200 p-values: the standard error of a share is 0.035 at most.
    for level in (0.05, 0.25, 0.5, 0.75):
        assert (p <= level).mean() == pytest.approx(level, abs=0.11)


@pytest.mark.usefixtures("any_preference")
def test_p_value_is_the_share_of_permutations_with_a_hub_as_strong(make_attention):
    dataset = make_attention(n_problems=30, n_layers=1, n_heads=1)
    observed = hub_test(dataset, least=1.0, n_draws=5000)
    alike = dataset.isel(head=[0] * 200).assign_coords(head=range(200))  # each head permuted by itself
    drawn = hub_test(permuted(alike, np.random.default_rng(1)), n_draws=1)["strength"].values
    assert observed["p"].item() == pytest.approx((drawn >= observed["strength"].item()).mean(), abs=0.1)


def test_the_null_of_the_largest_is_where_chance_puts_it(make_attention):
    """The largest of five preferences is above 1 under permuted rows, and so is the largest strength."""
    dataset = make_attention(n_problems=12, n_layers=4, n_heads=8)
    found, strengths = hub_test(dataset, n_draws=200), []
    rng = np.random.default_rng(2)
    largest = []
    for _ in range(4):
        drawn = permuted(dataset, rng)
        strengths.append(hub_test(drawn, n_draws=1)["strength"].mean().item())
        sums = preference_sums(drawn["attention"]).sum("problem")
        largest.append(preferences(sums)["preference"].max("thought").mean().item())
    assert found["preference_null"].mean().item() == pytest.approx(np.mean(largest), abs=0.02)
    assert found["strength_null"].mean().item() == pytest.approx(np.mean(strengths), abs=0.02)
    assert found["preference_null"].min() > 1.1


def test_a_thought_preferred_by_every_row_is_a_hub(plant_attention):
    found = hub_test(plant_attention(lean, n_problems=50))
    assert (found["hub"] == "z2").all()
    assert (found["p_corrected"] < 0.05).all()


def test_a_thought_preferred_by_the_next_alone_is_no_hub(plant_attention):
    """The plain preference calls z5 the hub of a head that looks one thought back: z6 is all that sees it."""
    found = hub_test(plant_attention(follow, n_problems=50))
    assert (found["strength"] < 1).all()
    assert (found["p"] > 0.5).all()


@pytest.mark.usefixtures("any_preference")
def test_a_slight_hub_is_none_unless_slight_is_enough(plant_attention):
    dataset = plant_attention(lambda query, key: 1.2 if key == "z2" else 1.0, n_problems=400)
    assert (p_values(dataset, least=1.5) > 0.5).all()
    assert (p_values(dataset, least=1.0) < 0.05).all()


def test_cutting_a_run_into_blocks_changes_nothing(make_attention):
    dataset = make_attention(n_problems=9)
    whole = hub_test(dataset, n_draws=50)
    blocks = hub_test([dataset.isel(problem=slice(0, 4)), dataset.isel(problem=slice(4, None))], n_draws=50)
    names = ["hub", "strongest"]
    xr.testing.assert_allclose(whole.drop_vars(names), blocks.drop_vars(names))
    assert all((whole[name] == blocks[name]).all() for name in names)


def test_fewer_than_four_thoughts_say_nothing(make_attention):
    found = hub_test(make_attention(n_thoughts=3), n_draws=10)
    assert found["strength"].isnull().all()
    assert found["p_corrected"].isnull().all()
    assert (found["hub"] == "").all()
    assert (found["strongest"] == "").all()


def test_a_head_that_ignores_thoughts_is_left_out_of_the_correction(plant_attention):
    dataset = plant_attention(lean, n_problems=20)
    dataset["attention"][:, 0, 0] = 0.0
    dataset["attention"][:, 0, 0, :, 0] = 1.0
    found = hub_test(dataset, n_draws=500)
    assert found["p_corrected"].isnull().sum() == 1
    assert (found["p_corrected"].sel(layer=1) < 0.05).all()


@pytest.mark.parametrize("least", [0.5, 1.0, 1.4])
def test_an_impossible_question_is_refused(make_attention, least):
    with pytest.raises(OptionError, match=rf"least is {least} and n_draws 10000, expected 1\.5 or more"):
        hub_test(make_attention(), least=least)


def test_problems_that_lean_alike_in_all_their_rows_make_no_hub():
    """Each problem leans to z2, or away from it, in every row alike; on average z2 draws just its 1.5 even shares.

    With a least of 1 and z2 drawing its even share, 3 of 10 such heads pass at 5 %.
    """
    rng = np.random.default_rng(0)
    n_heads, n_problems = 60, 40
    values = np.zeros((n_problems, 1, n_heads, 9, 11))
    values[..., 0] = 1.0
    leans = rng.random((n_problems, n_heads))
    for row in range(2, 6):
        share = betaincinv(4 * 1.5 / row, 4 * (1 - 1.5 / row), leans)
        values[:, 0, :, row + 1, :3] = 0.0
        values[:, 0, :, row + 1, 3 : 3 + row] = ((1 - share) / (row - 1))[..., None]
        values[:, 0, :, row + 1, 4] = share
    ids = [f"p{number}" for number in range(n_problems)]
    dataset = attention_dataset(
        values, problem_ids=ids, correct=[True] * n_problems, n_question_tokens=[9] * n_problems
    )
    # 60 heads at a rate of 0.05: standard error 0.03.
    assert (p_values(dataset) <= 0.05).mean() <= 0.12


@pytest.mark.parametrize(
    ("look_for", "purpose"),
    [
        (hub_test, "test"),
        (lambda none: find_types(none, n_problems=2), "find types on"),
        (collect_depth_sums, "compare"),
    ],
)
def test_a_run_without_problems_is_refused(look_for, purpose):
    with pytest.raises(RunError, match=f"found no problems to {purpose}; extract at least one problem first"):
        look_for([])
