"""Turn numbers with intervals into dots and lines, and nulls into dashed lines; what they measure is not known here."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from thoughtlens.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, TICK_SIZE, VERMILION

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


def draw_null(ax: Axes, at: float, name: str = "", *, upright: bool = False) -> None:
    """A dashed line at what no structure would give, named at its right end."""
    if not np.isfinite(at):
        return
    (ax.axvline if upright else ax.axhline)(at, color=GREY, linestyle="--", linewidth=1.0, zorder=0.5)
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
