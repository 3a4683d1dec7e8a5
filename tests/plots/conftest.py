"""What text a figure really draws; and figures that are not laid out, where only what they hold is looked at."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text


@pytest.fixture
def unlaid(request, monkeypatch) -> None:
    """Nothing is laid out, half of the time of a figure, but in tests that measure: with `drawn_text` or `laid_out`.

    Where only the words that are drawn are looked at, there is `drawn_words`.
    """
    if not {"drawn_text", "laid_out"} & set(request.fixturenames):
        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)


@pytest.fixture
def laid_out() -> None:
    """The test measures where things are."""


def drawing(ax: Axes, monkeypatch) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Draw the figure; the texts that were drawn, their boxes (x0, y0, x1, y1) and the figure's, in pixels."""
    texts: list[str] = []
    boxes: list[np.ndarray] = []

    def spy(text: Text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            texts.append(text.get_text())
            # Of an annotation, without the line to what it names.
            boxes.append(Text.get_window_extent(text, renderer).extents)

    figure = ax.get_figure(root=True)
    FigureCanvasAgg(figure)
    with monkeypatch.context() as patch:
        patch.setattr(Text, "draw", spy)
        # All is laid out and measured as for a file, and no pixel is painted.
        figure.draw_without_rendering()
    return texts, np.array(boxes), figure.bbox.extents


@pytest.fixture
def drawn_text(monkeypatch) -> Callable[[Axes], tuple[list[str], np.ndarray, np.ndarray]]:
    """Draws a figure and gives its texts and where they are."""
    return lambda ax: drawing(ax, monkeypatch)


@pytest.fixture
def drawn_words(monkeypatch) -> Callable[[Axes], set[str]]:
    """Draws a figure and gives its texts, wherever they are."""
    return lambda ax: {*drawing(ax, monkeypatch)[0]}


@pytest.fixture(autouse=True)
def measured_anew(monkeypatch) -> Callable[..., Any]:
    """Each text is measured once, where a layout asks a dozen times; gives how Matplotlib measures it each time."""
    sizes: dict[tuple[Any, ...], Any] = {}
    anew = Text._get_layout

    def measure(text: Text, renderer: Any) -> Any:
        words = text.get_text(), hash(text.get_fontproperties()), text._linespacing, text.get_parse_math()
        placed = text.get_rotation(), text.get_rotation_mode(), text.get_ha(), text.get_va(), text._multialignment
        key = (*words, *placed, text.get_figure(root=True).dpi, renderer)
        if key not in sizes:
            sizes[key] = anew(text, renderer)
        return sizes[key]

    monkeypatch.setattr(Text, "_get_layout", measure)
    return anew
