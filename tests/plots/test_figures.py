"""What the figures of heads, lags, layers, models and question tokens draw: the numbers that they were given."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from thoughtlens.plots import (
    clipped,
    composition_by_layer,
    depth_profile,
    head_counts,
    head_map,
    head_maps,
    head_ranking,
    lag_profile,
    metric_distributions,
    model_comparison,
    plain,
    question_tokens,
    save_figure,
    short,
    skip_profile,
)


def dots(ax):
    """Positions of the dots on an Axes, without intervals and nulls."""
    lines = [line for line in ax.lines if line.get_marker() not in ("None", None)]
    return np.array([[line.get_xdata()[0], line.get_ydata()[0]] for line in lines])


def spans(ax):
    """The ends of the intervals along y, in the order drawn."""
    lines = [line for line in ax.lines if line.get_marker() in ("None", None) and line.get_linestyle() == "-"]
    return np.array([line.get_ydata() for line in lines])


def test_map_of_heads_has_layers_as_rows_and_prints_estimates(score_data, drawn_text):
    data = score_data(3, 4).sel(metric="thought mass")
    ax = head_map(data)
    np.testing.assert_array_equal(ax.images[0].get_array(), data["score"].sel(value="estimate"))
    texts, _, _ = drawn_text(ax)
    assert {short(value) for value in data["score"].sel(value="estimate").values.ravel()} <= set(texts)


@pytest.mark.parametrize("shape", [(12, 12), (16, 32), (32, 32)], ids=str)
def test_maps_of_many_heads_still_print_their_values(score_data, drawn_text, shape):
    texts, _, _ = drawn_text(head_map(score_data(*shape).sel(metric="thought mass")))
    assert len(texts) >= shape[0] * shape[1]


def test_a_preference_is_white_at_its_null_and_a_mass_starts_at_zero(score_data):
    scores = score_data(12, 12)
    preference, mass = (head_map(scores.sel(metric=name)) for name in ("sequential preference", "thought mass"))
    low, high = preference.images[0].get_clim()
    assert (low + high) / 2 == pytest.approx(1.0)
    assert to_hex(preference.images[0].to_rgba(np.array([1.0]))[0]) == "#f7f6f6"
    assert mass.images[0].get_clim()[0] == 0.0


def test_the_colour_bar_goes_no_further_than_the_values(score_data):
    data = score_data(12, 12).sel(metric="sequential preference")
    bar = head_map(data).child_axes[0]
    known = data["score"].sel(value="estimate")
    assert bar.get_ylim() == pytest.approx((float(known.min()), float(known.max())))


def test_marked_heads_are_outlined_and_the_title_says_why(score_data, drawn_text):
    data = score_data(12, 12).sel(metric="sequential preference")
    marked = (data["score"].sel(value="low", drop=True) > 1.0).assign_attrs(long_name="q < 0.05")
    ax = head_map(data.assign(marked=marked))
    centres = [path.vertices[:4].mean(0) for path in ax.collections[0].get_paths()]
    np.testing.assert_allclose(np.array(centres)[:, ::-1], np.argwhere(marked.values))
    texts, _, _ = drawn_text(ax)
    assert "outlined: q < 0.05" in " ".join(texts)


def test_ranking_runs_from_the_top_in_colours_of_types(ranking_data, drawn_text):
    data = ranking_data(9)
    ax = head_ranking(data)
    np.testing.assert_allclose(dots(ax), np.c_[data["score"].sel(value="estimate"), np.arange(9)])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    colours = [line.get_color() for line in ax.lines if line.get_marker() == "o"]
    assert (colours[0] == colours[7], colours[0] == colours[1]) == (True, False)
    texts, _, _ = drawn_text(ax)
    assert {"L31H0", "L31H8", "hub", "diffuse"} <= set(texts)


def test_ranking_without_types_has_no_legend(ranking_data):
    assert head_ranking(ranking_data(9).drop_vars("type")).get_legend() is None


def test_distributions_hold_every_head_and_count_the_undefined(score_data, drawn_text):
    ax = metric_distributions(score_data(12, 12))
    assert [sum(bar.get_height() for bar in panel.patches) for panel in ax.child_axes] == [143, 144, 144]
    assert [len(panel.lines) for panel in ax.child_axes] == [1, 1, 0]
    texts, _, _ = drawn_text(ax)
    assert "sequential preference (1 undefined)" in texts


def test_counts_are_bars_end_to_end(count_data, drawn_text):
    data = count_data(12, 12)
    ax = head_counts(data)
    ends = [bars[-1].get_x() + bars[-1].get_width() for bars in zip(*ax.containers, strict=True)]
    np.testing.assert_allclose(ends, data["count"].sum("type"))
    texts, _, _ = drawn_text(ax)
    assert "early (48)" in texts


def test_layers_are_bars_of_shares(layer_composition_data):
    data = layer_composition_data(12)
    for part, bars in zip(data["part"].values, composition_by_layer(data).containers, strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in bars], data["composition"].sel(part=part))


@pytest.mark.parametrize(
    ("figure", "fixture", "name"), [(lag_profile, "lag_data", "lag_preference"), (skip_profile, "skip_data", "share")]
)
def test_profiles_draw_every_number_with_its_interval(figure, fixture, name, request):
    data = request.getfixturevalue(fixture)(6)
    known = data[name].dropna(data[name].dims[0], how="all")
    ax = figure(data)
    np.testing.assert_allclose(dots(ax)[:, 1], known.sel(value="estimate"))
    np.testing.assert_allclose(spans(ax), known.sel(value=["low", "high"]))
    assert ax.lines[0].get_ydata() == pytest.approx([known.attrs.get("null", 1.0)] * 2)


def test_depth_has_a_panel_a_metric_each_with_its_own_scale(score_data):
    data = score_data(12, 12).isel(head=0)
    panels = depth_profile(data).child_axes
    assert [panel.get_title(loc="left") for panel in panels] == list(data["metric"].values)
    for panel, name in zip(panels, data["metric"].values, strict=True):
        np.testing.assert_allclose(dots(panel)[:, 1], data["score"].sel(metric=name, value="estimate"))


@pytest.mark.parametrize("left_out", ["preference", "lag_preference", "composition", "type_share", "accuracy"])
def test_models_are_compared_in_what_there_is(model_data, left_out):
    data = model_data(6)
    assert len(model_comparison(data).child_axes) == 5
    assert len(model_comparison(data.drop_vars(left_out)).child_axes) == 4


def test_models_without_types_have_no_panel_of_types(model_data):
    assert len(model_comparison(model_data(6).isel(type=slice(0))).child_axes) == 4


def test_models_differ_in_colour_and_shape_and_never_touch(model_data):
    data = model_data(6)
    accuracy = model_comparison(data).child_axes[-1]
    first, second = (line for line in accuracy.lines if line.get_marker() in ("o", "s"))
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()
    np.testing.assert_allclose(dots(accuracy)[:, 0], data["accuracy"].sel(value="estimate"))
    assert dots(accuracy)[0, 1] < dots(accuracy)[1, 1]


def test_nothing_to_compare_is_said(model_data, drawn_text):
    texts, _, _ = drawn_text(model_comparison(model_data(6)[["n"]]))
    assert "nothing to compare" in texts


@pytest.mark.parametrize("figure", [depth_profile, metric_distributions, model_comparison])
def test_an_axes_too_small_for_panels_says_what_it_needs(score_data, model_data, drawn_text, figure):
    data = model_data(6) if figure is model_comparison else score_data(3, 4)
    data = data.isel(head=0) if figure is depth_profile else data
    texts, _, _ = drawn_text(figure(data, ax=Figure(figsize=(2, 1)).add_axes((0.1, 0.1, 0.8, 0.8))))
    assert len(texts) == 1
    assert texts[0].startswith("needs ")


def test_tokens_are_shown_literally_in_both_formats(token_data, tmp_path):
    _, svg = save_figure(question_tokens(token_data(6)), tmp_path / "tokens")
    text = svg.read_text()
    for shown in ("&lt;s&gt;", "␣has", "$x$", "\\n", "␣\\u82f9\\u679c", "antidis…ianism", "\\x00&amp;amp;&lt;b&gt;"):
        assert f">{shown}</text>" in text


def test_model_names_are_never_markup_and_may_begin_with_an_underscore(model_data, drawn_text):
    names = ("_$a$", r"\frac{1}{2}", "a control of a very long name, checkpoint-0042")
    texts, _, _ = drawn_text(model_comparison(model_data(6, names)))
    assert {"_$a$", r"\frac{1}{2}", clipped(names[2], 28)} <= set(texts)


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


def test_the_most_attended_tokens_keep_their_names_where_not_all_have_room(token_data, drawn_text):
    data = token_data(6, 200)
    texts = [f"t{place}" for place in range(200)]
    data = data.assign_coords(text=("token", texts)).assign(top=data["top"] & (data["token"] % 20 == 7))
    drawn, _, _ = drawn_text(question_tokens(data))
    named = [texts[place] for place in np.flatnonzero(data["top"].any("query"))]
    assert named
    assert set(named) <= set(drawn)
    assert len(set(drawn) & set(texts)) < 200


def test_what_is_undefined_for_all_is_said_instead_of_an_empty_panel(score_data, model_data, drawn_text):
    scores = score_data(3, 4)
    scores["score"].loc[{"metric": "importance"}] = np.nan
    texts, _, _ = drawn_text(metric_distributions(scores))
    assert "importance: undefined for all heads" in texts
    models = model_data(6)
    texts, _, _ = drawn_text(model_comparison(models.assign(lag_preference=models["lag_preference"] * np.nan)))
    assert "preference by lag: undefined" in texts


def test_counts_are_stacked_in_the_order_of_the_legend(count_data):
    ax = head_counts(count_data(12, 12).isel(type=slice(None, None, -1)))
    drawn = [to_hex(container[0].get_facecolor()) for container in ax.containers]
    assert drawn == [to_hex(patch.get_facecolor()) for patch in ax.get_legend().get_patches()]


def test_tiles_have_the_titles_that_the_data_gives(head_data, drawn_text):
    data = head_data(6, 2)
    texts, _, _ = drawn_text(head_maps(data.assign_coords(title=("rank", ["L31H31 .60: F1 H.27 S.15", "other"]))))
    assert {"L31H31 .60: F1 H.27 S.15", "other"} <= set(texts)
    assert "L31H31" not in texts


def test_a_map_by_layer_may_have_other_columns_than_heads(score_data, drawn_text):
    data = score_data(3, 4).sel(metric="thought mass").rename(head="row")
    data["row"].attrs["long_name"] = "row: step s"
    texts, _, _ = drawn_text(head_map(data))
    assert "row: step s" in texts
    assert "head" not in texts
