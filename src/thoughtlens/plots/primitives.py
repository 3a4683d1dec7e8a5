"""What figures are made of: coloured cells, numbers with intervals, dashed nulls, stacked bars.

In: an Axes and labelled numbers, whatever they measure. Out: marks on the Axes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import CenteredNorm, Colormap, Normalize, to_rgba
from matplotlib.image import AxesImage
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
    TICK_SIZE,
    VERMILION,
    Names,
    add_title,
    diverging_colours,
    ink_on,
    name_axes,
    name_ticks,
    sequential_colours,
    size_of,
)

Scale = tuple[Normalize, Colormap]


def scale_of(cells: xr.DataArray, null: float = np.nan) -> Scale:
    """One colour scale for these cells: from 0, darker for more; or about a null, blue below and red above it."""
    known = cells.values[np.isfinite(cells.values)]
    if not np.isfinite(null) or (null == 0.0 and known.min(initial=0.0) >= 0.0):
        return Normalize(known.min(initial=0.0), known.max(initial=0.0) or 1.0), sequential_colours()
    return CenteredNorm(null, np.abs(known - null).max(initial=0.0) or 1.0), diverging_colours()


def outline_cells(ax: Axes, image: AxesImage, marked: np.ndarray) -> None:
    """A frame within each marked cell of an image, in the ink that contrasts with its colour."""
    places, filled = np.argwhere(marked), image.to_rgba(np.ma.asarray(image.get_array()))
    boxes = [Rectangle((column - 0.44, row - 0.44), 0.88, 0.88) for row, column in places]
    inks = [to_rgba(ink_on(filled[row, column])) for row, column in places]
    ax.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=inks, linewidth=0.9))


def add_colour_bar(image: AxesImage, axes: Sequence[Axes], cells: xr.DataArray, *, shrink: float = 1.0) -> None:
    """The scale beside these Axes, no further than the cells go; none where no cell is known."""
    known = cells.values[np.isfinite(cells.values)]
    figure = axes[0].get_figure(root=False)
    if not len(known) or figure is None:
        return
    bar = figure.colorbar(image, ax=list(axes), shrink=shrink, aspect=24, pad=0.02)
    if isinstance(image.norm, CenteredNorm) and known.min() < known.max():
        bar.ax.set_ylim(min(image.norm.vcenter, known.min()), max(image.norm.vcenter, known.max()))
    bar.ax.tick_params(labelsize=TICK_SIZE, length=2.0)


MARKER = 4.5
SERIES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (BLACK, "X"), (SKY, "P"))
"""Colour and shape of each series, so that they can be told apart without colour too."""


class Look(NamedTuple):
    """How a number is drawn."""

    colour: str = BLUE
    marker: str = "o"
    size: float = MARKER


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A colour and a shape for each of these series."""
    return {name: Look(*SERIES[place % len(SERIES)]) for place, name in enumerate(names)}


def estimate_of(numbers: xr.DataArray) -> xr.DataArray:
    """The estimates of numbers with intervals; numbers without are themselves."""
    return numbers.sel(value="estimate", drop=True) if "value" in numbers.dims else numbers


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
        words: dict[str, Any] = {"va": "center", "fontsize": TICK_SIZE, "color": "#666666"}
        ax.text(1.01, at, name, transform=ax.get_yaxis_transform(), parse_math=False, **words)


def limits(numbers: xr.DataArray | np.ndarray, null: float = np.nan) -> tuple[float, float]:
    """A range that holds 0, every number with its interval, and half as much again as a null above 0."""
    values = np.asarray(numbers, dtype=np.float64)
    known = values[np.isfinite(values)]
    top = max(1.08 * float(known.max(initial=0.0)), 1.5 * null if null > 0 else 0.0)
    return 1.08 * float(known.min(initial=0.0)), top or 1.0


def dodged(n_series: int, pitch: float) -> tuple[Sequence[float], float]:
    """Offsets of series beside each other, in units of the pitch, and the size of their dots in points."""
    room = 0.7 / n_series
    offsets = (np.arange(n_series) - (n_series - 1) / 2) * room
    return [float(offset) for offset in offsets], max(1.5, min(MARKER, room * pitch))


def draw_columns(
    ax: Axes, numbers: xr.DataArray, *, null: float = np.nan, null_name: str = "", colours: Sequence[str] = ()
) -> None:
    """Dots with intervals side by side, dims (column) or (column, value), over a dashed null; columns are named."""
    (dim,) = (str(dim) for dim in numbers.dims if dim != "value")
    draw_null(ax, null, null_name)
    for place in range(numbers.sizes[dim]):
        draw_number(ax, place, numbers.isel({dim: place}), Look(colours[place] if colours else BLUE))
    ax.set_ylim(*limits(numbers, null))
    ax.set_xlim(-0.6, max(1, numbers.sizes[dim]) - 0.4)
    name_ticks(ax.xaxis, numbers[dim].values)


def frame_rows(ax: Axes, names: Names, drawn: xr.DataArray | np.ndarray, null: float = np.nan) -> None:
    """The frame of rows of dots: limits that hold what is drawn, and rows named from the top."""
    low, high = limits(drawn, null)
    ax.set_xlim(low - 0.02 * (high - low), high)
    ax.set_ylim(max(1, len(names)) - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=6)
    # Thin lines that lead from the names of rows to their dots.
    ax.grid(axis="y", color="#eeeeee", linewidth=0.6)
    ax.set_axisbelow(True)
    name_ticks(ax.yaxis, names)


BAR = 0.84
"""Height of a bar over the distance of rows."""


def draw_stacks(ax: Axes, shares: xr.DataArray, colours: Mapping[str, str], total: float) -> None:
    """A bar a row, from the top, in coloured parts end to end: dims (part, row), the x-axis ending at `total`."""
    ax.set_xlim(0.0, total)
    ax.set_ylim(shares.shape[1] - 0.5, -0.5)
    dim = str(shares.dims[0])
    starts = (shares.cumsum(dim) - shares).fillna(0.0)
    for part, start in zip(shares.fillna(0.0), starts, strict=True):
        colour = colours.get(str(part[dim].item()), BLACK)
        ax.barh(np.arange(part.size), part, left=start, height=BAR, color=colour, linewidth=0)


def print_stacks(ax: Axes, write: Callable[[float], str]) -> None:
    """The value of each part of the bars of an Axes that was laid out, where the part has room for it."""
    width, height = size_of(ax)
    across, down = np.abs(np.ptp(ax.get_xlim())), np.abs(np.ptp(ax.get_ylim()))
    if BAR * height / down < LINE * TICK_SIZE:
        return
    for bar in (bar for bars in ax.containers for bar in bars):
        share, text = bar.get_width(), write(bar.get_width())
        if share > 0 and share / across * width >= (len(text) + 1) * CHARACTER * TICK_SIZE:
            words: dict[str, Any] = {"color": ink_on(bar.get_facecolor()), "fontsize": TICK_SIZE, "parse_math": False}
            spot = bar.get_x() + share / 2, bar.get_y() + BAR / 2
            ax.text(*spot, text, ha="center", va="center", **words)


def draw_map(ax: Axes, cells: xr.DataArray, scale: Scale, *, x: str, y: str, square: bool = False) -> AxesImage:
    """Cells (row, column), rows from the top, NaN where there is nothing, with the names of rows and columns."""
    norm, colours = scale
    # Unsmoothed, and in SVG one pixel a cell; `fit` prints the values.
    shape: Literal["equal", "auto"] = "equal" if square else "auto"
    image = ax.imshow(cells.values, norm=norm, cmap=colours, aspect=shape, interpolation="none")
    rows, columns = (cells[dim].values for dim in cells.dims)
    name_ticks(ax.yaxis, rows)
    name_ticks(ax.xaxis, columns)
    name_axes(ax, x, y, open_sides=False)
    return image


def titled(ax: Axes, title: str, n: object, x: str, y: str = "") -> None:
    """The title and the names of the axes of a figure with open sides."""
    add_title(ax, title, n=n)
    name_axes(ax, x, y)
