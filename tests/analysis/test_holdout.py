"""Problems that choose and problems that are tested: each against an analysis of its half alone."""

import numpy as np
import pytest
import xarray as xr

from thoughtlens import schema
from thoughtlens.analysis import (
    Subject,
    analyze,
    collect_depth_sums,
    compare,
    compare_groups,
    compare_recipes,
    headline,
)
from thoughtlens.analysis.headlines_and_tables import analysis_tables
from thoughtlens.errors import OptionError

FEW = {"n_resamples": 20}
SMALL = {"n_problems": 40, "n_layers": 1, "n_heads": 1}


@pytest.fixture(scope="module")
def dataset(make_attention):
    return make_attention(n_problems=24, n_layers=1, n_heads=3, missing=(3,))


@pytest.fixture(scope="module")
def tested(dataset):
    return schema.tested_half(dataset["problem"].values.tolist(), 0.5)


@pytest.fixture(scope="module")
def held_out(dataset):
    return analyze(dataset, holdout=0.5, **FEW)


def half(dataset, which):
    return dataset.isel(problem=np.flatnonzero(which))


def test_numbers_are_those_of_the_tested_half_alone(dataset, tested, held_out):
    alone = analyze(half(dataset, tested), **FEW)
    for name in ("moments", "composition", "readout", "rollout", "last_thought", "accuracy"):
        xr.testing.assert_allclose(getattr(held_out, name), getattr(alone, name))
    for level in ("model", "layers", "heads"):
        for name in ("preference", "lag_preference", "sequential", "skip", "entropy", "thought_mass"):
            xr.testing.assert_allclose(getattr(held_out, level)[name], getattr(alone, level)[name])
    others = [name for name in alone.evidence["measure"].values if name != "hub"]
    for name in ("excess", "p", "q"):
        xr.testing.assert_allclose(
            held_out.evidence[name].sel(measure=others), alone.evidence[name].sel(measure=others)
        )
    assert held_out.model["n"] == tested.sum()


def test_choices_are_those_of_the_other_half_alone(dataset, tested, held_out):
    other = analyze(half(dataset, ~tested), **FEW)
    for level in ("model", "layers", "heads"):
        assert (getattr(held_out, level)["preferred"] == getattr(other, level)["preferred"]).all()
    assert (held_out.hubs["strongest"] == other.hubs["strongest"]).all()
    assert held_out.ranking["name"].values.tolist() == other.ranking["name"].values.tolist()
    assert held_out.ranking["reliability"].item() == pytest.approx(other.ranking["reliability"].item())
    for at in np.ndindex(1, 3):
        head = held_out.heads.isel(layer=at[0], head=at[1])
        own = head["preference"].sel(thought=head["preferred"].item())
        np.testing.assert_array_equal(head["largest_preference"], own)


def test_nothing_is_gained_by_choosing_on_other_problems(make_attention):
    """Rows prefer no thought: the largest of five preferences is above 1, that of a thought chosen before is not."""
    noise = make_attention(n_problems=40, n_layers=1, n_heads=24)
    estimates = {}
    for share in (None, 0.5):
        heads = analyze(noise, holdout=share, **FEW).heads
        estimates[share] = heads["largest_preference"].sel(value="estimate").values.ravel()
        assert heads["largest_preference_null"].mean() == pytest.approx(estimates[share].mean(), abs=0.05)
    assert estimates[None].mean() > 1.08
    error = estimates[0.5].std() / np.sqrt(estimates[0.5].size)
    assert abs(estimates[0.5].mean() - 1.0) < 3 * error


def test_a_hub_that_other_problems_chose_is_tested(plant_attention):
    lean = plant_attention(lambda query, key: 9.0 if key == "z2" and query != "z2" else 1.0, **SMALL)
    found = analyze(lean, holdout=0.5, **FEW)
    assert found.model["hub"].item() == "z2"
    # The tested problems prefer another thought than those that chose.
    tested = schema.tested_half(lean["problem"].values.tolist(), 0.5)
    turned = plant_attention(lambda query, key: 9.0 if key == "z3" and query != "z3" else 1.0, **SMALL)
    mixed = lean["attention"].where(xr.DataArray(~tested, dims="problem"), turned["attention"])
    found = analyze(lean.assign(attention=mixed), holdout=0.5, **FEW)
    assert found.hubs["strongest"].values.tolist() == [["z2"]]
    assert (found.heads["hub"] == "").all()
    assert found.model["hub"].item() == ""


def test_results_say_which_problems_chose(dataset, tested, held_out):
    whole = analyze(dataset.isel(problem=slice(6)), **FEW)
    assert headline(whole)["holdout"] is None
    assert headline(whole)["selected_on"] == "selected on these problems"
    assert set(analysis_tables(whole)["heads"]["selected_on"]) == {"these problems"}
    others = int((~tested).sum())
    assert headline(held_out)["holdout"] == {"share": 0.5, "seed": 0, "n_choosing": others}
    assert headline(held_out)["selected_on"] == f"selected on {others} other problems"
    assert set(analysis_tables(held_out)["heads"]["selected_on"]) == {"other problems"}
    assert held_out.options["holdout"] == {"share": 0.5, "seed": 0}


def test_groups_and_what_is_beyond_null_models_are_of_the_tested_half(dataset, tested, make_attention):
    null = make_attention(n_problems=24, n_layers=1, n_heads=3, seed=1)
    found = analyze(dataset, holdout=0.5, by="correct", null=[null], **FEW)
    alone = analyze(half(dataset, tested), null=[null], **FEW)
    right = dataset["correct"].values
    groups = {"solved": right[tested], "failed": ~right[tested]}
    sums = collect_depth_sums(half(dataset, tested))
    expected = compare_groups(sums, groups, correct=right[tested], n_resamples=20)
    for name in ("measures", "differences", "p_values"):
        xr.testing.assert_allclose(getattr(found.groups["correct"], name), getattr(expected, name))
    for group, of in found.parts["correct"].items():
        assert of.model["n"] == (tested & (right == (group == "solved"))).sum()
        assert of.model.attrs["n_choosing"] == (~tested & (right == (group == "solved"))).sum()
    others = [name for name in alone.over_null.heads["measure"].values if name != "hub"]
    for level, own in zip(found.over_null, alone.over_null, strict=True):
        for name in ("excess", "p", "q", "null_mean"):
            xr.testing.assert_allclose(level[name].sel(measure=others), own[name].sel(measure=others))
        assert level["n"] == tested.sum()
    assert (found.over_null.heads["strongest"] == found.hubs["strongest"]).all()


def test_halves_of_fewer_than_two_problems_are_refused(make_attention):
    few = make_attention(n_problems=3)
    with pytest.raises(OptionError, match=r"leaves \d of 3 problems to be tested .* expected two or more of each"):
        analyze(few, holdout=0.5, **FEW)
    with pytest.raises(OptionError, match="problems aren't known before"):
        analyze([few], correct=few["correct"], holdout=0.5, **FEW)
    with pytest.raises(OptionError, match=r"leaves \d of 3 problems to be compared .* expected two or more of each"):
        compare({name: subject(few) for name in "ab"}, holdout=0.5, **FEW)


def subject(dataset):
    ids = dataset["problem"].values.tolist()
    return Subject(dataset, [f"{name}: how many?" for name in ids], dataset["correct"].values, ids=ids)


@pytest.mark.parametrize("shared", [True, False])
def test_models_are_compared_on_the_tested_half(make_attention, shared):
    sides = {name: make_attention(n_problems=24, seed=seed) for seed, name in enumerate("ab")}
    if not shared:
        sides["b"] = sides["b"].assign_coords(problem=[f"q{k}" for k in range(24)])
    found = compare({name: subject(of) for name, of in sides.items()}, holdout=0.5, holdout_seed=2, n_resamples=20)
    kept = {name: half(of, schema.tested_half(of["problem"].values.tolist(), 0.5, 2)) for name, of in sides.items()}
    alone = compare({name: subject(of) for name, of in kept.items()}, n_resamples=20)
    for name in ("measures", "differences", "p_values", "rank_correlations"):
        xr.testing.assert_allclose(getattr(found, name), getattr(alone, name))
    assert any("Held out (0.5, seed 2)" in note for note in found.notes)


def test_recipes_are_compared_on_the_tested_half(make_attention):
    models = {f"m{seed}": make_attention(n_problems=24, n_layers=1, seed=seed) for seed in range(4)}
    recipes = {"one": ["m0", "m1"], "other": ["m2", "m3"]}
    found = compare_recipes(
        {name: subject(of) for name, of in models.items()}, recipes, holdout=0.5, holdout_seed=2, n_resamples=20
    )
    tested = schema.tested_half(models["m0"]["problem"].values.tolist(), 0.5, 2)
    kept = {name: subject(half(of, tested)) for name, of in models.items()}
    alone = compare_recipes(kept, recipes, n_resamples=20)
    for name in ("measures", "differences", "p_values"):
        xr.testing.assert_allclose(getattr(found, name), getattr(alone, name))
    assert f"{(~tested).sum()} other problems are left out" in found.notes[1]
