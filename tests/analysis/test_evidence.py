"""What is beyond the nulls: against naive loops, on even and planted attention, and under changes of no matter."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.analysis.test_nulls import uniform_attention
from tests.attention_made import analysed as analysed_dataset
from tests.conftest import usually
from tests.models.test_planted import LEVELS, TWO, analysed

from thoughtlens.analysis import (
    bootstrap_mean,
    causal_uniform,
    excess,
    head_types,
    headline,
    holm,
    hub_test,
    row_entropy,
    row_mass_preserving,
    shares,
)
from thoughtlens.analysis.attention_evidence import measures
from thoughtlens.analysis.heads import LEAST_EXCESS
from thoughtlens.analysis.run_analysis import collect_sums
from thoughtlens.analysis.streamed_attention import finish_moments, merge_moments, partial_moments
from thoughtlens.models import PLANTED
from thoughtlens.notation import thought_names
from thoughtlens.schema import attention_dataset


def analyzed(dataset: xr.Dataset, **options):
    return analysed_dataset(dataset, **{"n_resamples": 40, **options})


def measured_one_by_one(dataset: xr.Dataset) -> xr.Dataset:
    """Excess of every measure for each problem and head, cell by cell; hubs by thought."""
    attention = dataset["attention"].astype(np.float64)
    thoughts = thought_names(attention.sizes["query"] - 3)
    among = excess(attention, row_mass_preserving(attention))
    beyond = excess(attention, causal_uniform(attention, dataset["n_question_tokens"]))
    n = len(thoughts)
    rows = range(2, n)

    def mean(cells):
        return sum(among.sel(query=thoughts[q], key=thoughts[k], drop=True) for q, k in cells) / len(cells)

    found = {f"hub {thoughts[k]}": mean([(q, k) for q in rows if q > k]) for k in range(n - 2)}
    found["sequential"] = mean([(q, q - 1) for q in rows])
    found["skip"] = mean([(n - 1, k) for k in range((n + 1) // 2)]) * ((n + 1) // 2)
    for lag in range(2, n):
        found[f"lag{lag}"] = mean([(q, q - lag) for q in rows if q >= lag])
    found["sink"] = sum(beyond.sel(query=thoughts[q], key="first", drop=True) for q in rows) / len(rows)
    found["thoughts"] = sum(
        beyond.sel(query=thoughts[q], key=thoughts[k], drop=True) for q in rows for k in range(q)
    ) / len(rows)
    for key in ("question", "bot"):
        found[key] = sum(beyond.sel(query=thoughts[q], key=key, drop=True) for q in rows) / len(rows)
    found["self"] = sum(beyond.sel(query=thoughts[q], key=thoughts[q], drop=True) for q in rows) / len(rows)
    found["readout"] = beyond.sel(query=["eot", "answer"], key=thoughts).sum("key", skipna=False).mean("query")
    return xr.Dataset({name.replace(" ", "_"): value for name, value in found.items()})


@pytest.mark.parametrize("n_thoughts", usually(6, 9, of=[4, 6, 9]))
def test_excess_is_that_of_a_loop_over_cells(make_attention, n_thoughts):
    dataset = make_attention(n_problems=15, n_thoughts=n_thoughts, missing=(2, 7))
    expected = measured_one_by_one(dataset)
    found = analyzed(dataset, seed=4).evidence
    for measure in measures(n_thoughts):
        if measure != "hub":
            oracle = bootstrap_mean(expected[measure], n_resamples=40, seed=4)
            np.testing.assert_allclose(found["excess"].sel(measure=measure), oracle, atol=1e-12, err_msg=measure)
    strongest = hub_test(dataset)["strongest"]
    np.testing.assert_array_equal(found["strongest"], strongest)
    for place in np.ndindex(2, 3):
        at = dict(zip(("layer", "head"), place, strict=True))
        oracle = bootstrap_mean(expected[f"hub_{strongest.sel(at).item()}"].sel(at), n_resamples=40, seed=4)
        np.testing.assert_allclose(found["excess"].sel(measure="hub").sel(at), oracle, atol=1e-12)


def test_the_hub_of_the_evidence_is_that_of_the_hub_test(make_attention):
    dataset = make_attention(n_problems=24)
    found, tested = analyzed(dataset).evidence.sel(measure="hub"), hub_test(dataset)
    np.testing.assert_array_equal(found["p"], tested["p"])
    np.testing.assert_array_equal(found["q"], tested["p_corrected"])
    assert found["p_familywise"].isnull().all()


def one_sided_p(values: xr.DataArray, least: float = 0.0) -> np.ndarray:
    """p of Student's t corrected for skewness (Hall 1992), for each head, with scipy's moments."""
    x, n = values.transpose("problem", ...).values - least, values.sizes["problem"]
    t, u = np.sqrt(n) * x.mean(0) / x.std(0), stats.skew(x, axis=0) / np.sqrt(n)
    corrected = t + u * (2 * t**2 + 1) / 6 + u**2 * t**3 / 27
    return np.maximum(stats.t.sf(corrected * np.sqrt((n - 1) / n), n - 1), 0.5**n)


def test_p_values_are_those_of_a_t_test_corrected_for_skewness(make_attention):
    dataset = make_attention(n_problems=24)
    expected, found = measured_one_by_one(dataset), analyzed(dataset)
    for name in ("sequential", "skip", "sink", "self", "readout", "thoughts", "question", "bot", "lag3"):
        p = one_sided_p(expected[name])
        at = found.evidence.sel(measure=name)
        np.testing.assert_allclose(at["p"], p, rtol=1e-6)
        np.testing.assert_allclose(at["p_familywise"], holm(xr.DataArray(p)), rtol=1e-6)
        np.testing.assert_allclose(at["q"].values.ravel(), stats.false_discovery_control(p.ravel()), rtol=1e-6)
        np.testing.assert_allclose(at["p_type"], one_sided_p(expected[name], LEAST_EXCESS), rtol=1e-6)
        of_model = one_sided_p(expected[name].mean(("layer", "head")))
        assert found.model_evidence["p"].sel(measure=name).item() == pytest.approx(of_model.item(), rel=1e-6)
        of_layers = holm(xr.DataArray(one_sided_p(expected[name].mean("head"))))
        np.testing.assert_allclose(found.layer_evidence["p_familywise"].sel(measure=name), of_layers, rtol=1e-6)


def test_types_are_corrected_over_all_measures_and_heads_at_once(make_attention):
    found = analyzed(make_attention(n_problems=24)).evidence
    others = found.isel(measure=(found["measure"] != "hub").values)
    flat = others["p_type"].values.ravel()
    np.testing.assert_allclose(others["q_type"].values.ravel(), stats.false_discovery_control(flat))
    hub = found.sel(measure="hub")
    np.testing.assert_array_equal(hub["q_type"], hub["q"])


def test_below_twenty_problems_there_is_no_p_and_still_a_type(plant_attention):
    dataset = plant_attention(lambda q, k: 9.0 if k == "first" else 1.0, n_problems=19)
    found = analyzed(dataset).evidence
    assert found["p"].isel(measure=(found["measure"] != "hub").values).isnull().all()
    assert (found["type"] == "first-token").all()


def test_a_head_of_just_the_least_excess_is_hardly_ever_named():
    """60 heads that give the thought before 0.05 of a row too much: half of them by their point estimates."""
    rng = np.random.default_rng(0)
    n_problems, n_heads = 40, 60
    values = np.zeros((n_problems, 1, n_heads, 9, 11))
    values[..., 0] = 1.0
    beyond = rng.normal(LEAST_EXCESS, 0.035, size=(n_problems, n_heads))
    for row in range(2, 6):
        values[:, 0, :, row + 1, 0] = 0.4
        values[:, 0, :, row + 1, 3 : 3 + row] = (0.6 / row - beyond / (row - 1))[..., None]
        values[:, 0, :, row + 1, 2 + row] = 0.6 / row + beyond
    dataset = attention_dataset(
        values,
        problem_ids=[f"p{number}" for number in range(n_problems)],
        correct=np.ones(n_problems),
        n_question_tokens=[9] * n_problems,
    )
    found = analyzed(dataset, n_resamples=2).evidence
    estimates = found["excess"].sel(measure="sequential", value="estimate")
    assert 0.3 < (estimates >= LEAST_EXCESS).mean() < 0.7
    # 60 heads at a rate of 0.05: standard error 0.03.
    assert (found["type"] == "previous-thought").mean() <= 0.12


@pytest.mark.parametrize("n_thoughts", usually(2, 6, 24, of=[2, 3, 4, 6, 24]))
def test_even_attention_has_no_excess(make_attention, n_thoughts):
    dataset = uniform_attention(make_attention, n_thoughts, 3, [12, 20, 33])
    for dtype in (np.float32,):
        found = analyzed(dataset.assign(attention=dataset["attention"].astype(dtype)), n_resamples=5)
        for level in (found.evidence, found.layer_evidence, found.model_evidence):
            known = level["excess"].notnull()
            np.testing.assert_allclose(level["excess"].where(known, 0.0), 0.0, atol=1e-6)
            assert (level["p"].where(level["p"].notnull(), 1.0) == 1.0).all()
            defined = {"sink", "self", "readout"} | ({"sequential"} if n_thoughts > 2 else set())
            assert known.any([dim for dim in known.dims if dim != "measure"]).sel(measure=list(defined)).all()
        assert (found.evidence["type"] == "no clear type").all()
        entropy = found.heads["entropy"]
        np.testing.assert_allclose(entropy.sel(query=thought_names(n_thoughts)[2:]), 1.0, atol=1e-6)


def test_entropy_is_that_of_scipy(make_attention):
    from scipy.stats import entropy

    dataset = make_attention(n_problems=15, missing=(2, 7))
    split = shares(dataset["attention"])
    found = row_entropy(dataset["attention"])
    for q in range(2, 6):
        nats = entropy(split.isel(query=q, key=slice(q)), axis=-1)
        np.testing.assert_allclose(found.isel(query=q), nats / np.log(q), rtol=1e-6)
    assert found.isel(query=[0, 1]).isnull().all()
    streamed = analyzed(dataset, seed=4)
    oracle = bootstrap_mean(found, n_resamples=40, seed=4)
    np.testing.assert_allclose(streamed.heads["entropy"].transpose(*oracle.dims), oracle, rtol=1e-9)
    over_heads = streamed.model["entropy"].sel(value="estimate")
    np.testing.assert_allclose(over_heads, found.mean(("problem", "layer", "head")), rtol=1e-9)


@pytest.mark.parametrize("level", TWO)
def test_planted_heads_have_the_types_that_were_planted(level):
    types = analysed(level).evidence["type"]
    found = {role: str(types.sel(layer=layer, head=head).item()) for role, (layer, head) in PLANTED.items()}
    assert found == {
        "sink": "first-token",
        "even": "no clear type",
        "sequential": "previous-thought",
        # The answer row reads the last thought.
        "carrier": "read-out",
        "hub": "hub",
        # A thought's row on thoughts alone: as much on itself as on each other, and more than on any other token.
        "thoughts": "self",
        "skip": "skip",
        "nothing": "no clear type",
    }


@pytest.mark.parametrize("level", TWO)
def test_planted_excess_is_what_the_strengths_leave_beyond_an_even_split(level):
    strengths, found = LEVELS[level], analysed(level).evidence.sel(value="estimate")

    def at(role, measure):
        layer, head = PLANTED[role]
        return found["excess"].sel(layer=layer, head=head, measure=measure).item()

    # Row q (from 0) gives w to its target and (1 − w)/q to each of q others, `first` among them: M = 1 − (1 − w)/q.
    for role in ("hub", "sequential"):
        w = getattr(strengths, role)
        expected = np.mean([w - (1 - (1 - w) / q) / q for q in range(2, 6)])
        assert at(role, role) == pytest.approx(expected, abs=2e-3)
    # Three targets of five, and three others, `first` among them, for what is left.
    w = strengths.skip
    assert at("skip", "skip") == pytest.approx(w - (1 - (1 - w) / 3) * 3 / 5, abs=2e-3)


def head_table(excesses: dict[str, float], q: float = 0.001) -> xr.Dataset:
    names = measures(6)
    excess = np.array([excesses.get(name, 0.0) for name in names])
    values = np.stack([excess, excess - 0.01, excess + 0.01], axis=-1)
    coords = {
        "measure": np.array(names, dtype=np.dtypes.StringDType()),
        "value": np.array(["estimate", "low", "high"], dtype=np.dtypes.StringDType()),
    }
    # A hub is found or not by its test, whatever its excess; others are shown to have the least excess or not.
    passes = [name in excesses and (name == "hub" or excesses[name] >= LEAST_EXCESS) for name in names]
    corrected = np.where(passes, q, 1.0)
    return xr.Dataset({"excess": (("measure", "value"), values), "q_type": ("measure", corrected)}, coords=coords)


@pytest.mark.parametrize(
    ("excesses", "expected"),
    [
        ({"hub": 0.2, "skip": 0.1}, "hub"),
        # As many heads are of the type hub as have one, whatever else they do.
        ({"hub": 0.1, "skip": 0.2}, "hub"),
        ({"sequential": 0.1, "skip": 0.2}, "skip"),
        ({"sequential": LEAST_EXCESS}, "previous-thought"),
        ({"sequential": LEAST_EXCESS - 1e-9}, "no clear type"),
        ({"sequential": 0.06, "sink": 0.7}, "previous-thought"),
        ({"sequential": 0.04, "sink": 0.7, "self": 0.1}, "first-token"),
        ({"lag2": 0.5}, "no clear type"),
        ({"hub": LEAST_EXCESS / 2}, "hub"),
    ],
)
def test_a_type_is_the_largest_excess_that_passes(excesses, expected):
    assert head_types(head_table(excesses)).item() == expected
    assert head_types(head_table(excesses, q=0.05)).item() == "no clear type"


@st.composite
def datasets(draw):
    n_problems, n_layers, n_heads = draw(st.tuples(st.integers(2, 7), st.integers(1, 2), st.integers(1, 3)))
    n_thoughts, seed = draw(st.integers(2, 8)), draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    shape = (n_problems, n_layers, n_heads, n_thoughts + 3, n_thoughts + 5)
    values = rng.exponential(size=shape) ** draw(st.sampled_from([0.5, 1, 4])) * np.tri(*shape[-2:], 2)
    values /= values.sum(-1, keepdims=True)
    return attention_dataset(
        values,
        problem_ids=[f"p{i}" for i in range(n_problems)],
        correct=np.ones(n_problems),
        n_question_tokens=rng.integers(1, 50, n_problems),
    )


PROPERTY = settings(max_examples=8, deadline=None, derandomize=True)


@given(datasets())
@PROPERTY
def test_shares_and_entropies_stay_in_range(dataset):
    split = shares(dataset["attention"])
    sums = split.sum("key", min_count=1).values
    np.testing.assert_allclose(sums[np.isfinite(sums)], 1.0, atol=1e-9)
    found = row_entropy(dataset["attention"])
    assert not ((found < -1e-9) | (found > 1 + 1e-9)).any()


@pytest.mark.parametrize("n_thoughts", usually(7, of=[2, 7]))
def test_order_of_problems_and_heads_does_not_matter(make_attention, n_thoughts):
    dataset, rng = make_attention(n_thoughts=n_thoughts), np.random.default_rng(1)
    orders = {dim: rng.permutation(dataset.sizes[dim]) for dim in ("problem", "layer", "head")}
    once, turned = (analyzed(each, n_resamples=3) for each in (dataset, dataset.isel(orders)))
    for level in ("evidence", "layer_evidence", "model_evidence", "heads", "model"):
        left, right = getattr(once, level), getattr(turned, level)
        left = left.sel({dim: right[dim] for dim in ("layer", "head") if dim in right.dims})
        for name in {"excess", "p", "q", "p_familywise", "entropy", "preference", "sequential"} & set(left.data_vars):
            one, other = (
                found[name].sel(value="estimate") if "value" in found[name].dims else found[name]
                for found in (left, right)
            )
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=f"{level} {name}")


@pytest.mark.parametrize("n_thoughts", usually(2, of=[2, 7]))
def test_two_half_runs_merge_into_the_whole(make_attention, n_thoughts):
    dataset = make_attention(n_thoughts=n_thoughts)
    parts = [dataset.isel(problem=slice(0, 2)), dataset.isel(problem=slice(2, None))]
    merged = finish_moments(merge_moments(*(partial_moments(part["attention"]) for part in parts)))
    whole = analyzed(dataset, n_resamples=3)
    for name in ("mean", "sd"):
        np.testing.assert_allclose(merged[name], whole.moments[name], atol=1e-6)
    sums = [collect_sums(part).sum("problem") for part in parts]
    xr.testing.assert_allclose(sums[0] + sums[1], collect_sums(dataset).sum("problem"), rtol=1e-9)
    halves = [analyzed(part, n_resamples=3).evidence["excess"].sel(value="estimate") for part in parts]
    n = [part.sizes["problem"] for part in parts]
    others = [name for name in measures(dataset.sizes["query"] - 3) if name != "hub"]
    mean = (halves[0] * n[0] + halves[1] * n[1]) / sum(n)
    found = whole.evidence["excess"].sel(value="estimate")
    np.testing.assert_allclose(mean.sel(measure=others), found.sel(measure=others), atol=1e-6)


def test_headline_tells_evidence_and_types(make_attention):
    found = analyzed(make_attention(n_problems=24))
    facts = headline(found)
    assert sum(facts["types"].values()) == 6
    assert facts["hub_heads"]["of"] == 6
    hub = facts["evidence"]["hub"]
    assert hub["thought"] == (found.model_evidence["hub"].item() or None)
    assert hub["p"] == found.model_evidence["p"].sel(measure="hub").item()
