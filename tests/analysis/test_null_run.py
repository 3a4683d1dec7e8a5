"""What a run has beyond models with random weights: against loops over null heads, and on random and planted models."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control
from tests.analysis.test_evidence import measured_one_by_one
from tests.models.test_planted import LEVELS, measure

from thoughtlens.analysis import analyze, hub_test
from thoughtlens.analysis.attention_evidence import Levels, beyond_nulls, null_limits, null_values
from thoughtlens.errors import RunError
from thoughtlens.models import PLANTED, planted_problems, planted_reasoner, randomize


def over(dataset, *nulls, **options):
    correct = np.concatenate([part["correct"] for part in (dataset if isinstance(dataset, list) else [dataset])])
    return analyze(dataset, null=nulls, **({"correct": correct, "n_resamples": 40} | options)).over_null


def values_of(dataset: xr.Dataset) -> dict[str, np.ndarray]:
    """Mean excess of each head (layer, head) by measure, the hub's being that of its strongest thought."""
    cells = measured_one_by_one(dataset).mean("problem")
    hubs = hub_test(dataset, n_draws=1)["strongest"].values
    at_hub = np.empty(hubs.shape)
    for place in np.ndindex(hubs.shape):
        at_hub[place] = cells[f"hub_{hubs[place]}"].values[place]
    return {"hub": at_hub} | {str(name): values.values for name, values in cells.items()}


def test_p_is_the_rank_of_a_head_among_all_heads_of_all_null_models(make_attention):
    dataset = make_attention(n_problems=9)
    nulls = [make_attention(n_problems=n, seed=seed) for n, seed in ((9, 1), (5, 2), (7, 3))]
    found, own = over(dataset, *nulls), analyze(dataset, n_resamples=40)
    values, *of_nulls = map(values_of, (dataset, *nulls))
    for name in ("hub", "sequential", "skip", "sink", "self", "readout", "lag3", "thoughts"):
        drawn = np.concatenate([of[name].ravel() for of in of_nulls])
        assert drawn.size == 18
        expected = [[(1 + (drawn >= value - 1e-12).sum()) / 19 for value in row] for row in values[name]]
        at = found.heads.sel(measure=name)
        np.testing.assert_allclose(at["p"], expected, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(at["q"].values.ravel(), false_discovery_control(np.ravel(expected)), rtol=1e-12)
        np.testing.assert_allclose(at["null_mean"], drawn.mean(), atol=1e-12)
        np.testing.assert_allclose(at["null_high"], np.quantile(drawn, 0.95), atol=1e-12)
        assert at["n_null"] == 18
        xr.testing.assert_equal(at["excess"], own.evidence["excess"].sel(measure=name))
    layers = [of["skip"].mean(1) for of in (values, *of_nulls)]
    among = np.concatenate(layers[1:])
    expected = [(1 + (among >= value).sum()) / 7 for value in layers[0]]
    np.testing.assert_allclose(found.layers["p"].sel(measure="skip"), expected)
    at_model = (1 + sum(of.mean() >= layers[0].mean() for of in layers[1:])) / 4
    assert found.model["p"].sel(measure="skip").item() == pytest.approx(at_model)


def test_problems_are_no_replicates(make_attention):
    """A random head is not beyond another model's random heads, however many problems say that it differs."""
    dataset = make_attention(n_problems=200)
    tilted = dataset["attention"].copy(data=dataset["attention"].values.copy())
    tilted[..., 3:7, 3] *= 2.0  # a preference for z1 in every problem
    tilted = dataset.assign(attention=tilted / tilted.sum("key"))
    found = over(tilted, dataset)
    assert (analyze(tilted, n_resamples=5).evidence["p"].sel(measure="skip") < 0.01).all()
    assert found.heads["p"].min() == pytest.approx(1 / 7)
    assert (found.heads["type"] == "no clear type").all()


def test_answers_that_no_null_model_reaches_leave_its_readout_out(make_attention):
    """An untrained model says no answer: what `eot` alone reads is not what `eot` and the answer read."""
    dataset, silent = make_attention(n_problems=9), make_attention(n_problems=9, seed=1, missing=tuple(range(9)))
    assert over(dataset, silent).heads["p"].sel(measure="readout").isnull().all()
    found = over(dataset, silent, make_attention(n_problems=9, seed=2))
    assert (found.heads["n_null"].sel(measure="readout") == 6).all()
    assert found.heads["p"].sel(measure="readout").notnull().all()


def test_heads_that_are_all_alike_have_nothing_beyond_themselves(plant_attention):
    """Whatever they do: a hub that null models have too is none beyond them."""
    hub = plant_attention(lambda q, k: 9.0 if k == "z2" else 1.0, n_problems=14)
    assert (analyze(hub, n_resamples=5).evidence["type"] == "hub").all()
    found = over(hub, hub)
    assert (found.heads["p"].where(found.heads["p"].notnull(), 1.0) == 1.0).all()
    assert (found.heads["type"] == "no clear type").all()


def test_blocks_give_what_the_whole_gives(make_attention):
    dataset, null = make_attention(n_problems=14, missing=(3,)), make_attention(n_problems=14, seed=1, missing=(5,))
    cuts = [slice(0, 5), slice(5, 6), slice(6, None)]
    whole = over(dataset, null)
    pieces = over(*([of.isel(problem=cut) for cut in cuts] for of in (dataset, null)))
    for one, other in zip(whole, pieces, strict=True):
        xr.testing.assert_allclose(one, other, atol=1e-12)


def test_random_models_show_no_hub_beyond_each_other_and_a_planted_hub_is_beyond_them():
    questions = [problem.question for problem in planted_problems(4, seed=3)]
    planted = planted_reasoner(LEVELS["default"])
    # GPT-2's own spread makes every random head even; a wide one makes heads with preferences of their own.
    planted.lm.config.initializer_range = 0.1
    *nulls, other = (measure(randomize(planted, seed=seed), questions, max_new_tokens=1) for seed in range(21))
    values = [null_values([null]) for null in nulls]

    def beyond(dataset):
        found = analyze(dataset, n_resamples=2)
        return found, beyond_nulls(Levels(found.evidence, found.layer_evidence, found.model_evidence), values).heads

    own, random = beyond(other)
    assert (own.heads["preference"].max("thought").sel(value="estimate") > 1.2).any()
    assert (random["q"].sel(measure="hub") > 0.05).all()
    assert (random["type"] != "hub").all()
    # The hub's own test needs more problems than the nulls do.
    more = [problem.question for problem in planted_problems(24, seed=3)]
    _, found = beyond(measure(planted, more))
    assert found["type"].sel(dict(zip(("layer", "head"), PLANTED["hub"], strict=True))).item() == "hub"
    assert (found["type"] == "hub").sum() == 1


@pytest.mark.parametrize(
    ("n_models", "n_heads", "words"),
    [
        (1, 16, "16 heads of 1 null model: no p is below 0.059, so that none can pass at 0.05"),
        (3, 16, "none passes at 0.05 unless 7 do together; heads of one model share its weights"),
        (20, 16, "320 heads of 20 null models: no p is below 0.0031."),
        (20, 8, "160 heads of 20 null models: no p is below 0.0062."),
    ],
)
def test_it_is_said_what_so_few_null_models_can_show(n_models, n_heads, words):
    assert words in null_limits(n_models, n_heads)


@pytest.mark.parametrize("change", [{"n_heads": 4}, {"n_layers": 3}], ids=str)
def test_a_null_model_of_another_shape_is_refused(make_attention, change):
    with pytest.raises(RunError, match="take one of the same architecture"):
        over(make_attention(), make_attention(**change))


def test_blocks_of_a_null_model_that_were_read_before_are_refused(make_attention):
    dataset = make_attention(n_problems=4, n_layers=1, n_heads=1)
    read_before = iter([dataset])
    list(read_before)
    with pytest.raises(RunError, match="found no problems of a null model; extract at least one problem first"):
        over(dataset, read_before)
