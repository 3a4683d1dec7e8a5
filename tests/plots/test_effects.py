"""What figures of cuts draw: the numbers of the study they are given, chosen and sorted."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text
from tests.analysis.effects_made import made_effects
from tests.plots.drawn import (
    ablation_curve,
    attention_against_effect,
    dose_response,
    effect_forest,
    effect_map,
    influence_maps,
    save_figure,
    transplant_bars,
)
from tests.plots.results_made import made_study, made_transplants
from tests.plots.test_figures import cells, panels_of
from tests.reports.test_studies import unit

from thoughtlens.analysis import Study, families, influence, judge, summarise, transplant_table
from thoughtlens.analysis.effects_by_design import FOLLOWS, curve_of
from thoughtlens.errors import OptionError
from thoughtlens.notation import step_label

pytestmark = pytest.mark.usefixtures("unlaid")

N = 100
HEADS = {(layer, head): f"L{layer}H{head}" for layer in range(2) for head in range(3)}


def study_of(effects, importances=None, verdicts=None):
    summary = summarise(effects, n_resamples=100, n_flips=200)
    return Study(effects, summary, families(effects), importances or {}, verdicts or {}, xr.DataArray(0.0))


def made(rows, **options):
    return made_effects(rows, baseline=np.arange(N) >= 20, **options)


def broken(n):
    """Right for all but the first 20 + n problems of a hundred; the first 20 were wrong before."""
    return np.arange(N) >= 20 + n


@pytest.fixture
def heads():
    """Head h of layer l breaks 10·l + h problems of a hundred, but L0H0 mends 20; L1H2 has three controls."""
    rows = {label: broken(10 * layer + head) for (layer, head), label in HEADS.items()}
    rows["L0H0"] = np.ones(N, dtype=bool)
    addresses = {label: unit("heads", label) for label in HEADS.values()}
    rows |= {name: broken(k) for name, k in (("a", 4), ("b", 0), ("c", 1))}
    return made(rows, controls={"L1H2": ["a", "b", "c"], "L1H1": ["a"]}, addresses=addresses)


def steps(labels):
    """The addresses of steps of orders, by their labels."""
    split = {label: label.split(" · first ") for label in labels}
    return {label: {"order": order, "k": int(k)} for label, (order, k) in split.items()}


def dots(ax):
    """Estimates, from the first row on."""
    return [line for line in ax.lines if line.get_marker() in ("o", "s") and len(line.get_xdata()) == 1]


def estimates(ax):
    return [line.get_xdata()[0] for line in dots(ax)]


def row_names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_a_forest_has_the_largest_loss_on_top_and_no_controls_among_its_rows(heads):
    ax = effect_forest(study_of(heads), outcome="accuracy")
    assert row_names(ax) == ["L1H2", "L1H1", "L1H0", "L0H2", "L0H1", "L0H0"]
    np.testing.assert_allclose(estimates(ax), [-0.12, -0.11, -0.10, -0.02, -0.01, 0.20], atol=1e-12)
    assert [line.get_ydata()[0] for line in dots(ax)] == list(range(6))
    hollow = [line.get_markerfacecolor() == "white" for line in dots(ax)]
    assert hollow == [False, False, False, True, True, False]
    assert len({line.get_color() for line in dots(ax)}) == 1


def test_each_cut_of_a_forest_has_its_own_controls(heads):
    ax = effect_forest(study_of(heads), outcome="accuracy")
    ticks = next(line for line in ax.lines if line.get_marker() == "|" and len(line.get_xdata()) > 1)
    drawn = sorted(zip(ticks.get_ydata(), ticks.get_xdata().round(9), strict=True))
    assert drawn == [(0, -0.04), (0, -0.01), (0, 0.0), (1, -0.04)]


def test_a_forest_of_too_many_cuts_keeps_those_farthest_from_0_and_says_so(heads):
    ax = effect_forest(study_of(heads), outcome="accuracy", most=2)
    assert row_names(ax) == ["L1H2", "L0H0"]
    assert "2 of 6 effects" in ax.get_title(loc="left").replace("\n", " ")


def test_a_map_has_a_cell_a_head_and_none_where_nothing_was_cut(heads):
    some = heads.drop_sel(intervention="L0H1")
    ax = effect_map(study_of(some), outcome="accuracy")
    np.testing.assert_allclose(cells(ax), [[0.20, np.nan, -0.02], [-0.10, -0.11, -0.12]], atol=1e-12)
    outlined = {tuple(path.vertices[:4].mean(0).round().astype(int)[::-1]) for path in ax.collections[0].get_paths()}
    assert outlined == {(0, 0), (1, 0), (1, 1), (1, 2)}
    assert "outlined: 5 % after Holm; dots: not cut" in caption_of(ax)
    (uncut,) = [line for line in ax.lines if line.get_marker() == "."]
    assert uncut.get_xydata().tolist() == [[1.0, 0.0]]


def caption_of(ax):
    """What the small type over an Axes says."""
    return " ".join(text.get_text() for text in ax.texts if text.get_label() == "<caption>").replace("\n", " ")


def test_a_map_of_heads_has_every_layer_of_the_model_and_marks_key_value_groups():
    groups = {f"L0H{2 * k},{2 * k + 1}": unit("kv_groups", f"L0G{k}") for k in range(2)}
    rows = {"L1H1": broken(3)} | {label: broken(5 + k) for k, label in enumerate(groups)}
    done = study_of(made(rows, addresses={"L1H1": unit("heads", "L1H1")} | groups))
    specs = ['[{"heads": [1]}]', '[{"heads": [0, 1]}]', '[{"heads": [2, 3]}]']
    summary = done.summary.assign_coords(spec=("intervention", np.array(specs, dtype=np.dtypes.StringDType())))
    done = done._replace(summary=summary.assign_attrs(n_layers=3, n_heads=4))
    ax = effect_map(done, outcome="accuracy")
    expected = np.full((3, 4), np.nan)
    expected[1, 1] = -0.03
    np.testing.assert_allclose(cells(ax), expected, atol=1e-12)
    borders = [path.vertices[0, 0] for path in ax.collections[-1].get_paths()]
    assert borders == [1.5]
    np.testing.assert_allclose(cells(effect_map(done, family="kv_groups", outcome="accuracy")), [[-0.05, -0.06]])
    assert row_names(effect_forest(done, outcome="accuracy"))[0] == "L0G1 zero"


def looked_at(values):
    names = list(HEADS.values())[::-1]
    return xr.DataArray(values, dims="unit", coords={"unit": names})


def judged(looked):
    effects = xr.DataArray(-np.tile(np.arange(6.0), (10, 1)), dims=("problem", "unit"), coords={"unit": looked["unit"]})
    return judge({"raw": looked}, effects)


def test_a_scatter_matches_attention_and_cost_by_name(heads):
    looked = looked_at([5.0, 4, np.nan, 2, 1, 0])
    verdict = judged(looked_at([5.0, 4, 3, 2, 1, 0]))
    done = study_of(heads, {"heads": {"raw": looked}}, {"heads": verdict})
    ax = attention_against_effect(done, outcome="accuracy")
    points = next(line for line in ax.lines if line.get_marker() == "o")
    drawn = dict(zip(points.get_xdata(), points.get_ydata().round(9), strict=True))
    assert drawn == {5.0: -0.12, 4.0: -0.11, 2.0: -0.02, 1.0: -0.01, 0.0: 0.20}


def test_a_scatter_is_titled_with_its_verdict(heads):
    looked = looked_at(np.arange(6.0))
    done = study_of(heads, {"heads": {"raw": looked}}, {"heads": judged(looked)})
    ax = attention_against_effect(done)
    words = (
        "n = 100; 6 heads; rank correlation 1.00, p = 0.056; change in log-probability of the answer (cut − uncut); "
    )
    assert caption_of(ax) == words + "lines: 95 % bootstrap over problems"


def test_curves_are_drawn_as_effects_with_their_ends_in_order():
    rows = {step_label("attention", 1): broken(1), step_label("attention", 2): broken(12)}
    rows |= {step_label("random order 1", k): broken(4 * k) for k in (1, 2)}
    done = study_of(made(rows, addresses=steps(rows)))
    for outcome, sign in (("accuracy", -1), ("kl", 1)):
        ax = ablation_curve(done, outcome=outcome)
        curve = next(line for line in ax.lines if line.get_linewidth() == 1.4)
        area = ax.collections[-1].get_paths()[0].vertices
        low, high = area[area[:, 0] == 2][:, 1].min(), area[area[:, 0] == 2][:, 1].max()
        assert low <= curve.get_ydata()[2] <= high and sign * low > 0 and sign * high > 0
    chance = next(line for line in ablation_curve(done, outcome="accuracy").lines if line.get_linestyle() == ":")
    np.testing.assert_allclose(chance.get_ydata(), [0.0, -0.04, -0.08], atol=1e-12)


def test_a_curve_without_random_orders_names_none(drawn_text):
    rows = {step_label("attention", k): broken(k) for k in (1, 2)}
    texts, _, _ = drawn_text(ablation_curve(study_of(made(rows, addresses=steps(rows)))))
    assert "attention" in texts
    assert not [text for text in texts if "random" in text]


def test_random_orders_are_counted(drawn_text):
    texts, _, _ = drawn_text(ablation_curve(made_study("orders", 5)))
    assert {"attention", "2 random orders"} <= set(texts)
    assert curve_of(made_study("orders", 5).summary)["n_random"] == 2


def test_doses_keep_the_costly_targets_in_their_order(drawn_text):
    lost = {("x", 0): 1, ("y", 1): 12, ("z", 2): 10}
    rows = {f"{name} {factor}": broken(n) for (name, _), n in lost.items() for factor in (0.5, 0.25)}
    addresses = {
        f"{name} {factor}": unit("heads", f"L0H{head}", "scale", dose=1 - factor)
        for name, head in lost
        for factor in (0.5, 0.25)
    }
    ax = dose_response(study_of(made(rows, addresses=addresses)), outcome="accuracy", most=2)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["L0H1", "L0H2"]
    assert ax.get_title(loc="left").replace("\n", " ").endswith("the costliest 2 of 3")
    assert "n = 100" in caption_of(ax)
    lines = [line for line in ax.lines if line.get_linewidth() == 0.9]
    np.testing.assert_allclose([line.get_ydata() for line in lines], [[0, -0.12, -0.12], [0, -0.10, -0.10]], atol=1e-12)


def test_labels_are_never_read_as_math_or_markup(tmp_path):
    rows = {label: broken(k) for k, label in enumerate([r"$\frac{1}$", "<script>&", "_under"])}
    svg = save_figure(effect_forest(study_of(made(rows))), tmp_path / "hostile")[1].read_text()
    assert "<script>" not in svg and "&lt;script&gt;" in svg and "frac" in svg and "_under" in svg


def scatter_of(x, cost):
    """A study of so many heads with this attention, effects and intervals, drawn."""
    done = made_study("heads", len(x))
    labels = list(done.families["heads"].values())
    units = list(done.families["heads"])
    looked = done.importances["heads"]["raw"].sel(unit=units).copy()
    looked[:] = x
    logprob = done.summary["joint_logprob"].copy()
    logprob.loc[{"intervention": labels}] = np.asarray(cost)
    summary = done.summary.assign(joint_logprob=logprob)
    return attention_against_effect(done._replace(summary=summary, importances={"heads": {"raw": looked}})), units


def random_scatter(n):
    cost = np.random.default_rng(0).exponential(size=n) - 0.3
    return np.random.default_rng(2).exponential(size=n), np.stack([cost, cost - 0.2, cost + 0.2], axis=-1)


@pytest.mark.parametrize("n", [16, 40, pytest.param(60, marks=pytest.mark.nightly)])
def test_all_points_of_a_scatter_are_named_or_none(drawn_text, n):
    x, cost = random_scatter(n)
    cost[3], x[7] = [9.0, 8.8, 9.2], 20.0
    ax, units = scatter_of(x, cost)
    texts, _, _ = drawn_text(ax)
    assert set(units) & set(texts) in ({*units}, set())
    assert n != 16 or {*units} <= set(texts)


def test_no_name_of_a_scatter_covers_a_dot_that_is_not_its_own(laid_out):
    x, cost = random_scatter(24)
    ax, units = scatter_of(x, cost)
    ax.figure.canvas.draw()
    places = ax.transData.transform(np.stack([x, cost[:, 0]], -1))
    named = [text for text in ax.texts if text.get_text() in units]
    assert named
    for text in named:
        # Without the line to its dot.
        box = Text.get_window_extent(text)
        inside = (places > [box.x0, box.y0]).all(1) & (places < [box.x1, box.y1]).all(1)
        assert set(np.array(units)[inside]) <= {text.get_text()}


def test_no_name_of_a_scatter_is_struck_through_by_an_interval(laid_out):
    # Beside a dot at the right end, the long interval of a neighbour.
    x, cost = np.linspace(0, 0.1, 16), np.zeros((16, 3))
    x[14], cost[14], x[15] = 0.97, [3.0, -0.5, 6.0], 1.0
    ax, units = scatter_of(x, cost)
    ax.figure.canvas.draw()
    named = [Text.get_window_extent(text) for text in ax.texts if text.get_text() in units]
    for box in named:
        for place, (_, low, high) in zip(x, cost, strict=True):
            (across, bottom), (_, top) = ax.transData.transform([(place, low), (place, high)])
            assert not (box.x0 < across < box.x1 and bottom < box.y1 and top > box.y0)
    assert named


def test_a_map_of_nothing_has_no_colour_bar():
    done = made_study("edges", 4)
    bars = [tile.images[0].colorbar is not None for tile in panels_of(influence_maps(done))]
    assert bars == [True, True]
    blank = done._replace(attention=done.attention * np.nan)
    bars = [tile.images[0].colorbar is not None for tile in panels_of(influence_maps(blank))]
    assert bars == [False, True]


def test_maps_of_edges_hold_their_cells_and_outline_the_significant():
    done = made_study("edges", 6)
    maps = influence(done.summary, done.families["edges"], done.attention)
    tiles = panels_of(influence_maps(done))
    # No thought looks at the last one, and the first looks at none.
    maps = maps.transpose("query", "key", ...).isel(query=slice(1, None), key=slice(None, -1))
    expected = maps["attention"], maps["joint_logprob"].sel(value="estimate")
    for tile, values in zip(tiles, expected, strict=True):
        np.testing.assert_array_equal(cells(tile), values)
    centres = [path.vertices[:4].mean(0).round().astype(int)[::-1] for path in tiles[1].collections[0].get_paths()]
    marked = np.argwhere(maps["significant"].values)
    assert len(marked) and [tuple(place) for place in centres] == [tuple(place) for place in marked]


def test_transplants_are_stacked_and_the_donors_interval_is_drawn():
    done = made_transplants(3)
    share, ax = transplant_table(done.effects)["share"], transplant_bars(done)
    donors = [bar.get_width() for bar in ax.containers[0]]
    np.testing.assert_allclose(donors, share.sel(answer=FOLLOWS, value="estimate"))
    ends = [line.get_xdata() for line in ax.lines]
    np.testing.assert_allclose(ends, share.sel(answer=FOLLOWS, value=["low", "high"]))


@pytest.mark.parametrize("figure", [effect_forest, effect_map, attention_against_effect, ablation_curve, dose_response])
def test_an_unknown_outcome_is_refused(figure, heads):
    looked = looked_at(np.arange(6.0))
    done = study_of(heads, {"heads": {"raw": looked}}, {"heads": judged(looked)})
    with pytest.raises(OptionError, match="no outcome 'luck'; there are accuracy, joint_logprob, gold_logprob, kl"):
        figure(done, outcome="luck")


@pytest.mark.parametrize(
    ("figure", "options", "words"),
    [
        (ablation_curve, {}, "found no orders of cuts in this study, expected one or more; intervene with --order"),
        (dose_response, {}, "found no cut by degrees in this study, expected two of one target"),
        (transplant_bars, {}, "found no transplant of thoughts in this study, expected one"),
        (influence_maps, {}, "no family of cuts of single edges in this study; there is none"),
        (
            effect_map,
            {"family": "thoughts"},
            "no family of cuts of single heads 'thoughts' in this study; there are: heads",
        ),
        (attention_against_effect, {"attention": "felt"}, "no kind of attention 'felt' in this study; there are: raw"),
    ],
)
def test_what_a_study_does_not_have_is_said(figure, options, words):
    with pytest.raises(OptionError, match=words):
        figure(made_study("heads", 5), **options)
