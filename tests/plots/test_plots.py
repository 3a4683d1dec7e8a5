"""Every figure is readable at any size, draws on what it is given, and is the same bytes each time."""

import subprocess
import sys
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests.plots import drawn
from tests.plots.results_made import made_analysis, made_comparison, made_study, made_tokens, made_transplants

from thoughtlens import plots
from thoughtlens.errors import OptionError

BY_HEAD = ["composition_by_layer", "depth_profile", "head_counts", "head_map", "head_ranking", "metric_distributions"]
BY_THOUGHT = ["head_maps", "hub_profile", "lag_profile", "layer_means", "row_composition", "skip_profile"]
OF_CUTS = {
    "ablation_curve": lambda n: made_study("orders", n),
    "attention_against_effect": lambda n: made_study("heads", max(3, n)),
    "dose_response": lambda n: made_study("doses", n),
    "effect_forest": lambda n: made_study("heads", n),
    "effect_map": lambda n: made_study("heads", n),
    "influence_maps": lambda n: made_study("edges", min(32, max(2, n))),
    "transplant_bars": lambda n: made_transplants(min(16, n)),
}
OTHERS = {
    "model_comparison": lambda n_thoughts: made_comparison(max(2, n_thoughts)),
    "question_tokens": lambda n_thoughts: made_tokens(n_thoughts),
}
FIGURES = [*BY_HEAD, *BY_THOUGHT, *OTHERS, *OF_CUTS]
PANELLED = ["depth_profile", "head_maps", "influence_maps", "layer_means", "metric_distributions", "model_comparison"]
PANELLED += ["question_tokens"]
DEAR = ["ablation_curve", "dose_response", "influence_maps"]
"""Figures of cuts that take seconds to make up where there are sixty, or 32 thoughts; usually tried with five."""


def cases(every, usually):
    """Cases, of which those that are not tried usually are tried at night.

    Usually each figure is tried at a common size on a figure of its own, and with much to draw on the smallest Axes,
    where texts are nearest to each other.
    """
    nightly = pytest.mark.nightly
    return [pytest.param(*case, id="-".join(map(str, case)), marks=() if usually(*case) else nightly) for case in every]


def result_for(name, n_thoughts=6, n_layers=12, n_heads=12):
    if name in OF_CUTS:
        return OF_CUTS[name](5)
    return OTHERS[name](n_thoughts) if name in OTHERS else made_analysis(n_layers, n_heads, n_thoughts)


def draw(name, *sizes, ax=None, **options):
    return getattr(drawn, name)(result_for(name, *sizes), ax=ax, **options)


# A figure of several panels takes an Axes of a grid, which lays itself out; any other takes one that does not, too.
PLACES = [(name, True) for name in [*BY_THOUGHT, *OTHERS]]
PLACES += [(name, False) for name in [*BY_THOUGHT, *OTHERS] if name not in PANELLED]
LAYERS = [((4, 3), 32), ((9, 7), 12)]
PLACED = [("layer_means", True, (4, 3), 3), *((*place, *layers) for place in PLACES for layers in LAYERS)]
PLACED_HEADS = [((4, 3), (3, 4)), ((4, 3), (32, 32)), ((9, 7), (32, 32))]
PLACED_CUTS = [((4, 3), 1), ((4, 3), 60), ((9, 7), 60)]


def place_for(name, size, *, constrained=False):
    """An Axes of a figure of this size; a figure of several panels takes one of a grid."""
    if name in PANELLED or constrained:
        return Figure(figsize=size, layout="constrained").subplots()
    return Figure(figsize=size).add_axes((0.2, 0.2, 0.55, 0.65))


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


def test_every_public_figure_is_tried_here():
    assert sorted([*FIGURES, "save_figure"]) == sorted(plots.__all__)
    assert all(hasattr(plots, name) for name in plots.__all__)


@pytest.mark.parametrize(
    ("n_layers", "n_thoughts"),
    cases([(3, 1), (3, 32), (12, 6), (32, 32)], lambda *size: size in [(3, 1), (12, 6)]),
)
def test_layer_means_are_readable_at_any_size(drawn_text, n_layers, n_thoughts):
    texts = assert_readable(drawn.layer_means(made_analysis(n_layers, 2, n_thoughts)), drawn_text)
    assert {f"layer {layer}" for layer in range(n_layers)} <= set(texts)


@pytest.mark.parametrize(
    ("n_heads", "n_thoughts"),
    cases([(1, 1), (1, 32), (7, 12), (12, 2), (12, 32)], lambda *size: size in [(1, 1), (1, 32)]),
)
def test_head_maps_are_readable_at_any_size(drawn_text, n_heads, n_thoughts):
    texts = assert_readable(drawn.head_maps(made_analysis(12, 12, n_thoughts), top=n_heads), drawn_text)
    assert len([text for text in texts if text.startswith("L")]) == n_heads


@pytest.mark.parametrize(
    ("name", "shape"),
    cases(product(BY_HEAD, [(3, 4), (12, 12), (32, 32)]), lambda _, shape: shape == (3, 4)),
)
def test_figures_of_heads_are_readable_at_any_shape(drawn_text, name, shape):
    texts = assert_readable(draw(name, 6, *shape), drawn_text)
    assert any("n = 7473" in text.replace("\n", " ") for text in texts)


@pytest.mark.parametrize(
    ("name", "n_thoughts"),
    cases(
        product(["hub_profile", "lag_profile", "row_composition", "skip_profile"], [1, 2, 6, 32]),
        lambda _, n_thoughts: n_thoughts in (1, 6),
    ),
)
def test_figures_of_thoughts_are_readable_at_any_number(drawn_text, name, n_thoughts):
    texts = assert_readable(draw(name, n_thoughts), drawn_text)
    assert any("n = 7473" in text.replace("\n", " ") for text in texts)


@pytest.mark.parametrize(
    ("name", "n", "n_thoughts"),
    cases(
        [(*of, n_thoughts) for of in (("model_comparison", 8), ("question_tokens", 1)) for n_thoughts in (2, 6, 24)],
        lambda name, n, n_thoughts: n_thoughts == 6,
    ),
)
def test_models_and_tokens_are_readable_at_any_number(drawn_text, name, n, n_thoughts):
    texts = assert_readable(draw(name, n_thoughts), drawn_text)
    assert any(f"n = {n}" in text.replace("\n", " ") for text in texts)


@pytest.mark.parametrize(("name", "n"), cases(product(OF_CUTS, [1, 5, 60]), lambda name, n: n == 5))
def test_effects_are_readable_at_any_size(drawn_text, name, n):
    assert_readable(getattr(drawn, name)(OF_CUTS[name](n)), drawn_text)


@pytest.mark.nightly
def test_a_plan_of_all_heads_of_a_large_model_is_readable(drawn_text):
    study = made_study("heads", 512)
    assert_readable(drawn.attention_against_effect(study), drawn_text)
    assert_readable(drawn.effect_map(study), drawn_text)


@pytest.mark.parametrize(
    ("name", "constrained", "size", "n_layers"),
    # Maps of heads are laid out as those of layers are.
    cases(
        PLACED,
        lambda name, constrained, size, n_layers: (
            size == (4, 3)
            and (n_layers == 3 if name in ("head_maps", "layer_means") else constrained == (name in PANELLED))
        ),
    ),
)
def test_text_never_overlaps_on_an_axes_of_any_size(drawn_text, name, size, n_layers, constrained):
    texts, boxes, _ = drawn_text(draw(name, 32, n_layers, ax=place_for(name, size, constrained=constrained)))
    assert overlapping(texts, boxes) == []


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    cases(
        [(name, *of) for name in BY_HEAD for of in PLACED_HEADS],
        lambda name, size, shape: (size, shape) == ((4, 3), (32, 32)),
    ),
)
def test_text_of_heads_never_overlaps_on_an_axes_of_any_size(drawn_text, name, size, shape):
    texts, boxes, _ = drawn_text(draw(name, 6, *shape, ax=place_for(name, size)))
    assert overlapping(texts, boxes) == []


@pytest.mark.parametrize(
    ("name", "size", "n"),
    cases(
        [*((name, (4, 3), 5) for name in DEAR), *((name, *of) for name in OF_CUTS for of in PLACED_CUTS)],
        lambda name, size, n: size == (4, 3) and n == (5 if name in DEAR else 60),
    ),
)
def test_text_of_effects_never_overlaps_on_an_axes_of_any_size(drawn_text, name, size, n):
    texts, boxes, _ = drawn_text(getattr(drawn, name)(OF_CUTS[name](n), ax=place_for(name, size)))
    assert overlapping(texts, boxes) == []


OF_RUNS = {"model": "tiny-gpt2", "problems": "arithmetic"}


def named(name, result):
    """A result that says which model and problem set it is of."""
    if name in OF_CUTS:
        recorded = {what: f'{{"name": "{of}"}}' for what, of in OF_RUNS.items()}
        return result._replace(effects=result.effects.assign_attrs(recorded))
    if name == "model_comparison":
        return result._replace(measures=result.measures.assign_attrs(problems="arithmetic"))
    if name == "question_tokens":
        return result.assign_attrs(OF_RUNS)
    return result._replace(model=result.model.assign_attrs(OF_RUNS))


def datasets(result):
    fields = result if isinstance(result, tuple) else (result,)
    return [field for field in fields if hasattr(field, "identical")]


@lru_cache
def drawn_once(name):
    """A result, its data as it was before, an Axes, and the figure that is returned for it."""
    result = named(name, result_for(name, 3, 2, 2))
    before = [data.copy(deep=True) for data in datasets(result)]
    ax = Figure(figsize=(12, 5), layout="constrained").subplots(1, 2)[1]
    return result, before, ax, getattr(plots, name)(result, ax=ax)


@pytest.mark.usefixtures("unlaid")
@pytest.mark.parametrize("name", FIGURES)
def test_the_figure_of_the_axes_given_is_returned(name):
    *_, ax, figure = drawn_once(name)
    assert isinstance(figure, Figure) and figure is ax.get_figure()


# One of several panels, one of text and bars, one of rows.
@pytest.mark.parametrize(
    "name", cases(product(FIGURES), lambda name: name in ("depth_profile", "row_composition", "effect_forest"))
)
def test_subfigures_can_be_drawn_on(drawn_text, name):
    whole = Figure(figsize=(12, 5), layout="constrained")
    texts, boxes, _ = drawn_text(draw(name, 6, 3, 4, ax=whole.subfigures(1, 2)[0].subplots()))
    assert overlapping(texts, boxes) == []


@pytest.mark.parametrize("name", PANELLED)
def test_panels_without_a_grid_to_stand_in_are_refused(name):
    with pytest.raises(OptionError, match="an Axes without a grid, expected one such as Figure"):
        draw(name, 3, 2, 2, ax=Figure().add_axes((0.1, 0.1, 0.8, 0.8)))


@pytest.mark.parametrize("name", PANELLED)
def test_an_axes_too_small_for_panels_says_what_it_needs(drawn_text, name):
    texts, _, _ = drawn_text(draw(name, 3, 2, 2, ax=Figure(figsize=(0.7, 0.7), layout="constrained").subplots()))
    assert len(texts) == 1
    assert texts[0].startswith("needs ")


@pytest.mark.usefixtures("unlaid")
@pytest.mark.parametrize("name", FIGURES)
def test_figures_leave_their_data_as_it_was(name):
    result, before, *_ = drawn_once(name)
    assert all(data.identical(old) for data, old in zip(datasets(result), before, strict=True))


# Lines on several panels, and coloured cells with frames.
@pytest.mark.parametrize("name", cases(product(FIGURES), lambda name: name in ("depth_profile", "effect_map")))
def test_same_data_same_bytes(tmp_path, monkeypatch, name):
    # Pixels six times as wide show the same.
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: save(figure, file, **options | {"dpi": 50}))
    once, again = (
        [path.read_bytes() for path in drawn.save_figure(draw(name, 3, 2, 2), tmp_path / stem)] for stem in ("a", "b")
    )
    assert once == again


def test_texts_measured_once_are_as_large_as_each_measured_alone(monkeypatch, measured_anew):
    words = [
        {"s": "L0H1"}, {"s": "L0H1", "rotation": 90}, {"s": "L0H1", "fontsize": 7}, {"s": "L0H1", "weight": "bold"},
        {"s": "L0H1", "ha": "right"}, {"s": "L0H1", "va": "top"}, {"s": "$L_0$"}, {"s": "$L_0$", "parse_math": False},
        {"s": "two\nlines"}, {"s": "two\nlines", "linespacing": 2.0}, {"s": "two\nlines", "multialignment": "right"},
        {"s": "L0H1", "rotation": 45, "rotation_mode": "anchor"}, {"s": "L0H1", "rotation": 45},
    ]  # fmt: skip
    figure = Figure()
    texts = [figure.text(0.5, 0.5, **of) for of in words]
    for dpi in (100, 300):
        figure.dpi = dpi
        once, again = ([text.get_window_extent().extents for text in texts] for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(Text, "_get_layout", measured_anew)
            alone = [text.get_window_extent().extents for text in texts]
        np.testing.assert_array_equal(once, alone)
        np.testing.assert_array_equal(again, alone)
    assert len({tuple(of) for of in alone}) >= 11


def test_png_has_300_dpi_and_svg_keeps_its_text(tmp_path):
    ax = drawn.head_maps(made_analysis(n_thoughts=3), heads=["L3H1"])
    png, svg, pdf = drawn.save_figure(ax, tmp_path / "heads.v1")
    assert [path.name for path in (png, svg, pdf)] == ["heads.v1.png", "heads.v1.svg", "heads.v1.pdf"]
    assert pdf.read_bytes().startswith(b"%PDF")
    width = int.from_bytes(png.read_bytes()[16:20])
    assert width == pytest.approx(ax.get_figure(root=True).get_figwidth() * 300, abs=1)
    assert ">L3H1</text>" in svg.read_text()


def test_a_saved_figure_is_laid_out_again_when_it_is_drawn_on(tmp_path):
    ax = drawn.hub_profile(made_analysis())
    engine = ax.get_figure().get_layout_engine()
    drawn.save_figure(ax, tmp_path / "hub")
    assert ax.get_figure().get_layout_engine() is engine


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "heads.png").write_bytes(b"before")
    ax = drawn.hub_profile(made_analysis())

    def fail(file, **options):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(ax.get_figure(), "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        drawn.save_figure(ax, tmp_path / "heads")
    assert [path.name for path in tmp_path.iterdir()] == ["heads.png"]
    assert (tmp_path / "heads.png").read_bytes() == b"before"


def test_plots_use_no_pyplot_and_no_torch():
    code = (
        "import sys, thoughtlens.plots;"
        "print([m for m in ('torch', 'matplotlib.pyplot', 'thoughtlens.analysis') if m in sys.modules]);"
        "from thoughtlens.plots import *;"
        "print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "[]"]


@pytest.mark.usefixtures("unlaid")
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_names_model_and_problem_set_with_n(name):
    figure = drawn_once(name)[-1]
    texts = [text.get_text().replace("\n", " ") for text in figure.findobj(Text)]
    first = "arithmetic; n = " if name == "model_comparison" else "tiny-gpt2 on arithmetic; n = "
    assert [text for text in texts if text.startswith(first)]


def test_a_notebook_shows_the_picture_of_a_figure():
    assert plots.hub_profile(made_analysis())._repr_png_().startswith(b"\x89PNG")
