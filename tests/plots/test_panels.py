"""What figures draw is what the attention holds: against naive loops over heads, rows and problems."""

import numpy as np
import pytest
import xarray as xr

from thoughtlens.analysis import analyze, rank_heads
from thoughtlens.errors import OptionError
from thoughtlens.names import key_names, thought_names
from thoughtlens.plots import (
    METRICS,
    Choice,
    figure_data,
    head_count_data,
    head_scores,
    layer_composition,
    layer_scores,
    pick_heads,
    ranked_heads,
)
from thoughtlens.published import step_figure_data


def counted(attention):
    """A Dataset of attention with questions of 20 tokens."""
    return attention.to_dataset().assign(n_question_tokens=("problem", np.full(attention.sizes["problem"], 20)))


@pytest.fixture
def attention(make_attention):
    return make_attention(n_problems=9, n_layers=3, n_heads=4).attention


@pytest.fixture
def analysis(attention):
    return analyze(
        attention.to_dataset().assign(n_question_tokens=("problem", np.full(9, 20))),
        correct=np.ones(9, dtype=bool),
        n_resamples=20,
    )


def naive_mass(attention, keys_of):
    """Mean over problems and thoughts of the mass on the keys of each row: (layer, head)."""
    rows = [
        attention.sel(query=query, key=keys_of(query)).sum("key").mean("problem")
        for query in thought_names(attention.sizes["query"] - 3)
    ]
    return sum(rows) / len(rows)


def test_scores_of_heads_are_those_of_the_analysis_with_its_intervals(analysis):
    scores = head_scores(analysis)
    assert scores["score"].dims == ("metric", "layer", "head", "value")
    for name, (variable, null) in METRICS.items():
        np.testing.assert_array_equal(scores["score"].sel(metric=name), analysis.heads[variable])
        np.testing.assert_array_equal(scores["null"].sel(metric=name), null)


def test_masses_of_heads_are_means_over_rows(attention, analysis):
    scores = head_scores(analysis)["score"]
    for name, keys_of in (("mass on first", lambda _: ["first"]), ("mass on self", lambda query: [query])):
        found = scores.sel(metric=name)
        np.testing.assert_allclose(found.sel(value="estimate"), naive_mass(attention, keys_of), rtol=1e-5)
        assert found.sel(value=["low", "high"]).isnull().all()


def test_layers_carry_the_preference_for_the_hub_of_the_run(analysis):
    scores, hub = layer_scores(analysis), analysis.model["preferred"].item()
    np.testing.assert_array_equal(
        scores["score"].sel(metric=f"preference for {hub}"), analysis.layers["preference"].sel(thought=hub)
    )
    np.testing.assert_array_equal(scores["score"].sel(metric="skip preference"), analysis.layers["skip"])
    assert scores["null"].sel(metric=f"preference for {hub}") == 1.0


def test_spread_is_over_the_cells_of_earlier_thoughts(attention, analysis):
    names = thought_names(6)
    maps = attention.astype(np.float64).mean(("problem", "head"))
    for layer in range(3):
        cells = [float(maps.sel(layer=layer, query=q, key=k)) for i, q in enumerate(names) for k in names[:i]]
        found = layer_scores(analysis)["score"].sel(metric="spread over cells", layer=layer, value="estimate")
        assert float(found) == pytest.approx(np.std(cells), rel=1e-5)


@pytest.mark.parametrize("n_thoughts", [1, 2])
def test_few_thoughts_leave_panels_that_can_be_drawn(make_attention, n_thoughts):
    dataset = make_attention(n_thoughts=n_thoughts)
    analysis = analyze(dataset, correct=np.ones(5, dtype=bool), n_resamples=5)
    assert layer_scores(analysis)["score"].sel(metric="sequential preference").isnull().all()
    assert analysis.last_thought["share"].sizes["thought"] == n_thoughts - 1


def test_even_rows_share_evenly(plant_attention):
    share = analyze(plant_attention(lambda query, key: 1.0), n_resamples=10).last_thought["share"]
    np.testing.assert_allclose(share, 1 / 5, rtol=1e-6)
    assert share.attrs["null"] == 1 / 5


def test_shares_of_the_last_thought_are_ratios_of_sums_whatever_the_blocks(attention):
    right = np.ones(9, dtype=bool)
    whole = analyze(counted(attention), correct=right, n_resamples=50).last_thought
    given = [float(attention.sel(query="z6", key=f"z{k}").astype(np.float64).sum()) for k in range(1, 6)]
    np.testing.assert_allclose(whole["share"].sel(value="estimate"), np.array(given) / sum(given), rtol=1e-6)
    blocks = [counted(attention.isel(problem=part)) for part in (slice(0, 2), slice(2, None))]
    xr.testing.assert_allclose(analyze(blocks, correct=right, n_resamples=50).last_thought, whole)
    assert whole["n"] == 9


def test_composition_of_layers_is_a_partition_of_mean_rows(attention, analysis):
    found = layer_composition(analysis)["composition"]
    np.testing.assert_allclose(found.sum("part"), 1.0, rtol=1e-5)
    names = key_names(6)
    earlier = naive_mass(attention, lambda query: names[3 : names.index(query)]).mean("head")
    np.testing.assert_allclose(found.sel(part="earlier thoughts"), earlier, rtol=1e-5)


def test_ranking_by_importance_is_that_of_the_analysis(analysis):
    ranked = ranked_heads(head_scores(analysis), choice=Choice(top=7))
    np.testing.assert_array_equal(ranked["name"], rank_heads(analysis.heads)["name"][:7])
    np.testing.assert_array_equal(ranked["score"], analysis.ranking["importance"][:7])


def test_ranking_by_another_metric_falls_and_ends_with_the_undefined(analysis):
    scores = head_scores(analysis)
    scores["score"].loc[{"metric": "skip preference", "layer": 1, "head": 2}] = np.nan
    ranked = ranked_heads(scores, choice=Choice(metric="skip preference"))
    values = ranked["score"].sel(value="estimate").values
    assert (np.diff(values[:-1]) <= 0).all()
    assert ranked["name"].values[-1] == "L1H2"


def test_chosen_heads_alone_are_drawn_with_their_types(analysis):
    names = xr.DataArray([[f"{layer}{head}" for head in range(4)] for layer in range(3)], dims=("layer", "head"))
    types = names.assign_coords(layer=range(3), head=range(4))
    ranked = ranked_heads(head_scores(analysis), choice=Choice(heads=("L2H1", "L0H3")), types=types)
    assert {(str(n), str(t)) for n, t in zip(ranked["name"].values, ranked["type"].values, strict=True)} == {
        ("L2H1", "21"),
        ("L0H3", "03"),
    }
    assert list(pick_heads(analysis.ranking, Choice(heads=("L2H1", "L0H3")))["name"].values) == ["L2H1", "L0H3"]


@pytest.mark.parametrize("n_layers", [1, 2, 3, 12, 16])
def test_heads_are_counted_once_by_third_and_type(n_layers):
    kinds = np.random.default_rng(0).choice(["hub", "sink", "self"], size=(n_layers, 5))
    count = head_count_data(xr.DataArray(kinds, dims=("layer", "head")), n=9)["count"]
    for kind in set(kinds.ravel()):
        expected = {"early": 0, "middle": 0, "late": 0}
        for layer in range(n_layers):
            third = "early" if layer < n_layers // 3 else "middle" if layer < 2 * n_layers // 3 else "late"
            expected[third] += int((kinds[layer] == kind).sum())
        assert dict(zip(count["third"].values, count.sel(type=kind).values, strict=True)) == expected


def test_every_figure_gets_the_layers_and_heads_that_were_chosen(analysis):
    data = figure_data(analysis, choice=Choice(layers=(2, 0), heads=("L2H1", "L0H3"), metric="thought mass"))
    assert list(data["layer_means"]["layer"].values) == [2, 0]
    assert list(data["head_maps"]["layer"].values) == [2, 0]
    assert data["head_map"]["metric"] == "thought mass"
    assert "head_counts" not in data


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": 0}, "top heads is 0, expected at least 1"),
        ({"metric": "luck"}, "no metric 'luck'; there are: hub preference"),
        ({"layers": (0, 9)}, "no layer 9 in this run, expected 0 to 2"),
        ({"heads": ("L0H9",)}, "no head 'L0H9' in this run, expected L0H0 to L2H3"),
    ],
)
@pytest.mark.parametrize("prepare", [figure_data, step_figure_data])
def test_what_a_run_does_not_have_is_said(analysis, options, words, prepare):
    with pytest.raises(OptionError, match=words):
        prepare(analysis, choice=Choice(**options))


def test_step_indexed_figures_hold_what_the_scripts_drew(attention, analysis):
    """The cells named by hand: row s is the query z{s}, column j the key z{j+1}; their scores are means and sums."""
    data = {name: drawn for name, (_, drawn) in step_figure_data(analysis).items()}
    mean = attention.astype(np.float64).mean(("problem", "layer", "head"))
    cell = {(s, j): float(mean.sel(query=f"z{s}", key=f"z{j + 1}")) for s in range(1, 6) for j in range(s)}
    columns = [sum(value for (_, column), value in cell.items() if column == j) for j in range(6)]
    np.testing.assert_allclose(data["3_hub_analysis_hubs"]["preference"], columns, rtol=1e-5)
    assert data["3_hub_analysis_hubs"]["hub"] == int(np.argmax(columns))
    np.testing.assert_allclose(
        data["3_hub_analysis_sequential"]["share"], [cell[s, s - 1] for s in range(1, 6)], rtol=1e-5
    )
    np.testing.assert_allclose(data["3_hub_analysis_skips"]["share"], [cell[5, j] for j in range(3)], rtol=1e-5)
    largest = data["1_top_heads_attention"].max(("query", "key")).values
    assert (np.diff(largest) <= 0).all()
    assert "step-indexed" in data["1_top_heads_attention"].attrs["long_name"]


def naive_scores(attention):
    """Flow, hub, skip and composite of each head by loops over the cells that the scripts recorded."""
    mean = attention.astype(np.float64).mean("problem")
    rows = {}
    for layer in range(mean.sizes["layer"]):
        for head in range(mean.sizes["head"]):
            cells = np.zeros((6, 6))
            for s in range(1, 6):
                for j in range(s):
                    cells[s, j] = mean.sel(layer=layer, head=head, query=f"z{s}", key=f"z{j + 1}")
            rows[f"L{layer}H{head}"] = (1.0, cells.sum(0).var(), cells[5, :3].mean(), cells)
    values = np.array([row[:3] for row in rows.values()])
    scaled = (values - values.min(0)) / (values.max(0) - values.min(0) + 1e-10)
    return rows, dict(zip(rows, scaled @ [0.4, 0.4, 0.2], strict=True))


def test_step_indexed_heads_are_in_the_order_of_their_composites(attention, analysis):
    rows, composite = naive_scores(attention)
    order = sorted(rows, key=lambda name: -composite[name])
    drawn = step_figure_data(analysis)
    for name, n_heads in (("4_critical_heads_attention", 10), ("5_top3_critical_heads", 3)):
        maps = drawn[name][1]
        titles = [str(title) for title in maps["title"].values]
        assert [title.split()[0] for title in titles] == order[:n_heads]
        for title, tile in zip(titles, maps, strict=True):
            _, hub, skip, cells = rows[title.split()[0]]
            told = [float(text.strip("FHS:")) for text in title.split()[1:]]
            np.testing.assert_allclose(told, [composite[title.split()[0]], 1.0, hub, skip], atol=0.0051)
            np.testing.assert_allclose(np.nan_to_num(tile.values), cells, rtol=1e-5)
    for name, place in (("hub", 1), ("skip", 2)):
        figure, bars = drawn[f"6_metric_distributions_{name}"]
        assert figure == "head_ranking"
        assert bars["name"].values.tolist() == order
        np.testing.assert_allclose(bars["score"], [rows[head][place] for head in order], rtol=1e-4)
    layers, types = (drawn[f"6_metric_distributions_{name}"][1]["count"] for name in ("layers", "types"))
    assert int(layers.sum()) == int(types.sum()) == len(order)
    np.testing.assert_array_equal(layers.sum("third"), types.isel(third=0))
    first = order[0].split("H")[1]
    assert [*drawn[f"layer_evolution_H{first}"][1]["layer"].values] == [0, 1, 2]


def test_step_indexed_layers_hold_what_the_scripts_drew(attention, analysis):
    drawn = {name: data for name, (_, data) in step_figure_data(analysis).items()}
    rows, _ = naive_scores(attention)
    n_heads = analysis.heads.sizes["head"]
    for layer in range(3):
        cells = np.mean([rows[f"L{layer}H{head}"][3] for head in range(n_heads)], axis=0)
        column = drawn["hub_attention_by_layer"]["score"].sel(layer=layer)
        np.testing.assert_allclose(column, [np.nan, *cells[1:, 0]], rtol=1e-5)
        far = [sum(cells[s, j] for j in range(s - 1)) for s in range(2, 6)]
        skips = drawn["skip_connections_by_layer"]["score"].sel(layer=layer)
        np.testing.assert_allclose(skips, [np.nan, np.nan, *far], rtol=1e-5)
        statistics = drawn["attention_statistics"]["score"].sel(layer=layer)
        np.testing.assert_allclose(statistics, [cells.mean(), cells.var()], rtol=1e-4)


def test_as_many_step_indexed_heads_are_drawn_as_asked(analysis):
    drawn = step_figure_data(analysis, Choice(top=2))
    assert drawn["1_top_heads_attention"][1].sizes["rank"] == drawn["4_critical_heads_attention"][1].sizes["rank"] == 2
    named = step_figure_data(analysis, Choice(heads=("L2H1", "L0H0"), layers=(1,)))
    assert named["4_critical_heads_attention"][1]["name"].values.tolist() == ["L2H1", "L0H0"]
    assert named["layer_evolution_H1"][1]["layer"].values.tolist() == [1]
