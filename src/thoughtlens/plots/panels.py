"""Turn one Axes into a grid of panels with room for their words, all in points; what they show is not known here."""

from typing import NamedTuple

from matplotlib.axes import Axes

from thoughtlens.plots.style import LINE, TITLE_SIZE, new_axes, size_of
from thoughtlens.plots.text import heading, say_instead

HEADING = LINE * TITLE_SIZE + 8.0
NARROWEST, LOWEST = 90.0, 40.0
"""Points that a panel can still be read at."""


class Panel(NamedTuple):
    """Size of a panel and the room around it, in points."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    top: float


def panel_axes(
    n_panels: int, n_columns: int, panel: Panel, ax: Axes | None, *, title: str, n: object = None, legend: float = 0.0
) -> tuple[Axes, list[Axes]]:
    """The Axes that holds all panels, under a title, and the panels row by row; none where they can't be read.

    Args:
        n_panels: how many panels.
        n_columns: panels beside each other, at most.
        panel: their size on a new figure, and the room that each keeps for its words.
        ax: where to draw; a new figure without.
        title: of the whole.
        n: how many problems, if that is to be said.
        legend: points kept free on the right.
    """
    n_columns = max(1, min(n_columns, n_panels))
    n_rows = max(1, -(-n_panels // n_columns))
    margins = panel.left + panel.right, panel.bottom + panel.top
    if ax is None:
        width, height = n_columns * (panel.width + margins[0]), n_rows * (panel.height + margins[1])
        ax = new_axes(width, height, right=legend, top=HEADING)
    width, height = size_of(ax)
    size = width / n_columns - margins[0], height / n_rows - margins[1]
    if size[0] < NARROWEST or size[1] < LOWEST:
        needed = n_columns * (NARROWEST + margins[0]), n_rows * (LOWEST + margins[1])
        say_instead(ax, f"needs {needed[0]:.0f} × {needed[1]:.0f} points")
        return ax, []
    ax.set_axis_off()
    lines, left = heading(title, n, width - panel.left), panel.left / width
    ax.text(left, 1 + 2 / height, lines, transform=ax.transAxes, va="bottom", fontsize=TITLE_SIZE, parse_math=False)
    boxes = [
        (
            (place % n_columns * (size[0] + margins[0]) + panel.left) / width,
            1 - (place // n_columns * (size[1] + margins[1]) + panel.top + size[1]) / height,
            size[0] / width,
            size[1] / height,
        )
        for place in range(n_panels)
    ]
    return ax, [ax.inset_axes(box) for box in boxes]
