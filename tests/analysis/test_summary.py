import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tests.attention_made import analysed
from tests.conftest import usually

from thoughtlens.analysis import analysis_tables as tables
from thoughtlens.analysis import (
    analyze,
    bootstrap_mean,
    bootstrap_ratio,
    composition,
    headline,
    hub_test,
    moments,
    preference_sums,
    preferences,
    proportion_interval,
    rank_heads,
    run_analysis,
)
from thoughtlens.analysis import streamed_attention as blocks
from thoughtlens.analysis.attention_measures import expected_sums
from thoughtlens.analysis.run_analysis import collect_sums
from thoughtlens.errors import RunError

PREVIOUS = {f"z{k + 1}": f"z{k}" for k in range(1, 32)}


def analyzed(dataset, **options):
    return analysed(dataset, **{"n_resamples": 60, **options})


def assert_same(a, b, rtol=1e-12):
    for name, left, right in zip(a._fields, a, b, strict=True):
        for variable in left.data_vars if isinstance(left, xr.Dataset) else ():
            if left[variable].dtype.kind == "f":
                np.testing.assert_allclose(
                    right[variable], left[variable], rtol=rtol, atol=1e-12, err_msg=f"{name}.{variable}"
                )
            else:
                np.testing.assert_array_equal(right[variable], left[variable], err_msg=f"{name}.{variable}")


@pytest.mark.parametrize("size", usually(3, of=[1, 3, 50]))
def test_any_cut_into_blocks_gives_the_same_numbers(make_attention, size):
    dataset = make_attention(n_problems=7, missing=(0, 4))
    parts = (dataset.isel(problem=slice(i, i + size)) for i in range(0, 7, size))
    assert_same(analyzed(dataset), analyze(parts, correct=dataset["correct"], n_resamples=60))


def test_small_pieces_and_few_layers_at_a_time_give_the_same_numbers(make_attention, monkeypatch):
    dataset = make_attention(n_problems=5, n_layers=3, missing=(2,))
    whole = analyzed(dataset)
    monkeypatch.setattr(blocks, "PIECE_CELLS", 1)
    monkeypatch.setattr(run_analysis, "CHUNK_CELLS", 1)
    assert_same(whole, analyze(dataset, n_resamples=60))


def test_a_run_on_disk_is_read_lazily_and_gives_the_same_numbers(make_attention, tmp_path):
    dataset = make_attention(n_problems=7, missing=(4,), dtype="float16")
    dataset.to_zarr(tmp_path / "run.zarr", consolidated=False)
    stored = xr.open_zarr(tmp_path / "run.zarr", consolidated=False, chunks=None)
    found = analyze(stored, n_resamples=60)
    assert not stored["attention"].variable._in_memory
    assert_same(analyzed(dataset), found)


def test_order_of_problems_changes_no_estimate(make_attention):
    dataset = make_attention()
    once, turned = analyzed(dataset), analyzed(dataset.isel(problem=slice(None, None, -1)))
    for level in ("model", "layers", "heads"):
        for name in ("preference", "sequential", "skip", "thought_mass"):
            left, right = (getattr(a, level)[name].sel(value="estimate") for a in (once, turned))
            np.testing.assert_allclose(left, right, rtol=1e-12)


@pytest.mark.parametrize(
    ("level", "over"), [("model", ("layer", "head")), ("layers", ("head",)), ("heads", ())], ids=lambda x: str(x)
)
def test_streamed_intervals_are_those_of_the_collected_sums(make_attention, level, over):
    dataset = make_attention(n_problems=15)
    sums = collect_sums(dataset, over=over)
    expected = expected_sums(sums)
    found = getattr(analyzed(dataset, seed=3), level)
    for name in ("preference", "lag_preference", "sequential", "skip"):
        oracle = bootstrap_ratio(sums[name], expected[name], n_resamples=60, seed=3)
        np.testing.assert_allclose(found[name].transpose(*oracle.dims), oracle, rtol=1e-10)


def test_collected_sums_keep_problems_apart(make_attention):
    dataset = make_attention(n_problems=5)
    parts = (dataset.isel(problem=[i]) for i in range(5))
    np.testing.assert_allclose(
        collect_sums(parts)["mass"], preference_sums(dataset.attention)["mass"].sum(["layer", "head"]), rtol=1e-12
    )


def test_estimates_are_preferences_of_summed_heads(make_attention):
    dataset = make_attention()
    sums = preference_sums(dataset.attention)
    found = analyzed(dataset)
    for level, over in (("model", ["problem", "layer", "head"]), ("layers", ["problem", "head"])):
        expected = preferences(sums.sum(over))
        for name in expected.data_vars:
            np.testing.assert_allclose(getattr(found, level)[name].sel(value="estimate"), expected[name], rtol=1e-12)


def test_moments_of_the_summary_are_moments(make_attention):
    dataset = make_attention(n_problems=7, missing=(0, 4))
    xr.testing.assert_allclose(analyzed(dataset).moments, moments([dataset.attention]), rtol=1e-12)


def test_composition_interval_is_that_of_the_mean_row(make_attention):
    dataset = make_attention(n_problems=7, missing=(0, 4))
    found = analyzed(dataset).composition
    oracle = bootstrap_mean(composition(dataset.attention).mean(["layer", "head"]), n_resamples=60)
    np.testing.assert_allclose(found["composition"], oracle, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found["composition"].sel(value="estimate").sum("part"), 1.0, atol=1e-6)
    assert found["n"].sel(query="answer") == 5
    assert found["n"].sel(query="z1") == 7


def test_readout_without_preference_is_even(plant_attention):
    found = analyzed(plant_attention(lambda q, k: 1.0)).readout
    np.testing.assert_allclose(found["readout"], 1 / 6, rtol=1e-6)


def test_readout_counts_the_rows_that_exist(make_attention):
    found = analyzed(make_attention(n_problems=7, missing=(0, 4))).readout
    assert found["n"].sel(query=["eot", "answer"]).values.tolist() == [7, 5]


def test_planted_hub_is_found_in_model_and_heads(plant_attention):
    dataset = plant_attention(lambda q, k: 9.0 if k == "z3" and q != "z3" else 1.0)
    found = analyzed(dataset)
    assert found.model["hub"].item() == "z3"
    assert found.model["preferred"].item() == "z3"
    assert (found.heads["hub"] == "z3").all()
    np.testing.assert_allclose(
        found.model["largest_preference"], found.model["preference"].sel(thought="z3"), rtol=0, atol=0
    )


def test_noise_has_no_hub(make_attention):
    found = analyzed(make_attention(n_problems=10), n_resamples=300)
    assert found.model["hub"].item() == ""
    assert found.model["preferred"].item() != ""
    assert (found.heads["hub"] == "").all()


def test_a_head_that_looks_one_thought_back_has_a_large_preference_and_no_hub(plant_attention, tmp_path):
    """H[z5] is 5, since z6 gives it everything; but z6 alone does, and one row makes no hub. Nowhere is one said."""
    dataset = plant_attention(lambda q, k: 1e4 if PREVIOUS.get(q) == k else 1.0, n_problems=20, n_heads=3)
    found = analyzed(dataset)
    preference = found.heads["preference"].sel(thought="z5", value="estimate")
    np.testing.assert_allclose(preference, 5.0, rtol=1e-3)
    for level in (found.model, found.layers, found.heads, found.ranking):
        assert (level["hub"] == "").all()
        assert (level["preferred"] == "z5").all()
        assert (level["hub_strength"] < 0.01).all()
        assert (level["hub_p"] > 0.9).all()
    assert (found.evidence["type"] == "previous-thought").all()
    facts = headline(found)
    assert facts["hub"]["thought"] is None
    assert facts["hub"]["preference"] is None
    assert "preferred" not in facts
    assert facts["preference"]["z5"]["estimate"] == pytest.approx(5.0, rel=1e-3)
    assert facts["evidence"]["hub"]["thought"] is None
    assert facts["strongest"]["hub"] == []
    assert facts["hub_heads"]["n_heads"] == facts["types"]["hub"] == facts["evidence"]["hub"]["n_heads"] == 0
    heads = tables(found)["heads"]
    assert (heads["hub"] == "").all()
    evidence = tables(found)["evidence_head"]
    assert (evidence[evidence["measure"] == "hub"]["q"] > 0.9).all()
    assert (evidence["thought"] == "").all()
    assert (hub_test(dataset)["hub"] == "").all()
    assert (hub_test(dataset)["strongest"] != "").all()


def test_a_hub_of_the_mean_head_may_be_no_hub_of_a_head_and_the_other_way_round(plant_attention):
    """Heads with hubs of their own are even together; layers and the model are asked by themselves."""
    ways = ("z1", "z2", "z3")
    heads = [plant_attention(lambda q, k, to=to: 9.0 if k == to and q != to else 1.0, n_problems=20) for to in ways]
    attention = xr.concat([of["attention"].isel(head=[0]) for of in heads], "head").assign_coords(head=[0, 1, 2])
    found = analyzed(heads[0].drop_dims("head").assign(attention=attention.transpose(*heads[0]["attention"].dims)))
    assert (found.heads["hub"] == np.array(ways, dtype="T")).all()
    assert (found.layers["hub"] == "").all()
    assert found.model["hub"].item() == ""


def test_heads_are_ranked_by_mass_times_excess(make_attention):
    found = analyzed(make_attention(n_problems=6, n_layers=3, n_heads=4))
    estimate = found.heads.sel(value="estimate")
    expected = estimate["thought_mass"] * (estimate["preference"].max("thought") - 1)
    np.testing.assert_allclose(estimate["importance"], expected, rtol=1e-12)
    order = found.ranking["importance"].sel(value="estimate").values
    assert (np.diff(order) <= 0).all()
    assert found.ranking["rank"].values.tolist() == list(range(1, 13))
    for place in range(12):
        row = found.ranking.isel(rank=place)
        assert row["name"].item() == f"L{row['layer'].item()}H{row['head'].item()}"
        np.testing.assert_array_equal(
            row["importance"], found.heads["importance"].sel(layer=row["layer"], head=row["head"])
        )


def test_a_planted_head_ranks_first(plant_attention):
    dataset = plant_attention(lambda q, k: 1.0, n_problems=20, n_layers=3, n_heads=4)
    planted = plant_attention(lambda q, k: 20.0 if k == "z2" and q != "z2" else 1.0, n_problems=20)
    values = dataset.attention.values.copy()
    values[:, 2, 1] = planted.attention.values[:, 0, 0]
    found = analyzed(dataset.assign(attention=dataset.attention.copy(data=values)))
    assert found.ranking["name"][0].item() == "L2H1"
    assert found.ranking["hub"][0].item() == found.ranking["preferred"][0].item() == "z2"


def test_heads_without_importance_come_last(make_attention):
    heads = analyzed(make_attention(n_layers=1, n_heads=3)).heads
    importance = heads["importance"].copy(deep=True)
    importance.loc[{"head": 1}] = np.nan
    assert rank_heads(heads.assign(importance=importance))["head"].values[-1] == 1


# Preferences begin at three thoughts, hubs at four.
@pytest.mark.parametrize("n_thoughts", usually(1, 3, 4, of=[1, 2, 3, 4, 32]))
def test_every_number_of_thoughts_is_summarised(make_attention, n_thoughts):
    found = analyzed(make_attention(n_problems=3, n_thoughts=n_thoughts, missing=(1,)), n_resamples=10)
    text = json.dumps(headline(found), allow_nan=False)
    assert json.loads(text)["n"] == 3
    assert (found.model["preferred"].item() == "") == (n_thoughts < 3)
    undefined = [of["estimate"] is None for of in json.loads(text)["preference"].values()]
    assert undefined == [n_thoughts < 3 or k == n_thoughts - 1 for k in range(n_thoughts)]
    assert (json.loads(text)["hub"]["strength"] is None) == (n_thoughts < 4)
    assert set(tables(found)) == {
        "composition",
        "readout",
        "rollout",
        "moments",
        "preferences_model",
        "preferences_layer",
        "preferences_head",
        "evidence_model",
        "evidence_layer",
        "evidence_head",
        "heads",
        "position_null",
    }


def test_one_problem_is_summarised(make_attention):
    found = analyzed(make_attention(n_problems=1))
    assert found.model["sequential"].notnull().all()


def test_no_answer_row_at_all_is_summarised(make_attention):
    found = analyzed(make_attention(n_problems=2, missing=(0, 1)))
    assert found.composition["n"].sel(query="answer") == 0
    assert found.composition["composition"].sel(query="answer").isnull().all()
    json.dumps(headline(found), allow_nan=False)


def test_accuracy_is_the_share_of_correct_with_its_wilson_interval(make_attention):
    found = analyze(make_attention(n_problems=4), correct=[True, True, True, False], n_resamples=10)
    xr.testing.assert_equal(found.accuracy["accuracy"], proportion_interval(3, 4))
    assert found.accuracy["n"] == 4


def test_headline_holds_what_the_closing_table_shows(make_attention):
    dataset = make_attention(n_problems=8)
    leaning = dataset["attention"].copy()
    leaning.loc[{"query": ["z3", "z4", "z5", "z6"], "key": "z1"}] *= 1.0 + 2.0 * dataset["head"] + dataset["layer"]
    found = analyzed(dataset.assign(attention=leaning / leaning.sum("key")))
    numbers = headline(found, n_heads=4)
    for of in (*(numbers[name] for name in ("accuracy", "sequential", "skip")), *numbers["preference"].values()):
        assert {"estimate", "low", "high", "n"} <= set(of)
        assert of["n"] == 8
    assert found.model["preferred"].item() == "z1"
    assert numbers["hub"]["thought"] == (found.model["hub"].item() or None)
    assert [head["rank"] for head in numbers["top_heads"]] == [1, 2, 3, 4]
    assert {"name", "hub", "sequential", "skip", "thought_mass", "importance"} <= set(numbers["top_heads"][0])


def test_tables_are_tidy_and_complete(make_attention):
    found = tables(analyzed(make_attention(n_problems=5, n_layers=2, n_heads=3)))
    columns = ["measure", "position", "estimate", "low", "high", "n"]
    assert list(found["preferences_model"]) == columns
    assert list(found["preferences_layer"]) == ["layer", *columns]
    assert list(found["preferences_head"]) == ["layer", "head", *columns]
    # H and entropy of 6 thoughts, 5 lags, and three single numbers; for the model, 2 layers, 6 heads.
    assert [len(found[f"preferences_{level}"]) for level in ("model", "layer", "head")] == [20, 40, 120]
    # Nine measures and lags 2 to 5.
    assert [len(found[f"evidence_{level}"]) for level in ("model", "layer", "head")] == [13, 26, 78]
    assert list(found["composition"]) == ["query", "part", "estimate", "low", "high", "n"]
    assert len(found["composition"]) == 9 * 7
    assert len(found["heads"]) == 6
    assert all(isinstance(table, pd.DataFrame) for table in found.values())


def test_tables_hold_the_numbers_of_the_datasets(make_attention):
    found = analyzed(make_attention(n_problems=5, n_layers=2, n_heads=3))
    table = tables(found)["preferences_head"].set_index(["measure", "position", "layer", "head"]).sort_index()
    for thought in ("z1", "z4"):
        expected = found.heads["preference"].sel(thought=thought, layer=1, head=2)
        row = table.loc[("preference", thought, 1, 2)]
        np.testing.assert_array_equal([row["estimate"], row["low"], row["high"]], expected)
    assert table.loc[("lag_preference", "3", 0, 1)]["low"] == found.heads["lag_preference"].sel(
        lag=3, layer=0, head=1, value="low"
    )


def test_tables_hold_the_evidence_of_the_right_head(make_attention):
    found = analyzed(make_attention(n_problems=5, n_layers=2, n_heads=3))
    table = tables(found)["evidence_head"].set_index(["measure", "layer", "head"]).sort_index()
    for measure in ("hub", "sink", "lag4"):
        row, expected = table.loc[(measure, 1, 2)], found.evidence.sel(layer=1, head=2, measure=measure)
        np.testing.assert_array_equal(row[["estimate", "low", "high"]].astype(float), expected["excess"])
        for name in ("p", "q", "p_familywise"):
            np.testing.assert_equal(row[name], expected[name].item())
        assert row["thought"] == (expected["hub"].item() if measure == "hub" else "")
    heads = tables(found)["heads"].set_index(["layer", "head"])
    for place in np.ndindex(2, 3):
        at = dict(zip(("layer", "head"), place, strict=True))
        assert heads.loc[place]["type"] == found.evidence["type"].sel(at).item()
        assert heads.loc[place]["hub_p"] == found.hubs["p_corrected"].sel(at).item()
        assert heads.loc[place]["hub_strength"] == found.hubs["strength"].sel(at).item()


def test_hubs_are_those_of_the_hub_test(make_attention):
    dataset = make_attention()
    names = ("hub", "strongest")
    found, tested = analyzed(dataset).hubs.drop_vars("n"), hub_test(dataset)
    xr.testing.assert_allclose(found.drop_vars(names), tested.drop_vars(names))
    assert all(found[name].equals(tested[name]) for name in names)


def test_tables_survive_csv(make_attention, tmp_path):
    for name, table in tables(analyzed(make_attention())).items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        again = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(again) == list(table)
        assert len(again) == len(table)


# What is saved and opened again is compared in the tests of the archive, too.
@pytest.mark.nightly
def test_results_survive_zarr(make_attention, tmp_path):
    found = analyzed(make_attention())
    for name, dataset in found._asdict().items():
        if not isinstance(dataset, xr.Dataset):
            continue
        dataset.to_zarr(tmp_path / f"{name}.zarr", consolidated=False)
        xr.testing.assert_equal(xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False, chunks=None), dataset)


@pytest.mark.parametrize("n_correct", [3, 5])
def test_problems_that_do_not_match_are_an_error(make_attention, n_correct):
    with pytest.raises(RunError, match=f"{n_correct}"):
        analyze(make_attention(n_problems=4), correct=[True] * n_correct, n_resamples=5)


def test_same_seed_same_bytes(make_attention):
    dataset = make_attention()
    once, again, other = analyzed(dataset), analyze(dataset, n_resamples=60), analyzed(dataset, seed=1)
    xr.testing.assert_identical(once.heads, again.heads)
    assert not once.model["sequential"].equals(other.model["sequential"])
