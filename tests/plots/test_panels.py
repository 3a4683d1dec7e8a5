"""What figures draw is what the attention holds: against naive loops over heads, rows and problems."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from tests.plots.drawn import composition_by_layer, depth_profile, head_counts, head_map, head_ranking
from tests.plots.test_figures import cells, dots, panels_of

from thoughtlens.analysis import analyze, rank_heads
from thoughtlens.analysis.attention_measures import thought_composition
from thoughtlens.errors import OptionError
from thoughtlens.notation import key_names, thought_names
from thoughtlens.plots.heads import METRICS, Choice, score_of
from thoughtlens.published import step_figures

pytestmark = pytest.mark.usefixtures("unlaid")


def counted(attention):
    """A Dataset of attention with questions of 20 tokens."""
    return attention.to_dataset().assign(n_question_tokens=("problem", np.full(attention.sizes["problem"], 20)))


@pytest.fixture(scope="module")
def attention(make_attention):
    return make_attention(n_problems=9, n_layers=3, n_heads=4).attention


@pytest.fixture(scope="module")
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
    for name, (variable, null) in METRICS.items():
        score, found = score_of(analysis, name)
        np.testing.assert_array_equal(score, analysis.heads[variable])
        np.testing.assert_array_equal(found, analysis.heads[null].mean() if isinstance(null, str) else null)


def test_masses_of_heads_are_means_over_rows(attention, analysis):
    for name, keys_of in (("mass on first", lambda _: ["first"]), ("mass on self", lambda query: [query])):
        ax = head_map(analysis, metric=name)
        np.testing.assert_allclose(cells(ax), naive_mass(attention, keys_of), rtol=1e-5)
        # Without intervals and nulls.
        assert "value" not in score_of(analysis, name)[0].dims and np.isnan(score_of(analysis, name)[1])


def test_layers_carry_the_preference_for_the_hub_of_the_run(analysis):
    hub, without = "z2", panels_of(depth_profile(analysis))
    assert [panel.get_title(loc="left").split()[0] for panel in without] == ["Sequential", "Skip", "Thought"]
    analysis = analysis._replace(model=analysis.model.assign(hub=hub))
    first, _, skip, *_ = panels_of(depth_profile(analysis))
    assert first.get_title(loc="left") == f"Preference for {hub}"
    preference = analysis.layers["preference"].sel(thought=hub, value="estimate")
    np.testing.assert_allclose(dots(first)[:, 1], preference)
    np.testing.assert_allclose(dots(skip)[:, 1], analysis.layers["skip"].sel(value="estimate"))
    assert any(list(line.get_ydata()) == [1.0, 1.0] for line in first.lines)


@pytest.mark.parametrize("n_thoughts", [1, 2])
def test_few_thoughts_leave_panels_that_can_be_drawn(make_attention, n_thoughts):
    dataset = make_attention(n_thoughts=n_thoughts)
    analysis = analyze(dataset, correct=np.ones(5, dtype=bool), n_resamples=5)
    panels = {panel.get_title(loc="left"): panel for panel in panels_of(depth_profile(analysis))}
    assert len(dots(panels["Sequential preference"])) == 0
    assert analysis.last_thought["share"].sizes["thought"] == n_thoughts - 1


def test_even_rows_share_evenly(plant_attention):
    share = analyze(plant_attention(lambda query, key: 1.0), n_resamples=10).last_thought["share"]
    np.testing.assert_allclose(share, 1 / 5, rtol=1e-6)
    assert share.attrs["null"] == 1 / 5


def test_shares_of_the_last_thought_are_ratios_of_sums_whatever_the_blocks(attention):
    right = np.ones(9, dtype=bool)
    whole = analyze(counted(attention), correct=right, n_resamples=10).last_thought
    given = [float(attention.sel(query="z6", key=f"z{k}").astype(np.float64).sum()) for k in range(1, 6)]
    np.testing.assert_allclose(whole["share"].sel(value="estimate"), np.array(given) / sum(given), rtol=1e-6)
    blocks = [counted(attention.isel(problem=part)) for part in (slice(0, 2), slice(2, None))]
    xr.testing.assert_allclose(analyze(blocks, correct=right, n_resamples=10).last_thought, whole)
    assert whole["n"] == 9


def test_composition_of_layers_is_a_partition_of_mean_rows(attention, analysis):
    found = thought_composition(analysis.moments["mean"]).mean("head")
    np.testing.assert_allclose(found.sum("part"), 1.0, rtol=1e-5)
    names = key_names(6)
    earlier = naive_mass(attention, lambda query: names[3 : names.index(query)]).mean("head")
    np.testing.assert_allclose(found.sel(part="earlier thoughts"), earlier, rtol=1e-5)
    bars = composition_by_layer(analysis).containers[list(found["part"].values).index("earlier thoughts")]
    np.testing.assert_allclose([bar.get_width() for bar in bars], earlier, rtol=1e-5)


def ranked(ax):
    """The heads of a ranking from the top; beside each stands its type."""
    return [label.get_text().split(",")[0] for label in ax.get_yticklabels()]


def test_ranking_by_importance_is_that_of_the_analysis(analysis):
    ax = head_ranking(analysis, top=7)
    assert ranked(ax) == list(rank_heads(analysis.heads)["name"].values[:7])
    np.testing.assert_array_equal(dots(ax)[:, 0], analysis.ranking["importance"].sel(value="estimate")[:7])


def test_ranking_by_another_metric_falls_and_ends_with_the_undefined(analysis):
    skip = analysis.heads["skip"].copy()
    skip.loc[{"layer": 1, "head": 2}] = np.nan
    ax = head_ranking(analysis._replace(heads=analysis.heads.assign(skip=skip)), metric="skip preference", top=12)
    assert (np.diff(dots(ax)[:, 0]) <= 0).all()
    assert len(dots(ax)) == 11
    assert ranked(ax)[-1] == "L1H2"


def test_chosen_heads_alone_are_drawn_with_their_types(analysis):
    names = np.array([[f"{layer}{head}" for head in range(4)] for layer in range(3)], dtype=np.dtypes.StringDType())
    evidence = analysis.evidence.assign(type=analysis.evidence["type"].copy(data=names))
    ax = head_ranking(analysis._replace(evidence=evidence), heads=("L2H1", "L0H3"))
    assert {label.get_text() for label in ax.get_yticklabels()} == {"L2H1, 21", "L0H3, 03"}


@pytest.mark.parametrize("n_layers", [1, 2, 3, 16])
def test_heads_are_counted_once_by_layer_and_type(analysis, n_layers):
    kinds = (
        np.random.default_rng(0)
        .choice(["hub", "first-token", "self"], size=(n_layers, 5))
        .astype(np.dtypes.StringDType())
    )
    evidence = xr.Dataset({"type": (("layer", "head"), kinds)}, coords={"layer": range(n_layers)})
    ax = head_counts(analysis._replace(evidence=evidence))
    counted = [label.get_text().split(" (")[0] for label in ax.get_xticklabels()]
    assert set(counted) == set(kinds.ravel())
    expected = [[sum(found == kind for found in kinds[layer]) for kind in counted] for layer in range(n_layers)]
    np.testing.assert_array_equal(cells(ax), expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": 0}, "top heads is 0, expected at least 1"),
        ({"metric": "luck"}, "no metric 'luck'; there are: hub strength"),
        ({"layers": (0, 9)}, "no layer 9 in this run, expected 0 to 2"),
        ({"heads": ("L0H9",)}, "no head 'L0H9' in this run, expected L0H0 to L2H3"),
    ],
)
def test_what_a_run_does_not_have_is_said(analysis, options, words):
    with pytest.raises(OptionError, match=words):
        step_figures(analysis, Choice(**options))


@pytest.fixture(scope="module")
def steps(analysis):
    return {name: figure.axes[0] for name, figure in step_figures(analysis).items()}


def test_step_indexed_figures_hold_what_the_scripts_drew(attention, steps):
    """The cells named by hand: row s is the query z{s}, column j the key z{j+1}; their scores are means and sums."""
    mean = attention.astype(np.float64).mean(("problem", "layer", "head"))
    cell = {(s, j): float(mean.sel(query=f"z{s}", key=f"z{j + 1}")) for s in range(1, 6) for j in range(s)}
    columns = [sum(value for (_, column), value in cell.items() if column == j) for j in range(6)]
    hubs = steps["3_hub_analysis_hubs"]
    np.testing.assert_allclose(dots(hubs)[:, 1], columns, rtol=1e-5)
    colours = [line.get_color() for line in hubs.lines if line.get_marker() == "o"]
    assert [place for place in range(6) if colours.count(colours[place]) == 1] == [int(np.argmax(columns))]
    drawn = dots(steps["3_hub_analysis_sequential"])[:, 1]
    np.testing.assert_allclose(drawn, [cell[s, s - 1] for s in range(1, 6)], rtol=1e-5)
    np.testing.assert_allclose(dots(steps["3_hub_analysis_skips"])[:, 1], [cell[5, j] for j in range(3)], rtol=1e-5)
    largest = [np.nanmax(cells(tile)) for tile in panels_of(steps["1_top_heads_attention"])]
    assert (np.diff(largest) <= 0).all()


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


def test_step_indexed_heads_are_in_the_order_of_their_composites(attention, steps):
    rows, composite = naive_scores(attention)
    order = sorted(rows, key=lambda name: -composite[name])
    for name, n_heads in (("4_critical_heads_attention", 10), ("5_top3_critical_heads", 3)):
        tiles = panels_of(steps[name])
        titles = [tile.get_title() for tile in tiles]
        assert [title.split()[0] for title in titles] == order[:n_heads]
        for title, tile in zip(titles, tiles, strict=True):
            _, hub, skip, expected = rows[title.split()[0]]
            told = [float(text.strip("FHS:")) for text in title.split()[1:]]
            np.testing.assert_allclose(told, [composite[title.split()[0]], 1.0, hub, skip], atol=0.0051)
            np.testing.assert_allclose(np.nan_to_num(cells(tile)), expected, rtol=1e-5)
    for name, place in (("hub", 1), ("skip", 2)):
        ax = steps[f"6_metric_distributions_{name}"]
        assert ranked(ax) == order
        np.testing.assert_allclose(dots(ax)[:, 0], [rows[head][place] for head in order], rtol=1e-4)
    layers, types = (cells(steps[f"6_metric_distributions_{name}"]) for name in ("layers", "types"))
    assert layers.sum() == types.sum() == len(order)
    np.testing.assert_array_equal(layers.sum(0), types[0])
    first = order[0].split("H")[1]
    titles = [tile.get_title() for tile in panels_of(steps[f"layer_evolution_H{first}"])]
    assert titles == [f"L{layer}H{first}" for layer in range(3)]


def test_step_indexed_layers_hold_what_the_scripts_drew(attention, steps):
    rows, _ = naive_scores(attention)
    columns, skips = (cells(steps[name]) for name in ("hub_attention_by_layer", "skip_connections_by_layer"))
    mean, variance = (dots(panel)[:, 1] for panel in panels_of(steps["attention_statistics"]))
    for layer in range(3):
        of_layer = np.mean([rows[f"L{layer}H{head}"][3] for head in range(4)], axis=0)
        np.testing.assert_allclose(columns[layer], [np.nan, *of_layer[1:, 0]], rtol=1e-5)
        far = [sum(of_layer[s, j] for j in range(s - 1)) for s in range(2, 6)]
        np.testing.assert_allclose(skips[layer], [np.nan, np.nan, *far], rtol=1e-5)
        np.testing.assert_allclose([mean[layer], variance[layer]], [of_layer.mean(), of_layer.var()], rtol=1e-4)


def test_as_many_step_indexed_heads_are_drawn_as_asked(analysis, monkeypatch):
    # Not looked at here, and most of the time of them all.
    for name in ("draw_profile", "draw_ranking", "draw_head_map", "draw_counts", "draw_depth"):
        monkeypatch.setattr(f"thoughtlens.published.step_indexed_files.{name}", lambda *_, **__: Figure())
    drawn, named = (
        {name: figure.axes[0] for name, figure in step_figures(analysis, choice).items() if figure.axes}
        for choice in (Choice(top=2), Choice(heads=("L2H1", "L0H0"), layers=(1,)))
    )
    assert len(panels_of(drawn["1_top_heads_attention"])) == len(panels_of(drawn["4_critical_heads_attention"])) == 2
    titles = [tile.get_title().split()[0] for tile in panels_of(named["4_critical_heads_attention"])]
    assert titles == ["L2H1", "L0H0"]
    assert [tile.get_title() for tile in panels_of(named["layer_evolution_H1"])] == ["L1H1"]
