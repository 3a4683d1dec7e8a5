"""Turn cells into colours and printed values, with one colour bar a figure: the one mechanism of all heat maps.

Turn numbers with intervals into dots and lines, and nulls into dashed lines; what they measure is not known here.

Turn shares or counts into stacked bars with their values: the one mechanism of all such bars.

Turn one Axes into a grid of panels with room for their words, all in points; what they show is not known here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import CenteredNorm, Normalize, to_rgba
from matplotlib.patches import Rectangle

from thoughtlens.plots.style import (
    BLACK,
    BLUE,
    CHARACTER,
    GREEN,
    GREY,
    LINE,
    ORANGE,
    PURPLE,
    SKY,
    SMALLEST_SIZE,
    TICK_SIZE,
    TITLE_SIZE,
    VERMILION,
    diverging_colours,
    figure_of,
    heading,
    ink_on,
    new_axes,
    say_instead,
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


INK_GREY = "#666666"
MARKER = 4.5
SERIES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (BLACK, "X"), (SKY, "P"))
"""Colour and shape of each series, so that they can be told apart without colour too."""


class Look(NamedTuple):
    """How a number is drawn."""

    colour: str = BLUE
    marker: str = "o"
    size: float = MARKER


def estimate_of(numbers: xr.DataArray) -> xr.DataArray:
    """The estimates of numbers with intervals; numbers without are themselves."""
    return numbers.sel(value="estimate") if "value" in numbers.dims else numbers


def draw_number(ax: Axes, place: float, number: xr.DataArray, look: Look, *, across: bool = False) -> None:
    """A dot, and a line from low to high where the number has them: upright, or `across`."""
    estimate = float(estimate_of(number))
    if not np.isfinite(estimate):
        return
    if "value" in number.dims:
        low, high = (float(number.sel(value=name)) for name in ("low", "high"))
        line = ([low, high], [place, place]) if across else ([place, place], [low, high])
        # Not an error bar: a percentile interval need not hold its estimate.
        ax.plot(*line, color=look.colour, linewidth=min(1.5, look.size / 3), solid_capstyle="butt")
    spot = ([estimate], [place]) if across else ([place], [estimate])
    ax.plot(*spot, look.marker, color=look.colour, markersize=look.size, markeredgewidth=0.0)


def draw_null(ax: Axes, at: float, name: str = "", *, upright: bool = False, above: bool = False) -> None:
    """A dashed line at what no structure would give, named at its right end; behind all else, or `above` it."""
    if not np.isfinite(at):
        return
    line = (ax.axvline if upright else ax.axhline)(at, color=BLACK if above else GREY, linestyle="--", linewidth=1.0)
    line.set_zorder(3.0 if above else 0.5)
    if name and not upright:
        transform = ax.get_yaxis_transform()
        ax.text(1.01, at, name, transform=transform, va="center", fontsize=TICK_SIZE, color=INK_GREY, parse_math=False)


def limits(numbers: xr.DataArray, null: float = np.nan) -> tuple[float, float]:
    """A range that holds 0, every number with its interval, and half as much again as a null above 0."""
    known = numbers.values[np.isfinite(numbers.values)]
    top = max(1.08 * float(known.max(initial=0.0)), 1.5 * null if null > 0 else 0.0)
    return 1.08 * float(known.min(initial=0.0)), top or 1.0


def dodged(n_series: int, pitch: float) -> tuple[Sequence[float], float]:
    """Offsets of series beside each other, in units of the pitch, and the size of their dots in points."""
    room = 0.7 / n_series
    offsets = (np.arange(n_series) - (n_series - 1) / 2) * room
    return [float(offset) for offset in offsets], max(1.5, min(MARKER, room * pitch))


BAR = 0.84
"""Height of a bar over the distance of rows."""


def draw_stacks(
    ax: Axes, shares: xr.DataArray, colours: Mapping[str, str], total: float, write: Callable[[float], str]
) -> None:
    """A bar a row, from the top, in coloured parts end to end.

    Args:
        ax: where to draw; its limits become those of the bars.
        shares: dims (part, row), by whatever names.
        colours: of each part; black for one that is not in it.
        total: where the x-axis ends.
        write: the text of a value, printed where its part has room for it.
    """
    ax.set_xlim(0.0, total)
    ax.set_ylim(shares.shape[1] - 0.5, -0.5)
    part_dim = str(shares.dims[0])
    starts = shares.cumsum(part_dim) - shares
    for part, start in zip(shares, starts, strict=True):
        colour = colours.get(str(part[part_dim].item()), BLACK)
        _draw_part(ax, part.fillna(0.0).values, start.fillna(0.0).values, colour, write)


def _draw_part(ax: Axes, part: np.ndarray, start: np.ndarray, colour: str, write: Callable[[float], str]) -> None:
    ax.barh(np.arange(len(part)), part, left=start, height=BAR, color=colour, linewidth=0)
    width, height = size_of(ax)
    if BAR * height / len(part) < LINE * TICK_SIZE:
        return
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TICK_SIZE, "color": ink_on(to_rgba(colour))}
    for row, (share, left) in enumerate(zip(part, start, strict=True)):
        text = write(float(share))
        if share > 0 and share / ax.get_xlim()[1] * width >= (len(text) + 1) * CHARACTER * TICK_SIZE:
            ax.text(left + share / 2, row, text, parse_math=False, **words)


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
