"""Turn cells into colours and printed values, with one colour bar a figure: the one mechanism of all heat maps."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import CenteredNorm, Normalize, to_rgba
from matplotlib.patches import Rectangle

from thoughtlens.plots.style import (
    CHARACTER,
    LINE,
    SMALLEST_SIZE,
    TICK_SIZE,
    diverging_colours,
    figure_of,
    ink_on,
    sequential_colours,
    size_of,
)

VALUE_SIZE = 7.0


def colours_for(cells: xr.DataArray, null: float = np.nan) -> ScalarMappable:
    """One scale for these cells: from 0, darker for more; or, about a null, blue below and red above it."""
    known = cells.values[np.isfinite(cells.values)]
    if not np.isfinite(null) or (null == 0.0 and known.min(initial=0.0) >= 0.0):
        norm = Normalize(known.min(initial=0.0), known.max(initial=0.0) or 1.0)
        return ScalarMappable(norm, sequential_colours())
    return ScalarMappable(CenteredNorm(null, np.abs(known - null).max(initial=0.0) or 1.0), diverging_colours())


def draw_cells(ax: Axes, cells: np.ndarray, colours: ScalarMappable, *, pitch: tuple[float, float]) -> None:
    """Cells of one Axes, and their values where a cell, `pitch` points wide and high, has room for all of them.

    Args:
        ax: where to draw; its limits become those of the cells.
        cells: rows from the top, NaN where there is nothing.
        colours: the scale, shared by all Axes of a figure.
        pitch: width and height of a cell in points.
    """
    # Unsmoothed, and in SVG one pixel a cell.
    image = ax.imshow(cells, cmap=colours.cmap, aspect="auto", interpolation="none")
    image.set_norm(colours.norm)
    known = cells[np.isfinite(cells)]
    longest = max((len(short(value)) for value in known), default=1)
    size = min(VALUE_SIZE, pitch[0] / ((longest + 0.4) * CHARACTER), pitch[1] / LINE)
    if size >= SMALLEST_SIZE:
        _print_values(ax, cells, colours, size)


def _print_values(ax: Axes, cells: np.ndarray, colours: ScalarMappable, size: float) -> None:
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size, "parse_math": False}
    filled = colours.to_rgba(cells)
    for row, column in np.argwhere(np.isfinite(cells)):
        ax.text(column, row, short(cells[row, column]), color=ink_on(tuple(filled[row, column])), **words)


def outline_cells(ax: Axes, marked: np.ndarray, filled: np.ndarray) -> None:
    """A frame within each marked cell, in what contrasts with its colour, `filled` as RGBA."""
    places = np.argwhere(marked)
    boxes = [Rectangle((column - 0.44, row - 0.44), 0.88, 0.88) for row, column in places]
    inks = [to_rgba(ink_on(tuple(filled[row, column]))) for row, column in places]
    ax.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=inks, linewidth=0.9))


def short(value: float) -> str:
    """Two digits in few characters: .12, 1.2, 12."""
    if abs(value) >= 9.95:
        return f"{value:.0f}"
    if abs(value) >= 0.995:
        return f"{value:.1f}"
    return f"{value:.2f}".replace("0.", ".", 1).replace("-.00", ".00")


def add_colour_bar(
    ax: Axes, colours: ScalarMappable, cells: xr.DataArray, box: tuple[float, float, float, float]
) -> None:
    """The scale in a box of the Axes (fractions), no further than the cells go; none where no cell is known."""
    known = cells.values[np.isfinite(cells.values)]
    if not len(known):
        return
    bar = ax.inset_axes(box)
    figure_of(ax).colorbar(colours, cax=bar)
    if isinstance(colours.norm, CenteredNorm) and known.min() < known.max():
        null = colours.norm.vcenter
        bar.set_ylim(min(null, known.min()), max(null, known.max()))
    height = size_of(bar)[1]
    bar.locator_params(axis="y", nbins=max(1, min(8, int(height / (2 * LINE * TICK_SIZE)))))
    bar.tick_params(labelsize=TICK_SIZE, length=2.0)
