import inspect
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thoughtlens import plots
from thoughtlens.plots import (
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

LAYERS = [3, 4, 12, 16, 32]
THOUGHTS = [1, 2, 6, 12, 32]
SHAPES = [(3, 4), (12, 12), (16, 32), (32, 32)]
BY_HEAD = [composition_by_layer, depth_profile, head_counts, head_map, head_ranking, metric_distributions]
BY_THOUGHT = [lag_profile, model_comparison, question_tokens, skip_profile]
FIGURES = [head_maps, hub_profile, layer_means, row_composition, *BY_HEAD, *BY_THOUGHT]


@pytest.fixture
def data_for(
    layer_data,
    head_data,
    composition_data,
    hub_data,
    score_data,
    ranking_data,
    count_data,
    layer_composition_data,
    lag_data,
    skip_data,
    model_data,
    token_data,
):
    def make(figure, n_thoughts, n_layers=12, n_heads=12):
        later = max(2, n_thoughts)
        return {
            composition_by_layer: lambda: layer_composition_data(n_layers),
            depth_profile: lambda: score_data(n_layers, n_heads).isel(head=0),
            head_counts: lambda: count_data(n_layers, n_heads),
            head_map: lambda: score_data(n_layers, n_heads).isel(metric=0),
            head_ranking: lambda: ranking_data(min(20, n_layers * n_heads)),
            metric_distributions: lambda: score_data(n_layers, n_heads),
            lag_profile: lambda: lag_data(later),
            skip_profile: lambda: skip_data(later),
            model_comparison: lambda: model_data(later),
            question_tokens: lambda: token_data(n_thoughts),
            head_maps: lambda: head_data(n_thoughts),
            layer_means: lambda: layer_data(n_layers, n_thoughts),
            row_composition: lambda: composition_data(n_thoughts),
            hub_profile: lambda: hub_data(n_thoughts),
        }[figure]()

    return make


def overlapping(texts, boxes):
    """Pairs of texts whose boxes share more than a hair (half a pixel)."""
    first, second = np.triu_indices(len(boxes), 1)
    width = np.minimum(boxes[first, 2], boxes[second, 2]) - np.maximum(boxes[first, 0], boxes[second, 0])
    height = np.minimum(boxes[first, 3], boxes[second, 3]) - np.maximum(boxes[first, 1], boxes[second, 1])
    hits = np.flatnonzero((width > 0.5) & (height > 0.5))
    return [(texts[first[hit]], texts[second[hit]]) for hit in hits]


def assert_readable(ax, drawn_text):
    texts, boxes, page = drawn_text(ax)
    assert overlapping(texts, boxes) == []
    # Within a pixel of the page: nothing is cut off.
    outside = (boxes[:, :2] < page[:2] - 1).any(1) | (boxes[:, 2:] > page[2:] + 1).any(1)
    assert [texts[i] for i in np.flatnonzero(outside)] == []
    return texts


def test_overlapping_text_is_noticed(drawn_text):
    ax = Figure().subplots()
    for place, words in ((0.5, "one text"), (0.52, "another"), (0.9, "far away")):
        ax.text(place, 0.5, words)
    texts, boxes, _ = drawn_text(ax)
    assert overlapping(texts, boxes) == [("one text", "another")]


@pytest.mark.parametrize("n_thoughts", THOUGHTS)
@pytest.mark.parametrize("n_layers", LAYERS)
def test_layer_means_are_readable_at_any_size(layer_data, drawn_text, n_layers, n_thoughts):
    texts = assert_readable(layer_means(layer_data(n_layers, n_thoughts)), drawn_text)
    assert {f"layer {layer}" for layer in range(n_layers)} <= set(texts)


@pytest.mark.parametrize("n_thoughts", THOUGHTS)
@pytest.mark.parametrize("n_heads", [1, 7, 12])
def test_head_maps_are_readable_at_any_size(head_data, drawn_text, n_heads, n_thoughts):
    texts = assert_readable(head_maps(head_data(n_thoughts, n_heads)), drawn_text)
    assert "L31H31" in texts


@pytest.mark.parametrize("n_thoughts", THOUGHTS)
@pytest.mark.parametrize("figure", [row_composition, hub_profile])
def test_rows_and_profile_are_readable_at_any_size(data_for, drawn_text, figure, n_thoughts):
    assert_readable(figure(data_for(figure, n_thoughts)), drawn_text)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("figure", BY_HEAD)
def test_figures_of_heads_are_readable_at_any_shape(data_for, drawn_text, figure, shape):
    texts = assert_readable(figure(data_for(figure, 6, *shape)), drawn_text)
    assert any("n = 7473" in text.replace("\n", " ") for text in texts)


@pytest.mark.parametrize("n_thoughts", [2, 6, 24])
@pytest.mark.parametrize("figure", BY_THOUGHT)
def test_figures_of_thoughts_are_readable_at_any_number(data_for, drawn_text, figure, n_thoughts):
    texts = assert_readable(figure(data_for(figure, n_thoughts)), drawn_text)
    assert any("n = 7473" in text.replace("\n", " ") for text in texts)


@pytest.mark.parametrize("n_thoughts", [1, 6, 32])
@pytest.mark.parametrize("size", [(4, 3), (9, 7)], ids=str)
@pytest.mark.parametrize("figure", [figure for figure in FIGURES if figure not in BY_HEAD])
def test_text_never_overlaps_on_an_axes_of_any_size(data_for, drawn_text, figure, size, n_thoughts):
    ax = Figure(figsize=size).add_axes((0.2, 0.2, 0.55, 0.65))
    texts, boxes, _ = drawn_text(figure(data_for(figure, n_thoughts, n_layers=32), ax=ax))
    assert overlapping(texts, boxes) == []


@pytest.mark.parametrize("shape", [(3, 4), (32, 32)], ids=str)
@pytest.mark.parametrize("size", [(4, 3), (9, 7)], ids=str)
@pytest.mark.parametrize("figure", BY_HEAD)
def test_text_of_heads_never_overlaps_on_an_axes_of_any_size(data_for, drawn_text, figure, size, shape):
    ax = Figure(figsize=size).add_axes((0.2, 0.2, 0.55, 0.65))
    texts, boxes, _ = drawn_text(figure(data_for(figure, 6, *shape), ax=ax))
    assert overlapping(texts, boxes) == []


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_share_one_signature(figure):
    parameters = inspect.signature(figure).parameters
    assert list(parameters) == ["data", "ax"]
    assert parameters["ax"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["ax"].default is None


@pytest.mark.parametrize("figure", FIGURES)
def test_the_axes_given_is_the_axes_returned(data_for, figure):
    ax = Figure().subplots(1, 2)[1]
    assert figure(data_for(figure, 6), ax=ax) is ax
    assert isinstance(figure(data_for(figure, 6)), Axes)


@pytest.mark.parametrize("figure", FIGURES)
def test_subfigures_can_be_drawn_on(data_for, drawn_text, figure):
    ax = Figure(figsize=(12, 5)).subfigures(1, 2)[0].add_axes((0.2, 0.2, 0.5, 0.6))
    drawn_text(figure(data_for(figure, 6), ax=ax))


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_leave_their_data_as_it_was(data_for, figure):
    data = data_for(figure, 6)
    before = data.copy(deep=True)
    figure(data)
    assert data.identical(before)


def test_values_are_printed_where_they_fit(head_data, drawn_text):
    data = head_data(6, n_heads=1)
    texts, _, _ = drawn_text(head_maps(data))
    expected = {f"{value:.2f}".removeprefix("0") for value in data.values[np.isfinite(data.values)] if value < 0.995}
    assert expected <= set(texts)


def test_values_are_dropped_where_they_would_not_fit(head_data, drawn_text):
    texts, _, _ = drawn_text(head_maps(head_data(32)))
    assert not [text for text in texts if text.startswith(".")]


def test_rows_are_queries_from_the_top_and_columns_are_keys(head_data):
    data = head_data(3, n_heads=1)
    ax = head_maps(data)
    ax.get_figure().canvas.draw()
    tile = ax.child_axes[0]
    assert [label.get_text() for label in tile.get_yticklabels()] == ["z1", "z2", "z3"]
    assert tile.get_ylim()[0] > tile.get_ylim()[1]
    np.testing.assert_array_equal(tile.images[0].get_array().filled(np.nan), data.values[0])


def test_all_tiles_share_one_scale_from_zero(head_data):
    data = head_data(6)
    limits = {tile.images[0].get_clim() for tile in head_maps(data).child_axes if tile.images}
    assert limits == {(0.0, float(data.max()))}


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_maps_without_any_attention_are_drawn(head_data, drawn_text, fill):
    data = head_data(3, n_heads=2)
    drawn_text(head_maps(data.where(data.isnull(), fill)))


def test_bars_are_the_shares_end_to_end(composition_data):
    data = composition_data(6)
    ax = row_composition(data)
    for part, bars in zip(data["part"].values, ax.containers, strict=True):
        np.testing.assert_allclose(
            [bar.get_width() for bar in bars], data["composition"].sel(part=part, value="estimate")
        )
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in ax.containers[-1]], 1.0)


def test_a_row_that_fewer_problems_have_says_how_many(composition_data, drawn_text):
    texts, _, _ = drawn_text(row_composition(composition_data(6)))
    assert "answer (n = 7401)" in texts
    assert "eot" in texts


def test_a_row_that_no_problem_has_is_drawn_empty(composition_data, drawn_text):
    texts, _, _ = drawn_text(row_composition(composition_data(6, n_answers=0)))
    assert "answer (n = 0)" in texts


def test_the_hub_has_a_colour_of_its_own(hub_data):
    ax = hub_profile(hub_data(6))
    colours = [line.get_color() for line in ax.lines if line.get_marker() == "o"]
    hub = int(np.nanargmax(hub_data(6)["preference"].sel(value="estimate")))
    assert [i for i, colour in enumerate(colours) if colour != colours[hub]] == [i for i in range(5) if i != hub]


def test_an_interval_without_its_estimate_is_drawn(hub_data):
    data = hub_data(6)
    data["preference"].loc[{"value": "low"}] = data["preference"].sel(value="estimate") + 0.05
    hub_profile(data)


def test_an_undefined_profile_says_so(hub_data, drawn_text):
    texts, _, _ = drawn_text(hub_profile(hub_data(2)))
    assert any("undefined" in text for text in texts)


def test_text_from_data_is_never_read_as_math(head_data, tmp_path):
    data = (
        head_data(3, n_heads=1).assign_attrs(long_name=r"$\frac{1}$ <script>").assign_coords(query=["$x", "a$b$", "_"])
    )
    paths = save_figure(head_maps(data), tmp_path / "hostile")
    assert "<script>" not in paths[1].read_text()


@pytest.mark.parametrize("figure", FIGURES)
def test_same_data_same_bytes(data_for, tmp_path, figure):
    once, again = (
        [path.read_bytes() for path in save_figure(figure(data_for(figure, 3, n_layers=3)), tmp_path / name)]
        for name in ("a", "b")
    )
    assert once == again


def test_png_has_300_dpi_and_svg_keeps_its_text(head_data, tmp_path):
    ax = head_maps(head_data(3, n_heads=1))
    png, svg = save_figure(ax, tmp_path / "heads.v1")
    assert (png.name, svg.name) == ("heads.v1.png", "heads.v1.svg")
    width = int.from_bytes(png.read_bytes()[16:20])
    assert width == pytest.approx(ax.get_figure().get_figwidth() * 300, abs=1)
    assert ">L31H31</text>" in svg.read_text()


def test_a_failed_save_leaves_what_was_there(head_data, tmp_path, monkeypatch):
    (tmp_path / "heads.png").write_bytes(b"before")
    ax = head_maps(head_data(3, n_heads=1))

    def fail(path, **options):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(ax.get_figure(), "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        save_figure(ax, tmp_path / "heads")
    assert [path.name for path in tmp_path.iterdir()] == ["heads.png"]
    assert (tmp_path / "heads.png").read_bytes() == b"before"


def test_plots_use_no_pyplot_and_no_torch():
    code = (
        "import sys, thoughtlens.plots;"
        "print([m for m in ('torch', 'matplotlib.pyplot', 'thoughtlens.analysis') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_everything_exported_exists():
    assert all(hasattr(plots, name) for name in plots.__all__)
