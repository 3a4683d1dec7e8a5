"""The effects Dataset keeps its promises, and what breaks one is refused in a sentence."""

import json

import numpy as np
import pytest
import xarray as xr

from thoughtlens.errors import RunError
from thoughtlens.schema import EFFECTS_DIMS, check_effects, effects_dataset

LABELS, KINDS = ["none", "z4 ⊣ z1", "z3 ⊣ z2"], ["baseline", "cut", "control"]


def effects(**outcomes) -> xr.Dataset:
    shape = (3, 2)
    even = {
        "correct": np.zeros(shape, bool),
        "gold_logprob": np.zeros(shape),
        "kl": np.zeros(shape),
        "answer": np.full(shape, ""),
        "failed": np.zeros(shape, bool),
    }
    return effects_dataset(
        even | outcomes,
        labels=LABELS,
        kinds=KINDS,
        specs=["[]"] * 3,
        problem_ids=["p0", "p1"],
        addresses=[{}, {"family": "edges", "unit": "z4 ⊣ z1", "edit": "block"}, {"dose": 0.5}],
        controls={"z4 ⊣ z1": ["z3 ⊣ z2"]},
    )


def test_effects_are_labelled_and_come_back_from_disk(tmp_path):
    told = check_effects(effects(answer=np.array([["18", ""], ["1", "ü"], ["", ""]])))
    told.to_zarr(tmp_path / "effects.zarr", zarr_format=3, consolidated=False)
    with xr.open_zarr(tmp_path / "effects.zarr", consolidated=False) as stored:
        xr.testing.assert_identical(check_effects(stored).load(), told)
    assert told["answer"].dims == EFFECTS_DIMS
    assert json.loads(told.attrs["controls"]) == {"z4 ⊣ z1": ["z3 ⊣ z2"]}
    assert told["unit"].values.tolist() == ["", "z4 ⊣ z1", ""] and told["k"].values.tolist() == [0, 0, 0]
    np.testing.assert_equal(told["dose"].values, [np.nan, np.nan, 0.5])


def address(row, **values):
    """The effects with other coordinates at one intervention."""
    dataset = effects()
    for name, value in values.items():
        dataset[name].values[row] = value
    return dataset


def set_at(name, row, value):
    dataset = effects()
    dataset[name].values[row, 1] = value
    return dataset


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (set_at("gold_logprob", 1, np.nan), "gold_logprob is NaN"),
        (set_at("failed", 1, True), "gold_logprob is NaN"),
        (set_at("kl", 0, 0.5), "baseline differs from itself"),
        (effects().isel(intervention=[1, 0, 2]), "put it first"),
        (effects().isel(intervention=[0, 1]), "the controls name 'z3 ⊣ z2'"),
        (effects().isel(intervention=[0, 1, 1]), "two interventions are called 'z4 ⊣ z1'"),
        (effects().drop_vars("kl"), "nothing as 'kl'"),
        (effects(said_prefix=np.ones((3, 2), bool)), "nothing as 'prefix_logprob'"),
        (effects(joint_logprob=np.ones((3, 2))), "joint_logprob is not the sum of the log-probabilities"),
        (effects().transpose(), "as 'correct', expected dims"),
        (effects().drop_vars("unit"), "lack the coordinate 'unit'"),
        (address(0, family="heads"), "the baseline cuts 'heads', expected nothing"),
        (address(0, dose=0.5), "the baseline cuts 0.5, expected nothing"),
        (address(2, unit="L0H0"), "'z3 ⊣ z2' cuts the unit 'L0H0' of no family"),
        (address(1, kind="mood"), "an intervention is of kind 'mood', expected one of baseline, cut"),
        (address(1, order="attention"), "of kind 'cut', is step 0 of the order 'attention'"),
        (address(1, k=2), "is step 2 of the order ''"),
        (address(1, kind="order"), "of kind 'order', is step 0 of the order ''"),
        (address([1, 2], order="attention", k=1), "two cuts are step 1 of the order 'attention'"),
    ],
)
def test_a_broken_promise_is_refused(dataset, said):
    with pytest.raises(RunError, match=said):
        check_effects(dataset)


def test_a_failed_problem_has_no_answer():
    failed = np.array([[False, False], [False, True], [False, False]])
    gone = np.where(failed, np.nan, 0.0)
    check_effects(effects(failed=failed, gold_logprob=gone, kl=gone))
    with pytest.raises(RunError, match="a problem that failed has an answer"):
        check_effects(effects(failed=failed, gold_logprob=gone, kl=gone, answer=np.full((3, 2), "1")))


def test_answers_in_any_order_of_memory_come_back_from_disk_in_their_places(tmp_path):
    answers = np.array([["1", "2"], ["3", "4"], ["5", "6"]], dtype=np.dtypes.StringDType())
    effects(answer=np.asfortranarray(answers)).to_zarr(tmp_path / "effects.zarr", zarr_format=3, consolidated=False)
    with xr.open_zarr(tmp_path / "effects.zarr", consolidated=False) as stored:
        assert stored["answer"].values.tolist() == answers.tolist()
