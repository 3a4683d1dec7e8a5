"""What figures are made of: coloured cells, numbers with intervals, dashed nulls, stacked bars.

In: an Axes and labelled numbers, whatever they measure. Out: marks on the Axes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import CenteredNorm, Colormap, Normalize, PowerNorm, to_hex, to_rgba
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from thoughtlens.plots.style import (
    BLUE,
    BLUES,
    CHARACTER,
    FAINT,
    GREY,
    GREYS,
    LABEL_SIZE,
    LINE,
    ORANGES,
    SOFT,
    TICK_SIZE,
    Names,
    add_title,
    colours_of,
    ink_on,
    name_axes,
    name_ticks,
    plain,
    size_of,
)

Scale = tuple[Normalize, Colormap]

NEARLY_WHITE: Final = "#f8f9f9"
ATTENTION_TICKS: Final = (0.0, 0.05, 0.25, 0.5, 1.0)


def attention_scale() -> Scale:
    """The scale of all maps of attention: blue, the square root of a share from 0 to 1, so that .02 can be seen."""
    return PowerNorm(0.5, 0.0, 1.0), colours_of(*BLUES)


def scale_of(cells: xr.DataArray, null: float = np.nan) -> Scale:
    """One colour scale for these cells: from 0, darker for more; or about a null, grey below and blue above it."""
    known = cells.values[np.isfinite(cells.values)]
    if not np.isfinite(null):
        return Normalize(known.min(initial=0.0), known.max(initial=0.0) or 1.0), colours_of(*BLUES)
    colours = colours_of(*GREYS[:0:-1], NEARLY_WHITE, *BLUES[1:])
    return CenteredNorm(null, np.abs(known - null).max(initial=0.0) or 1.0), colours


def cost_scale(cells: xr.DataArray, worse: float, least: float) -> Scale:
    """The scale of effects: orange from 0 to the worst, and grey to the best where one is for the better.

    It goes as far as `least` at least, so that effects of nothing are pale.
    """
    known = worse * cells.values[np.isfinite(cells.values)]
    top = float(np.abs(known).max(initial=least))
    if known.min(initial=0.0) < 0.0:
        stops = (*GREYS[:0:-1], NEARLY_WHITE, *ORANGES[1:])
        return CenteredNorm(0.0, top), colours_of(*stops[:: int(worse)])
    low, high = sorted((0.0, worse * top))
    return Normalize(low, high), colours_of(*ORANGES[:: int(worse)])


def outline_cells(ax: Axes, image: AxesImage, marked: np.ndarray) -> None:
    """A frame within each marked cell of an image, in the ink that contrasts with its colour."""
    places, filled = np.argwhere(marked), image.to_rgba(np.ma.asarray(image.get_array()))
    boxes = [Rectangle((column - 0.44, row - 0.44), 0.88, 0.88) for row, column in places]
    inks = [to_rgba(ink_on(filled[row, column])) for row, column in places]
    ax.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=inks, linewidth=0.9))


def add_colour_bar(
    image: AxesImage, axes: Sequence[Axes], cells: xr.DataArray, label: str, *, shrink: float = 1.0
) -> None:
    """The scale beside these Axes and what it is of, no further than the cells go; none where no cell is known."""
    known = cells.values[np.isfinite(cells.values)]
    figure = axes[0].get_figure(root=False)
    if not len(known) or figure is None:
        return
    bar = figure.colorbar(image, ax=list(axes), shrink=shrink, aspect=24, pad=0.02)
    if isinstance(image.norm, CenteredNorm) and known.min() < known.max():
        bar.ax.set_ylim(min(image.norm.vcenter, known.min()), max(image.norm.vcenter, known.max()))
    if isinstance(image.norm, PowerNorm):
        bar.set_ticks(ATTENTION_TICKS, labels=["0", ".05", ".25", ".5", "1"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=TICK_SIZE, length=2.0, color=SOFT)
    bar.set_label(plain(label), fontsize=LABEL_SIZE, parse_math=False)


MARKER = 4.5
MARKERS = ("o", "s", "^", "D", "v", "X", "P")
"""The shape of each series, so that they can be told apart where their shades can't."""


class Look(NamedTuple):
    """How a number is drawn."""

    colour: str = BLUE
    marker: str = "o"
    size: float = MARKER
    hollow: bool = False


def looks(names: Sequence[str], stops: Sequence[str] = BLUES) -> dict[str, Look]:
    """A shade, the darkest first, and a shape for each of these series; blue where they look, orange where they cut."""
    shades = colours_of(*stops)(np.linspace(1.0, 0.42, max(2, min(len(names), len(MARKERS)))))
    colours = [to_hex(shade) for shade in shades]
    return {
        name: Look(colours[place % len(colours)], MARKERS[place % len(MARKERS)]) for place, name in enumerate(names)
    }


def beyond(numbers: xr.DataArray, null: float) -> list[str]:
    """The colour of each number: blue, or grey where it is below its null."""
    return [GREY if value < null else BLUE for value in estimate_of(numbers).values]


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
    face, edge = ("white", 0.2 * look.size) if look.hollow else (look.colour, 0.0)
    words: dict[str, Any] = {"markersize": look.size, "markeredgewidth": edge, "markerfacecolor": face}
    ax.plot(*spot, look.marker, color=look.colour, **words)


def draw_null(ax: Axes, at: float, name: str = "", *, upright: bool = False, above: bool = False) -> None:
    """A dashed line at what no structure would give, named at its right end; behind all else, or `above` it."""
    if not np.isfinite(at):
        return
    line = (ax.axvline if upright else ax.axhline)(at, color=SOFT, linestyle="--", linewidth=0.8)
    line.set_zorder(3.0 if above else 0.5)
    if name and not upright:
        words: dict[str, Any] = {"va": "center", "fontsize": TICK_SIZE, "color": SOFT}
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
    ax.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    ax.set_ylim(max(1, len(names)) - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=6)
    name_ticks(ax.yaxis, names)
    # Thin lines that lead from the names of rows to their dots.
    ax.grid(axis="y", color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)


BAR = 0.84
"""Height of a bar over the distance of rows."""


def draw_stacks(ax: Axes, shares: xr.DataArray, colours: Mapping[str, str], total: float) -> None:
    """A bar a row, from the top, in coloured parts end to end: dims (part, row), the x-axis ending at `total`."""
    ax.set_xlim(0.0, total)
    ax.set_ylim(shares.shape[1] - 0.5, -0.5)
    dim = str(shares.dims[0])
    starts = (shares.cumsum(dim) - shares).fillna(0.0)
    for part, start in zip(shares.fillna(0.0), starts, strict=True):
        colour = colours.get(str(part[dim].item()), SOFT)
        ax.barh(np.arange(part.size), part, left=start, height=BAR, color=colour, linewidth=0.4, edgecolor="white")


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
    # Before there are many ticks, which are made alike.
    name_axes(ax, x, y, open_sides=False)
    name_ticks(ax.yaxis, rows)
    name_ticks(ax.xaxis, columns)
    return image


def titled(ax: Axes, title: str, caption: str, x: str, y: str = "") -> None:
    """The title, what the figure is of, and the names of the axes of a figure with open sides."""
    add_title(ax, title, caption)
    name_axes(ax, x, y)
