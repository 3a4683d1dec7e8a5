"""Labelled data as the analysis gives it to figures, made up; and what text a figure really draws."""

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from thoughtlens.labels import query_names, thought_names

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
