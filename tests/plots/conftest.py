"""What text a figure really draws."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


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
        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", spy)
            # All is laid out and measured as for a file, and no pixel is painted.
            figure.draw_without_rendering()
        return texts, np.array(boxes), figure.bbox.extents

    return draw
