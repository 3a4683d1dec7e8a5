import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest

from thoughtlens.analysis.transplants import FOLLOWS, KEEPS, NEITHER, transplants
from thoughtlens.effects_schema import check_effects, effects_dataset

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
