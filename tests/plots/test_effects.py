import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from tests.plots.test_plots import assert_readable, overlapping

from thoughtlens import plots
from thoughtlens.names import thought_names
from thoughtlens.plots import (
    ablation_curve,
    attention_against_effect,
    dose_response,
    effect_forest,
    influence_maps,
    save_figure,
    transplant_bars,
)

VALUES = ["estimate", "low", "high"]
COST = "gold answer's log-probability lost (nats)"
SIZES = [1, 5, 16, 60]


def numbers(*shape, seed=0):
    middle = np.random.default_rng(seed).exponential(size=shape) - 0.3
    return np.stack([middle, middle - 0.2, middle + 0.2], axis=-1)


def forest(n):
    controls = np.random.default_rng(1).normal(0.1, 0.2, size=(n, 20))
    controls[n // 2, 5:] = np.nan
    return xr.Dataset(
        {
            "cost": (("cut", "value"), -np.sort(-numbers(n), axis=0)),
            "controls": (("cut", "control"), controls),
            "significant": ("cut", np.arange(n) < n / 3),
            "n": 7473,
        },
        coords={"cut": [f"z{k} ⊣ z1, L{k}H5, every later query" for k in range(n)], "value": VALUES},
        attrs={"title": "what cutting costs, 60 of 512 cuts", "long_name": COST},
    )


def scatter(n):
    rng = np.random.default_rng(2)
    return xr.Dataset(
        {"attention": ("unit", rng.exponential(size=n)), "cost": (("unit", "value"), numbers(n)), "n": 7473},
        coords={"unit": [f"L{k // 32}H{k % 32}" for k in range(n)], "value": VALUES},
        attrs={"title": "attention against effect: rho = .41 [.10, .60]", "x": "importance", "long_name": COST},
    )


def edges(n):
    size = max(2, min(n, 32))
    shape = (size, size)
    rng = np.random.default_rng(3)
    blank = np.triu(np.ones(shape, dtype=bool))
    cells = {name: np.where(blank, np.nan, rng.normal(size=shape)) for name in ("influence", "disagreement")}
    cells["attention"] = np.where(blank, np.nan, rng.random(shape))
    cells["marked"] = ~blank & (cells["influence"] > 0.5)
    names = thought_names(size)
    return xr.Dataset(
        {name: (("query", "key"), values) for name, values in cells.items()} | {"n": 7473},
        coords={"query": names, "key": names},
        attrs={"title": "does attention show influence?", "long_name": COST},
    )


def curve(n):
    return xr.Dataset(
        {
            "cost": (("order", "k", "value"), numbers(4, n + 1).cumsum(1)),
            "chance": (("k", "value"), numbers(n + 1, seed=5).cumsum(0)),
            "n_random": 20,
            "n": 7473,
        },
        coords={
            "order": ["attention", "value-weighted", "rolled out", "effect"],
            "k": np.arange(n + 1),
            "value": VALUES,
        },
        attrs={"title": "what cutting one more head costs", "long_name": COST},
    )


def doses(n):
    cost = numbers(min(n, 7), 5)
    cost[0, 2] = np.nan
    return xr.Dataset(
        {"cost": (("target", "dose", "value"), cost), "n": 7473},
        coords={"target": [f"L{k}H3" for k in range(min(n, 7))], "dose": np.linspace(0, 1, 5), "value": VALUES},
        attrs={"title": "how much of a cut costs how much", "long_name": COST},
    )


def transplanted(n):
    share = np.random.default_rng(4).dirichlet([3, 2, 1], size=n)
    return xr.Dataset(
        {
            "share": (("intervention", "answer", "value"), np.stack([share, share * 0.9, share], -1)),
            "n": ("intervention", np.arange(n)),
        },
        coords={
            "intervention": [f"thoughts of donor {k}" for k in range(n)],
            "answer": ["follows the donor", "keeps its own", "neither"],
            "value": VALUES,
        },
    )


FIGURES = {
    effect_forest: forest,
    attention_against_effect: scatter,
    influence_maps: edges,
    ablation_curve: curve,
    dose_response: doses,
    transplant_bars: transplanted,
}
EACH = pytest.mark.parametrize(("figure", "data_of"), FIGURES.items(), ids=lambda value: value.__name__)


@EACH
@pytest.mark.parametrize("n", SIZES)
def test_effects_are_readable_at_any_size(drawn_text, figure, data_of, n):
    assert_readable(figure(data_of(n)), drawn_text)


@pytest.mark.parametrize("figure", [attention_against_effect])
def test_a_plan_of_all_heads_of_a_large_model_is_readable(drawn_text, figure):
    assert_readable(figure(FIGURES[figure](512)), drawn_text)


@EACH
@pytest.mark.parametrize("size", [(4, 3), (9, 7)], ids=str)
@pytest.mark.parametrize("n", [1, 60])
def test_text_never_overlaps_on_an_axes_of_any_size(drawn_text, figure, data_of, n, size):
    ax = Figure(figsize=size).add_axes((0.2, 0.2, 0.55, 0.65))
    texts, boxes, _ = drawn_text(figure(data_of(n), ax=ax))
    assert overlapping(texts, boxes) == []


@EACH
def test_figures_draw_on_what_they_are_given_and_leave_the_data(figure, data_of):
    ax, data = Figure().subplots(1, 2)[1], data_of(5)
    before = data.copy(deep=True)
    assert figure(data, ax=ax) is ax
    assert data.identical(before)


@EACH
def test_same_data_same_bytes(tmp_path, figure, data_of):
    once, again = (
        [path.read_bytes() for path in save_figure(figure(data_of(5)), tmp_path / name)] for name in ("a", "b")
    )
    assert once == again


def test_labels_are_never_read_as_math_or_markup(tmp_path):
    data = forest(3).assign_coords(cut=[r"$\frac{1}$", "<script>&", "_under"])
    svg = save_figure(effect_forest(data), tmp_path / "hostile")[1].read_text()
    assert "<script>" not in svg and "&lt;script&gt;" in svg and "frac" in svg and "_under" in svg


def test_each_cut_stands_where_its_numbers_say(drawn_text):
    data = forest(5)
    ax = effect_forest(data)
    dots = [line for line in ax.lines if line.get_marker() in ("o", "s") and len(line.get_xdata()) == 1]
    np.testing.assert_allclose([line.get_xdata()[0] for line in dots], data["cost"].sel(value="estimate"))
    assert [line.get_marker() for line in dots] == ["s" if x else "o" for x in data["significant"].values]
    ticks = next(line for line in ax.lines if line.get_marker() == "|" and len(line.get_xdata()) > 1)
    assert len(ticks.get_xdata()) == data["controls"].notnull().sum()


def test_the_farthest_points_of_a_scatter_are_named(drawn_text):
    data = scatter(16)
    data["cost"][3], data["attention"][7] = 9.0, 20.0
    texts, _, _ = drawn_text(attention_against_effect(data))
    assert {"L0H3", "L0H7"} <= set(texts)


def test_no_name_of_a_scatter_covers_a_dot_that_is_not_its_own():
    data = scatter(60)
    ax = attention_against_effect(data)
    ax.figure.canvas.draw()
    dots = ax.transData.transform(np.stack([data["attention"], data["cost"].sel(value="estimate")], -1))
    named = [text for text in ax.texts if text.get_text() in data["unit"].values]
    assert named
    for text in named:
        box = text.get_window_extent()
        inside = (dots > [box.x0, box.y0]).all(1) & (dots < [box.x1, box.y1]).all(1)
        assert set(data["unit"].values[inside]) <= {text.get_text()}


def test_no_name_of_a_scatter_is_struck_through_by_an_interval():
    data = scatter(16)
    # Beside a dot at the right end, the long interval of a neighbour.
    data["attention"][:] = np.linspace(0, 0.1, 16)
    data["cost"][:] = 0.0
    data["attention"][14], data["cost"][14] = 0.97, [3.0, -0.5, 6.0]
    data["attention"][15] = 1.0
    ax = attention_against_effect(data)
    ax.figure.canvas.draw()
    named = [text.get_window_extent() for text in ax.texts if text.get_text() in data["unit"].values]
    ends = data["cost"].sel(value=["low", "high"]).transpose("unit", "value").values
    for box in named:
        for x, (low, high) in zip(data["attention"].values, ends, strict=True):
            (across, bottom), (_, top) = ax.transData.transform([(x, low), (x, high)])
            assert not (box.x0 < across < box.x1 and bottom < box.y1 and top > box.y0)
    assert named


def test_a_map_of_nothing_has_no_colour_bar():
    data = edges(3)
    drawn = {}
    for name, given in {"full": data, "empty": data.assign(disagreement=data["disagreement"] * np.nan)}.items():
        tiles = [tile for tile in influence_maps(given).child_axes if tile.images]
        drawn[name] = [len(tile.child_axes) for tile in tiles]
    assert drawn == {"full": [1, 1, 1], "empty": [1, 1, 0]}


def test_maps_of_edges_hold_their_cells_and_outline_the_marked(drawn_text):
    data = edges(6)
    ax = influence_maps(data)
    tiles = [tile for tile in ax.child_axes if tile.images]
    for tile, name in zip(tiles, ("influence", "attention", "disagreement"), strict=True):
        np.testing.assert_array_equal(tile.images[0].get_array().filled(np.nan), data[name].values)
    outlined = [(round(p.get_y() + 0.46), round(p.get_x() + 0.46)) for p in tiles[0].patches]
    assert outlined == [tuple(place) for place in np.argwhere(data["marked"].values)]


def test_a_curve_without_random_orders_names_none(drawn_text):
    data = curve(5).assign(n_random=0)
    texts, _, _ = drawn_text(ablation_curve(data.assign(chance=data["chance"] * np.nan)))
    assert not [text for text in texts if "random" in text]


def test_the_figures_are_exported():
    assert {figure.__name__ for figure in FIGURES} <= set(plots.__all__)
