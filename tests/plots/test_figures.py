"""What figures of heads, thoughts, models and question tokens draw: the numbers of the results they are given."""

from functools import cache

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from tests.commands import unrendered
from tests.plots.drawn import (
    composition_by_layer,
    depth_profile,
    head_counts,
    head_map,
    head_maps,
    head_ranking,
    hub_profile,
    lag_profile,
    layer_means,
    metric_distributions,
    model_comparison,
    question_tokens,
    row_composition,
    save_figure,
    skip_profile,
)
from tests.plots.results_made import made_analysis, made_comparison, made_tokens

from thoughtlens.analysis import thought_map
from thoughtlens.errors import OptionError
from thoughtlens.plots.comparison import draw_models
from thoughtlens.plots.heads import METRICS, draw_head_map
from thoughtlens.plots.primitives import scale_of
from thoughtlens.plots.style import GREY, clipped, plain, short

pytestmark = pytest.mark.usefixtures("unlaid")


def panels_of(ax):
    """The panels of a figure that has several, without colour bars and places left empty."""
    axes = ax.get_figure(root=True).axes
    return [panel for panel in axes if panel.axison and panel.get_label() != "<colorbar>"]


def dots(ax):
    """Positions of the dots on an Axes, without intervals and nulls."""
    lines = [line for line in ax.lines if line.get_marker() not in ("None", None)]
    return np.array([[line.get_xdata()[0], line.get_ydata()[0]] for line in lines])


def spans(ax):
    """The ends of the intervals along y, in the order drawn."""
    lines = [line for line in ax.lines if line.get_marker() in ("None", None) and line.get_linestyle() == "-"]
    return np.array([line.get_ydata() for line in lines if len(line.get_ydata()) == 2])


def cells(ax):
    return ax.images[0].get_array().filled(np.nan)


def changed(analysis, field, name, values):
    """An analysis with other values of one variable."""
    dataset = getattr(analysis, field)
    return analysis._replace(**{field: dataset.assign({name: dataset[name].copy(data=values)})})


def test_map_of_heads_has_layers_as_rows_and_prints_estimates(drawn_words):
    analysis = made_analysis(3, 4)
    for metric, (variable, _) in METRICS.items():
        score = analysis.heads[variable]
        estimate = (score.sel(value="estimate") if "value" in score.dims else score).values
        ax = head_map(analysis, metric=metric)
        np.testing.assert_array_equal(cells(ax), estimate)
        texts = drawn_words(ax)
        assert {short(value) for value in estimate[np.isfinite(estimate)]} <= texts


@pytest.mark.parametrize("shape", [(12, 12), pytest.param((32, 32), marks=pytest.mark.nightly)], ids=str)
def test_maps_of_many_heads_still_print_their_values(drawn_text, shape):
    texts, _, _ = drawn_text(head_map(made_analysis(*shape), metric="thought mass"))
    assert len(texts) >= shape[0] * shape[1]


def test_a_preference_is_white_at_its_null_and_a_mass_starts_at_zero():
    preference, mass = (head_map(made_analysis(), metric=name) for name in ("sequential preference", "thought mass"))
    low, high = preference.images[0].get_clim()
    assert (low + high) / 2 == pytest.approx(1.0)
    # The middle of the palette, to 8 bits: hardly a colour at all.
    red, green, blue, _ = preference.images[0].to_rgba(np.array([1.0]))[0]
    assert min(red, green, blue) > 0.96
    assert mass.images[0].get_clim()[0] == 0.0


def test_the_colour_bar_goes_no_further_than_the_values():
    ax = head_map(made_analysis(), metric="sequential preference")
    known = cells(ax)[np.isfinite(cells(ax))]
    assert ax.images[0].colorbar.ax.get_ylim() == pytest.approx((known.min(), known.max()))


def test_marked_heads_are_outlined_and_the_title_says_why(drawn_words):
    score = made_analysis().heads["sequential"]
    marked = score.sel(value="low", drop=True) > 1.0
    words = {"title": "sequential preference", "caption": "outlined: q < 0.05", "label": "even shares"}
    estimate = score.sel(value="estimate")
    ax = draw_head_map(estimate, scale=scale_of(estimate, 1.0), marked=marked, ax=None, **words).axes[0]
    centres = [path.vertices[:4].mean(0) for path in ax.collections[0].get_paths()]
    np.testing.assert_allclose(np.array(centres)[:, ::-1], np.argwhere(marked.values))
    texts = drawn_words(ax)
    assert "outlined: q < 0.05" in " ".join(texts).replace("\n", " ")


def test_ranking_runs_from_the_top_with_the_types_of_heads(drawn_words):
    analysis = made_analysis()
    first = analysis.ranking.isel(rank=slice(9))
    ax = head_ranking(analysis, top=9)
    np.testing.assert_allclose(dots(ax), np.c_[first["importance"].sel(value="estimate"), np.arange(9)])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    types = analysis.evidence["type"].sel(layer=first["layer"], head=first["head"]).values
    texts = drawn_words(ax)
    assert {f"{name}, {kind}" for name, kind in zip(first["name"].values, types, strict=True)} <= texts


def test_every_head_of_a_ranking_that_is_below_its_null_is_grey():
    every = head_ranking(made_analysis(3, 4), metric="sequential preference", top=12)
    grey = [line.get_color() == GREY for line in every.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(grey, dots(every)[:, 0] < 1.0)
    assert {*grey} == {True, False}


def test_top_heads_are_most_of_no_small_model():
    assert len(panels_of(head_maps(made_analysis(4, 4)))) == 9
    assert len(dots(head_ranking(made_analysis(4, 4)))) == 9


def test_distributions_hold_every_head_and_count_the_undefined(drawn_words):
    analysis = made_analysis()
    ax = metric_distributions(analysis)
    panels = panels_of(ax)
    strips = [[line for line in panel.lines if line.get_marker() == "o"] for panel in panels]
    counts = [sum(len(line.get_xdata()) for line in lines) for lines in strips]
    assert counts == [144, 144, 143, 144, 144, 144, 144, 144]
    # A dot stands in the row of its layer.
    mass = sorted(tuple(dot) for line in strips[4] for dot in line.get_xydata())
    estimate = analysis.heads["thought_mass"].sel(value="estimate").values
    assert mass == sorted((estimate[place], place[0]) for place in np.ndindex(estimate.shape))
    # The null of each metric that has one.
    assert [len(panel.lines) - 2 for panel in panels] == [1, 1, 1, 1, 0, 1, 0, 0]
    texts = drawn_words(ax)
    assert "sequential preference (1 undefined)" in texts


def test_counts_of_each_layer_add_up_to_its_heads(drawn_words):
    ax = head_counts(made_analysis())
    np.testing.assert_array_equal(cells(ax).sum(1), np.full(12, 12))
    texts = drawn_words(ax)
    assert "hub (21)" in texts


def test_types_stand_in_one_order_wherever_they_are_met():
    ax = head_counts(made_analysis())
    types = made_analysis().evidence["type"]
    turned = head_counts(changed(made_analysis(), "evidence", "type", types.values[::-1, ::-1]))
    names = [[label.get_text() for label in each.get_xticklabels()] for each in (ax, turned)]
    assert names[0] == names[1]
    np.testing.assert_array_equal(cells(turned), cells(ax)[::-1])


@pytest.mark.parametrize(
    ("figure", "field", "name"),
    [
        (hub_profile, "model", "preference"),
        (lag_profile, "model", "lag_preference"),
        (skip_profile, "last_thought", "share"),
    ],
)
def test_profiles_draw_every_number_with_its_interval(figure, field, name):
    numbers = getattr(made_analysis(), field)[name]
    known = numbers.dropna(numbers.dims[0], how="all")
    ax = figure(made_analysis())
    np.testing.assert_allclose(dots(ax)[:, 1], known.sel(value="estimate"))
    np.testing.assert_allclose(spans(ax), known.sel(value=["low", "high"]))
    assert ax.lines[0].get_ydata() == pytest.approx([known.attrs.get("null", 1.0)] * 2)


def test_the_hub_has_a_colour_of_its_own():
    analysis = made_analysis()
    colours = [line.get_color() for line in hub_profile(analysis).lines if line.get_marker() == "o"]
    hub = int(np.nanargmax(analysis.model["preference"].sel(value="estimate")))
    assert [i for i, colour in enumerate(colours) if colour != colours[hub]] == [i for i in range(5) if i != hub]


def test_an_interval_without_its_estimate_is_drawn():
    values = made_analysis().model["preference"].values.copy()
    values[:, 1] = values[:, 0] + 0.05
    ax = hub_profile(changed(made_analysis(), "model", "preference", values))
    np.testing.assert_allclose(spans(ax), values[:5, 1:])


@pytest.mark.parametrize("n_thoughts", [1, 2])
def test_an_undefined_profile_says_so(drawn_words, n_thoughts):
    texts = drawn_words(hub_profile(made_analysis(n_thoughts=n_thoughts)))
    assert any("undefined" in text for text in texts)


def test_depth_has_a_panel_a_metric_each_with_its_own_scale():
    layers, panels = made_analysis().layers, panels_of(depth_profile(made_analysis()))
    hub = made_analysis().model["hub"].item()
    names = [f"Preference for {hub}", "Sequential preference", "Skip preference", "Thought mass"]
    assert [panel.get_title(loc="left") for panel in panels] == names
    measured = (
        layers["preference"].sel(thought=hub),
        *(layers[name] for name in ("sequential", "skip", "thought_mass")),
    )
    for panel, numbers in zip(panels, measured, strict=True):
        np.testing.assert_allclose(dots(panel)[:, 1], numbers.sel(value="estimate"))
        np.testing.assert_allclose(spans(panel), numbers.sel(value=["low", "high"]))
    assert len({panel.get_ylim() for panel in panels}) > 1


def test_layers_are_bars_of_shares():
    ax = composition_by_layer(made_analysis())
    widths = np.array([[bar.get_width() for bar in bars] for bars in ax.containers])
    assert widths.shape == (7, 12)
    np.testing.assert_allclose(widths.sum(0), 1.0, rtol=1e-6)


def test_bars_are_the_shares_end_to_end():
    composition = made_analysis().composition["composition"]
    ax = row_composition(made_analysis())
    for part, bars in zip(composition["part"].values, ax.containers, strict=True):
        expected = composition.sel(part=part, value="estimate")
        np.testing.assert_allclose([bar.get_width() for bar in bars], expected)
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in ax.containers[-1]], 1.0)


def test_a_row_that_fewer_problems_have_says_how_many(drawn_words):
    texts = drawn_words(row_composition(made_analysis()))
    assert "answer (n = 7401)" in texts
    assert "eot" in texts


def test_a_row_that_no_problem_has_is_drawn_empty(drawn_words):
    texts = drawn_words(row_composition(made_analysis(n_answers=0)))
    assert "answer (n = 0)" in texts


def test_maps_hold_their_cells_with_queries_from_the_top():
    """Rows are queries and columns keys; what the causal mask forbids is blank."""
    analysis = made_analysis(3, 4, 3)
    (tile,) = panels_of(head_maps(analysis, heads=["L2H1"]))
    expected = thought_map(analysis.moments["mean"]).sel(layer=2, head=1).values.copy()
    expected[np.triu_indices(3, 1)] = np.nan
    np.testing.assert_array_equal(cells(tile), expected)
    tile.figure.canvas.draw()
    assert [label.get_text() for label in tile.get_yticklabels()] == ["z1", "z2", "z3"]
    assert [label.get_text() for label in tile.get_xticklabels()] == ["z1", "z2", "z3"]
    assert tile.get_ylim()[0] > tile.get_ylim()[1]


def test_maps_of_layers_are_means_over_heads():
    analysis = made_analysis(3, 4)
    mean = thought_map(analysis.moments["mean"]).mean("head").transpose("layer", "query", "key")
    for layer, tile in zip((2, 0), panels_of(layer_means(analysis, layers=[2, 0])), strict=True):
        lower = np.tril_indices(6)
        np.testing.assert_allclose(cells(tile)[lower], mean.sel(layer=layer).values[lower])
        assert tile.get_title() == f"layer {layer}"


def test_heads_of_chosen_layers_alone_are_drawn():
    tiles = panels_of(head_maps(made_analysis(3, 4), layers=[1], top=20))
    assert {tile.get_title()[:2] for tile in tiles} == {"L1"}
    assert len(tiles) == 4


def test_all_maps_of_attention_share_the_square_root_scale_of_the_page():
    tiles = [*panels_of(head_maps(made_analysis(), top=2)), *panels_of(question_tokens(made_tokens()))]
    assert {tile.images[0].get_clim() for tile in tiles} == {(0.0, 1.0)}
    np.testing.assert_allclose([tile.images[0].norm(0.25) for tile in tiles], 0.5)


def test_values_are_printed_where_they_fit(drawn_text):
    ax = head_maps(made_analysis(), heads=["L0H0"])
    texts, _, _ = drawn_text(ax)
    (tile,) = panels_of(ax)
    assert {short(value) for value in cells(tile)[np.isfinite(cells(tile))]} <= set(texts)


def test_values_are_dropped_where_they_would_not_fit(drawn_text):
    texts, _, _ = drawn_text(head_maps(made_analysis(3, 4, 32), top=2))
    # But for the ticks of the scale.
    assert {text for text in texts if text.startswith(".")} == {".05", ".25", ".5"}


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_maps_without_any_attention_are_drawn(drawn_text, fill):
    mean = made_analysis(3, 4, 3).moments["mean"]
    drawn_text(head_maps(changed(made_analysis(3, 4, 3), "moments", "mean", np.full(mean.shape, fill)), top=2))


def test_text_from_data_is_never_read_as_math(tmp_path):
    score = made_analysis(3, 4).heads["skip"].sel(value="estimate").assign_coords(layer=["$x", "a$b$", "_"])
    words = {"title": r"$\frac{1}$ <script>", "caption": "n = 9", "label": "$share$", "x": "$h$"}
    ax = draw_head_map(score, scale=scale_of(score), ax=None, **words).axes[0]
    with unrendered("png", "pdf"):
        text = save_figure(ax, tmp_path / "hostile")[1].read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text
    for shown in ("$x", "a$b$", "_", "$h$"):
        assert f">{shown}</text>" in text


@cache
def compared(*names):
    """The figure of models, which several tests look at."""
    return model_comparison(made_comparison(6, names))


NAMES = ("tiny-gpt2", "tiny-llama")
HOSTILE_NAMES = ("_$a$", r"\frac{1}{2}", "a control of a very long name, checkpoint-0042")


@pytest.mark.parametrize("n_models", [pytest.param(2, marks=pytest.mark.nightly), 3])
def test_models_are_compared_in_what_there_is(n_models):
    titles = [panel.get_title(loc="left") for panel in panels_of(compared(*HOSTILE_NAMES[:n_models]))]
    assert titles == [
        "Preference for each thought",
        "Preference by lag",
        "Where thoughts look",
        "Types of heads",
        "Accuracy",
    ]


def test_models_without_types_have_no_panel_of_types():
    assert len(panels_of(model_comparison(made_comparison(typed=False)))) == 4


def test_models_differ_in_colour_and_shape_and_never_touch():
    comparison = made_comparison()
    accuracy = panels_of(compared(*NAMES))[-1]
    first, second = (line for line in accuracy.lines if line.get_marker() in ("o", "s"))
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    expected = comparison.measures["accuracy"].sel(value="estimate")
    np.testing.assert_allclose(dots(accuracy)[:, 0], expected)
    assert dots(accuracy)[0, 1] < dots(accuracy)[1, 1]


def test_panels_of_models_hold_their_numbers():
    models = made_comparison().measures.sel(depth="all", value="estimate")
    for panel, name in zip(panels_of(compared(*NAMES)), ("preference", "lag_preference"), strict=False):
        expected = models[name].transpose("model", ...).values
        np.testing.assert_allclose(dots(panel)[:, 1], expected[np.isfinite(expected)])


def test_nothing_to_compare_is_said(drawn_words):
    models = xr.Dataset({"n": ("model", [5, 5])}, coords={"model": ["a", "b"]})
    texts = drawn_words(draw_models(models, title="models compared").axes[0])
    assert "nothing to compare" in texts


def test_model_names_are_never_markup_and_may_begin_with_an_underscore(drawn_words):
    texts = drawn_words(compared(*HOSTILE_NAMES))
    assert {"_$a$", r"\frac{1}{2}", clipped(HOSTILE_NAMES[2], 28)} <= texts


def test_what_is_undefined_for_all_is_said_instead_of_an_empty_panel(drawn_words):
    shape = made_analysis().heads["importance"].shape
    texts = drawn_words(metric_distributions(changed(made_analysis(), "heads", "importance", np.full(shape, np.nan))))
    assert "importance: undefined for all heads" in texts


def test_tokens_are_shown_literally(tmp_path):
    with unrendered("png", "pdf"):
        _, svg, _ = save_figure(question_tokens(made_tokens()), tmp_path / "tokens")
    text = svg.read_text()
    tokens = ("␣has", "$x$", "\\n", "␣\\u82f9\\u679c", "antidis…ianism", "\\x00&amp;amp;&lt;b&gt;")
    for shown in (
        "&lt;s&gt; (0, sink)",
        *(f"{token} ({token_place})" for token_place, token in zip((2, 4, 6, 7, 8, 10), tokens, strict=True)),
    ):
        assert f">{shown}</text>" in text


def test_the_most_attended_tokens_keep_their_names_where_not_all_have_room(drawn_text):
    texts = [f"t{place}" for place in range(200)]
    data = made_tokens(6, 200, texts)
    data["attention"].loc[{"token": slice(7, None, 20)}] += 1.0
    ax = Figure(figsize=(7, 24), layout="constrained").subplots()
    drawn, _, _ = drawn_text(question_tokens(data, n_top=10, ax=ax))
    assert set(texts[7::20]) <= set(drawn)
    assert len(set(drawn) & set(texts)) < 200


def test_the_largest_cells_of_each_row_are_outlined():
    data = made_tokens()
    data["attention"][2] = np.nan
    ax = question_tokens(data, n_top=2)
    centres = np.array([path.vertices[:4].mean(0) for path in ax.collections[0].get_paths()])[:, ::-1]
    expected = [
        (row, place)
        for row, values in enumerate(data["attention"].values)
        if np.isfinite(values).all()
        for place in sorted(np.argsort(-values, kind="stable")[:2])
    ]
    np.testing.assert_allclose(centres, expected)
    assert not len(question_tokens(data, n_top=0).collections[0].get_paths())


def test_a_long_question_goes_on_in_the_next_panel():
    data = made_tokens(6, 100, [f"t{place}" for place in range(100)])
    parts = [cells(panel) for panel in panels_of(question_tokens(data))]
    assert [part.shape for part in parts] == [(6, 34), (6, 34), (6, 32)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), data["attention"])


@pytest.mark.parametrize("longest", range(1, 12))
def test_clipped_text_keeps_its_ends(longest):
    text = clipped("abcdefghij", longest)
    assert len(text) == min(10, longest)
    assert text == "abcdefghij" or "…" in text


def test_plain_text_stays_and_controls_are_escaped():
    assert plain("L4H5 − ⌈T/2⌉ z₁") == "L4H5 − ⌈T/2⌉ z₁"
    assert plain("a\x1b[0m\n") == "a\\x1b[0m\\n"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, ".00"), (0.123, ".12"), (-0.004, ".00"), (-0.5, "-.50"), (0.996, "1.0"), (12.3, "12")]
)
def test_short_values(value, text):
    assert short(value) == text


def test_a_map_by_layer_may_have_other_columns_than_heads(drawn_words):
    score = made_analysis(3, 4).heads["thought_mass"].sel(value="estimate").rename(head="row")
    words = {"title": "by row", "caption": "n = 9", "label": "share of a row", "x": "row: step s"}
    texts = drawn_words(draw_head_map(score, scale=scale_of(score), ax=None, **words).axes[0])
    assert "row: step s" in texts
    assert "head" not in texts


@pytest.mark.parametrize(
    ("figure", "options", "words"),
    [
        (head_maps, {"top": 0}, "top heads is 0, expected at least 1"),
        (head_ranking, {"top": 0}, "top heads is 0, expected at least 1"),
        (head_map, {"metric": "luck"}, "no metric 'luck'; there are: hub strength"),
        (head_ranking, {"metric": "luck"}, "no metric 'luck'; there are: hub strength"),
        (layer_means, {"layers": (0, 9)}, "no layer 9 in this run, expected 0 to 2"),
        (head_maps, {"layers": (0, 9)}, "no layer 9 in this run, expected 0 to 2"),
        (head_maps, {"heads": ("L0H9",)}, "no head 'L0H9' in this run, expected L0H0 to L2H3"),
        (head_ranking, {"heads": ("L0H9",)}, "no head 'L0H9' in this run, expected L0H0 to L2H3"),
    ],
)
def test_what_a_run_does_not_have_is_said(figure, options, words):
    with pytest.raises(OptionError, match=words):
        figure(made_analysis(3, 4), **options)


def test_figures_draw_on_any_axes_of_a_grid(drawn_text):
    """Several figures on one page, those of several panels among them."""
    analysis, (left, right) = made_analysis(3, 4), Figure(figsize=(14, 5), layout="constrained").subplots(1, 2)
    hub_profile(analysis, ax=left)
    texts, _, _ = drawn_text(metric_distributions(analysis, ax=right))
    assert {"importance", "How much later thoughts prefer each thought"} <= set(texts)
