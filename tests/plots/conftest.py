"""Labelled data as the analysis gives it to figures, made up; and what text a figure really draws."""

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from thoughtlens.names import query_names, thought_names

PARTS = ["first", "question", "bot", "earlier thoughts", "self", "eot", "answer"]
VALUES = ["estimate", "low", "high"]


def _maps(n_maps: int, n_thoughts: int, dims: tuple[str, ...], seed: int = 0) -> xr.DataArray:
    values = np.random.default_rng(seed).uniform(size=(n_maps, n_thoughts, n_thoughts))
    values[:, np.triu(np.ones((n_thoughts, n_thoughts), dtype=bool), 1)] = np.nan
    names = thought_names(n_thoughts)
    return xr.DataArray(
        values, dims=dims, coords={"query": names, "key": names}, attrs={"long_name": "mean attention", "n": 7473}
    )


@pytest.fixture
def layer_data() -> Callable[..., xr.DataArray]:
    def make(n_layers: int, n_thoughts: int) -> xr.DataArray:
        return _maps(n_layers, n_thoughts, ("layer", "query", "key")).assign_coords(layer=np.arange(n_layers))

    return make


@pytest.fixture
def head_data() -> Callable[..., xr.DataArray]:
    def make(n_thoughts: int, n_heads: int = 12, *, last: int = 31) -> xr.DataArray:
        maps = _maps(n_heads, n_thoughts, ("rank", "query", "key"))
        return maps.assign_coords(layer=("rank", np.full(n_heads, last)), head=("rank", last - np.arange(n_heads) % 10))

    return make


@pytest.fixture
def composition_data() -> Callable[..., xr.Dataset]:
    def make(n_thoughts: int, *, n_answers: int = 7401) -> xr.Dataset:
        queries = query_names(n_thoughts)
        rows = np.random.default_rng(0).dirichlet(np.ones(len(PARTS)), size=len(queries))
        n = np.full(len(queries), 7473)
        n[-1] = n_answers
        if not n_answers:
            rows[-1] = np.nan
        return xr.Dataset(
            {"composition": (("query", "part", "value"), np.repeat(rows[..., None], 3, axis=-1)), "n": ("query", n)},
            coords={"query": queries, "part": PARTS, "value": VALUES},
        )

    return make


@pytest.fixture
def hub_data() -> Callable[..., xr.Dataset]:
    def make(n_thoughts: int) -> xr.Dataset:
        estimate = 1 + np.random.default_rng(1).normal(size=n_thoughts, scale=0.2)
        estimate[-1] = np.nan
        if n_thoughts < 3:
            estimate[:] = np.nan
        names = thought_names(n_thoughts)
        hub = names[int(np.nanargmax(estimate))] if n_thoughts >= 3 else ""
        preference = np.stack([estimate, estimate - 0.1, estimate + 0.2], axis=-1)
        return xr.Dataset(
            {"preference": (("thought", "value"), preference), "hub": hub, "n": 7473},
            coords={"thought": names, "value": VALUES},
        )

    return make


def _numbers(estimate: np.ndarray) -> np.ndarray:
    """Estimates with an interval around each."""
    return np.stack([estimate, estimate - 0.1, estimate + 0.2], axis=-1)


METRICS = {"sequential preference": 1.0, "importance": 0.0, "thought mass": np.nan}
TYPES = ["hub", "sequential", "skip", "sink", "self", "readout", "diffuse"]
TEXTS = [
    "<s>",
    "Tom",
    " has",
    " $3",
    "$x$",
    " _a^b_",
    "\n",
    " 苹果",
    "antidisestablishmentarianism",
    "  ",
    "\x00&amp;<b>",
]


@pytest.fixture
def score_data() -> Callable[..., xr.Dataset]:
    """Metrics of heads, one of them undefined."""

    def make(n_layers: int, n_heads: int) -> xr.Dataset:
        estimate = np.random.default_rng(2).gamma(1.0, size=(len(METRICS), n_layers, n_heads))
        estimate[0, -1, -1] = np.nan
        return xr.Dataset(
            {
                "score": (("metric", "layer", "head", "value"), _numbers(estimate)),
                "null": ("metric", list(METRICS.values())),
                "n": 7473,
            },
            coords={"metric": list(METRICS), "layer": range(n_layers), "head": range(n_heads), "value": VALUES},
        )

    return make


@pytest.fixture
def ranking_data() -> Callable[..., xr.Dataset]:
    def make(n_heads: int) -> xr.Dataset:
        estimate = np.sort(np.random.default_rng(3).gamma(1.0, size=n_heads))[::-1]
        types = [TYPES[place % len(TYPES)] for place in range(n_heads)]
        return xr.Dataset(
            {
                "score": (("rank", "value"), _numbers(estimate)),
                "name": ("rank", [f"L31H{place}" for place in range(n_heads)]),
                "type": ("rank", types),
                "null": 0.0,
                "n": 7473,
            },
            coords={"value": VALUES, "metric": "importance"},
        )

    return make


@pytest.fixture
def count_data() -> Callable[..., xr.Dataset]:
    def make(n_layers: int, n_heads: int) -> xr.Dataset:
        shares = np.full(len(TYPES), 1 / len(TYPES))
        count = np.random.default_rng(4).multinomial(n_layers * n_heads // 3, shares, size=3)
        coords = {"third": ["early", "middle", "late"], "type": TYPES}
        return xr.Dataset({"count": (("third", "type"), count), "n": 7473}, coords=coords)

    return make


@pytest.fixture
def layer_composition_data() -> Callable[..., xr.Dataset]:
    def make(n_layers: int) -> xr.Dataset:
        parts = np.random.default_rng(5).dirichlet(np.ones(len(PARTS)), size=n_layers)
        coords = {"layer": np.arange(n_layers), "part": PARTS}
        return xr.Dataset({"composition": (("layer", "part"), parts), "n": 7473}, coords=coords)

    return make


@pytest.fixture
def lag_data() -> Callable[..., xr.Dataset]:
    def make(n_thoughts: int) -> xr.Dataset:
        estimate = np.random.default_rng(6).uniform(0.5, 2.0, size=n_thoughts - 1)
        estimate[n_thoughts - 2 :] = np.nan
        coords = {"lag": np.arange(1, n_thoughts), "value": VALUES}
        return xr.Dataset({"lag_preference": (("lag", "value"), _numbers(estimate)), "n": 7473}, coords=coords)

    return make


@pytest.fixture
def skip_data() -> Callable[..., xr.Dataset]:
    def make(n_thoughts: int) -> xr.Dataset:
        estimate = np.random.default_rng(7).dirichlet(np.ones(n_thoughts - 1))
        share = (("thought", "value"), _numbers(estimate), {"null": 1 / (n_thoughts - 1)})
        coords = {"thought": thought_names(n_thoughts)[:-1], "value": VALUES}
        return xr.Dataset({"share": share, "n": 7473}, coords=coords)

    return make


@pytest.fixture
def model_data() -> Callable[..., xr.Dataset]:
    def make(n_thoughts: int, names: tuple[str, ...] = ("tiny-gpt2", "tiny-llama")) -> xr.Dataset:
        rng, n = np.random.default_rng(8), len(names)
        sizes = {"preference": ("thought", n_thoughts), "lag_preference": ("lag", n_thoughts - 1)}
        numbers = {
            name: (("model", dim, "value"), _numbers(rng.uniform(size=(n, size))))
            for name, (dim, size) in (sizes | {"composition": ("part", len(PARTS))}).items()
        }
        return xr.Dataset(
            {
                **numbers,
                "type_share": (("model", "type"), rng.dirichlet(np.ones(len(TYPES)), size=n)),
                "accuracy": (("model", "value"), _numbers(rng.uniform(0.2, 0.7, size=n))),
                "n": ("model", [7473] * n),
            },
            coords={
                "model": list(names),
                "thought": thought_names(n_thoughts),
                "lag": np.arange(1, n_thoughts),
                "part": PARTS,
                "type": TYPES,
                "value": VALUES,
            },
        )

    return make


@pytest.fixture
def token_data() -> Callable[..., xr.Dataset]:
    def make(n_thoughts: int, n_tokens: int = 30) -> xr.Dataset:
        attention = np.random.default_rng(9).dirichlet(np.ones(n_tokens), size=n_thoughts)
        texts = [TEXTS[place % len(TEXTS)] for place in range(n_tokens)]
        coords = {"query": thought_names(n_thoughts), "text": ("token", texts)}
        top = attention >= np.sort(attention, axis=1)[:, -2:-1]
        values = {"attention": (("query", "token"), attention), "top": (("query", "token"), top), "n": 7473}
        return xr.Dataset(values, coords=coords, attrs={"n_top": 2})

    return make


@pytest.fixture
def drawn_text(monkeypatch) -> Callable[[Axes], tuple[list[str], np.ndarray, np.ndarray]]:
    """Draw the figure; give the texts that were drawn, their boxes (x0, y0, x1, y1) and the figure's, in pixels."""

    def draw(ax: Axes) -> tuple[list[str], np.ndarray, np.ndarray]:
        texts: list[str] = []
        boxes: list[np.ndarray] = []
        plain = Text.draw

        def spy(text: Text, renderer, *args, **kwargs):
            if text.get_visible() and text.get_text().strip():
                texts.append(text.get_text())
                boxes.append(text.get_window_extent(renderer).extents)
            return plain(text, renderer, *args, **kwargs)

        figure = ax.get_figure(root=True)
        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", spy)
            FigureCanvasAgg(figure).draw()
        return texts, np.array(boxes), figure.bbox.extents

    return draw
