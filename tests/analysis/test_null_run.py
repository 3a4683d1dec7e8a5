"""What a run has beyond a null run: against loops over cells, on runs that are alike, and on planted ones."""

import numpy as np
import pytest
import xarray as xr
from tests.analysis.test_evidence import measured_one_by_one

from thoughtlens.analysis import analyze, bootstrap_mean, sign_flip_test
from thoughtlens.errors import RunError


def over(dataset, null, **options):
    correct = np.concatenate([part["correct"] for part in (dataset if isinstance(dataset, list) else [dataset])])
    options = {"correct": correct, "n_resamples": 40, "n_flips": 200} | options
    return analyze(dataset, null=null, **options).over_null


def test_excess_and_p_are_those_of_a_loop_over_problems(make_attention):
    dataset, null = make_attention(n_problems=9), make_attention(n_problems=9, n_heads=3, seed=1)
    apart = measured_one_by_one(dataset) - measured_one_by_one(null).mean("head")
    found = over(dataset, null, seed=4)
    for measure in ("sequential", "skip", "sink", "self", "readout", "lag3"):
        for level, dims in ((found.heads, []), (found.layers, ["head"]), (found.model, ["layer", "head"])):
            of_level = apart[measure].mean(dims)
            number = level.sel(measure=measure)
            interval = bootstrap_mean(of_level, n_resamples=40, seed=4)
            np.testing.assert_allclose(number["excess"], interval, atol=1e-12, err_msg=measure)
            test = sign_flip_test(of_level, alternative="greater")
            np.testing.assert_allclose(number["p"], test["p"], atol=1e-12)
            assert (number["n"] == 9).all()


def test_an_answer_that_only_one_run_reaches_is_left_out_of_both(make_attention):
    """An untrained model says no answer: its readout is that of `eot`, and so must be the other's."""
    dataset, null = make_attention(n_problems=9, missing=(2,)), make_attention(n_problems=9, seed=1, missing=(2, 4, 7))
    gone = make_attention(n_problems=9, missing=(2, 4, 7))
    expected = measured_one_by_one(gone)["readout"] - measured_one_by_one(null)["readout"].mean("head")
    for found in (over(dataset, null), over(gone, make_attention(n_problems=9, seed=1, missing=(2,)))):
        readout = found.heads["excess"].sel(measure="readout", value="estimate")
        np.testing.assert_allclose(readout, expected.mean("problem"), atol=1e-12)


def test_heads_that_are_all_alike_have_nothing_beyond_themselves(plant_attention):
    """Whatever they do: a hub that the null run has too is none beyond it."""
    hub = plant_attention(lambda q, k: 9.0 if k == "z2" else 1.0, n_problems=14)
    assert (analyze(hub, correct=hub["correct"], n_resamples=5).evidence["type"] == "hub").all()
    found = over(hub, hub)
    np.testing.assert_allclose(found.heads["excess"], 0.0, atol=1e-6)
    assert (found.heads["p"] == 1.0).all()
    assert (found.heads["type"] == "diffuse").all()


def test_a_planted_hub_is_found_beyond_even_attention(plant_attention):
    hub = plant_attention(lambda q, k: 9.0 if k == "z2" else 1.0, n_problems=14)
    even = plant_attention(lambda q, k: 1.0, n_problems=14)
    found = over(hub, even)
    assert (found.heads["type"] == "hub").all()
    assert found.model["hub"].item() == "z2"
    # Even attention has nothing beyond its own null, so that what is left is the excess of the run itself.
    own = analyze(hub, correct=hub["correct"], n_resamples=5).model_evidence["excess"].sel(measure="hub")
    np.testing.assert_allclose(found.model["excess"].sel(measure="hub"), own, atol=1e-6)
    assert (over(even, hub).heads["excess"].sel(measure="sink", value="estimate") > 0).all()


def test_more_mass_on_thoughts_alone_is_no_hub(plant_attention):
    more = plant_attention(lambda q, k: 5.0 if k.startswith("z") else 1.0, n_problems=14)
    even = plant_attention(lambda q, k: 1.0, n_problems=14)
    np.testing.assert_allclose(
        over(more, even).heads["excess"].sel(measure=["hub", "sequential", "skip"]), 0, atol=1e-6
    )


def test_blocks_give_what_the_whole_gives(make_attention):
    dataset, null = make_attention(n_problems=14, missing=(3,)), make_attention(n_problems=14, seed=1, missing=(5,))
    cuts = [slice(0, 5), slice(5, 6), slice(6, None)]
    whole = over(dataset, null)
    pieces = over(*([of.isel(problem=cut) for cut in cuts] for of in (dataset, null)))
    for one, other in zip(whole, pieces, strict=True):
        xr.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("change", [{"n_heads": 4}, {"n_layers": 3}, {"n_thoughts": 5}], ids=str)
def test_a_null_run_of_another_shape_is_refused(make_attention, change):
    with pytest.raises(RunError, match="take one of the same architecture"):
        over(make_attention(), make_attention(**change))


def test_a_null_run_of_other_problems_is_refused(make_attention):
    dataset = make_attention()
    with pytest.raises(RunError, match="or other problems"):
        over(dataset, dataset.assign_coords(problem=np.array([f"q{i}" for i in range(5)], dtype="T")))
    with pytest.raises(RunError, match="expected 6"):
        over(dataset, dataset, correct=[True] * 6)
