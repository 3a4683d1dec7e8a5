"""What text a figure really draws; and figures that are not laid out, where only what they hold is looked at."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from thoughtlens.plots.style import measured_once


@pytest.fixture
def unlaid(request, monkeypatch) -> None:
    """Nothing is laid out, half of the time of a figure, but in tests that measure: with `drawn_text` or `laid_out`."""
    if not {"drawn_text", "laid_out"} & set(request.fixturenames):
        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)


@pytest.fixture
def laid_out() -> None:
    """The test measures where things are."""


@pytest.fixture
def drawn_text(monkeypatch) -> Callable[[Axes], tuple[list[str], np.ndarray, np.ndarray]]:
    """Draw the figure; give the texts that were drawn, their boxes (x0, y0, x1, y1) and the figure's, in pixels."""

    def draw(ax: Axes) -> tuple[list[str], np.ndarray, np.ndarray]:
        texts: list[str] = []
        boxes: list[np.ndarray] = []

        def spy(text: Text, renderer, *args, **kwargs):
            if text.get_visible() and text.get_text().strip():
                texts.append(text.get_text())
                # Of an annotation, without the line to what it names.
                boxes.append(Text.get_window_extent(text, renderer).extents)

        figure = ax.get_figure(root=True)
        FigureCanvasAgg(figure)
        with measured_once(), monkeypatch.context() as patch:
            patch.setattr(Text, "draw", spy)
            # All is laid out and measured as for a file, and no pixel is painted.
            figure.draw_without_rendering()
        return texts, np.array(boxes), figure.bbox.extents

    return draw
