"""Turn figures into files that look alike and are the same bytes each time.

Colours are told apart by colour-blind readers (Okabe and Ito 2008) or run evenly from light to dark (magma). Sizes
are in points, so that text fits at any size of figure. No pyplot, no display, no global settings: figures are objects.
"""

import os
from pathlib import Path
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY: Final = "#999999"

TITLE_SIZE: Final = 9.0
LABEL_SIZE: Final = 8.0
TICK_SIZE: Final = 7.0
SMALLEST_SIZE: Final = 4.5
"""Smaller text is left out."""

CHARACTER: Final = 0.65
"""Width of a character over its font size: DejaVu Sans digits are 0.64."""

LINE: Final = 1.35
"""Height of a line over its font size."""

POINTS_PER_INCH: Final = 72.0


def sequential_colours() -> Colormap:
    """Light for little, dark for much, grey-scale safe; cells that don't exist stay white."""
    return matplotlib.colormaps["magma_r"].with_extremes(bad="white")


def diverging_colours() -> Colormap:
    """Blue below a null, white at it, red above; values that don't exist are grey."""
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad="#dddddd")


def ink_on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever contrasts more with this colour (WCAG 2 relative luminance)."""
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # Equal contrast with both: (L + 0.05)² = 1.05 · 0.05.
    return BLACK if luminance > 0.179 else "white"


def new_axes(
    width: float, height: float, *, left: float = 0.0, right: float = 0.0, bottom: float = 0.0, top: float = 0.0
) -> Axes:
    """An Axes of this size in points, on a Figure of its own, with margins in points around it."""
    total_width, total_height = width + left + right, height + bottom + top
    figure = Figure(figsize=(total_width / POINTS_PER_INCH, total_height / POINTS_PER_INCH))
    box = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    return figure.add_axes(box)


def figure_of(ax: Axes) -> Figure:
    """The whole figure that an Axes is on, also where it sits in a subfigure."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "an Axes that was removed from its figure can't be drawn on"
    return figure


def size_of(ax: Axes) -> tuple[float, float]:
    """Width and height of an Axes in points."""
    extent, dpi = ax.get_window_extent(), figure_of(ax).dpi
    return extent.width / dpi * POINTS_PER_INCH, extent.height / dpi * POINTS_PER_INCH


def every(step_size: float, room: float) -> int:
    """Label every n-th tick, so that labels needing `room` points fit on ticks `step_size` points apart."""
    return max(1, -int(-room // step_size))


def save_figure(ax: Axes, path_stem: str | Path) -> list[Path]:
    """Write the figure of an Axes as PNG (300 dpi) and SVG, each whole or not at all.

    Args:
        ax: any Axes of the figure.
        path_stem: path without suffix; its folder exists.

    Returns:
        The paths written. The same figure gives the same bytes.
    """
    figure, stem = figure_of(ax), Path(path_stem)
    # The salt replaces random ids; text stays text, searchable and small; neither date nor version is written.
    with matplotlib.rc_context({"svg.hashsalt": "thoughtlens", "svg.fonttype": "none"}):
        return [
            _save(figure, stem.with_name(f"{stem.name}.png"), {"Software": None}),
            _save(figure, stem.with_name(f"{stem.name}.svg"), {"Date": None}),
        ]


def _save(figure: Figure, path: Path, metadata: dict[str, None]) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format=path.suffix[1:], dpi=300, metadata=metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
