import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest

from thoughtlens.analysis import transplant_table
from thoughtlens.analysis.effects_by_design import FOLLOWS, KEEPS, NEITHER, transplants
from thoughtlens.schema import check_effects, effects_dataset

PROBLEMS = ["p0", "p1", "p2", "p3", "p4", "p5"]


@pytest.fixture
def given():
    """What a model answers alone and with the next problem's thoughts; p4's run failed, p5's donor answers alike."""
    alone = ["1", "2", "3", "4", "5", "1"]
    after = ["2", "3", "3", "99", "", "1"]
    failed = np.zeros((2, 6), dtype=bool)
    failed[1, 4] = True
    numbers = np.where(failed, np.nan, 0.0)
    effects = effects_dataset(
        {
            "correct": ~failed,
            "gold_logprob": numbers,
            "kl": numbers,
            "answer": np.array([alone, after]),
            "failed": failed,
        },
        labels=["none", "next problem's"],
        kinds=["baseline", "cut"],
        specs=["[]", "[]"],
        problem_ids=PROBLEMS,
    )
    donors = xr.DataArray(
        [[*PROBLEMS[1:], "p0"]],
        dims=("intervention", "problem"),
        coords={"intervention": ["next problem's"], "problem": PROBLEMS},
    )
    return check_effects(effects), donors


def test_answers_follow_the_donor_keep_to_themselves_or_neither(given):
    row = transplants(*given).isel(intervention=0)
    assert (row["n"], row["n_left_out"]) == (4, 2)
    share = row["share"].sel(value="estimate")
    assert [share.sel(answer=name).item() for name in (FOLLOWS, KEEPS, NEITHER)] == [2 / 4, 1 / 4, 1 / 4]


def test_shares_have_wilsons_interval(given):
    share = transplants(*given)["share"].isel(intervention=0).sel(answer=FOLLOWS)
    scipys = binomtest(2, 4).proportion_ci(method="wilson")
    np.testing.assert_allclose(share.sel(value=["low", "high"]), [scipys.low, scipys.high])


def test_a_donor_without_an_answer_is_left_out(given):
    effects, donors = given
    assert transplants(effects, xr.full_like(donors, ""))["n"].item() == 0


def made_transplant(given_answers, own_answers, n_steps=None, donors=None):
    """An effects Dataset in which each problem got the thoughts of the next, unless donors are named by place."""
    names = [f"p{k}" for k in range(len(own_answers))]
    spec = '[{"site": "thought", "edit": "resample"}]'
    shape = (2, len(names))
    effects = effects_dataset(
        {
            "correct": np.zeros(shape, bool),
            "gold_logprob": np.zeros(shape),
            "kl": np.zeros(shape),
            "answer": [own_answers, given_answers],
            "failed": np.zeros(shape, bool),
            "donor": [[""] * len(names), [names[place] for place in donors or [*range(1, len(names)), 0]]],
        },
        labels=["none", "thoughts resample"],
        kinds=["baseline", "cut"],
        specs=["[]", spec],
        problem_ids=names,
        n_steps=n_steps,
    )
    return check_effects(effects)


def test_donors_that_are_followed_are_beyond_all_others():
    own = [str(k) for k in range(30)]
    table = transplant_table(made_transplant([*own[1:], own[0]], own))
    # No other order of thirty problems is followed by all.
    assert table["p"].isel(intervention=0).item() == pytest.approx(1 / 1001)
    assert table["share"].sel(answer=FOLLOWS, value="estimate").isel(intervention=0).item() == 1.0


def test_answers_that_follow_nobody_are_like_all_donors():
    own = [str(k) for k in range(30)]
    table = transplant_table(made_transplant(["x"] * 30, own))
    assert table["p"].isel(intervention=0).item() == 1.0
    assert np.isnan(table["p"].isel(intervention=1))


def test_answers_common_among_problems_of_as_many_steps_are_no_sign_of_the_donor():
    """Problems of k steps have answers of their own; whose thoughts are given does not matter, but how many steps."""
    rng = np.random.default_rng(0)
    n_steps = np.repeat([1, 2, 3], 12)
    ps = []
    for seed in range(25):
        own = [f"{steps}{rng.integers(3)}" for steps in n_steps]
        given = [f"{steps}{rng.integers(3)}" for steps in n_steps]
        donors = [int(rng.choice(np.flatnonzero((n_steps == n_steps[k]) & (np.arange(36) != k)))) for k in range(36)]
        effects = made_transplant(given, own, n_steps.tolist(), donors)
        ps.append(transplant_table(effects, n_permutations=99, seed=seed)["p"].values[0])
    # The mean of twenty-five uniform numbers wanders by .06.
    assert np.mean(ps) == pytest.approx(0.5, abs=0.18)


def test_a_single_donor_is_set_against_problems_of_as_many_steps():
    own = [str(k) for k in range(30)]
    table = transplant_table(made_transplant(["7"] * 30, own, [1] * 10 + [2] * 20, [7] * 30))
    # One in ten problems of one step is the donor itself.
    assert table["p"].values[0] == pytest.approx(0.1, abs=0.03)
