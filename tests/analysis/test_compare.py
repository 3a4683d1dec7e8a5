"""Models and groups side by side, against naive loops, exact enumeration, scipy and closed forms."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.stats import false_discovery_control, permutation_test, spearmanr
from tests.attention_made import numbers_of
from tests.conftest import usually

from thoughtlens.analysis import (
    Subject,
    analyze,
    collect_depth_sums,
    compare,
    compare_groups,
    compare_recipes,
    comparison_headline,
    comparison_tables,
    composition,
    group_table,
    preference_sums,
    preferences,
    resample_weights,
)
from thoughtlens.analysis import streamed_attention as blocks
from thoughtlens.analysis.comparison import comparison_overview, group_seed, rank_correlation
from thoughtlens.analysis.comparison_statistics import (
    DEPTHS,
    Ratios,
    as_ratios,
    dealt_t,
    layers_by_depth,
    linearised,
    over_models,
    relabellings,
    resampled,
    two_sided,
    welch,
)
from thoughtlens.errors import OptionError, RunError
from thoughtlens.notation import thought_names

SINGLE = ("sequential", "skip", "thought_mass")
BY_DEPTH = (*SINGLE, "preference", "lag_preference", "composition")


def subject(dataset, **changes):
    given = {
        "blocks": dataset,
        "problems": [str(name) for name in dataset["problem"].values],
        "correct": dataset["correct"].values,
        "n_question_tokens": dataset["n_question_tokens"].values,
    }
    return Subject(**given | changes)


COMPARED = {}


def compared(*datasets, n_resamples=60, **options):
    """`compare`, made once for all tests of the same numbers and options: none may change what it gets."""
    names = ("a", "b", "c")[: len(datasets)]
    key = (*map(numbers_of, datasets), n_resamples, *sorted(options.items()), blocks.PIECE_CELLS)
    if key not in COMPARED:
        subjects = {name: subject(of) for name, of in zip(names, datasets, strict=True)}
        COMPARED[key] = compare(subjects, n_resamples=n_resamples, **options)
    return COMPARED[key]


def naive(values, name):
    """A measure from cells, loop by loop: values (problem, layer, head, query, key) of six thoughts."""
    a = np.nansum(values, axis=(0, 1, 2))
    row = {q: {k: a[q + 1, k + 3] for k in range(6)} for q in range(6)}
    mass = {q: sum(row[q][k] for k in range(q)) for q in range(6)}
    if name == "thought_mass":
        return sum(mass.values()) / (5 * values[..., 0, 0].size)
    cells = {"sequential": [(q, q - 1) for q in range(2, 6)], "skip": [(5, 0), (5, 1), (5, 2)]}[name]
    return sum(row[q][k] for q, k in cells) / sum(mass[q] / q for q, _ in cells)


def layers_of(depth, n_layers):
    place = [Fraction(layer, n_layers - 1) for layer in range(n_layers)]
    third = Fraction(1, 3)
    chosen = {
        "all": lambda d: True,
        "early": lambda d: d < third,
        "middle": lambda d: third <= d <= 2 * third,
        "late": lambda d: d > 2 * third,
    }
    return [layer for layer in range(n_layers) if chosen[depth](place[layer])]


def test_a_model_compared_with_itself_differs_by_exactly_nothing(make_attention):
    dataset = make_attention(n_problems=20, n_layers=4)
    found = compared(dataset, dataset)
    for name in BY_DEPTH:
        difference, p = found.differences[name], found.p_values[name]
        defined = found.measures[name].isel(model=0, drop=True).notnull()
        assert defined.any()
        assert (difference.isel(pair=0).where(defined, 0.0) == 0.0).all()
        assert (p.isel(pair=0).where(defined.isel(value=0), 1.0) == 1.0).all()
    assert (found.differences["accuracy"] == 0.0).all()
    assert (found.p_values["accuracy"] == 1.0).all()
    for name in found.rank_correlations.data_vars:
        np.testing.assert_allclose(found.rank_correlations[name], 1.0, rtol=1e-12)


def test_paired_differences_are_those_of_naive_loops(make_attention):
    one, other = make_attention(n_problems=7, n_layers=5, n_heads=2), make_attention(n_problems=7, n_layers=3, seed=1)
    found = compared(one, other, n_resamples=20, seed=3).differences.isel(pair=0)
    draws = [np.repeat(np.arange(7), drawn) for drawn in resample_weights(7, n_resamples=20, seed=3).values]
    for depth, name in product(DEPTHS, SINGLE):
        sides = [of["attention"].values[:, layers_of(depth, of.sizes["layer"])].astype(float) for of in (other, one)]
        samples = [naive(sides[0][drawn], name) - naive(sides[1][drawn], name) for drawn in draws]
        expected = [samples[0], *np.quantile(samples[1:], [0.025, 0.975])]
        np.testing.assert_allclose(found[name].sel(depth=depth), expected, rtol=1e-9, atol=1e-12)


def test_a_models_own_numbers_are_those_of_its_analysis(make_attention):
    one, other = make_attention(n_problems=8, missing=(2,)), make_attention(n_problems=8, seed=1)
    found = compared(one, other, seed=4).measures.sel(model="a", depth="all")
    whole = analyze(one, correct=one["correct"], n_resamples=60, seed=4)
    for name in ("preference", "lag_preference", *SINGLE):
        np.testing.assert_allclose(found[name], whole.model[name].transpose(..., "value"), rtol=1e-10)
    rows = whole.composition["composition"].sel(query=thought_names(6), value="estimate").mean("query")
    np.testing.assert_allclose(found["composition"].sel(value="estimate"), rows, rtol=1e-10)
    np.testing.assert_allclose(found["accuracy"], whole.accuracy["accuracy"])


def test_the_order_of_the_models_turns_the_sign(make_attention):
    one, other = make_attention(n_problems=8), make_attention(n_problems=8, seed=1)
    there, back = compared(one, other), compared(other, one)
    for name in (*BY_DEPTH, "accuracy"):
        left, right = there.differences[name].isel(pair=0), back.differences[name].isel(pair=0)
        for bound, mirrored in (("estimate", "estimate"), ("low", "high"), ("high", "low")):
            np.testing.assert_allclose(left.sel(value=bound), -right.sel(value=mirrored), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(there.p_values[name], back.p_values[name])


# In pieces, of more problems too.
@pytest.mark.parametrize("change", usually("order", "pieces", of=["order", "extra", "pieces"]))
def test_common_problems_give_the_same_numbers_wherever_they_stand(make_attention, monkeypatch, change):
    one, other = make_attention(n_problems=6), make_attention(n_problems=6, seed=1)
    one["correct"].values[:], other["correct"].values[:] = [1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 1]
    expected = compared(one, other)
    if change == "order":
        other = other.isel(problem=[4, 0, 5, 3, 1, 2])
    else:
        more = make_attention(n_problems=3, seed=9).assign_coords(problem=np.array(["x", "y", "z"], dtype="T"))
        other = xr.concat([more, other], "problem").isel(problem=[0, 1, 3, 4, 5, 2, 6, 7, 8])
    if change == "pieces":
        monkeypatch.setattr(blocks, "PIECE_CELLS", 1)
    found = compared(one, other)
    for name in (*BY_DEPTH, "accuracy"):
        np.testing.assert_allclose(found.differences[name], expected.differences[name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.p_values[name], expected.p_values[name])
    for name in expected.rank_correlations.data_vars:
        np.testing.assert_allclose(found.rank_correlations[name], expected.rank_correlations[name])
    said = "Only the 6 problems that all have are compared, of 6 of a, 9 of b; differences are paired."
    assert (said in found.notes) == (change != "order")


def mean_parts(dataset):
    """Composition of the thoughts' rows, a mean over problems: (problem, part)."""
    rows = composition(dataset["attention"]).sel(query=thought_names(6))
    return rows.mean(["layer", "head", "query"])


def test_paired_p_comes_near_scipys_by_sign_flips(make_attention):
    # 1,000 draws vary by 0.016 around p = 0.5; p is corrected for the skewness that 30 problems have by chance.
    one, other = make_attention(n_problems=30), make_attention(n_problems=30, seed=1)
    found = compared(one, other, n_resamples=1000).p_values["composition"].sel(depth="all").isel(pair=0)
    apart = (mean_parts(other) - mean_parts(one)).transpose("problem", "part").values
    for place, part in enumerate(found["part"].values[:5]):
        drawn = permutation_test(
            (apart[:, place],), np.mean, permutation_type="samples", n_resamples=5000, vectorized=True, rng=0
        )
        assert found.sel(part=part).item() == pytest.approx(drawn.pvalue, abs=0.06)


def test_below_twenty_problems_a_difference_has_an_interval_and_no_p(make_attention):
    found = compared(make_attention(n_problems=19), make_attention(n_problems=19, seed=1))
    assert found.differences["sequential"].sel(depth="all").notnull().all()
    assert found.p_values["sequential"].isnull().all()
    assert found.p_values["accuracy"].notnull().all()
    warnings = comparison_headline(found)["warnings"]
    assert len(warnings) == 2
    assert all("below 20 problems" in said and "p-values of means" in said for said in warnings)


def test_group_p_of_a_mean_is_scipys_by_permutation(make_attention):
    # Halves: the null is then symmetric, and scipy's doubled smaller tail is the share of both tails.
    dataset = make_attention(n_problems=8)
    members = np.arange(8) < 4
    found = compare_groups(
        collect_depth_sums(dataset), {"x": members, "y": ~members}, correct=dataset["correct"], n_resamples=100
    )
    values = mean_parts(dataset).transpose("problem", "part").values
    for place, part in enumerate(found.p_values["part"].values[:5]):
        exact = permutation_test(
            (values[~members, place], values[members, place]),
            lambda a, b, axis: a.mean(axis) - b.mean(axis),
            n_resamples=np.inf,
            vectorized=True,
        )
        assert found.p_values["composition"].sel(depth="all", part=part).item() == pytest.approx(exact.pvalue)


def test_group_p_of_a_ratio_is_exact_for_few_problems(make_attention):
    dataset = make_attention(n_problems=7)
    members = np.isin(np.arange(7), [1, 4, 6])
    found = compare_groups(
        collect_depth_sums(dataset), {"x": members, "y": ~members}, correct=dataset["correct"], n_resamples=100
    )
    for name in SINGLE:
        above, below = parts_of(dataset["attention"].values.astype(float), name)
        apart = {rows: abs(welch_t(above, below, np.isin(np.arange(7), rows))) for rows in combinations(range(7), 3)}
        expected = np.mean([distance >= apart[1, 4, 6] * (1 - 1e-9) for distance in apart.values()])
        assert found.p_values[name].sel(depth="all").item() == pytest.approx(expected)


def parts_of(values, name):
    """Numerator and denominator of a measure for each problem, loop by loop."""
    above, below = np.zeros(len(values)), np.zeros(len(values))
    for p, of_problem in enumerate(np.nansum(values, axis=(1, 2))):
        row = {q: {k: of_problem[q + 1, k + 3] for k in range(6)} for q in range(6)}
        mass = {q: sum(row[q][k] for k in range(q)) for q in range(6)}
        if name == "thought_mass":
            above[p], below[p] = sum(mass.values()), 5 * values[0, ..., 0, 0].size
        else:
            cells = {"sequential": [(q, q - 1) for q in range(2, 6)], "skip": [(5, 0), (5, 1), (5, 2)]}[name]
            above[p], below[p] = sum(row[q][k] for q, k in cells), sum(mass[q] / q for q, _ in cells)
    return above, below


def welch_t(above, below, chosen):
    """Welch's t by Hall's transformation."""
    ratios, variances, cubes = [], [], []
    for side in (chosen, ~chosen):
        ratio, n = above[side].sum() / below[side].sum(), side.sum()
        ratios.append(ratio)
        residuals = (above[side] - ratio * below[side]) / below[side].mean()
        variances.append((residuals**2).sum() / (n - 1) / n)
        cubes.append((residuals**3).mean() / n**2)
    error = np.sqrt(sum(variances))
    t, skewness = (ratios[0] - ratios[1]) / error, np.clip((cubes[0] - cubes[1]) / error**3, -1, 1)
    return t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6


def test_few_problems_of_great_spread_against_many_of_little_are_told_apart():
    """42 against 258 problems of equal mean: dealt out by their plain difference, 30 % differ at 5 %."""
    rng = np.random.default_rng(0)
    n_trials = 400
    few, many = (rng.normal(3, spread, size=(n, n_trials)) for n, spread in ((42, 3.0), (258, 1.0)))
    above = xr.DataArray(np.concatenate([few, many]), dims=("problem", "trial"))
    pooled = Ratios(*(xr.Dataset({"mean": of}) for of in (above, xr.ones_like(above))))
    ones = xr.ones_like(above.variable)
    labels = relabellings(42, 258, n_draws=300, seed=0)
    p = two_sided(dealt_t(above.variable, ones, labels.variable))
    # 400 trials at a rate of 0.05: standard error 0.011.
    assert 0.02 <= (p <= 0.05).mean() <= 0.08
    # Skewed problems: without the correction 13 % differ.
    rng, n_trials = np.random.default_rng(1), 1000
    few, many = (rng.exponential(size=(n, n_trials)) * (rng.random((n, n_trials)) < 0.1) for n in (42, 258))
    noise = rng.normal(0, 0.01, size=(300, n_trials))
    skewed = xr.DataArray(np.concatenate([3 * (few - 0.1), many - 0.1]) + noise + 3.0, dims=("problem", "trial"))
    p = two_sided(dealt_t(skewed.variable, xr.ones_like(skewed.variable), labels.variable))
    assert 0.02 <= (p <= 0.05).mean() <= 0.08
    plain = two_sided((resampled(pooled, labels) - resampled(pooled, 1 - labels))["mean"].variable)
    assert (plain <= 0.05).mean() > 0.2


def recipes_of(make_attention, seeds, n_problems=24):
    """Runs as subjects, and the names of those of each recipe."""
    runs = {
        f"{recipe}{seed}": subject(make_attention(n_problems=n_problems, seed=seed))
        for recipe, its in seeds.items()
        for seed in its
    }
    return runs, {recipe: [f"{recipe}{seed}" for seed in its] for recipe, its in seeds.items()}


def test_recipes_are_compared_by_the_means_of_their_seeds(make_attention):
    runs, recipes = recipes_of(make_attention, {"a": (0, 1, 2), "b": (3, 4, 5, 6)})
    found = compare_recipes(runs, recipes, n_resamples=50)
    assert found.dim == "recipe"
    assert found.measures["n_models"].values.tolist() == [3, 4]
    for name in SINGLE:
        means = {
            recipe: np.array([naive(runs[of].blocks["attention"].values.astype(float), name) for of in its])
            for recipe, its in recipes.items()
        }
        for recipe, values in means.items():
            own = found.measures[name].sel(recipe=recipe, depth="all")
            low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
            np.testing.assert_allclose(own, [values.mean(), low, high], rtol=1e-9)
        oracle = stats.ttest_ind(means["b"], means["a"], equal_var=False)
        difference = found.differences[name].sel(depth="all").isel(pair=0)
        bounds = oracle.confidence_interval(0.95)
        np.testing.assert_allclose(
            difference, [means["b"].mean() - means["a"].mean(), bounds.low, bounds.high], rtol=1e-6
        )
        assert found.p_values[name].sel(depth="all").item() == pytest.approx(oracle.pvalue, rel=1e-6)
    assert "b − a: Welch's t over the means of 4 and 3 models; problems are nested in them." in found.notes
    tables = comparison_tables(found)
    assert set(tables["recipes"]["n_models"]) == {3, 4}
    assert comparison_headline(found)["differences"][0]["sequential"]["p_holm"] <= 1
    assert comparison_overview(found)["preference"].dims == ("model", "thought", "value")


def test_below_three_seeds_a_difference_is_over_problems_and_holds_for_these_weights(make_attention):
    runs, recipes = recipes_of(make_attention, {"a": (0, 1), "b": (3,)})
    found = compare_recipes(runs, recipes, n_resamples=200)
    assert any("fewer than 3 on a side" in note and "hold for these weights" in note for note in found.notes)
    means = [
        np.mean([naive(runs[of].blocks["attention"].values.astype(float), "skip") for of in its])
        for its in recipes.values()
    ]
    difference = found.differences["skip"].sel(depth="all").isel(pair=0)
    assert difference.sel(value="estimate").item() == pytest.approx(means[1] - means[0])
    alone, names = recipes_of(make_attention, {"a": (0,), "b": (3,)})
    pair = compare({"a": alone["a0"], "b": alone["b3"]}, n_resamples=200)
    same = compare_recipes(alone, names, n_resamples=200)
    for name in SINGLE:
        np.testing.assert_allclose(same.differences[name], pair.differences[name])
        np.testing.assert_allclose(same.p_values[name], pair.p_values[name])
    assert any("hold for these weights" in note for note in pair.notes)


def test_more_problems_make_no_two_recipes_differ():
    """Seeds differ and recipes do not: over problems two thirds of such pairs differ, over seeds one in twenty."""
    rng = np.random.default_rng(0)
    one, minus = (xr.DataArray(rng.normal(size=(3, 2000)), dims=("model", "trial")) for _ in range(2))
    _, p = welch(one, minus)
    # Welch's degrees of freedom make three against three a little conservative.
    assert 0.02 <= (p <= 0.05).mean() <= 0.06
    bounds = over_models(one)
    covered = ((bounds.sel(value="low") <= 0) & (bounds.sel(value="high") >= 0)).mean()
    assert covered.item() == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("recipes", [{"a": ["a0"]}, {"a": ["a0"], "b": []}, {"a": ["a0"], "b": ["a0"]}], ids=str)
def test_recipes_that_share_runs_or_have_none_are_refused(make_attention, recipes):
    runs, _ = recipes_of(make_attention, {"a": (0,), "b": (1,)}, n_problems=4)
    with pytest.raises(OptionError, match="pass --group NAME=RUN,RUN"):
        compare_recipes(runs, recipes)


def test_recipes_on_other_problems_are_refused(make_attention):
    runs, recipes = recipes_of(make_attention, {"a": (0,), "b": (1,)}, n_problems=4)
    runs["b1"] = replace(runs["b1"], problems=[f"q{k}" for k in range(4)])
    with pytest.raises(RunError, match="fewer than two problems in common; extract all on the same set of problems"):
        compare_recipes(runs, recipes)


def test_all_ways_are_dealt_once_the_observed_first_and_else_only_so_many():
    labels = relabellings(3, 4, n_draws=35, seed=0).values
    assert len({tuple(row) for row in labels}) == comb(7, 3)
    assert len(relabellings(3, 4, n_draws=34, seed=0)) == 35
    assert (relabellings(3, 4, n_draws=34, seed=0).sum("problem") == 3).all()
    for n_draws in (34, 35):
        assert relabellings(3, 4, n_draws=n_draws, seed=0).values[0].tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_accuracy_differs_as_its_problems_do(make_attention):
    one, other = make_attention(n_problems=8), make_attention(n_problems=8, seed=1)
    one["correct"].values[:], other["correct"].values[:] = [1, 1, 1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 1, 0]
    found = compared(one, other)
    assert found.differences["accuracy"].sel(value="estimate").item() == pytest.approx(2 / 8 - 6 / 8)
    assert found.p_values["accuracy"].item() == pytest.approx(2 * 7 / 64)


def test_linearised_numbers_average_to_the_ratio(make_attention):
    dataset = make_attention(n_problems=6)
    means = linearised(as_ratios(collect_depth_sums(dataset), dataset["correct"].values)).mean("problem")
    expected = preferences(preference_sums(dataset["attention"]).sum(["problem", "layer", "head"]))
    for name in ("preference", "lag_preference", *SINGLE):
        np.testing.assert_allclose(means[name].sel(depth="all"), expected[name], rtol=1e-10)


@pytest.mark.parametrize("n_layers", range(2, 41))
def test_depths_are_thirds_of_the_way_and_mirror_each_other(n_layers):
    members = layers_by_depth(n_layers)
    for depth in DEPTHS:
        assert np.flatnonzero(members.sel(depth=depth)).tolist() == layers_of(depth, n_layers)
    np.testing.assert_array_equal(members.sel(depth="early"), members.sel(depth="late")[::-1])
    assert (members.sel(depth=["early", "middle", "late"]).sum("depth") == 1).all()


def test_planted_preference_is_found_at_its_depth(plant_attention):
    previous = {f"z{k + 1}": f"z{k}" for k in range(1, 6)}
    even = plant_attention(lambda q, k: 1.0, n_layers=3)
    steps = plant_attention(lambda q, k: 9.0 if previous.get(q) == k else 1.0, n_layers=3)
    late = even.assign(attention=even["attention"].copy(data=even["attention"].values.copy()))
    late["attention"].values[:, 2] = steps["attention"].values[:, 2]
    found = compared(even, late).differences["sequential"].sel(value="estimate").isel(pair=0)
    np.testing.assert_allclose(found.sel(depth=["early", "middle"]), 0.0, atol=1e-6)
    assert found.sel(depth="late") > found.sel(depth="all") > 0.1


def test_rank_correlation_is_scipys_in_every_resample():
    rng = np.random.default_rng(0)
    one, other = (xr.DataArray(rng.normal(size=(5, 3, 4)), dims=("resample", "layer", "head")) for _ in range(2))
    one[:, 0, 1] = np.nan
    one[3, 2, 2] = np.nan
    known = [(layer, head) for layer in range(3) for head in range(4) if (layer, head) not in ((0, 1), (2, 2))]
    for resample, found in enumerate(rank_correlation(one, other).values):
        pair = [[of.values[resample, layer, head] for layer, head in known] for of in (one, other)]
        assert found == pytest.approx(spearmanr(*pair).statistic)


def test_a_rank_correlation_without_ranks_is_undefined():
    flat = xr.DataArray(np.ones((2, 1, 5)), dims=("resample", "layer", "head"))
    varied = flat.copy(data=np.arange(10.0).reshape(2, 1, 5))
    assert rank_correlation(flat, varied).isnull().all()
    assert rank_correlation(varied.isel(head=[0, 1]), varied.isel(head=[0, 1])).isnull().all()


def test_models_of_other_shapes_have_no_profile_in_common(make_attention):
    found = compared(make_attention(n_heads=3), make_attention(n_heads=4, seed=1))
    assert all(found.rank_correlations[name].isnull().all() for name in found.rank_correlations.data_vars)
    assert any("b has 2 × 4 layers × heads and a 2 × 3" in note for note in found.notes)
    assert found.differences["sequential"].sel(depth="all").notnull().all()


def test_two_layers_have_no_middle_and_it_is_said(make_attention):
    found = compared(make_attention(n_layers=2), make_attention(n_layers=4, seed=1))
    assert found.measures["sequential"].sel(model="a", depth="middle").isnull().all()
    assert found.differences["sequential"].sel(depth="middle").isnull().all()
    assert found.p_values["sequential"].sel(depth="middle").isnull().all()
    assert "a has too few layers for every depth: middle is undefined." in found.notes


def test_other_numbers_of_thoughts_leave_lags_and_composition(make_attention):
    few, many = make_attention(n_thoughts=5), make_attention(n_thoughts=8, seed=1)
    found = compared(few, many, few)
    between, same = (found.differences.sel(depth="all", value="estimate").isel(pair=[pair]) for pair in (0, 1))
    for name in ("preference", "skip"):
        assert between[name].isnull().all()
        assert same[name].notnull().any()
    for name in ("sequential", "thought_mass", "composition"):
        assert between[name].notnull().all()
    assert between["lag"].values[between["lag_preference"].isel(pair=0).notnull()].tolist() == [1, 2, 3, 4]
    assert found.measures["preference"].sel(model="a", depth="all", value="estimate").notnull().sum() == 4
    assert any("a has 5, b has 8, c has 5" in note for note in found.notes)
    assert found.rank_correlations["importance"].isel(pair=0).isnull().all()
    assert found.rank_correlations["sequential"].isel(pair=0).notnull().all()
    alone = analyze(few, correct=few["correct"], n_resamples=60).model
    np.testing.assert_allclose(
        found.measures["lag_preference"].sel(model="a", depth="all", lag=alone["lag"]),
        alone["lag_preference"].transpose("lag", "value"),
    )


def test_other_problems_are_compared_unpaired_and_it_is_said(make_attention):
    dataset = make_attention(n_problems=6)
    others = dataset.assign_coords(problem=np.array([f"q{i}" for i in range(6)], dtype="T"))
    found = compared(dataset, others)
    assert found.measures.attrs["paired"] is False
    assert "fewer than two problems in common" in found.notes[0]
    difference = found.differences["sequential"].sel(depth="all").isel(pair=0)
    assert difference.sel(value="estimate") == 0.0
    # Drawn alike, equal attention would differ by nothing in every resample.
    assert difference.sel(value="low") < 0.0 < difference.sel(value="high")
    assert found.p_values["sequential"].sel(depth="all").item() == 1.0


def test_other_tokens_are_said(make_attention):
    one, other = make_attention(), make_attention(seed=1)
    assert not any("tokens" in note for note in compared(one, other).notes)
    other["n_question_tokens"].values[2] += 1
    assert any("b cuts questions into other numbers of tokens than a" in note for note in compared(one, other).notes)


def test_heads_of_each_type_are_counted_by_depth(make_attention):
    dataset = make_attention(n_layers=5, n_heads=4)
    kinds = np.random.default_rng(0).choice(["hub", "first-token", "self"], (5, 4))
    types = xr.DataArray(kinds.astype("T"), dims=("layer", "head"))
    two = {name: subject(dataset, head_types=of) for name, of in (("a", types), ("b", types[::-1]))}
    counts = compare(two, n_resamples=20).type_counts["type_count"]
    for depth in DEPTHS:
        expected = Counter(kinds[layers_of(depth, 5)].ravel().tolist())
        found = counts.sel(model="a", depth=depth)
        assert {str(kind): int(found.sel(type=kind)) for kind in found["type"].values} == {
            kind: expected[kind] for kind in sorted(set(kinds.ravel().tolist()))
        }
    np.testing.assert_array_equal(counts.sel(model="b", depth="early"), counts.sel(model="a", depth="late"))
    assert comparison_overview(compared(dataset, dataset)).sizes["type"] == 0


def test_the_figures_data_is_that_of_all_layers(make_attention):
    found = compared(make_attention(), make_attention(seed=1))
    data = comparison_overview(found)
    dims = {
        "preference": ("model", "thought", "value"),
        "lag_preference": ("model", "lag", "value"),
        "composition": ("model", "part", "value"),
        "type_share": ("model", "type"),
        "accuracy": ("model", "value"),
        "n": ("model",),
    }
    assert {name: data[name].dims for name in data.data_vars} == dims
    np.testing.assert_array_equal(data["preference"], found.measures["preference"].sel(depth="all"))


def test_tables_hold_every_defined_number_once(make_attention):
    found = compared(*(make_attention(n_problems=20, seed=seed) for seed in range(3)))
    tables = comparison_tables(found)
    for name, of in (("models", found.measures), ("differences", found.differences)):
        defined = sum(int(of[m].sel(value="estimate").notnull().sum()) for m in (*BY_DEPTH, "accuracy"))
        assert len(tables[name]) == defined
        assert not tables[name].duplicated(["model", "measure", "position", "depth"]).any()
    row = tables["differences"].query(
        "model == 'c' and measure == 'preference' and position == 'z2' and depth == 'late'"
    )
    place = {"thought": "z2", "depth": "late"}
    expected = found.differences["preference"].isel(pair=1).sel(place)
    np.testing.assert_array_equal(row[["estimate", "low", "high"]].values[0], expected)
    assert row["p"].item() == found.p_values["preference"].isel(pair=1).sel(place).item()


def test_the_headline_compares_the_preference_for_each_thought(make_attention):
    """None is chosen for its size: the ceiling of H rises with the thought."""
    found = compared(make_attention(), make_attention(seed=1))
    facts = comparison_headline(found)
    base, other = (found.measures["preference"].sel(model=m, depth="all", value="estimate") for m in ("a", "b"))
    [pair] = facts["differences"]
    for thought in ("z1", "z2", "z3", "z4", "z5"):
        assert facts["own"]["a"]["preference"][thought]["estimate"] == base.sel(thought=thought).item()
        difference = other.sel(thought=thought).item() - base.sel(thought=thought).item()
        assert pair["preference"][thought]["estimate"] == pytest.approx(difference)


def test_p_of_the_closing_table_is_holms_over_all_thoughts_and_pairs(make_attention):
    found = compared(*(make_attention(n_problems=21, seed=seed) for seed in range(3)))
    pairs = comparison_headline(found)["differences"]
    own = found.p_values.sel(depth="all")
    family = np.concatenate([own[name].values.ravel() for name in ("accuracy", *SINGLE, "preference")])
    family = family[np.isfinite(family)]
    assert len(family) == 2 * (4 + 5)
    for pair in pairs:
        by_thought = [of for of in pair["preference"].values() if of["p"] is not None]
        for of in (*(pair[name] for name in ("accuracy", *SINGLE)), *by_thought):
            # Holm by its definition: step down, each p times how many are left, never below an earlier one.
            steps = [min(1.0, float(q) * (family >= q).sum()) for q in np.unique(family[family <= of["p"]])]
            assert of["p_holm"] == pytest.approx(max(steps))


def test_p_of_the_tables_is_corrected_over_their_rows(make_attention):
    dataset = make_attention(n_problems=20)
    table = comparison_tables(compared(dataset, make_attention(n_problems=20, seed=1)))["differences"]
    np.testing.assert_allclose(table["p_bh"], false_discovery_control(table["p"]))
    members = np.arange(20) < 10
    grouped = compare_groups(
        collect_depth_sums(dataset), {"x": members, "y": ~members}, correct=dataset["correct"], n_resamples=100
    )
    table = group_table(grouped, without=("accuracy",))
    apart = table[table["minus"] != ""]
    np.testing.assert_allclose(apart["p_bh"], false_discovery_control(apart["p"]))
    assert table.loc[table["minus"] == "", ["p", "p_bh"]].isna().all(axis=None)


def test_types_of_heads_stand_beside_each_other(make_attention):
    one, other = make_attention(n_heads=2), make_attention(n_layers=1, n_heads=2, seed=1)
    kinds = {"a": [["skip", "hub"], ["no clear type", "hub"]], "b": [["first-token", "hub"]]}
    types = {
        name: xr.DataArray(np.array(of, dtype="T"), dims=("layer", "head"), coords={"head": [0, 1]})
        for name, of in kinds.items()
    }
    found = compare(
        {name: subject(of, head_types=types[name]) for name, of in (("a", one), ("b", other))}, n_resamples=20
    )
    table = comparison_tables(found)["head_types"]
    told = {(row["model"], row["layer"], row["head"]): row["type"] for _, row in table.iterrows()}
    assert told == {
        (name, layer, head): kind
        for name, of in kinds.items()
        for layer, row in enumerate(of)
        for head, kind in enumerate(row)
    }
    shares = comparison_overview(found)["type_share"]
    assert shares["type"].values.tolist() == ["hub", "skip", "first-token", "no clear type"]
    assert shares.values.tolist() == [[0.5, 0.25, 0.0, 0.25], [0.5, 0.0, 0.5, 0.0]]
    assert any("no test compares the counts" in note for note in found.notes)


def test_groups_together_are_the_whole(make_attention):
    dataset = make_attention(n_problems=9)
    sums = collect_depth_sums(dataset)
    members = np.array([0, 1, 2, 0, 1, 2, 2, 2, 0])
    parts = [
        as_ratios(sums.isel(problem=members == group), dataset["correct"].values[members == group])
        for group in (0, 1, 2)
    ]
    whole = as_ratios(sums, dataset["correct"].values)
    for side in (0, 1):
        together = sum(part[side].sum("problem") for part in parts)
        xr.testing.assert_allclose(together, whole[side].sum("problem"), rtol=1e-12)


def test_a_groups_numbers_are_those_of_its_analysis(make_attention):
    dataset = make_attention(n_problems=10)
    members = np.arange(10) % 3 == 0
    found = compare_groups(
        collect_depth_sums(dataset), {"x": members, "y": ~members}, correct=dataset["correct"], n_resamples=50, seed=2
    )
    for place, (name, of) in enumerate({"x": members, "y": ~members}.items()):
        part = dataset.isel(problem=np.flatnonzero(of))
        alone = analyze(part, correct=part["correct"], n_resamples=50, seed=group_seed(2, place))
        for measure in ("preference", "lag_preference", *SINGLE):
            np.testing.assert_allclose(
                found.measures[measure].sel(group=name, depth="all"),
                alone.model[measure].transpose(..., "value"),
                rtol=1e-10,
            )
        assert found.measures["n"].sel(group=name) == of.sum()


def test_groups_of_one_size_are_not_drawn_alike(make_attention):
    half = make_attention(n_problems=5)
    twice = xr.concat([half, half], "problem")
    members = np.arange(10) < 5
    found = compare_groups(
        collect_depth_sums(twice), {"x": members, "y": ~members}, correct=twice["correct"], n_resamples=40
    )
    difference = found.differences["sequential"].sel(depth="all").isel(pair=0)
    assert difference.sel(value="estimate") == pytest.approx(0.0, abs=1e-12)
    assert difference.sel(value="low") < -1e-3
    assert difference.sel(value="high") > 1e-3


def test_a_group_of_one_is_left_out_and_said(make_attention):
    dataset = make_attention(n_problems=6)
    groups = {"one": np.arange(6) == 0, "rest": np.arange(6) > 0}
    found = compare_groups(collect_depth_sums(dataset), groups, correct=dataset["correct"], n_resamples=20)
    assert found.measures["group"].values.tolist() == ["rest"]
    assert found.notes[0] == "one has 1 problem, too few to be compared, and is left out."
    assert found.differences.sizes["pair"] == 0
    assert set(group_table(found)["group"]) == {"rest"}
    assert comparison_headline(found)["differences"] == []


def test_every_two_groups_are_told_apart(make_attention):
    dataset = make_attention(n_problems=9)
    groups = {str(k): np.arange(9) % 3 == k for k in range(3)}
    found = compare_groups(collect_depth_sums(dataset), groups, correct=dataset["correct"], n_resamples=20)
    assert found.differences["pair"].values.tolist() == ["1 − 0", "2 − 0", "2 − 1"]
    table = group_table(found, without=("accuracy",))
    assert set(zip(table["group"], table["minus"], strict=True)) == {
        ("0", ""), ("1", ""), ("2", ""), ("1", "0"), ("2", "0"), ("2", "1"),
    }  # fmt: skip
    assert "accuracy" not in set(table["measure"])
    estimates = table[table["measure"] == "skip"].set_index(["group", "minus"])["estimate"]
    assert estimates["2", "1"] == pytest.approx(estimates["2", ""] - estimates["1", ""])


def test_groups_and_models_have_the_same_tables(make_attention):
    dataset = make_attention(n_problems=10, n_heads=2)
    members = np.arange(10) < 5
    types = xr.DataArray(np.array([["hub", "first-token"], ["skip", "hub"]], dtype="T"), dims=("layer", "head"))
    found = compare_groups(
        collect_depth_sums(dataset),
        {"x": members, "y": ~members},
        correct=dataset["correct"],
        n_resamples=20,
        head_types={"x": types, "y": types},
    )
    assert found.dim == "group"
    assert compared(dataset, dataset).dim == "model"
    tables = comparison_tables(found)
    assert list(tables) == ["groups", "differences", "rank_correlations", "type_counts", "head_types"]
    assert set(tables["groups"]["group"]) == {"x", "y"}
    assert tables["rank_correlations"].empty
    types = comparison_headline(found)["own"]["y"]["types"]
    assert {kind: n for kind, n in types.items() if n} == {"hub": 2, "skip": 1, "first-token": 1}
    assert any("no test compares the counts" in note for note in found.notes)


def test_groups_too_small_to_resample_are_refused(make_attention):
    dataset = make_attention(n_problems=2)
    groups = {"one": np.array([True, False]), "other": np.array([False, True])}
    with pytest.raises(RunError, match="no group has two problems"):
        compare_groups(collect_depth_sums(dataset), groups, correct=dataset["correct"])


def test_one_model_is_nothing_to_compare(make_attention):
    with pytest.raises(OptionError, match="expected two or more"):
        compared(make_attention())


@pytest.mark.parametrize(
    "change", [{"problems": ["p0", "p1"]}, {"correct": [True]}, {"problems": [f"p{i}" for i in range(7)]}]
)
def test_numbers_of_problems_that_disagree_are_refused(make_attention, change):
    dataset = make_attention(n_problems=5)
    with pytest.raises(RunError, match="expected one number"):
        compare({"a": subject(dataset), "b": subject(dataset, **change)}, n_resamples=20)


@pytest.mark.parametrize("n_thoughts", usually(1, 3, of=[1, 2, 3]))
def test_few_thoughts_leave_numbers_undefined_and_break_nothing(make_attention, n_thoughts):
    one, other = (make_attention(n_thoughts=n_thoughts, seed=seed) for seed in (0, 1))
    found = compared(one, other)
    assert found.differences["composition"].sel(depth="all").notnull().all()
    assert found.measures["skip"].isnull().all()
    facts = comparison_headline(found)
    assert facts["differences"][0]["skip"]["p"] is None
    comparison_tables(found)
